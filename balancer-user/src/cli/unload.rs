//! `balancer unload`: removes what a daemon left in the kernel.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Exit, block_on, file, output, require_root};
use crate::api::client::{Client, Error};
use crate::config::model::Node;
use crate::dataplane::attach;
use crate::netlink::Netlink;
use crate::probe::vip;

/// Detach what a dead or stopped balancer left in the kernel
///
/// After a crash, or a stop with `node.keep_forwarding`, the program stays on
/// its interfaces and forwards by its last tables. This takes it off: from
/// that moment packets for the services pass up the host's stack and their
/// flows break; flow records and counters go. State files stay.
///
/// Refuses while a balancer is running: stop it first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the links are pinned: `node.pin_dir` of the file, or the
    /// `--pin-dir` of a `balancer decap`
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/balancer")]
    pin_dir: PathBuf,

    /// The file of the balancer that left it: says `pin_dir` and the socket at
    /// which a running one would answer
    #[arg(long, value_name = "FILE", conflicts_with = "pin_dir")]
    config: Option<PathBuf>,

    /// Only from this interface
    #[arg(long, value_name = "INTERFACE")]
    interface: Option<String>,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    require_root("unload", "detaches programs from interfaces")?;
    let dir = match &args.config {
        Some(file) => &{
            let node = node_of(file)?;
            refuse_if_answered(&Client::new(node.socket))?;
            node.pin_dir
        },
        None => {
            refuse_if_answered(client)?;
            &args.pin_dir
        }
    };
    let Some(lock) = lock(dir)? else {
        output::print(&format!(
            "nothing to remove: {} is not there\n",
            dir.display()
        ))?;
        return Ok(Exit::Done);
    };
    let mut interfaces = attach::pinned(dir)?;
    if let Some(only) = &args.interface {
        interfaces.retain(|interface| interface == only);
    }
    let mut removed = String::new();
    for interface in &interfaces {
        if attach::detach(dir, interface)? {
            removed.push_str(&format!("{interface}: detached\n"));
        }
    }
    // Without a link nobody uses the maps any more.
    if attach::pinned(dir)?.is_empty() && attach::remove_maps(dir)? {
        removed.push_str("maps: removed\n");
    }
    // They lead probes to a device that went with the daemon.
    if args.interface.is_none() && block_on(unlead(dir))?? {
        removed.push_str("rules of probes: removed\n");
    }
    drop(lock);
    if removed.is_empty() {
        let of = match &args.interface {
            Some(interface) => format!(" of interface {interface}"),
            None => String::new(),
        };
        removed = format!("nothing to remove: no link{of} in {}\n", dir.display());
    } else if attach::pinned(dir)?.is_empty() && std::fs::remove_dir(dir).is_ok() {
        removed.push_str(&format!("{}: removed\n", dir.display()));
    }
    output::print(&removed)?;
    Ok(Exit::Done)
}

/// Removes the rules of probes by the VIP; whether there were any.
async fn unlead(pin_dir: &Path) -> anyhow::Result<bool> {
    let (netlink, _changes) = Netlink::connect().context("connecting to the kernel's netlink")?;
    let names = vip::Names::of(pin_dir);
    vip::unlead(&netlink, &names)
        .await
        .with_context(|| format!("the rules with mark {:#x}; see `ip rule`", names.number))
}

fn node_of(file: &Path) -> anyhow::Result<Node> {
    let examined = file::load(file)?;
    let name = file.display();
    let config = examined.config.with_context(|| {
        format!("{name} cannot be read; see `balancer check {name}`, or name the --pin-dir")
    })?;
    Ok(config.node)
}

fn refuse_if_answered(client: &Client) -> anyhow::Result<()> {
    match block_on(client.status())? {
        Ok(status) => bail!(
            "a balancer (process {}) answers at {}; stop it first, then what it left can be \
             removed",
            status.pid,
            client.socket().display()
        ),
        Err(Error::NotRunning { .. }) => Ok(()),
        Err(error) => Err(error).context("somebody listens, so nothing is removed; stop it first"),
    }
}

/// Holds the directory as a daemon does, which also finds one that listens
/// at another socket; nothing if there is no such directory.
fn lock(dir: &Path) -> anyhow::Result<Option<Flock<File>>> {
    let file = match File::open(dir) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", dir.display())),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => bail!(
            "a running balancer holds {}; stop it first, then what it left can be removed",
            dir.display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("locking {}", dir.display())),
    }
}
