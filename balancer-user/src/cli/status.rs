//! `balancer status`: one screen that begins with the answer.

use balancer_common::verdict::{Disposition, Reason};

use super::table::{Color, Column, Table};
use super::{Exit, block_on, output, units};
use crate::api::client::Client;
use crate::api::types::{BackendStatus, ServiceStatus, Status};

pub(super) mod headline;

#[cfg(test)]
pub(super) mod tests;

/// Show what is going on
///
/// The first line says whether all is well, and if not, what is wrong first.
/// Then each service with its backends: `expected` is a backend's share of
/// the table's slots, `seen` its share of what came since the table last
/// changed (new flows for TCP, packets for UDP).
///
/// Exits with 0 as soon as the balancer answers, whatever it says; scripts
/// read `problems` in the JSON, which is empty when all is well.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print everything as JSON, with exact numbers
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let status = block_on(client.status())??;
    if args.json {
        output::print_json(&status)?;
    } else {
        output::print(&render(&status, output::stdout_has_color()))?;
    }
    Ok(Exit::Done)
}

fn render(status: &Status, color: bool) -> String {
    let (well, line) = headline::headline(status);
    let mut text = paint(&line, if well { Paint::Good } else { Paint::Bad }, color);
    text.push('\n');
    if status.problems.iter().any(|problem| *problem != line) {
        text.push_str("\nneeds attention:\n");
        for problem in &status.problems {
            text.push_str(&format!("  {problem}\n"));
        }
    }
    for service in &status.services {
        text.push_str(&service_text(service, color));
    }
    text.push_str(&reasons(status));
    text.push_str(&changes(status));
    if let Some(capture) = &status.capture {
        text.push_str(&format!(
            "capture {} of live packets is on, by {} since {}: {}; {} so far\n",
            capture.capture,
            capture.author,
            units::ago(capture.seconds),
            capture.what,
            units::counted(capture.figures.captured, "packet")
        ));
    }
    text.push_str(&daemon(status));
    text
}

#[derive(Clone, Copy)]
enum Paint {
    Good,
    Bad,
}

fn paint(line: &str, paint: Paint, color: bool) -> String {
    let code = match paint {
        _ if !color => return line.to_owned(),
        Paint::Good => "32",
        Paint::Bad => "1;31",
    };
    format!("\u{1b}[{code}m{line}\u{1b}[0m")
}

fn service_text(service: &ServiceStatus, color: bool) -> String {
    let address = if service.address.is_ipv6() {
        format!("[{}]", service.address)
    } else {
        service.address.to_string()
    };
    let settling = match service.settling_seconds {
        Some(left) => format!(
            ", flows of earlier owners are kept for {} more at least",
            units::ago(left)
        ),
        None => String::new(),
    };
    let seen = match (service.counted_since_change, service.protocol.as_str()) {
        (0, _) => String::new(),
        (flows, "tcp") => format!(", seen are {}", units::counted(flows, "new flow")),
        (packets, _) => format!(", seen are {}", units::counted(packets, "packet")),
    };
    // That probes go to the backends themselves needs no word.
    let probe = service.probe.as_deref();
    let probe = probe.filter(|probe| probe.contains(" via "));
    let probe = probe.map_or(String::new(), |probe| format!(", probed by {probe}"));
    format!(
        "\nservice {}: {}, {address}:{}/{}, {}{probe}{seen}{settling}\n{}",
        service.name,
        service.state,
        service.ports,
        service.protocol,
        service.forward,
        backends(service, color)
    )
}

