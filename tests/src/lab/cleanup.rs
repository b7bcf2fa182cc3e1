//! Nothing of a lab outlives it.
//!
//! Three ways out are covered. A value dropped (also by a panic that unwinds)
//! removes what it owns. SIGINT and SIGTERM end the lab's children and remove
//! its namespaces and directories before they end the process. And what a
//! killed process left behind, [`sweep_stale`] finds by name: all namespaces and
//! directories of a lab begin with `blb<pid>-`, and no such process lives.
//!
//! Invariant: whatever exists outside this process's memory is in the registry.
//! It is created, registered, removed and struck off under the registry's lock,
//! so that the signal handler, which takes the lock and keeps it, can neither
//! miss a thing nor signal a process id that has passed to somebody else.

use std::fs::{self, File};
use std::io::{self, PipeReader, Read};
use std::os::fd::{IntoRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::{process, thread};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::mount::unmount_below;

/// Where named network namespaces are mounted, the same place iproute2 uses.
pub const NETNS_DIR: &str = "/run/netns";

/// Where programs and links are pinned.
const BPFFS: &str = "/sys/fs/bpf";

/// What all names of all labs begin with.
const PREFIX: &str = "blb";

static REGISTRY: Mutex<Registry> = Mutex::new(Registry::new());
static NAMES: AtomicUsize = AtomicUsize::new(0);
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// What this process has created and not yet removed.
#[derive(Debug)]
pub(super) struct Registry {
    namespaces: Vec<String>,
    processes: Vec<Pid>,
    directories: Vec<PathBuf>,
}

impl Registry {
    const fn new() -> Self {
        Self {
            namespaces: Vec::new(),
            processes: Vec::new(),
            directories: Vec::new(),
        }
    }

    pub(super) fn add_namespace(&mut self, name: &str) {
        self.namespaces.push(name.to_owned());
    }

    pub(super) fn forget_namespace(&mut self, name: &str) {
        self.namespaces.retain(|known| known != name);
    }

    pub(super) fn add_process(&mut self, pid: u32) {
        self.processes.push(to_pid(pid));
    }

    pub(super) fn forget_process(&mut self, pid: u32) {
        self.processes.retain(|known| *known != to_pid(pid));
    }

    /// Ends and removes everything. Children go first: a namespace lives on, out
    /// of sight, for as long as a process is inside.
    fn remove_all(&mut self) {
        for pid in &self.processes {
            // An error means it has ended by itself; it is reaped all the same.
            let _ = signal::kill(*pid, Signal::SIGKILL);
        }
        for pid in self.processes.drain(..) {
            let _ = waitpid(pid, None);
        }
        for name in self.namespaces.drain(..) {
            let _ = remove_namespace(&name);
        }
        for directory in self.directories.drain(..) {
            unmount_below(&directory);
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Process ids are small positive numbers; the kernel's limit is 2^22.
pub(super) fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// The registry, also after a panic elsewhere: the list itself is never left
/// half changed.
pub(super) fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A name no other lab on this machine uses: `blb<pid>-<number>`.
pub fn unique_name() -> String {
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", process::id())
}

/// Makes SIGINT and SIGTERM remove everything before they end the process.
///
/// Called by whoever builds a lab; calling it again does nothing. A signal that
/// the program already handles itself is left alone: it has its own way to an
/// orderly end, and values dropped on that way clean up.
///
/// # Errors
/// When the pipe, the thread or the handler cannot be set up.
pub fn on_signals() -> Result<()> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| install().map_err(|error| error.to_string()))
        .clone()
        .map_err(anyhow::Error::msg)
        .context("cannot install the lab's signal handlers")
}

fn install() -> Result<()> {
    let (reader, writer) = io::pipe()?;
    thread::Builder::new()
        .name("lab-signals".into())
        .spawn(move || clean_up_on(reader))?;
    // Never closed: the handler may run for as long as the process does.
    SIGNAL_PIPE.store(writer.into_raw_fd(), Ordering::Release);
    let ours = SigAction::new(
        SigHandler::Handler(pass_on_signal),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: `pass_on_signal` only does what signal-safety(7) allows.
        let before = unsafe { signal::sigaction(signal, &ours) }?;
        if !matches!(before.handler(), SigHandler::SigDfl) {
            // SAFETY: puts back what was in force a moment ago.
            unsafe { signal::sigaction(signal, &before) }?;
        }
    }
    Ok(())
}

/// Locks and memory are off limits in a signal handler, so it only hands the
/// number to a thread.
extern "C" fn pass_on_signal(signal: libc::c_int) {
    let pipe: RawFd = SIGNAL_PIPE.load(Ordering::Acquire);
    let byte = signal.to_le_bytes()[0];
    // SAFETY: write(2) is async-signal-safe, reads one byte of a live local, and
    // the descriptor is never closed (a -1 is refused with EBADF).
    unsafe { libc::write(pipe, (&raw const byte).cast(), 1) };
}

fn clean_up_on(mut signals: PipeReader) {
    let mut byte = [0u8];
    if signals.read_exact(&mut byte).is_err() {
        return;
    }
    // Kept until the end, so that no other thread creates anything any more.
    let mut registry = registry();
    registry.remove_all();
    let number = i32::from(byte[0]);
    if let Ok(signal) = Signal::try_from(number) {
        // The parent shall see the true cause of death, not an exit code.
        // SAFETY: the default action replaces a handler, nothing is called.
        let _ = unsafe { signal::signal(signal, SigHandler::SigDfl) };
        let _ = signal::raise(signal);
    }
    process::exit(128 + number);
}

/// A directory of its own, removed on drop: in the temporary directory, or for
/// the pins of a program.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Creates an empty directory; `label` makes it recognisable to people.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn create(label: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("{}-{label}", unique_name()));
        let mut registry = registry();
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        registry.directories.push(path.clone());
        Ok(Self { path })
    }

    /// A name on the bpffs that somebody else makes a directory of and pins
    /// to. Removing a pin lets go of what it held.
    pub fn for_pins(label: &str) -> Self {
        let path = Path::new(BPFFS).join(format!("{}-{label}", unique_name()));
        registry().directories.push(path.clone());
        Self { path }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut registry = registry();
        unmount_below(&self.path);
        // Already gone, or a sweep will find it: nobody to report it to here.
        let _ = fs::remove_dir_all(&self.path);
        registry.directories.retain(|known| *known != self.path);
    }
}

