//! `cargo xtask bench`: what a packet costs, and what a change costs.
//!
//! `packets` runs the kernel program in a hot loop, `footprint` looks at what
//! it takes of the kernel, `forwarding` sends frames through it over real
//! interfaces, `requests` is web traffic through it and what else a user would
//! pick, `changes` is the way of a change from command to kernel, `scale` a
//! configuration of a thousand services, `probes` what probing takes. Figures
//! are compared with each other and with those of the reference, never with a
//! fixed time: other machines are other times.

mod changes;
mod footprint;
pub mod forwarding;
mod machine;
pub mod packets;
mod probes;
mod reference;
mod report;
pub mod requests;
pub mod scale;
mod spread;
mod svg;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

pub use spread::Spread;

pub(crate) use machine::Machine;
use packets::Effort;

/// Measures what a packet costs in the kernel program, case by case, and what
/// a change costs. Needs root. Nothing is attached; the lab's namespaces are
/// its own.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Draw the cases beside the reference into this SVG file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure only cases whose name contains this, or only one part:
    /// "packets" (all cases), "footprint", "forwarding", "requests",
    /// "changes", "scale" or "probes".
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Rounds; medians and deciles are over these.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Packets of one round.
    #[arg(long, default_value_t = 900_000)]
    packets: u32,
    /// Frames of one turn of forwarding over interfaces.
    #[arg(long, default_value_t = 500_000)]
    frames: u32,
    /// Seconds of one turn of requests.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// CPU to run on; the last one by default.
    #[arg(long)]
    cpu: Option<usize>,
}

/// A turn of requests takes seconds.
const MOST_LAB_ROUNDS: usize = 5;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    floors: Option<packets::Floors>,
    packets: Vec<packets::Figure>,
    footprint: Vec<footprint::Amount>,
    forwarding: Vec<forwarding::Figure>,
    requests: Option<requests::Requests>,
    changes: Vec<changes::Figure>,
    scale: Vec<scale::Figure>,
    probes: Vec<scale::Figure>,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let rounds = options.rounds.max(1);
    let only = options.only.as_deref();
    let effort = Effort {
        rounds,
        packets: options.packets.max(1),
    };
    let mut report = Report {
        machine: Machine::look()?,
        floors: None,
        packets: Vec::new(),
        footprint: Vec::new(),
        forwarding: Vec::new(),
        requests: None,
        changes: Vec::new(),
        scale: Vec::new(),
        probes: Vec::new(),
    };
    let show = !options.json;
    if show {
        report::machine(&report.machine);
    }
    if !packets::names(only).is_empty() {
        let cpu = options.cpu.unwrap_or(report.machine.cpus - 1);
        let (floors, figures) = all_packets(cpu, effort, only, show)?;
        report.floors = Some(floors);
        report.packets = figures;
    }
    let is_wanted = |part: &str| only.is_none_or(|only| part == only);
    if is_wanted("footprint") {
        report.footprint = footprint::measure(rounds)?;
        if show {
            report::footprint(&report.footprint);
        }
    }
    if is_wanted("forwarding") {
        report.forwarding = forwarding::measure(rounds, options.frames, report.machine.cpus)?;
        if show {
            report::forwarding(&report.forwarding);
        }
    }
    if is_wanted("requests") {
        let requests = requests::measure(rounds.min(MOST_LAB_ROUNDS), options.seconds.max(1))?;
        if show {
            report::requests(&requests);
        }
        report.requests = Some(requests);
    }
    if is_wanted("changes") {
        report.changes = changes::measure(rounds)?;
        if show {
            report::changes(&report.changes);
        }
    }
    if is_wanted("scale") {
        report.scale = scale::measure(rounds.min(MOST_LAB_ROUNDS))?;
        if show {
            report::daemon("1,000 services of 100 backends", &report.scale);
        }
    }
    if is_wanted("probes") {
        report.probes = probes::measure(rounds.min(MOST_LAB_ROUNDS))?;
        if show {
            report::daemon("2,000 backends, each probed every second", &report.probes);
        }
    }
    if let Some(file) = &options.svg {
        let picture = svg::draw(&report.machine, &report.packets);
        std::fs::write(file, picture).with_context(|| file.display().to_string())?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

/// The cases of `packets`, in a thread of its own, so that the pin ends with it.
fn all_packets(
    cpu: usize,
    effort: Effort,
    only: Option<&str>,
    show: bool,
) -> Result<(packets::Floors, Vec<packets::Figure>)> {
    machine::pinned(cpu, || {
        let floors = packets::floors(effort)?;
        if show {
            report::floors(&floors);
        }
        let figures = packets::measure(effort, only, |figure| {
            if show {
                report::packet(figure);
            }
        })?;
        Ok((floors, figures))
    })
}