fn backends(service: &ServiceStatus, color: bool) -> String {
    let columns = [
        Column::Text("backend"),
        Column::Text("address"),
        Column::Number("weight"),
        Column::Text("state"),
        Column::Number("since"),
        Column::Number("expected"),
        Column::Number("seen"),
        Column::Number("flows"),
        Column::Number("packets"),
        Column::Number("bytes"),
        Column::Number("flows/s"),
        Column::Number("packets/s"),
        Column::Number("bit/s"),
    ];
    let mut table = Table::new(&columns, color);
    for backend in &service.backends {
        // UDP packets do not say which of them begins a flow.
        let if_tcp = |text: String| match service.protocol.as_str() {
            "tcp" => text,
            _ => "-".to_owned(),
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut cells = [
            backend.name.clone(),
            backend.endpoint(),
            backend.weight.to_string(),
            backend.state.clone(),
            or_dash(backend.since_seconds.map(units::ago)),
            units::percent(backend.share_expected),
            or_dash(backend.share_seen.map(units::percent)),
            if_tcp(units::count(backend.flows)),
            units::count(backend.packets),
            units::bytes(backend.bytes),
            if_tcp(units::rate(backend.flows_per_second)),
            units::rate(backend.packets_per_second),
            units::rate(backend.bits_per_second),
        ]
        .map(|cell| (cell, None));
        cells[3].1 = state_color(backend);
        table.colored_row(cells);
    }
    table.render("  ")
}

fn state_color(backend: &BackendStatus) -> Option<Color> {
    match backend.state.as_str() {
        "up" | "standby" => Some(Color::Green),
        "down" | "held" | "out" => Some(Color::Red),
        "unproven" | "draining" | "slow-start" | "trickle" => Some(Color::Yellow),
        _ => None,
    }
}

/// Packets that were dropped, by reason, most first; the others in a line.
fn reasons(status: &Status) -> String {
    let mut drops = drops(status);
    drops.sort_by_key(|(name, packets)| (std::cmp::Reverse(*packets), *name));
    let sum = |disposition: Disposition| -> u64 {
        status
            .reasons
            .iter()
            .filter(|(name, _)| disposition_of(name) == disposition)
            .map(|(_, packets)| packets)
            .sum()
    };
    let mut text = format!(
        "\n{} forwarded, {} passed up the host's stack, {} dropped\n",
        units::counted(sum(Disposition::Forward), "packet"),
        units::count(sum(Disposition::Pass)),
        units::count(sum(Disposition::Drop)),
    );
    let mut table = Table::new(
        &[Column::Text("dropped because"), Column::Number("packets")],
        false,
    );
    for (name, packets) in drops {
        table.row([name.to_owned(), units::count(packets)]);
    }
    text.push_str(&table.render("  "));
    text
}

/// Reasons for which packets were dropped, and how many.
fn drops(status: &Status) -> Vec<(&str, u64)> {
    status
        .reasons
        .iter()
        .filter(|(name, packets)| **packets > 0 && disposition_of(name) == Disposition::Drop)
        .map(|(name, packets)| (name.as_str(), *packets))
        .collect()
}

/// What a reason does to packets. One that a newer daemon has and we do not
/// know is shown among the drops: better one line too many.
fn disposition_of(name: &str) -> Disposition {
    Reason::ALL
        .iter()
        .find(|reason| reason.name() == name)
        .map_or(Disposition::Drop, |reason| reason.disposition())
}

fn changes(status: &Status) -> String {
    let mut text = String::new();
    if let Some(change) = &status.change_under_way {
        text.push_str(&format!("\nchange under way: {change}\n"));
    }
    if !status.runtime_changes.is_empty() {
        text.push_str("\nchanged by command since the file was read, and not in the file:\n");
        for change in &status.runtime_changes {
            text.push_str(&format!("  {change}\n"));
        }
    }
    text.push('\n');
    if let Some(reload) = &status.last_reload {
        let how = if reload.succeeded {
            ""
        } else {
            "failed, the old configuration stays: "
        };
        text.push_str(&format!(
            "last reload {} ago: {how}{}\n",
            units::ago(reload.ago_seconds),
            reload.summary
        ));
    }
    if let Some(apply) = &status.last_apply {
        let how = if apply.succeeded {
            format!("in force after {}", units::took(apply.duration_micros))
        } else {
            "FAILED, the old tables stay in force".to_owned()
        };
        text.push_str(&format!(
            "last change of the tables {} ago, {how}: {}\n",
            units::ago(apply.ago_seconds),
            apply.cause
        ));
    }
    text
}

fn daemon(status: &Status) -> String {
    let interfaces: Vec<String> = status
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode))
        .collect();
    format!(
        "balancer {}, {}process {}, up {}, file {}, interfaces {}\n",
        status.version,
        status
            .revision
            .map(|number| format!("revision {number}, "))
            .unwrap_or_default(),
        status.pid,
        units::ago(status.uptime_seconds),
        status.config_file,
        interfaces.join(", ")
    )
}
