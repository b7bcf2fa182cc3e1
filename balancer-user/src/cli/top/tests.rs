//! Whole screens, drawn without a terminal.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;
use ratatui::style::Color;

use super::super::status::tests::{backend, service, status};
use super::draw::draw;
use super::state::{HISTORY, Next, Sort, Top};
use crate::api::types::{BackendStatus, ServiceStatus, Status};
use crate::watch::Kind;
use crate::watch::incident::Incident;

fn shared(name: &str, expected: f64, seen: f64) -> BackendStatus {
    BackendStatus {
        share_expected: expected,
        share_seen: Some(seen),
        flows_per_second: 100.0 * seen,
        packets_per_second: 500.0 * seen,
        ..backend(name, "up")
    }
}

fn even(name: &str, backends: usize) -> ServiceStatus {
    let share = 1.0 / backends as f64;
    let all = (0..backends).map(|it| shared(&format!("{name}-{it}"), share, share));
    service(name, "up", all.collect())
}

fn skewed() -> ServiceStatus {
    let backends = vec![
        shared("web-1", 0.25, 0.1),
        shared("web-2", 0.25, 0.1),
        shared("web-3", 0.25, 0.7),
        shared("web-4", 0.25, 0.1),
    ];
    service("web", "up", backends)
}

fn incident() -> Incident {
    Incident {
        number: 1,
        kind: Kind::Skew,
        service: "web".to_owned(),
        backend: Some("web-3".to_owned()),
        what: "got 70.0 % of 1000 new flows in 10 s, its slots are 25.0 %".to_owned(),
        cause: "the kernel's table is not the one of this revision".to_owned(),
        command: "balancer verify".to_owned(),
        opened_at: 1_790_000_000,
        closed_at: None,
        since: None,
    }
}

fn top(status: Status) -> Top {
    let mut top = Top::default();
    top.take(Ok(status));
    top
}

fn press(top: &mut Top, codes: &[KeyCode]) {
    for code in codes {
        let next = top.press(KeyEvent::new(*code, KeyModifiers::NONE));
        assert_eq!(next, Next::Stay, "{code:?}");
    }
}

/// The screen's lines, and the letters that have that colour.
fn drawn(top: &Top, width: u16, height: u16, color: Color) -> (Vec<String>, String) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, top)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
    let lines = (0..height).map(|y| line(y).trim_end().to_owned()).collect();
    let colored = buffer.content().iter().filter(|cell| cell.fg == color);
    (lines, colored.map(Cell::symbol).collect())
}

fn screen(top: &Top) -> Vec<String> {
    drawn(top, 130, 24, Color::Red).0
}

/// The line that has a text.
fn line_with<'a>(lines: &'a [String], text: &str) -> &'a str {
    let found = lines.iter().find(|line| line.contains(text));
    found.unwrap_or_else(|| panic!("no {text:?} in\n{}", lines.join("\n")))
}

#[test]
fn services_are_shown_with_rates_skew_and_incidents() {
    let mut all = status(vec![even("dns", 2), skewed()]);
    all.incidents = vec![incident()];
    all.problems = vec!["skew: service web".to_owned()];
    let lines = screen(&top(all));
    assert_eq!(lines[0], "skew: service web");
    assert!(
        lines[1].starts_with("balancer 0.1.0  revision 41  up 5h"),
        "{}",
        lines[1]
    );
    assert!(lines[1].contains("200 flows/s"), "{}", lines[1]);
    assert_eq!(
        lines[3],
        " skew  service web: backend web-3 got 70.0 % of 1000 new flows in 10 s, its slots are \
         25.0 %; the kernel's table is not the one of"
    );
    // The line before is cut off, the command is not.
    assert_eq!(
        lines[4].trim_end(),
        format!("   try {}", incident().command)
    );
    let web = line_with(&lines, "│web ");
    for part in [
        "192.0.2.10:443/tcp",
        " up ",
        "4/4",
        " 100 ",
        " 500 ",
        "45.0 %",
        "█",
    ] {
        assert!(web.contains(part), "{part}: {web}");
    }
    assert!(line_with(&lines, "│dns ").contains(" 0.0 %"));
    // What has an incident comes first.
    let at = |name: &str| lines.iter().position(|line| line.contains(name));
    assert!(at("│web ") < at("│dns "), "{lines:#?}");
    assert!(lines[23].contains("Enter  its backends"), "{}", lines[23]);
}

#[test]
fn backends_are_shown_with_bars_of_what_is_seen_and_expected() {
    let mut top = top(status(vec![skewed()]));
    press(&mut top, &[KeyCode::Enter]);
    let (lines, red) = drawn(&top, 130, 24, Color::Red);
    let hot = line_with(&lines, "│web-3");
    assert!(
        hot.contains("25.0 %  70.0 % █████████┃██████████████"),
        "{hot}"
    );
    let cold = line_with(&lines, "│web-1");
    assert!(
        cold.contains("25.0 %  10.0 % ███░░░░░░┃░░░░░░░░░░░░░░"),
        "{cold}"
    );
    assert!(red.contains("70.0 %") && red.contains("10.0 %"), "{red}");
    assert!(line_with(&lines, "new flows: 100 in the last second").contains("at most 100"));
    assert!(line_with(&lines, "web-1: up since 1h").contains("next hop resolved"));
    // Where all is as it should be, no share is marked.
    let mut even = self::top(status(vec![even("dns", 2)]));
    press(&mut even, &[KeyCode::Enter]);
    assert!(!drawn(&even, 130, 24, Color::Red).1.contains("50.0"));
}

