//! How the screen looks: a line that answers, incidents, then services or one
//! service's backends, and the keys. Pure.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table, TableState, Wrap};

use super::super::status::headline::headline;
use super::super::units;
use super::state::{Top, rate, skew};
use crate::api::types::{BackendStatus, ServiceStatus, Status};
use crate::watch::incident::Incident;

/// Incidents that have room above the table.
const MAX_INCIDENTS: usize = 3;
/// Columns of a bar.
const BAR: usize = 24;
/// Seconds in a row's time line.
const LINE: usize = 24;
/// A share that is off by this much of all, and by this factor, is marked.
const OFF: (f64, f64) = (0.02, 1.2);

pub(super) fn draw(frame: &mut Frame<'_>, top: &Top) {
    let Some(status) = &top.status else {
        return;
    };
    let incidents = incidents(top, status);
    let above = u16::try_from(incidents.len()).unwrap_or(u16::MAX);
    let [head, told, main, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(above),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, top, status);
    frame.render_widget(Paragraph::new(incidents), told);
    match top.service() {
        Some(service) => draw_service(frame, main, top, service),
        None => draw_services(frame, main, top),
    }
    frame.render_widget(keys(top), foot);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, top: &Top, status: &Status) {
    let (is_well, line) = headline(status);
    let style = match is_well {
        true => Style::new().fg(Color::Green).bold(),
        false => Style::new().fg(Color::Red).bold(),
    };
    let all = || status.services.iter().flat_map(|it| &it.backends);
    let sum = |of: fn(&BackendStatus) -> f64| all().map(of).sum::<f64>();
    let mut facts = vec![
        Span::raw(format!("balancer {}", status.version)).bold(),
        Span::raw(match status.revision {
            Some(number) => format!("  revision {number}"),
            None => String::new(),
        }),
        Span::raw(format!("  up {}", units::ago(status.uptime_seconds))),
        Span::raw(format!(
            "  {} flows/s  {} packets/s  {} bit/s",
            units::rate(sum(|it| it.flows_per_second)),
            units::rate(sum(|it| it.packets_per_second)),
            units::rate(sum(|it| it.bits_per_second)),
        )),
    ];
    if let Some(change) = &status.change_under_way {
        facts.push(Span::raw(format!("  {change}")).cyan());
    }
    let mut lines = vec![Line::styled(line, style), Line::from(facts)];
    lines.push(match &top.failure {
        Some(why) => Line::raw(format!("no answer, these figures are old: {why}")).red(),
        None => Line::default(),
    });
    frame.render_widget(Paragraph::new(lines), area);
}

/// Two lines for each incident that is open, of the service that is looked at
/// first: what it is, and the command, which is never cut off.
fn incidents(top: &Top, status: &Status) -> Vec<Line<'static>> {
    let is_ours = |it: &&Incident| top.inside.as_ref().is_none_or(|name| it.service == *name);
    let mut open: Vec<&Incident> = status.incidents.iter().collect();
    open.sort_by_key(|it| !is_ours(it));
    let mut lines: Vec<Line<'static>> = open
        .iter()
        .take(MAX_INCIDENTS)
        .flat_map(|incident| {
            let kind = format!(" {} ", incident.kind.name());
            [
                Line::from(vec![
                    Span::raw(kind).white().on_red().bold(),
                    Span::raw(format!(" {incident}")),
                ]),
                Line::from(vec![
                    Span::raw("   try "),
                    Span::raw(incident.command.clone()).cyan().bold(),
                ]),
            ]
        })
        .collect();
    let more = open.len().saturating_sub(MAX_INCIDENTS);
    if more > 0 {
        let line = format!(" and {more} more: `balancer events`");
        lines.push(Line::raw(line).dim());
    }
    if !lines.is_empty() {
        lines.push(Line::default());
    }
    lines
}

