//! `balancer capture`: live packets as they came and as they left.

mod line;
mod pcapng;

use std::fs::OpenOptions;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use balancer_common::capture::MAX_SNAPLEN;
use balancer_common::verdict::Reason;
use clap::builder::PossibleValuesParser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, change, output, units};
use crate::api::capture::{
    CaptureFigures, CaptureRequest, CaptureStopRequest, Captured, DEFAULT_LIMIT, MAX_LIMIT,
};
use crate::api::client::{Client, Error};
use pcapng::PcapNg;

/// Show live packets, with what the balancer did with each and why
///
/// Each packet is shown as it came in and, where it was sent on, as it left,
/// with verdict, reason, service and backend. On a terminal that is a line a
/// packet; into a file or a pipe it is pcapng, which Wireshark and tshark
/// read: both frames have the same packet id, the verdict is the XDP one, and
/// the comment says the rest. Packets that pass or are dropped leave no
/// second frame.
///
///   balancer capture --service web --verdict drop
///   balancer capture --backend web-1 -c 100 -w web-1.pcapng
///   ssh lb1 balancer capture --for 30s -w - | wireshark -k -i -
///
/// Without a capture the program in the packet path has not an instruction of
/// all this. One that tells of packets takes its place while the capture is
/// on, without a gap, over the same tables, flow records and counters. It
/// takes no more than --limit packets a second; what was wanted beyond that,
/// and what found no room, is counted and said at the end. There is one
/// capture at a time. Ctrl-C ends it.
///
/// Packets are secrets of those who sent them: only root and members of
/// `node.change_group` may see them, and who began a capture is in the log.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    /// Only packets of this service; may be repeated
    #[arg(long, value_name = "SERVICE")]
    service: Vec<String>,

    /// Only packets to and from this backend, or SERVICE/BACKEND; may be
    /// repeated
    ///
    /// What comes back from a backend is seen where it comes this way: with
    /// `nat` and `fullnat`.
    #[arg(long, value_name = "BACKEND")]
    backend: Vec<String>,

    /// Only packets with this verdict; may be repeated
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = ["pass", "drop", "tx", "redirect"])]
    verdict: Vec<String>,

    /// Only packets with this reason; may be repeated
    #[arg(long, value_name = "REASON", value_delimiter = ',', hide_possible_values = true, value_parser = reasons())]
    reason: Vec<String>,

    /// Look at one packet in N, by chance
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    sample: u32,

    /// At most so many packets a second
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LIMIT)))]
    limit: u32,

    /// Keep the first N bytes of each frame; otherwise all
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_SNAPLEN as i64))]
    snaplen: Option<u32>,

    /// End after N packets
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// End after this time, as in `30s`
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<Duration>,

    /// Write pcapng to this file; `-` is stdout
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Print a line a packet, also where stdout is no terminal
    #[arg(long, conflicts_with_all = ["write", "json"])]
    text: bool,

    /// Print what the daemon says as JSON, one object a line
    #[arg(long, conflicts_with = "write")]
    json: bool,

    /// End the capture that is on, whoever began it, and show nothing
    #[arg(long, exclusive = true)]
    stop: bool,
}

impl Args {
    /// The file that packets go to; none where that is stdout.
    fn file(&self) -> Option<&Path> {
        let path = self.write.as_deref();
        path.filter(|path| path.as_os_str() != "-")
    }
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.name()))
}

/// Packets that wait for a reader who takes none for a while, as a pager does.
const WAITING: usize = 4096;

/// Where packets go.
enum Sink {
    Lines,
    Json,
    PcapNg(PcapNg<Box<dyn Write + Send>>),
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    // Signals are heard in a thread of their own, as a reader that takes
    // nothing holds up the one that writes.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    if args.stop {
        let stopped = runtime.block_on(client.capture_stop(&CaptureStopRequest::default()));
        output::print(&format!("{}\n", change::refused(stopped)?.summary))?;
        return Ok(Exit::Done);
    }
    let request = request(args);
    let number = Arc::new(AtomicU64::new(0));
    let (events, waiting) = sync_channel(WAITING);
    let mut queue = Queue { events, full: 0 };
    let looks_at_stdout = args.file().is_none();
    thread::scope(|scope| {
        let writer = Writer::new(args, Arc::clone(&number));
        let writer = scope.spawn(|| writer.write(waiting));
        let listening = runtime.spawn(end_at_signal(client.clone(), number, looks_at_stdout));
        let heard = runtime.block_on(client.capture(&request, |event| queue.put(event)));
        drop(queue);
        let written = writer.join();
        listening.abort();
        let written = written.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.finish(heard, args.limit)
    })
}

/// Between what the daemon says and where it is written: a reader who takes
/// nothing is no reason not to listen, as the daemon ends a capture then.
struct Queue {
    events: SyncSender<Captured>,
    /// Packets that found no room.
    full: u64,
}

