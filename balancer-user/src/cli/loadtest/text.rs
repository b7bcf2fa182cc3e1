//! The report of a load test for people.

use crate::cli::table::{Color, Column, Table};
use crate::cli::{output, units};
use crate::loadtest::packets::report as packets;
use crate::loadtest::report::Report;
use crate::loadtest::tally::Percentiles;
use crate::loadtest::verdict::Judged;

/// The report for people.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!(
        "{}: {} answered, {} failed, {} not made in {:.0} s\n\n",
        report.target, report.answered, report.failed, report.skipped, report.seconds_taken
    );
    text.push_str(&times(report));
    for (failure, count) in &report.failures {
        text.push_str(&format!("{count} failed: {failure}\n"));
    }
    if !report.failures.is_empty() {
        text.push('\n');
    }
    if !report.shares.is_empty() {
        let rows = report.shares.iter();
        let rows = rows.map(|it| (it.backend.clone(), it.flows, it.expected, it.seen));
        text.push_str(&shares("FLOWS", rows));
    }
    for (name, count) in &report.answered_by {
        text.push_str(&format!("{count} answered by {name}\n"));
    }
    if !report.answered_by.is_empty() {
        text.push('\n');
    }
    text.push_str(&verdict(&report.verdict));
    text
}

/// The report of a test with packets for people.
pub(super) fn of_packets(report: &packets::Report) -> String {
    let mut text = format!(
        "{}: {} sent, {} missed in {:.0} s, of {} flows by {}\n",
        report.target,
        report.sent,
        report.missed,
        report.seconds_taken,
        report.flows,
        report.interface
    );
    if let (Some(counted), Some(lost)) = (report.counted, report.lost) {
        text.push_str(&format!("the balancer counted {counted}: {lost} lost\n"));
    }
    text.push('\n');
    if !report.shares.is_empty() {
        let rows = report.shares.iter();
        let rows = rows.map(|it| (it.backend.clone(), it.counted, it.expected, it.seen));
        text.push_str(&shares("COUNTED", rows));
    }
    text.push_str(&verdict(&report.verdict));
    text
}

fn shares(counted: &'static str, rows: impl Iterator<Item = (String, u64, f64, f64)>) -> String {
    let columns = [
        Column::Text("BACKEND"),
        Column::Number(counted),
        Column::Number("EXPECTED"),
        Column::Number("SEEN"),
    ];
    let mut table = Table::new(&columns, output::stdout_has_color());
    for (backend, counted, expected, seen) in rows {
        let [expected, seen] = [expected, seen].map(units::percent);
        table.row([backend, counted.to_string(), expected, seen]);
    }
    format!("{}\n", table.render(""))
}

fn verdict(verdict: &[Judged]) -> String {
    let mut table = Table::new(
        &[
            Column::Text("VERDICT"),
            Column::Text(""),
            Column::Text("LIMIT"),
            Column::Text("SEEN"),
        ],
        output::stdout_has_color(),
    );
    for judged in verdict {
        let (word, color) = match judged.passed {
            true => ("passed", Color::Green),
            false => ("failed", Color::Red),
        };
        table.colored_row([
            (word.to_owned(), Some(color)),
            (judged.name.clone(), None),
            (judged.limit.clone(), None),
            (judged.seen.clone(), None),
        ]);
    }
    table.render("")
}

fn times(report: &Report) -> String {
    let heads = ["P50", "P90", "P99", "P99.9", "LONGEST"];
    let mut columns = vec![Column::Text("MILLISECONDS"), Column::Number("MEAN")];
    columns.extend(heads.map(Column::Number));
    let mut table = Table::new(&columns, false);
    let mut row = |name: &str, it: &Percentiles| {
        let values = [it.mean, it.p50, it.p90, it.p99, it.p999, it.max];
        let cells = values.iter().map(|value| format!("{value:.2}"));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    if let Some(times) = &report.connect_times {
        row("until connected", times);
    }
    // A connection of TCP is asked nothing.
    let is_asked = !report.target.starts_with("tcp:");
    if let Some(times) = report.times.as_ref().filter(|_| is_asked) {
        row("until answered", times);
    }
    if report.connect_times.is_none() {
        return String::new();
    }
    format!("{}\n", table.render(""))
}
