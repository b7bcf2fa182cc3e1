//! `balancer decap`: the backend's side.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use balancer_common::layout::DecapCounters;
use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, block_on, output, require_root, units};
use crate::config::model::XdpMode;
use crate::dataplane::attach::Attached;
use crate::dataplane::decap::{Decap, DecapOptions};

/// Unwrap tunnel packets on a backend
///
/// Attaches a program to the interface that takes the outer header off
/// packets of `forward = "ipip"` services and hands the inner packet to the
/// host's own stack. The host must have the service's address, on `lo` for
/// example, and must not answer ARP for it.
///
/// Runs until SIGTERM or SIGINT, then detaches. If it is killed otherwise
/// the program stays attached; `balancer unload --pin-dir DIR` removes it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Interface the tunnel packets arrive on
    #[arg(long, value_name = "INTERFACE")]
    interface: String,

    /// Unwrap packets of this balancer only; may be repeated
    ///
    /// Without it packets from anyone are unwrapped, so whoever reaches this
    /// interface can send packets with any inner source past the filters
    /// before it.
    #[arg(long, value_name = "ADDRESS")]
    from: Vec<IpAddr>,

    /// How the program is attached
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,

    /// Directory on a bpffs where the link is pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/balancer-decap")]
    pin_dir: PathBuf,

    /// Print the counters every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stats: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// In the driver where it can, generic otherwise
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the kernel's generic hook: works everywhere, at a fraction of the speed
    Generic,
}

impl From<Mode> for XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    require_root(
        "decap",
        "loads a program into the kernel and attaches it to an interface",
    )?;
    block_on(unwrap_until_stopped(args))??;
    Ok(Exit::Done)
}

async fn unwrap_until_stopped(args: &Args) -> anyhow::Result<()> {
    // Before the program is attached: a signal from now on ends it in order.
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    if args.from.is_empty() {
        output::note(format_args!(
            "warning: no --from is given, so packets from anyone are unwrapped"
        ));
    }
    let interface = &args.interface;
    let (decap, attached) = Decap::start(DecapOptions {
        interface: interface.clone(),
        mode: args.mode.into(),
        sources: args.from.clone(),
        pin_dir: args.pin_dir.clone(),
    })?;
    let how = match attached {
        Attached::Native => "attached in native mode",
        Attached::Generic => "attached in generic mode, at a fraction of the speed",
        Attached::Replaced => "attached in the link that an earlier one left, in its mode",
    };
    output::note(format_args!("{interface}: {how}"));
    let stopped = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        result = print_counters(&decap, interface, args.stats) => result,
    };
    let counters = decap.counters();
    decap.stop()?;
    // Only an empty one can be removed, so a sibling's link is safe.
    let _ = std::fs::remove_dir(&args.pin_dir);
    output::note(format_args!("{interface}: detached"));
    stopped?;
    output::print(&line(interface, &counters?))
}

/// Prints the counters until that fails, or never.
async fn print_counters(decap: &Decap, interface: &str, every: Option<u64>) -> anyhow::Result<()> {
    let Some(seconds) = every else {
        return std::future::pending().await;
    };
    let period = Duration::from_secs(seconds);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    loop {
        ticks.tick().await;
        output::print(&line(interface, &decap.counters()?))?;
    }
}

fn line(interface: &str, counters: &DecapCounters) -> String {
    format!(
        "{interface}: {} unwrapped ({}), {} ({})\n",
        units::counted(counters.packets, "packet"),
        counters.packets,
        units::bytes(counters.bytes),
        counters.bytes
    )
}
