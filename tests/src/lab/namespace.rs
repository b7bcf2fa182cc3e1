//! Named network namespaces.
//!
//! A [`Namespace`] is mounted where iproute2 mounts its own, so that people can
//! look inside with `ip netns exec`. Code enters it on a thread, programs enter
//! it between fork and exec; both change the network namespace and nothing
//! else. `ip netns exec` also mounts a fresh /sys, without bpffs, and a program
//! entered that way finds no pinned map: that is why it is not used here.
//!
//! Clones share one namespace; the last one that is dropped removes it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{panic, thread};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use tokio::runtime::Runtime;

use super::cleanup::{self, NETNS_DIR};

/// A network namespace that exists for as long as a clone of this value does.
#[derive(Clone, Debug)]
pub struct Namespace {
    mounted: Arc<Mounted>,
}

/// The mount; its removal is the end of the namespace.
#[derive(Debug)]
struct Mounted {
    name: String,
    /// Opened once: entering by descriptor works however often, and also while
    /// the name is being removed.
    descriptor: Arc<File>,
}

impl Namespace {
    /// Creates an empty namespace under /run/netns.
    ///
    /// # Errors
    /// When the name is taken or the process may not create namespaces.
    pub fn create(name: &str) -> Result<Self> {
        let mut registry = cleanup::registry();
        let path =
            create_mounted(name).with_context(|| format!("cannot create namespace {name}"))?;
        registry.add_namespace(name);
        let descriptor = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) => {
                let _ = cleanup::remove_namespace(name);
                registry.forget_namespace(name);
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        Ok(Self {
            mounted: Arc::new(Mounted {
                name: name.to_owned(),
                descriptor,
            }),
        })
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.mounted.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(self.name())
    }

    /// An open descriptor of it, for calls that take a namespace by descriptor.
    pub fn descriptor(&self) -> &File {
        &self.mounted.descriptor
    }

    /// Runs `work` inside, on a thread of its own.
    ///
    /// Sockets opened in there stay in the namespace wherever they are used
    /// later. A panic in `work` goes on in the caller.
    ///
    /// # Errors
    /// When no thread can be started or the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let entered = thread::scope(|scope| {
            thread::Builder::new()
                .name(self.name().to_owned())
                .spawn_scoped(scope, || {
                    setns(self.descriptor(), CloneFlags::CLONE_NEWNET).map(|()| work())
                })
                .map(thread::ScopedJoinHandle::join)
        });
        match entered.context("cannot start a thread")? {
            Ok(result) => result.with_context(|| format!("cannot enter namespace {}", self.name())),
            Err(panicked) => panic::resume_unwind(panicked),
        }
    }

    /// A runtime with one worker thread that is inside, for tasks that open
    /// sockets whenever they like. What is spawned on it runs inside; what its
    /// `block_on` is handed does not.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn runtime(&self, name: &str) -> Result<Runtime> {
        let descriptor = Arc::clone(&self.mounted.descriptor);
        let enter = move || {
            setns(&*descriptor, CloneFlags::CLONE_NEWNET)
                .expect("a namespace is there for as long as a descriptor of it");
        };
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .on_thread_start(enter)
            .enable_all()
            .build()
            .context("cannot start a thread")
    }

    /// A command that will run inside.
    ///
    /// It is killed when the thread that spawned it ends, so start what shall
    /// live longer through [`super::Process`], which spawns from a thread that
    /// stays.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let descriptor = Arc::clone(&self.mounted.descriptor);
        let parent = cleanup::to_pid(std::process::id());
        let enter = move || {
            setns(&*descriptor, CloneFlags::CLONE_NEWNET)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above took effect.
            if getppid() != parent {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(())
        };
        // SAFETY: between fork and exec only setns, prctl and getppid are
        // called: plain system calls that take no lock and no memory.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Sets a sysctl of this namespace, named with dots or slashes:
    /// `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// When the kernel has no such setting or refuses the value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.set_sysctls(&[(name, value)])
    }

    /// Sets several sysctls in order.
    ///
    /// # Errors
    /// At the first one that cannot be set.
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| {
            for (name, value) in settings {
                fs::write(sysctl_path(name), value)
                    .with_context(|| format!("cannot set {name} to {value} in {}", self.name()))?;
            }
            Ok(())
        })?
    }

    /// Reads a sysctl of this namespace.
    ///
    /// # Errors
    /// When the kernel has no such setting.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let value = self.run(|| fs::read_to_string(sysctl_path(name)))?;
        let value = value.with_context(|| format!("cannot read {name} in {}", self.name()))?;
        Ok(value.trim_end().to_owned())
    }

    /// Leaves the namespace behind as `kept-<name>`, for a look with
    /// `ip netns exec`, and gives that name. No sweep removes it;
    /// `ip netns del` does.
    ///
    /// # Errors
    /// When it cannot be mounted under the new name.
    pub fn keep(&self) -> Result<String> {
        let kept = format!("kept-{}", self.name());
        let _lock = cleanup::lock_netns_dir()?;
        bind(&self.path(), &Path::new(NETNS_DIR).join(&kept))
            .with_context(|| format!("cannot keep namespace {}", self.name()))?;
        Ok(kept)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut registry = cleanup::registry();
        if let Err(error) = cleanup::remove_namespace(&self.name) {
            // Dropping cannot fail; a leftover is worth a line, not a panic.
            eprintln!("lab: cannot remove namespace {}: {error}", self.name);
        }
        registry.forget_namespace(&self.name);
    }
}

fn sysctl_path(name: &str) -> PathBuf {
    // Interface names may hold dots, so a name with slashes is taken as it is.
    let relative = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    Path::new("/proc/sys").join(relative)
}

/// Creates a namespace on a thread that then ends; the mount keeps it alive.
fn create_mounted(name: &str) -> io::Result<PathBuf> {
    prepare_netns_dir()?;
    let _lock = cleanup::lock_netns_dir()?;
    let path = Path::new(NETNS_DIR).join(name);
    let created = thread::scope(|scope| {
        let thread = scope.spawn(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            bind(Path::new("/proc/thread-self/ns/net"), &path)
        });
        thread.join()
    });
    match created {
        Ok(result) => result.map(|()| path),
        Err(panicked) => panic::resume_unwind(panicked),
    }
}

/// Mounts the namespace `source` at the new file `target`.
fn bind(source: &Path, target: &Path) -> io::Result<()> {
    File::create_new(target)?;
    let mounted = mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    );
    if mounted.is_err() {
        let _ = fs::remove_file(target);
    }
    Ok(mounted?)
}

/// Makes the directory a shared mount of its own, as iproute2 does: then a
/// namespace unmounted here also goes in mount namespaces that copied it, and
/// does not live on in them.
fn prepare_netns_dir() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    let _lock = cleanup::lock_netns_dir()?;
    let none = None::<&str>;
    let share = || {
        mount(
            none,
            NETNS_DIR,
            none,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            none,
        )
    };
    if share().is_ok() {
        return Ok(());
    }
    mount(
        Some(NETNS_DIR),
        NETNS_DIR,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?;
    Ok(share()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_are_named_with_dots_or_slashes() {
        let path = Path::new("/proc/sys/net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), path);
        assert_eq!(sysctl_path("net/ipv4/ip_forward"), path);
        let vlan = Path::new("/proc/sys/net/ipv4/conf/eth0.5/rp_filter");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.5/rp_filter"), vlan);
    }
}
