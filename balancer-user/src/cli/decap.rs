//! `balancer decap`: the backend's side.

mod report;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, block_on, output, require_root};
use crate::config::model::XdpMode;
use crate::dataplane::attach::Attached;
use crate::dataplane::decap::{Decap, DecapOptions, Sources, Unwrapping};
use report::Report;

/// Unwrap tunnel packets on a backend
///
/// Attaches a program to the interface that takes the outer headers off IP in
/// IP and GUE packets, over IPv4 and IPv6, and hands the inner packet to the
/// host's own stack. The host must have the service's address, on `lo` for
/// example, and must not answer ARP for it.
///
/// Runs until SIGTERM or SIGINT, then detaches and prints what was unwrapped
/// and what was refused, and why. If it is killed otherwise the program stays
/// attached; `balancer unload --pin-dir DIR` removes it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Interface the tunnel packets arrive on
    #[arg(long, value_name = "INTERFACE")]
    interface: String,

    /// Unwrap packets with this outer source only: an address or a prefix such
    /// as 10.0.0.0/24; may be repeated
    ///
    /// Name each balancer of the group. A tunnel packet from elsewhere reaches
    /// the stack as it came and is counted as `untrusted_source`. Without it
    /// packets from anyone are unwrapped, so whoever reaches this interface
    /// can send packets with any inner source past the filters before it.
    #[arg(
        long = "source",
        alias = "from",
        value_name = "ADDRESS|PREFIX",
        value_parser = source
    )]
    sources: Vec<IpNet>,

    /// Unwrap packets from anyone, and do not warn of it
    #[arg(long, conflicts_with = "sources")]
    any_source: bool,

    /// UDP port of GUE
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = balancer_common::decap::gue::PORT,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    gue_port: u16,

    /// How the program is attached
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    mode: Mode,

    /// Directory on a bpffs where the link is pinned
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/balancer-decap")]
    pin_dir: PathBuf,

    /// Print the counters every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stats: Option<u64>,

    /// Print the counters as JSON, one object a line
    #[arg(long)]
    json: bool,
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
    if args.sources.is_empty() && !args.any_source {
        output::note(format_args!(
            "warning: no --source is given, so packets from anyone are unwrapped; \
             --any-source says that this is meant"
        ));
    }
    let interface = &args.interface;
    let (decap, attached) = Decap::start(DecapOptions {
        interface: interface.clone(),
        mode: args.mode.into(),
        unwrapping: Unwrapping {
            sources: match args.sources.as_slice() {
                [] => Sources::Any,
                sources => Sources::In(sources.to_vec()),
            },
            gue_port: args.gue_port,
        },
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
        result = print_every(&decap, args) => result,
    };
    let counts = decap.counts();
    decap.stop()?;
    // Only an empty one can be removed, so a sibling's link is safe.
    let _ = std::fs::remove_dir(&args.pin_dir);
    output::note(format_args!("{interface}: detached"));
    stopped?;
    Report::new(interface, &counts?).print(args.json)
}

/// Prints the counters until that fails, or never.
async fn print_every(decap: &Decap, args: &Args) -> anyhow::Result<()> {
    let Some(seconds) = args.stats else {
        return std::future::pending().await;
    };
    let period = Duration::from_secs(seconds);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    loop {
        ticks.tick().await;
        Report::new(&args.interface, &decap.counts()?).print(args.json)?;
    }
}

/// An address, or a prefix without host bits.
fn source(written: &str) -> Result<IpNet, String> {
    if let Ok(address) = written.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet = written
        .parse()
        .map_err(|_| "no address and no prefix such as 10.0.0.0/24".to_owned())?;
    if network.trunc() != network {
        let trunc = network.trunc();
        return Err(format!("has host bits set; the prefix is {trunc}"));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_is_an_address_or_a_prefix_without_host_bits() {
        for (written, expected) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("10.0.0.0/24", "10.0.0.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::1", "fd00::1/128"),
            ("fd00::/64", "fd00::/64"),
        ] {
            assert_eq!(source(written).unwrap().to_string(), expected);
        }
        for written in ["10.0.0.1/33", "10.0.0", "", "fd00::/129", "10.0.0.0/-1"] {
            assert!(source(written).is_err(), "{written}");
        }
        let error = source("10.0.0.1/24").unwrap_err();
        assert!(error.contains("10.0.0.0/24"), "{error}");
    }
}
