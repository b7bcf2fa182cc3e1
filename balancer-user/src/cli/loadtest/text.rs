//! The report of a load test for people.

use crate::cli::table::{Color, Column, Table};
use crate::cli::{output, units};
use crate::loadtest::report::Report;
use crate::loadtest::tally::Percentiles;

/// The report for people.
pub(super) fn render(report: &Report) -> String {
    let color = output::stdout_has_color();
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
        let mut table = Table::new(
            &[
                Column::Text("BACKEND"),
                Column::Number("FLOWS"),
                Column::Number("EXPECTED"),
                Column::Number("SEEN"),
            ],
            color,
        );
        for share in &report.shares {
            table.row([
                share.backend.clone(),
                share.flows.to_string(),
                units::percent(share.expected),
                units::percent(share.seen),
            ]);
        }
        text.push_str(&format!("{}\n", table.render("")));
    }
    for (name, count) in &report.answered_by {
        text.push_str(&format!("{count} answered by {name}\n"));
    }
    if !report.answered_by.is_empty() {
        text.push('\n');
    }
    let mut table = Table::new(
        &[
            Column::Text("VERDICT"),
            Column::Text(""),
            Column::Text("LIMIT"),
            Column::Text("SEEN"),
        ],
        color,
    );
    for judged in &report.verdict {
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
    text.push_str(&table.render(""));
    text
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
