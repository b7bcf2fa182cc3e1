//! What came of a soak, for people: lines while it goes on, a table at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Fault, Held, Played, Report, Service};
use crate::bench::Machine;

/// A line for a fault that has passed.
pub(super) fn line(played: &Played) -> String {
    let (requests, failed) = sum(std::iter::once(played));
    let mut line = format!(
        "{:>6.0} s {:<56}{:>5.1} s  {failed} of {requests} requests failed",
        played.at.as_secs_f64(),
        played.fault.title(),
        played.took.as_secs_f64()
    );
    if let (Some(why), Some(first)) = (played.fault.eats(), &played.first_failure) {
        let _ = write!(line, ": {why} (first: {first})");
    }
    if played.broken > 0 {
        let _ = write!(
            line,
            "; {} idle connections broke with their server",
            played.broken
        );
    }
    line
}

/// The last lines.
pub(super) fn summary(report: &Report) -> String {
    let (requests, failed) = report.requests();
    let [first, settled, last] = &report.held;
    let refused: u64 = report.changes.refused.values().sum();
    format!(
        "{} faults in {} s: {failed} of {requests} requests failed, each eaten by its fault; {} \
         changes made, {refused} refused or undone; {} counters compared, 0 went back\n\
         at first {}\nthen    {}\nat last {}",
        report.played.len(),
        report.took.as_secs(),
        report.changes.made,
        report.counters,
        text(first),
        text(settled),
        text(last)
    )
}

fn text(held: &Held) -> String {
    let Held {
        memory_kib,
        own_kib,
        descriptors,
        threads,
        maps,
        programs,
        pins,
        state_bytes,
    } = held;
    format!(
        "{:.1} MiB resident, {:.1} its own, {descriptors} descriptors, {threads} threads, {maps} maps, \
         {programs} programs, {pins} pins, {:.1} MiB of state",
        *memory_kib as f64 / 1024.0,
        *own_kib as f64 / 1024.0,
        *state_bytes as f64 / 1_048_576.0
    )
}

/// Writes `soak.md`.
///
/// # Errors
/// When the directory cannot be written.
pub fn write(report: &Report, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let file = directory.join("soak.md");
    fs::write(&file, markdown(report)?).with_context(|| file.display().to_string())
}

fn markdown(report: &Report) -> Result<String> {
    let (requests, failed) = report.requests();
    let mut text = format!(
        "# Soak of {} minutes, seed {}\n\n{} faults; {requests} requests, of which {failed} \
         failed. None failed but while a fault lasted that eats packets, and of a service that it \
         hits.\n\n| fault | times | until all was well, median | requests | failed | why |\n\
         |---|---|---|---|---|---|\n",
        (report.plan.length.as_secs_f64() / 60.0).round(),
        report.plan.seed,
        report.played.len(),
    );
    let mut faults: BTreeMap<Fault, Vec<&Played>> = BTreeMap::new();
    for played in &report.played {
        faults.entry(played.fault).or_default().push(played);
    }
    for (fault, played) in &faults {
        let (requests, failed) = sum(played.iter().copied());
        let mut took: Vec<Duration> = played.iter().map(|it| it.took).collect();
        took.sort_unstable();
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} s | {requests} | {failed} | {} |",
            fault.title(),
            played.len(),
            took[took.len() / 2].as_secs_f64(),
            match (failed, fault.eats()) {
                (1.., Some(why)) => why,
                _ => "",
            }
        );
    }
    let _ = write!(
        text,
        "\nUntil all was well: with three and a half seconds without a failure at its end, and with \
         those that the fault was made to last.\n\n## Changes meanwhile\n\n{} were made. Not made, by \
         what was said first:\n\n| times | |\n|---|---|\n",
        report.changes.made
    );
    for (what, times) in &report.changes.refused {
        let _ = writeln!(text, "| {times} | {} |", what.replace('|', "\\|"));
    }
    text.push_str(
        "\n## What the daemon held\n\n| | resident, MiB | its own | descriptors | threads | maps | \
         programs | pins | state, MiB |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let names = [
        "the first, at rest",
        "the last, settled",
        "the last, at the end",
    ];
    for (name, held) in names.into_iter().zip(&report.held) {
        let _ = writeln!(
            text,
            "| {name} | {:.1} | {:.1} | {} | {} | {} | {} | {} | {:.1} |",
            held.memory_kib as f64 / 1024.0,
            held.own_kib as f64 / 1024.0,
            held.descriptors,
            held.threads,
            held.maps,
            held.programs,
            held.pins,
            held.state_bytes as f64 / 1_048_576.0
        );
    }
    let machine = Machine::look()?;
    let clients = if cfg!(debug_assertions) {
        ", clients built without optimization"
    } else {
        ""
    };
    let _ = write!(
        text,
        "\n{} counters were compared with what they were one fault before; none went back.\n\n\
         {} CPUs, {}, Linux {}{clients}.\n",
        report.counters, machine.cpus, machine.cpu_model, machine.kernel
    );
    Ok(text)
}

/// Requests and those that failed, of all services.
fn sum<'p>(played: impl Iterator<Item = &'p Played>) -> (u64, u64) {
    let all = played.flat_map(|it| Service::ALL.map(|service| it.requests[&service]));
    all.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
}