impl Queue {
    /// Whether more is wanted.
    fn put(&mut self, mut event: Captured) -> bool {
        if let Captured::Over { figures, .. } = &mut event {
            figures.captured = figures.captured.saturating_sub(self.full);
            figures.lost += self.full;
        }
        if !matches!(event, Captured::Packet(_)) {
            return self.events.send(event).is_ok();
        }
        match self.events.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.full += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

fn request(args: &Args) -> CaptureRequest {
    CaptureRequest {
        services: args.service.clone(),
        backends: args.backend.clone(),
        verdicts: args.verdict.clone(),
        reasons: args.reason.clone(),
        sample: args.sample,
        snaplen: args.snaplen,
        limit: args.limit,
        count: args.count,
        for_millis: args
            .time
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    }
}

/// Ends the capture at the first signal, so that what was counted is still
/// told, and everything at the second; and where nobody reads stdout any more.
async fn end_at_signal(client: Client, capture: Arc<AtomicU64>, looks_at_stdout: bool) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    let mut look = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = look.tick(), if looks_at_stdout => if is_stdout_left() { break },
        }
    }
    let number = Some(capture.load(Ordering::Relaxed)).filter(|number| *number != 0);
    let asked = CaptureStopRequest { capture: number };
    if number.is_none() || client.capture_stop(&asked).await.is_err() {
        std::process::exit(1);
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    std::process::exit(1);
}

/// Whether stdout is a pipe that nobody reads.
fn is_stdout_left() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let polled_well = poll(&mut polled, PollTimeout::ZERO).is_ok();
    let seen = polled[0].revents().unwrap_or(PollFlags::empty());
    polled_well && seen.contains(PollFlags::POLLERR)
}

/// Writes a capture under way.
struct Writer<'a> {
    args: &'a Args,
    sink: Option<Sink>,
    /// The capture's number, once it is known.
    capture: Arc<AtomicU64>,
    captured: u64,
    over: Option<CaptureFigures>,
}

/// What came of it.
struct Written {
    captured: u64,
    over: Option<CaptureFigures>,
    /// Why nothing could be written any more.
    failed: Option<anyhow::Error>,
}

impl<'a> Writer<'a> {
    fn new(args: &'a Args, capture: Arc<AtomicU64>) -> Self {
        Self {
            args,
            sink: None,
            capture,
            captured: 0,
            over: None,
        }
    }

    /// Writes all that comes. A file is made once there is something to put
    /// into it: a refusal leaves an older one alone.
    fn write(mut self, events: Receiver<Captured>) -> Written {
        let failed = events.into_iter().find_map(|event| self.take(&event).err());
        Written {
            captured: self.captured,
            over: self.over,
            failed,
        }
    }

    fn take(&mut self, event: &Captured) -> anyhow::Result<()> {
        match event {
            Captured::Begun { capture, what, .. } => {
                self.capture.store(*capture, Ordering::Relaxed);
                self.sink = Some(self.open(event)?);
                output::note(format_args!("capturing {what}; Ctrl-C ends it"));
            }
            Captured::Packet(_) => self.captured += 1,
            Captured::Over { figures, .. } => self.over = Some(*figures),
        }
        match (&mut self.sink, event) {
            (Some(Sink::Json), event) => output::print_line(event),
            (Some(Sink::Lines), Captured::Packet(packet)) => output::print(&line::of(packet)),
            (Some(Sink::PcapNg(file)), Captured::Packet(packet)) => file.packet(packet),
            (Some(Sink::PcapNg(file)), Captured::Over { figures, .. }) => file.finish(figures),
            _ => Ok(()),
        }
    }

    fn open(&self, begun: &Captured) -> anyhow::Result<Sink> {
        if self.args.json {
            return Ok(Sink::Json);
        }
        let is_terminal = io::stdout().is_terminal();
        let output: Box<dyn Write + Send> = match self.args.file() {
            Some(path) => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                let file = options.open(path);
                Box::new(file.with_context(|| format!("cannot write {}", path.display()))?)
            }
            None if self.args.text || is_terminal && self.args.write.is_none() => {
                return Ok(Sink::Lines);
            }
            None => Box::new(io::stdout()),
        };
        let output: Box<dyn Write + Send> = Box::new(BufWriter::new(output));
        let file = PcapNg::begin(output, begun)?;
        Ok(Sink::PcapNg(file))
    }
}

impl Written {
    /// Says what was counted.
    fn finish(self, heard: Result<(), Error>, limit: u32) -> anyhow::Result<Exit> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        change::refused(heard)?;
        let Some(figures) = self.over else {
            output::note(format_args!(
                "error: the balancer ended before the capture did; what was written is whole: {}",
                units::counted(self.captured, "packet")
            ));
            return Ok(Exit::Findings);
        };
        output::note(format_args!(
            "{} captured of {} looked at\n{} not captured: above {} a second\n{} lost: no room to wait in",
            units::counted(figures.captured, "packet"),
            figures.looked_at,
            units::counted(figures.limited, "packet"),
            limit,
            units::counted(figures.lost, "packet"),
        ));
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::pcapng::tests::packet;
    use super::*;

    #[test]
    fn packets_beyond_what_may_wait_for_a_reader_are_counted_as_lost() {
        let (events, waiting) = sync_channel(1);
        let mut queue = Queue { events, full: 0 };
        for _ in 0..3 {
            assert!(queue.put(Captured::Packet(Box::new(packet()))));
        }
        assert!(matches!(waiting.recv(), Ok(Captured::Packet(_))));
        assert!(queue.put(Captured::Over {
            why: "it was ended by command".to_owned(),
            figures: CaptureFigures {
                captured: 3,
                ..CaptureFigures::default()
            },
        }));
        let Ok(Captured::Over { figures, .. }) = waiting.recv() else {
            panic!("it is not over");
        };
        assert_eq!((figures.captured, figures.lost), (1, 2));
        drop(waiting);
        assert!(!queue.put(Captured::Packet(Box::new(packet()))));
    }
}
