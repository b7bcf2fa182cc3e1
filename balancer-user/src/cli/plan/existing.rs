//! Flows that exist, for a plan: which packets of a capture are sent, and
//! how the answers read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::output;
use super::super::trace::capture::CaptureReader;
use super::super::units;
use crate::api::types::{MAX_FRAMES_LEN, PlanRequest, Planned};
use crate::rehearsal::{Moves, five_tuple};

/// Most flows of a capture that are asked for.
const MAX_FLOWS: usize = 20_000;
/// Moves from one backend to another that are shown.
const MAX_SHOWN: usize = 10;

/// Flows that exist, to be shown what becomes of.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ExistingArgs {
    /// Also show what becomes of flows that the kernel has on record
    ///
    /// It has those of TCP in slots that change, and those of UDP with
    /// affinity "flow"; 5,000 of them are asked for at most.
    #[arg(long)]
    flows: bool,

    /// Also show which flows of a capture would move; pcap or pcapng
    ///
    /// The first packet of each flow, of 20,000 flows at most, goes through
    /// two private copies of the kernel program, one with the tables in force
    /// and one with the file's. What the balancer has on record is not asked:
    /// flows that live when the change is made may stay where they are.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

impl ExistingArgs {
    /// Adds the questions to a request.
    pub(in crate::cli) fn add_to(&self, request: &mut PlanRequest) -> anyhow::Result<()> {
        request.flows = self.flows;
        if let Some(path) = &self.pcap {
            request.frames = first_packets(path)?;
        }
        Ok(())
    }
}

/// The first packet of each flow, in Base64; says so where not all fit.
fn first_packets(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut reader = CaptureReader::open(path)?;
    let (mut seen, mut frames) = (HashSet::new(), Vec::new());
    let (mut len, mut left_out) = (0, 0);
    while let Some(frame) = reader.next_frame()? {
        let is_first = five_tuple(&frame.bytes).is_some_and(|flow| seen.insert(flow));
        if !is_first {
            continue;
        }
        if frames.len() == MAX_FLOWS || len + frame.bytes.len() > MAX_FRAMES_LEN {
            left_out += 1;
            continue;
        }
        len += frame.bytes.len();
        frames.push(STANDARD.encode(&frame.bytes));
    }
    if left_out > 0 {
        output::note(format_args!(
            "note: {}: {left_out} flows are left out: {MAX_FLOWS} and {MAX_FRAMES_LEN} bytes are \
             asked for at most",
            path.display()
        ));
    }
    Ok(frames)
}

/// What was answered, a paragraph each.
pub(super) fn render(planned: &Planned) -> String {
    let mut text = String::new();
    if let Some(moves) = &planned.recorded {
        text.push_str(&paragraph("on record", "leave their backend", moves));
    }
    if let Some(moves) = &planned.captured {
        text.push_str(&paragraph(
            "in the capture",
            "move when they are new",
            moves,
        ));
    }
    text
}

fn paragraph(what: &str, go: &str, moves: &Moves) -> String {
    let of = |count, noun| units::counted(count, noun);
    let mut text = format!(
        "flows {what}: {}, {} of them {go}",
        of(moves.flows, "flow"),
        moves.moved
    );
    if moves.others > 0 {
        let others = of(moves.others, "other");
        text.push_str(&format!(" ({others} of no service or no use)"));
    }
    text.push('\n');
    let mut by_backend: Vec<_> = moves.by_backend.iter().collect();
    by_backend.sort_by_key(|it| std::cmp::Reverse(it.flows));
    for it in by_backend.iter().take(MAX_SHOWN) {
        let (service, from, to) = (&it.service, &it.from, &it.to);
        let flows = of(it.flows, "flow");
        text.push_str(&format!("  service {service}: {from} -> {to}: {flows}\n"));
    }
    if by_backend.len() > MAX_SHOWN {
        text.push_str(&format!("  and {} more\n", by_backend.len() - MAX_SHOWN));
    }
    if let Some(example) = moves.examples.first() {
        text.push_str(&format!("  such as {example}\n"));
    }
    text.push('\n');
    text
}