/// Unmounts a named namespace and removes its name.
pub(super) fn remove_namespace(name: &str) -> io::Result<()> {
    let _lock = lock_netns_dir()?;
    let path = Path::new(NETNS_DIR).join(name);
    // EINVAL: a name without a mount, from a process killed half way.
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL) => fs::remove_file(&path),
        Err(error) => Err(error.into()),
    }
}

/// Keeps other labs, and iproute2, which takes the same lock, from changing the
/// mounts under the directory at the same time.
pub(super) fn lock_netns_dir() -> io::Result<Flock<File>> {
    let directory = File::open(NETNS_DIR)?;
    Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Removes the namespaces and directories of labs whose process is dead, and
/// says which.
///
/// Building a lab does this once. Kept namespaces (see [`super::Lab::keep`])
/// have another name and stay.
///
/// # Errors
/// When a directory cannot be listed or a leftover cannot be removed.
pub fn sweep_stale() -> Result<Vec<String>> {
    let temporary = std::env::temp_dir();
    let mut removed = Vec::new();
    for name in stale_names(Path::new(NETNS_DIR))? {
        match remove_namespace(&name) {
            // Another process swept at the same time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => {
                done.with_context(|| format!("cannot remove namespace {name}"))?;
                removed.push(name);
            }
        }
    }
    for directory in [temporary.as_path(), Path::new(BPFFS)] {
        for name in stale_names(directory)? {
            let path = directory.join(&name);
            unmount_below(&path);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => {
                    done.with_context(|| format!("cannot remove {}", path.display()))?;
                    removed.push(name);
                }
            }
        }
    }
    Ok(removed)
}

fn stale_names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", directory.display()))?,
    };
    let mut stale = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            stale.push(name);
        }
    }
    Ok(stale)
}

/// The process a lab's name belongs to; `None` for names that are not ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("blb4711-0-client0"), Some(4711));
        assert_eq!(owner(&unique_name()), Some(process::id()));
        for other in ["blb-0", "blbx-0", "blb12", "kept-blb12-0", "eth0", ""] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn pins_go_with_their_directory() {
        let pins = Scratch::for_pins("unit");
        let path = pins.path().to_owned();
        assert!(path.starts_with(BPFFS));
        assert!(registry().directories.contains(&path));
        drop(pins);
        assert!(!registry().directories.contains(&path));
    }

    #[test]
    fn scratch_is_removed_with_its_contents() {
        let scratch = Scratch::create("unit").unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