fn draw_services(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let services = top.services();
    let rows = services.iter().map(|service| {
        let up = service.backends.iter().filter(|it| it.is_up()).count();
        let is_tcp = service.protocol == "tcp";
        let sum = |of: fn(&BackendStatus) -> f64| service.backends.iter().map(of).sum::<f64>();
        let flows = sum(|it| it.flows_per_second);
        Row::new(vec![
            Cell::new(service.name.clone()),
            Cell::new(address(service)),
            Cell::new(service.state.clone()).style(color(&service.state)),
            right(format!("{up}/{}", service.backends.len())),
            right(if is_tcp {
                units::rate(flows)
            } else {
                "-".to_owned()
            }),
            right(units::rate(sum(|it| it.packets_per_second))),
            right(units::rate(sum(|it| it.bits_per_second))),
            right(match skew(service) {
                none if none < 0.0 => "-".to_owned(),
                skew => units::percent(skew),
            }),
            Cell::new(line(top, &service.name)).style(Style::new().fg(Color::Blue)),
        ])
    });
    let widths = [
        Constraint::Min(12),
        Constraint::Min(20),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(LINE as u16),
    ];
    let heads = [
        "service",
        "address",
        "state",
        ">up",
        ">flows/s",
        ">packets/s",
        ">bit/s",
        ">skew",
        "last seconds",
    ];
    let title = title(top, "services", services.len());
    draw_table(frame, area, top, rows.collect(), (&widths, &heads), title);
}

fn draw_service(frame: &mut Frame<'_>, area: Rect, top: &Top, service: &ServiceStatus) {
    let [table, detail, lines] = Layout::vertical([
        Constraint::Min(4),
        Constraint::Length(2),
        Constraint::Length(5),
    ])
    .areas(area);
    let backends = top.backends();
    let largest = service
        .backends
        .iter()
        .map(|it| it.share_expected.max(it.share_seen.unwrap_or(0.0)))
        .fold(f64::MIN_POSITIVE, f64::max);
    let is_tcp = service.protocol == "tcp";
    let rows = backends.iter().map(|it| backend_row(it, largest, is_tcp));
    let widths = [
        Constraint::Min(12),
        Constraint::Min(16),
        Constraint::Length(6),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(BAR as u16),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let heads = [
        "backend",
        "address",
        ">weight",
        "state",
        ">expected",
        ">seen",
        "seen, | expected",
        ">flows/s",
        ">packets/s",
        ">bit/s",
    ];
    let name = format!("{} {} {}", service.name, address(service), service.state);
    let title = title(top, &name, backends.len());
    draw_table(frame, table, top, rows.collect(), (&widths, &heads), title);
    let chosen = top.chosen().and_then(|at| backends.get(at));
    frame.render_widget(about(chosen.copied()), detail);
    draw_traffic(frame, lines, top, service);
}

/// A row of a table; bars are as wide as `largest` has it.
fn backend_row(backend: &BackendStatus, largest: f64, is_tcp: bool) -> Row<'static> {
    let seen = backend.share_seen;
    let is_off = seen.is_some_and(|seen| is_off(backend.share_expected, seen));
    let mark = match is_off {
        true => Style::new().fg(Color::Red).bold(),
        false => Style::new(),
    };
    let text = seen.map_or("-".to_owned(), units::percent);
    let flows = match is_tcp {
        true => units::rate(backend.flows_per_second),
        false => "-".to_owned(),
    };
    Row::new(vec![
        Cell::new(backend.name.clone()),
        Cell::new(backend.endpoint()),
        right(backend.weight.to_string()),
        Cell::new(backend.state.clone()).style(color(&backend.state)),
        right(units::percent(backend.share_expected)),
        right(text).style(mark),
        Cell::new(bar(backend, largest, is_off)),
        right(flows),
        right(units::rate(backend.packets_per_second)),
        right(units::rate(backend.bits_per_second)),
    ])
}

/// The last two minutes of a service.
fn draw_traffic(frame: &mut Frame<'_>, area: Rect, top: &Top, service: &ServiceStatus) {
    let newest: Vec<u64> = top.history(&service.name).rev().collect();
    let what = match service.protocol == "tcp" {
        true => "new flows",
        false => "packets",
    };
    let most = newest.iter().max().copied().unwrap_or(0);
    let traffic = format!(
        " {what}: {} in the last second, at most {} ",
        units::rate(rate(service)),
        units::rate(most as f64)
    );
    // As wide as the screen, the latest second at its right end.
    let width = usize::from(area.width.saturating_sub(2));
    let mut seconds: Vec<u64> = newest.into_iter().take(width).collect();
    seconds.reverse();
    let mut padded = vec![0; width - seconds.len()];
    padded.append(&mut seconds);
    let spark = Sparkline::default()
        .data(padded)
        .style(Style::new().fg(Color::Blue))
        .block(Block::bordered().title(traffic));
    frame.render_widget(spark, area);
}

