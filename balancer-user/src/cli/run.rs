//! `balancer run`: the daemon.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::ArgAction;
use clap::builder::FalseyValueParser;
use clap::error::ErrorKind;

use super::{Exit, bad_usage, file, logging, require_root};
use crate::daemon;
use crate::dataplane::heap;

/// Threads for what would block end that soon when a rush is over. Ten seconds,
/// as is usual, would keep them all: each second's own work wakes another one.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Run the balancer in the foreground until SIGTERM or SIGINT
///
/// The file is checked first; with an error in it nothing is started and
/// nothing changes. Then backends are probed, and only when that is done the
/// program is attached to the interfaces in `node.interfaces`: from that
/// moment packets for the services go to the backends, and all others pass
/// up the host's stack untouched.
///
/// If the daemon dies, the program stays attached and forwards by its last
/// tables; the next daemon takes over without a gap. When it is stopped by a
/// signal it detaches and services are no longer answered, unless
/// `node.keep_forwarding` is true. SIGUSR2 stops it for another daemon to come:
/// forwarding goes on, whatever the file says. SIGHUP has the file read again,
/// as `balancer reload` does.
///
/// Started by systemd with `Type=notify`, it tells when it is ready, what goes
/// on, and, where `WatchdogSec` is set, that its loop goes round.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Replace tables of another version of the balancer, which this one cannot
    /// read: in one step, but flow records and counters begin anew
    #[arg(
        long,
        env = "BALANCER_REPLACE_TABLES",
        action = ArgAction::SetTrue,
        value_parser = FalseyValueParser::new()
    )]
    replace_tables: bool,

    /// What is logged to stderr: error, warn, info, debug, trace
    #[arg(
        long,
        value_name = "LEVEL",
        env = "RUST_LOG",
        default_value = "info",
        value_parser = logging::filter
    )]
    log: String,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.config.as_os_str() == "-" {
        let message = "the configuration is read again on `reload`, so it cannot be stdin";
        return Ok(bad_usage(ErrorKind::InvalidValue, message));
    }
    heap::set_up();
    let examined = file::load(&args.config)?;
    if examined.config.is_none() || examined.report.has_errors() {
        file::show_findings(&examined);
        return Ok(Exit::Findings);
    }
    // The daemon reads it for itself; a large one is not to be in memory twice
    // for as long as that runs.
    drop(examined);
    require_root(
        "run",
        "loads a program into the kernel and attaches it to interfaces",
    )?;
    logging::start(&args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_keep_alive(KEEP_ALIVE)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(daemon::run(&args.config, args.replace_tables))?;
    Ok(Exit::Done)
}