#[test]
fn keys_lead_into_a_service_and_back_to_it() {
    let mut top = top(status(vec![even("a", 2), even("b", 3), even("c", 1)]));
    press(&mut top, &[KeyCode::Down, KeyCode::Enter]);
    assert_eq!(top.inside.as_deref(), Some("b"));
    assert_eq!(top.backends().len(), 3);
    press(&mut top, &[KeyCode::End, KeyCode::Down, KeyCode::Char('k')]);
    assert_eq!(top.chosen(), Some(1));
    press(&mut top, &[KeyCode::Esc]);
    assert_eq!((top.inside.as_deref(), top.chosen()), (None, Some(1)));
    // At the ends it stays.
    press(&mut top, &[KeyCode::PageUp, KeyCode::Up]);
    assert_eq!(top.chosen(), Some(0));
    press(&mut top, &[KeyCode::PageDown, KeyCode::Down, KeyCode::Esc]);
    assert_eq!(top.chosen(), Some(2));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(top.press(control), Next::Leave);
    let quit = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    assert_eq!(top.press(quit), Next::Leave);
}

#[test]
fn filter_takes_letters_until_enter_and_goes_with_escape() {
    let mut top = top(status(vec![even("web", 1), even("dns", 1)]));
    let typed = [KeyCode::Char('/'), KeyCode::Char('Q'), KeyCode::Backspace];
    press(&mut top, &typed);
    press(&mut top, &[KeyCode::Char('D'), KeyCode::Char('n')]);
    assert!(line_with(&screen(&top), "filter: Dn_").contains("services (1)"));
    press(&mut top, &[KeyCode::Enter]);
    assert_eq!(top.services()[0].name, "dns");
    press(&mut top, &[KeyCode::Esc]);
    assert_eq!(top.services().len(), 2);
    let nobody = [KeyCode::Char('/'), KeyCode::Char('x'), KeyCode::Enter];
    press(&mut top, &nobody);
    press(&mut top, &[KeyCode::Enter, KeyCode::Down]);
    assert_eq!((top.chosen(), top.inside.clone()), (None, None));
}

#[test]
fn order_goes_round_and_what_is_chosen_stays_chosen() {
    let mut busy = even("b", 1);
    busy.backends[0].flows_per_second = 9000.0;
    let mut top = top(status(vec![even("c", 1), skewed(), busy]));
    let names =
        |top: &Top| -> Vec<String> { top.services().iter().map(|it| it.name.clone()).collect() };
    assert_eq!(names(&top), ["c", "web", "b"]);
    for (sort, expected) in [
        (Sort::Name, ["b", "c", "web"]),
        (Sort::Traffic, ["b", "c", "web"]),
        (Sort::Skew, ["web", "c", "b"]),
        (Sort::Attention, ["c", "web", "b"]),
    ] {
        press(&mut top, &[KeyCode::Char('s')]);
        assert_eq!(
            (top.sort, names(&top)),
            (sort, expected.map(str::to_owned).to_vec())
        );
    }
    press(&mut top, &[KeyCode::Down, KeyCode::Char('s')]);
    assert_eq!(top.chosen(), Some(2));
}

#[test]
fn old_figures_stay_and_say_so_while_the_daemon_is_silent() {
    let mut top = top(status(vec![even("web", 2)]));
    top.take(Err("the balancer does not answer".to_owned()));
    let lines = screen(&top);
    assert_eq!(
        lines[2],
        "no answer, these figures are old: the balancer does not answer"
    );
    assert!(line_with(&lines, "│web").contains("2/2"));
    top.take(Ok(status(vec![even("web", 2)])));
    assert_eq!(screen(&top)[2], "");
}

#[test]
fn service_that_goes_while_it_is_looked_at_leads_back_to_all() {
    let mut top = top(status(vec![even("web", 2), even("dns", 2)]));
    press(&mut top, &[KeyCode::Enter]);
    top.take(Ok(status(vec![even("dns", 2)])));
    assert_eq!((top.inside.as_deref(), top.chosen()), (None, Some(0)));
    assert!(line_with(&screen(&top), "│dns").contains("2/2"));
}

#[test]
fn history_is_bounded_and_no_screen_is_too_small() {
    let mut top = top(status(vec![skewed()]));
    for _ in 0..2 * HISTORY {
        top.take(Ok(status(vec![skewed()])));
    }
    assert_eq!(top.history("web").count(), HISTORY);
    press(&mut top, &[KeyCode::Enter]);
    for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
        drawn(&top, width, height, Color::Red);
    }
    press(&mut top, &[KeyCode::Esc]);
    drawn(&top, 1, 1, Color::Red);
    drawn(&Top::default(), 80, 24, Color::Red);
}