/// What else is known of the backend that is chosen.
fn about(backend: Option<&BackendStatus>) -> Paragraph<'static> {
    let Some(backend) = backend else {
        return Paragraph::default();
    };
    let since = match backend.since_seconds {
        Some(seconds) => format!(" since {}", units::ago(seconds)),
        None => String::new(),
    };
    let failure = match &backend.last_failure {
        Some(why) => format!(": {why}"),
        None => String::new(),
    };
    let text = format!(
        " {}: {}{since}{failure}; next hop {}, {}, {}",
        backend.name,
        backend.state,
        backend.next_hop,
        units::counted(backend.packets, "packet"),
        units::counted(backend.resets, "reset"),
    );
    Paragraph::new(text).wrap(Wrap { trim: false }).dim()
}

fn draw_table(
    frame: &mut Frame<'_>,
    area: Rect,
    top: &Top,
    rows: Vec<Row<'static>>,
    (widths, heads): (&[Constraint], &[&'static str]),
    title: String,
) {
    let heads = heads.iter().map(|head| match head.strip_prefix('>') {
        Some(head) => right(head.to_owned()),
        None => Cell::new(*head),
    });
    let header = Row::new(heads).style(Style::new().add_modifier(Modifier::DIM));
    let table = Table::new(rows, widths.iter().copied())
        .header(header)
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(title));
    let mut state = TableState::default().with_selected(top.chosen());
    frame.render_stateful_widget(table, area, &mut state);
}

fn title(top: &Top, what: &str, rows: usize) -> String {
    let filter = match (top.filter.as_str(), top.is_typing) {
        ("", false) => String::new(),
        (filter, true) => format!(", filter: {filter}_"),
        (filter, false) => format!(", filter: {filter}"),
    };
    format!(" {what} ({rows}), {}{filter} ", top.sort.name())
}

fn keys(top: &Top) -> Line<'static> {
    let keys: &[(&str, &str)] = match (top.is_typing, top.inside.is_some()) {
        (true, _) => &[("Enter", "keep the filter"), ("Esc", "no filter")],
        (false, false) => &[
            ("↑↓", "choose"),
            ("Enter", "its backends"),
            ("/", "filter"),
            ("s", "order"),
            ("q", "quit"),
        ],
        (false, true) => &[
            ("↑↓", "choose"),
            ("Esc", "back"),
            ("/", "filter"),
            ("s", "order"),
            ("q", "quit"),
        ],
    };
    let spans = keys.iter().flat_map(|(key, what)| {
        [
            Span::raw(format!(" {key} ")).reversed(),
            Span::raw(format!(" {what}  ")),
        ]
    });
    Line::from_iter(spans)
}

/// What was seen, as a bar, and a mark where it should end.
fn bar(backend: &BackendStatus, largest: f64, is_off: bool) -> Line<'static> {
    let columns = |share: f64| ((share / largest) * BAR as f64).round() as usize;
    let seen = columns(backend.share_seen.unwrap_or(0.0));
    let mark = columns(backend.share_expected).min(BAR - 1);
    let color = if is_off { Color::Red } else { Color::Blue };
    let spans = (0..BAR).map(|at| match at {
        at if at == mark => Span::raw("┃").bold(),
        at if at < seen => Span::styled("█", color),
        _ => Span::styled("░", Color::DarkGray),
    });
    Line::from_iter(spans)
}

fn is_off(expected: f64, seen: f64) -> bool {
    let (least, factor) = OFF;
    let (less, more) = (seen.min(expected), seen.max(expected));
    more - less >= least && more >= factor * less
}

/// A time line of one row's height.
fn line(top: &Top, service: &str) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let mut newest: Vec<u64> = top.history(service).rev().take(LINE).collect();
    newest.reverse();
    let most = newest.iter().max().copied().unwrap_or(0).max(1);
    let step = |value: &u64| STEPS[(value * 7 / most).min(7) as usize];
    newest.iter().map(step).collect()
}

fn address(service: &ServiceStatus) -> String {
    let (address, ports, protocol) = (service.address, &service.ports, &service.protocol);
    match address.is_ipv6() {
        true => format!("[{address}]:{ports}/{protocol}"),
        false => format!("{address}:{ports}/{protocol}"),
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::new(Line::from(text).right_aligned())
}

fn color(state: &str) -> Style {
    match state {
        "up" | "standby" => Style::new().fg(Color::Green),
        "down" | "held" | "fail-open" => Style::new().fg(Color::Red).bold(),
        _ => Style::new().fg(Color::Yellow),
    }
}
