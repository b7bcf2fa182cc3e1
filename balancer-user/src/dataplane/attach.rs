//! Interfaces: attaching, replacing and detaching the program.
//!
//! The link of each interface is pinned as `<pin_dir>/link-<interface>`.
//! The pin keeps link, program and maps alive without the controller, and
//! the next controller replaces the program in the same link: one atomic
//! update, no packet sees an interface without a program. A program that
//! was attached by somebody else is never replaced.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{ProgramError, Xdp, XdpMode};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Error, set, unlink};
use crate::config::model;

/// How a program got onto its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// In the driver.
    Native,
    /// In the kernel's generic hook.
    Generic,
    /// In a link that an earlier controller left, in its mode.
    Replaced,
}

/// Attaches the program to an interface, or replaces the one that an earlier
/// controller of the same `pin_dir` left there.
pub fn attach(
    program: &mut Xdp,
    interface: &str,
    mode: model::XdpMode,
    pin_dir: &Path,
) -> Result<Attached, Error> {
    let pin = pin_path(pin_dir, interface);
    if pin.exists() && replace(program, &pin)? {
        return Ok(Attached::Replaced);
    }
    let index = nix::net::if_::if_nametoindex(interface)
        .map_err(|error| Error::kernel(format!("interface {interface}"), error))?;
    if pin.exists() {
        // The interface this link was for is gone, so it holds nothing.
        unpin(&pin)?;
    }
    let modes: &[(XdpMode, Attached)] = match mode {
        model::XdpMode::Native => &[(XdpMode::Driver, Attached::Native)],
        model::XdpMode::Generic => &[(XdpMode::Skb, Attached::Generic)],
        model::XdpMode::Auto => &[
            (XdpMode::Driver, Attached::Native),
            (XdpMode::Skb, Attached::Generic),
        ],
    };
    let mut last = None;
    for (mode, attached) in modes {
        match program.attach_to_if_index(index, *mode) {
            Ok(id) => {
                let link = program
                    .take_link(id)
                    .map_err(|error| Error::kernel(format!("link of {interface}"), error))?;
                pin_link(link, &pin)?;
                return Ok(*attached);
            }
            Err(error) if is_taken(&error) => {
                return Err(Error::Foreign(format!(
                    "interface {interface} already has an XDP program; it is not replaced: \
                     see `ip link show {interface}` and `bpftool net show`, and detach it first"
                )));
            }
            Err(error) => last = Some(error),
        }
    }
    let cause = last.map(|error| chain(&error)).unwrap_or_default();
    Err(Error::Kernel {
        doing: format!("attaching to interface {interface} in {mode:?} mode"),
        cause,
    })
}

/// Whether there is an interface of that name.
pub(super) fn is_there(interface: &str) -> bool {
    nix::net::if_::if_nametoindex(interface).is_ok()
}

/// Detaches the program from an interface; nothing happens where none is. It
/// is off when this returns.
pub fn detach(pin_dir: &Path, interface: &str) -> Result<bool, Error> {
    let pin = pin_path(pin_dir, interface);
    if !pin.exists() {
        return Ok(false);
    }
    if let Err(error) = unlink::detach(&pin) {
        tracing::debug!(%interface, %error, "not detached at once; the pin's removal does it");
    }
    unpin(&pin)?;
    Ok(true)
}

/// Interfaces that have a pinned link under `pin_dir`.
pub fn pinned(pin_dir: &Path) -> Result<Vec<String>, Error> {
    let names = names(pin_dir)?;
    let links = names.iter().filter_map(|name| name.strip_prefix("link-"));
    let mut interfaces: Vec<String> = links.map(str::to_owned).collect();
    interfaces.sort();
    Ok(interfaces)
}

/// Names of what is pinned under `pin_dir`; none where there is no such
/// directory.
pub(super) fn names(pin_dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(pin_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::kernel(
                format!("reading {}", pin_dir.display()),
                error,
            ));
        }
    };
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    Ok(entries.flatten().filter_map(name).collect())
}

/// Numbers of the programs in the links that are pinned under `pin_dir`.
pub fn programs(pin_dir: &Path) -> Result<BTreeSet<u32>, Error> {
    let program = |interface: &String| {
        let pin = pin_path(pin_dir, interface);
        let doing = || format!("asking for the program in {}", pin.display());
        let pinned = PinnedLink::from_pin(&pin).map_err(|error| Error::kernel(doing(), error))?;
        let info = FdLink::from(pinned)
            .info()
            .map_err(|error| Error::kernel(doing(), error))?;
        Ok(info.program_id())
    };
    pinned(pin_dir)?.iter().map(program).collect()
}

