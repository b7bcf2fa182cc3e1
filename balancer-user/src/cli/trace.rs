//! `balancer trace`: packets through the real kernel program, with a file's
//! tables and nothing attached.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::error::ErrorKind;

use super::output::Stdout;
use super::{Exit, bad_usage, block_on, file, logging, output, require_root, units};
use crate::dataplane::trial::{Action, MAX_FRAME, MIN_FRAME, Trial};

pub(super) mod capture;
mod frames;
mod record;
pub(super) mod tables;

use capture::CaptureWriter;
use frames::{Frame, HexSource, Source};
use record::{Fault, Record};
use tables::Tables;

/// Show what the balancer would do with packets
///
/// Loads a private copy of the program that `run` attaches, fills it with the
/// file's tables and hands it one packet after the other. Nothing is
/// attached, nothing is sent, and a running balancer is not touched. Every
/// backend with a probe counts as up; drained ones get no new flows. What the
/// program remembers of flows carries over from one packet to the next.
///
/// Findings of the check go to stderr and stop nothing, so that a bad
/// configuration can be looked at; a file that cannot be read as one is
/// refused. Routes and neighbours are the host's; a backend with `mac` needs
/// none.
///
/// One line a packet: its index from 0, the verdict (pass, drop, tx,
/// redirect), the reason, and where there are any the service, the backend,
/// the flow's slot and hash, and in hex the frame as it leaves or passes.
/// Exits with 1 if a frame could not be run; the others are run nevertheless.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true).multiple(false))]
pub(super) struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// A frame in hex, from the Ethernet header on; may be repeated
    ///
    /// Blanks, colons and newlines in it are ignored. `-` reads frames from
    /// stdin, one a line.
    #[arg(long, value_name = "FRAME", group = "input", value_parser = frames::hex_source)]
    hex: Vec<HexSource>,

    /// Frames from a capture, pcap or pcapng, of Ethernet; `-` reads stdin
    #[arg(long, value_name = "FILE", group = "input")]
    pcap: Option<PathBuf>,

    /// Write the frames that leave or pass to this file, as pcap
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,

    /// Show the kernel program's own log lines on stderr
    #[arg(long)]
    verbose: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    require_root("trace", "loads a program into the kernel")?;
    let examined = file::load(&args.config)?;
    if !examined.report.findings().is_empty() {
        file::show_findings(&examined);
    }
    let Some(config) = examined.config else {
        return Ok(Exit::Findings);
    };
    if let (Some(input), Some(out)) = (&args.pcap, &args.out)
        && capture::are_the_same(input, out)
    {
        let message = "--out names the file that --pcap reads; it would be lost";
        return Ok(bad_usage(ErrorKind::ArgumentConflict, message));
    }
    logging::start(if args.verbose {
        "warn,ebpf_balancer=debug"
    } else {
        "warn"
    })?;
    let tables = block_on(Tables::build(&config))?;
    let mut trial = Trial::load(tables.state())?;
    if args.verbose {
        trial.attach_log()?;
    }
    let source = match &args.pcap {
        Some(path) => Source::capture(path)?,
        None => Source::hex(args.hex.clone()),
    };
    let out = args.out.as_deref().map(CaptureWriter::create).transpose()?;
    let mut tracer = Tracer {
        trial,
        tables,
        out,
        json: args.json,
        // Somebody may be waiting for the answer before sending the next.
        flush_each: args.hex.contains(&HexSource::Stdin),
        failed: false,
        partial: None,
        stdout: Stdout::new(),
    };
    tracer.run(source)
}

/// What one trace needs from packet to packet.
struct Tracer {
    trial: Trial,
    tables: Tables,
    out: Option<CaptureWriter<Box<dyn Write>>>,
    json: bool,
    flush_each: bool,
    failed: bool,
    /// How many frames were captured in part, and the first of them.
    partial: Option<(u64, u64)>,
    stdout: Stdout,
}

impl Tracer {
    fn run(&mut self, source: Source) -> anyhow::Result<Exit> {
        let result = self.run_all(source);
        // What was found out before a fault is handed over in any case.
        self.stdout.flush()?;
        if let Some(out) = self.out.take() {
            out.finish()?;
        }
        if let Some((count, first)) = self.partial {
            output::note(format_args!(
                "note: captured in part: {}, the first at index {first}; the verdict is about \
                 the part",
                units::counted(count, "frame")
            ));
        }
        result?;
        Ok(if self.failed {
            Exit::Findings
        } else {
            Exit::Done
        })
    }

    fn run_all(&mut self, source: Source) -> anyhow::Result<()> {
        for (index, frame) in (0..).zip(source) {
            match frame? {
                Ok(frame) => self.run_one(index, &frame)?,
                Err(error) => self.fault(index, error)?,
            }
            if self.flush_each {
                self.stdout.flush()?;
            }
        }
        Ok(())
    }

    fn run_one(&mut self, index: u64, frame: &Frame) -> anyhow::Result<()> {
        let len = frame.bytes.len();
        if !(MIN_FRAME..=MAX_FRAME).contains(&len) {
            let error = format!(
                "the frame has {len} bytes; the kernel takes {MIN_FRAME} to {MAX_FRAME} in a \
                 test run"
            );
            return self.fault(index, error);
        }
        if frame.original_len > len {
            let (count, first) = self.partial.unwrap_or((0, index));
            self.partial = Some((count + 1, first));
        }
        let outcome = match self.trial.run(&frame.bytes) {
            Ok(outcome) => outcome,
            Err(error) => return self.fault(index, error.to_string()),
        };
        let record = Record::new(index, &outcome, &self.tables);
        let line = if self.json {
            record.to_json()?
        } else {
            record.to_text()
        };
        self.stdout.write(&line)?;
        let leaves = !matches!(outcome.action, Action::Drop | Action::Aborted);
        if let (Some(out), true) = (&mut self.out, leaves) {
            out.write(frame.timestamp, &outcome.frame)
                .with_context(|| format!("writing packet {index}"))?;
        }
        Ok(())
    }

    fn fault(&mut self, index: u64, error: String) -> anyhow::Result<()> {
        self.failed = true;
        let fault = Fault { index, error };
        let line = if self.json {
            fault.to_json()?
        } else {
            fault.to_text()
        };
        self.stdout.write(&line)
    }
}
