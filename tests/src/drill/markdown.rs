//! The report as people read it: a chart, the two timelines beside each
//! other, and what each play came to.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use super::Report;
use super::script::Mark;
use crate::bench::Machine;
use crate::chart::{Chart, Row, Scale};

/// Bars have no length below that, in seconds.
const SHORTEST: f64 = 0.1;

/// The whole report.
pub(super) fn text(report: &Report) -> Result<String> {
    let script = report.script;
    let Report {
        prevented,
        undone,
        explained,
        ..
    } = report;
    let outage = &script.postmortem;
    let mut text = format!(
        "# {}\n\nOn {}, {}: {}.\n\n![{}]({}.svg)\n\n",
        script.title,
        outage.date,
        outage.impact,
        outage.cause,
        label(report),
        script.name
    );
    timelines(&mut text, report);
    let mut refusals = String::new();
    for (allowed, findings) in &prevented.refusals {
        let allowed = allowed.iter().map(|rule| format!(" --allow {rule}"));
        let _ = writeln!(
            refusals,
            "$ balancer apply{} FILE",
            allowed.collect::<String>()
        );
        for finding in findings {
            let _ = writeln!(refusals, "{finding}");
        }
    }
    let _ = write!(
        text,
        "\n## Prevented\n\nThe change: {}. `balancer apply` refused it after {:.1} s, before a \
         packet went by it; {}.\n\n```console\n{}```\n",
        script.change.what,
        prevented.took.as_secs_f64(),
        prevented.fared,
        refusals
    );
    let _ = write!(
        text,
        "\n## Undone\n\nForced by `{}`. {} {}.\n\n| after | |\n|---|---|\n",
        undone.command,
        match undone.moved {
            0.0 => "No slot had moved when it was undone.".to_owned(),
            percent => format!("{percent} % of the slots that move had moved when it was undone."),
        },
        undone.fared
    );
    for (after, what) in &undone.timeline {
        let _ = writeln!(text, "| {} | {} |", seconds(*after), cell(what));
    }
    let _ = write!(
        text,
        "\n## Explained\n\nFrom outside: {}. Named after {}; {}.\n\n```console\n",
        script.fault.what,
        seconds(explained.took()),
        explained.fared
    );
    for (_, incident) in &explained.named {
        let _ = writeln!(text, "{incident}; try `{}`", incident.command);
    }
    text.push_str("```\n\nWhat it says was typed as it stands there; then it was over.\n");
    let machine = Machine::look()?;
    let clients = if cfg!(debug_assertions) {
        ", clients built without optimization"
    } else {
        ""
    };
    let _ = write!(
        text,
        "\nPlayed on {} CPUs, {}, Linux {}{clients}; times are those of the daemon's log.\n",
        machine.cpus, machine.cpu_model, machine.kernel
    );
    Ok(text)
}

/// What happened then beside what happens now.
fn timelines(text: &mut String, report: &Report) {
    let outage = &report.script.postmortem;
    let then = outage.events.iter().map(|event| {
        let mark = match event.mark {
            Some(Mark::Detected) => "**detected**: ",
            Some(Mark::Named) => "**named**: ",
            Some(Mark::Resolved) => "**resolved**: ",
            None => "",
        };
        (
            format!("{} min", event.minute),
            format!("{mark}{}", event.what),
        )
    });
    let then: Vec<(String, String)> = then.collect();
    let now = drill_timeline(report);
    text.push_str("| after | in the postmortem | after | in the drill |\n|---|---|---|---|\n");
    let nothing = || (String::new(), String::new());
    for place in 0..then.len().max(now.len()) {
        let (after, what) = then.get(place).cloned().unwrap_or_else(nothing);
        let (soon, done) = now.get(place).cloned().unwrap_or_else(nothing);
        let _ = writeln!(
            text,
            "| {after} | {} | {soon} | {} |",
            cell(&what),
            cell(&done)
        );
    }
}

/// The play that begins like the outage: something is wrong already.
fn drill_timeline(report: &Report) -> Vec<(String, String)> {
    let explained = &report.explained;
    let mut lines = vec![(seconds(Duration::ZERO), report.script.fault.what.to_owned())];
    for (after, incident) in &explained.named {
        let what = format!("**detected and named**: {incident}");
        lines.push((seconds(*after), what));
    }
    let typed: Vec<String> = explained.typed.iter().map(|it| format!("`{it}`")).collect();
    let typed = format!("typed: {}", typed.join(", "));
    lines.push((seconds(explained.typed_after), typed));
    let over = "**resolved**: nothing is wrong, and nothing was for some seconds";
    lines.push((seconds(explained.over), over.to_owned()));
    lines
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// What a cell of a table can hold.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn label(report: &Report) -> String {
    let outage = &report.script.postmortem;
    format!(
        "{}: named after {} here and {} minutes in the postmortem, resolved after {} and {} \
         minutes, a forced change undone after {}",
        report.script.title,
        seconds(report.explained.took()),
        outage.minute(Mark::Named),
        seconds(report.explained.over),
        outage.minute(Mark::Resolved),
        seconds(report.undone.took)
    )
}

/// The chart.
pub(super) fn chart(report: &Report) -> Result<String> {
    let outage = &report.script.postmortem;
    let row = |name: &str, took: Duration, mark: Mark| {
        let minutes = outage.minute(mark);
        Row {
            name: name.to_owned(),
            bars: [
                (took.as_secs_f64(), seconds(took)),
                (f64::from(minutes) * 60.0, format!("{minutes} min")),
            ],
        }
    };
    let machine = Machine::look()?;
    let chart = Chart {
        title: &format!("{}: how long until ...", report.script.title),
        label: &label(report),
        legend: ["this drill", "the postmortem"],
        foot: &format!(
            "Lengths are logarithmic, from 0.1 s on. {}, Linux {}",
            machine.cpu_model, machine.kernel
        ),
        scale: Scale::Decades(SHORTEST),
        rows: vec![
            row("the cause was named", report.explained.took(), Mark::Named),
            row(
                "the service was restored",
                report.explained.over,
                Mark::Resolved,
            ),
            row(
                "a forced change was undone",
                report.undone.took,
                Mark::Resolved,
            ),
        ],
    };
    Ok(chart.draw())
}
