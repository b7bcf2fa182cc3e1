//! A Debian machine of its own in a network namespace: a copy of this one's
//! disk, which forgets what is written to it, with the real systemd as its
//! first process.
//!
//! Mounts, processes, name and control groups are its own, and so is its bpffs:
//! what is installed, started or pinned inside goes with it. What this machine
//! starts at boot is switched off there. The network is the namespace's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cleanup::{Scratch, unique_name};
use super::{Namespace, Process, wait_for};

/// Where a machine has the directory that it was booted with.
pub const SHARED: &str = "/srv/lab";

/// How long systemd may take to be up, and to be gone.
const LIMIT: Duration = Duration::from_secs(60);

/// The first process: puts the disk together and becomes systemd. A tmpfs over
/// `/`, devices that every program expects, nothing of the host's settings.
const BOOT: &str = r#"
set -e
disk=$1
mount -t tmpfs blb-disk "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
mount -t overlay blb-disk -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" "$disk/root"
cd "$disk/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=0755 dev dev
mkdir dev/shm dev/net
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mknod -m 666 dev/net/tun c 10 200
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=1777 tmp tmp
units=etc/systemd/system
rm -rf $units/*.wants $units/default.target var/log/journal
for unit in systemd-sysctl.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-modules-load.service systemd-random-seed.service systemd-remount-fs.service \
    systemd-logind.service console-getty.service systemd-binfmt.service \
    systemd-journald-audit.socket proc-sys-fs-binfmt_misc.automount dev-hugepages.mount \
    dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    sys-fs-fuse-connections.mount; do
    ln -sf /dev/null $units/$unit
done
ln -s /lib/systemd/system/multi-user.target $units/default.target
rm -f usr/sbin/policy-rc.d
mkdir -p srv/lab mnt
mount --bind "$2" srv/lab
pivot_root . mnt
umount -l /mnt
exec env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=journal --show-status=no
"#;

/// A machine that runs; dropping it ends all its processes.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    /// The first process, as this machine numbers it.
    init: u32,
    cgroup: PathBuf,
    _scratch: Scratch,
}

impl Machine {
    /// Why there can be no such machine here; none if there can.
    pub fn impossible() -> Option<String> {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let is_known = |name: &str| {
            known
                .lines()
                .any(|line| line.ends_with(&format!("\t{name}")))
        };
        for filesystem in ["overlay", "cgroup2", "bpf"] {
            if !is_known(filesystem) {
                return Some(format!("this kernel has no {filesystem}"));
            }
        }
        let systemd = Path::new("/lib/systemd/systemd");
        (!systemd.exists()).then(|| format!("{} is not there", systemd.display()))
    }

    /// Boots one and waits until it is up. It has the directory `shared` as
    /// [`SHARED`].
    ///
    /// # Errors
    /// When a part of it cannot be made, or systemd does not come up.
    pub fn boot(namespace: &Namespace, shared: &Path) -> Result<Self> {
        let scratch = Scratch::create("machine")?;
        let cgroup = make_cgroup(scratch.path())?;
        let disk = scratch.path().join("disk");
        fs::create_dir(&disk)?;
        let mut command = namespace.command("sh");
        // It joins its control group before that becomes the root of all it sees.
        command.arg("-ec").arg(
            "echo $$ > \"$0/cgroup.procs\"; exec unshare --mount --pid --uts --ipc --cgroup --fork \
             --kill-child=KILL sh -c \"$1\" boot \"$2\" \"$3\"",
        );
        command.arg(&cgroup).arg(BOOT).arg(&disk).arg(shared);
        let log = scratch.path().join("log");
        let process = Process::spawn("systemd", command, &log)?;
        let mut machine = Self {
            process,
            init: 0,
            cgroup,
            _scratch: scratch,
        };
        machine.wait_up()?;
        Ok(machine)
    }

    fn wait_up(&mut self) -> Result<()> {
        let outer = self.process.pid();
        let children = format!("/proc/{outer}/task/{outer}/children");
        self.init = self.process.wait_until("the first process", LIMIT, || {
            fs::read_to_string(&children).ok()?.trim().parse().ok()
        })?;
        let mut last = String::new();
        let init = self.init;
        let up = self.process.wait_until("multi-user.target", LIMIT, || {
            let asked = enter(init, "systemctl")
                .args(["is-active", "multi-user.target"])
                .output();
            last = asked.map_or_else(|it| it.to_string(), |it| text(&it));
            (last.trim() == "active").then_some(())
        });
        up.with_context(|| format!("systemctl says: {last}"))
    }

    /// A command inside.
    pub fn command(&self, program: &str) -> Command {
        enter(self.init, program)
    }

    /// Runs a command inside and gives what it wrote.
    ///
    /// # Errors
    /// When it cannot be run, or does not end well.
    pub fn succeed(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        ensure!(
            output.status.success(),
            "`{}` ended with {}: {}",
            words.join(" "),
            output.status,
            text(&output)
        );
        Ok(text(&output))
    }

    /// Runs a command inside, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let Some((program, arguments)) = words.split_first() else {
            bail!("no command");
        };
        Ok(self.command(program).args(arguments).output()?)
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let said = self.succeed(&["systemctl", "show", unit, "--value", "--property", name])?;
        Ok(said.trim().to_owned())
    }

    /// What a unit has written to the journal.
    pub fn journal(&self, unit: &str) -> String {
        let said = self.run(&[
            "journalctl",
            "--unit",
            unit,
            "--output",
            "cat",
            "--no-pager",
        ]);
        said.map_or_else(|error| format!("{error:#}"), |output| text(&output))
    }

    /// A file of its disk, from outside.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        // With the first process all others of its namespace are killed, and
        // an empty control group can be removed.
        let gone = wait_for("its control groups to be empty", LIMIT, || {
            remove_tree(&self.cgroup);
            (!self.cgroup.exists()).then_some(())
        });
        if let Err(error) = gone {
            eprintln!("lab: {} is left: {error:#}", self.cgroup.display());
        }
    }
}

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

fn enter(init: u32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string(), "--all", "--wd=/"]);
    command.arg(program).env_clear();
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("SYSTEMD_PAGER", "");
    command
}

/// A control group of its own, in a hierarchy mounted below `scratch`.
fn make_cgroup(scratch: &Path) -> Result<PathBuf> {
    let hierarchy = scratch.join("cgroup");
    fs::create_dir(&hierarchy)?;
    nix::mount::mount(
        Some("cgroup2"),
        &hierarchy,
        Some("cgroup2"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .context("cannot mount the control groups")?;
    let cgroup = hierarchy.join(unique_name());
    fs::create_dir(&cgroup).context("cannot make a control group")?;
    Ok(cgroup)
}

/// Removes a control group and those below; what is in use stays.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