/// Removes all maps that are pinned under `pin_dir`; whether there were any.
/// With them go flow records and counters.
pub fn remove_maps(pin_dir: &Path) -> Result<bool, Error> {
    set::remove_others(pin_dir, None)
}

/// Makes `pin_dir`, and mounts a bpffs at `/sys/fs/bpf` where there is none.
pub fn prepare_pin_dir(pin_dir: &Path) -> Result<(), Error> {
    const BPFFS: &str = "/sys/fs/bpf";
    if pin_dir.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) {
        mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(|error| {
            Error::kernel(
                format!("mounting a bpffs; try `mount -t bpf bpf {BPFFS}`"),
                error,
            )
        })?;
    }
    fs::create_dir_all(pin_dir)
        .map_err(|error| Error::kernel(format!("making {}", pin_dir.display()), error))?;
    if !is_bpffs(pin_dir) {
        return Err(Error::Foreign(format!(
            "{} is not on a bpffs, so links cannot be pinned there; set node.pin_dir to a \
             directory under {BPFFS}",
            pin_dir.display()
        )));
    }
    Ok(())
}

/// Pins all that is pinned under `from` once more under `to`, which is on
/// another bpffs and empty. How many pins that makes.
pub fn pin_again(from: &Path, to: &Path) -> Result<usize, Error> {
    let doing = |path: &Path| format!("pinning again what is pinned at {}", path.display());
    let entries = |path: &Path| {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        entries.map_err(|error| Error::kernel(doing(path), error))
    };
    let mut pinned = 0;
    for entry in entries(from)? {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let is_dir = entry.file_type().is_ok_and(|it| it.is_dir());
        let done = match is_dir {
            true => fs::create_dir(&to),
            false => unlink::pin_again(&from, &to),
        };
        done.map_err(|error| Error::kernel(doing(&from), error))?;
        pinned += match is_dir {
            true => pin_again(&from, &to)?,
            false => 1,
        };
    }
    Ok(pinned)
}

/// Whether a path is on a bpffs, or would be once it is made.
pub fn is_on_bpffs(path: &Path) -> bool {
    let there = path.ancestors().find(|it| it.exists());
    there.is_some_and(is_bpffs)
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Where the link of an interface is pinned.
pub(super) fn pin_path(pin_dir: &Path, interface: &str) -> PathBuf {
    pin_dir.join(format!("link-{interface}"))
}

fn unpin(pin: &Path) -> Result<(), Error> {
    fs::remove_file(pin)
        .map_err(|error| Error::kernel(format!("removing {}", pin.display()), error))
}

/// Swaps the program in a pinned link; `false` if its interface is gone.
fn replace(program: &mut Xdp, pin: &Path) -> Result<bool, Error> {
    let doing = || format!("replacing the program in {}", pin.display());
    let pinned = PinnedLink::from_pin(pin).map_err(|error| Error::kernel(doing(), error))?;
    let link =
        XdpLink::try_from(FdLink::from(pinned)).map_err(|error| Error::kernel(doing(), error))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps the link; a descriptor of ours would only keep
            // it beyond `unload`.
            program
                .take_link(id)
                .map_err(|error| Error::kernel(doing(), error))?;
            Ok(true)
        }
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
        {
            Ok(false)
        }
        Err(error) => Err(Error::kernel(doing(), chain(&error))),
    }
}

fn pin_link(link: XdpLink, pin: &Path) -> Result<(), Error> {
    let doing = || format!("pinning the link as {}", pin.display());
    let link = FdLink::try_from(link).map_err(|error| {
        Error::kernel(
            format!(
                "{}: this kernel has no XDP links; 5.9 is the oldest",
                doing()
            ),
            error,
        )
    })?;
    link.pin(pin)
        .map_err(|error| Error::kernel(doing(), error))?;
    Ok(())
}

/// Whether the kernel refused because a program is there already: EBUSY in
/// the same mode, EEXIST in another one.
fn is_taken(error: &ProgramError) -> bool {
    let code = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(_)) => None,
        _ => None,
    };
    matches!(code, Some(libc::EBUSY | libc::EEXIST))
}

/// What an error says, with all that caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
