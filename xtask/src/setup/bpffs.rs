//! The file system that pinned programs and maps stand in.

use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Outcome, Policy, Report};

pub(super) const NAME: &str = "bpffs";

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Looks for it and mounts it, with a line for the report.
pub(super) fn ensure(policy: Policy, report: &mut Report) {
    report.item(NAME, look_or_mount(policy));
}

fn look_or_mount(policy: Policy) -> Outcome {
    if is_mounted() {
        return Outcome::Found(format!("mounted at {MOUNT_POINT}"));
    }
    if !Path::new(MOUNT_POINT).is_dir() {
        return Outcome::Missing(format!(
            "{MOUNT_POINT} does not exist: /sys is not mounted or the kernel has no BPF"
        ));
    }
    if !policy.root {
        return Outcome::NeedsRoot(format!("not mounted at {MOUNT_POINT}"));
    }
    if !policy.install {
        return Outcome::Missing(format!("not mounted at {MOUNT_POINT}; setup mounts it"));
    }
    match mount_it() {
        Ok(()) => Outcome::Installed(format!("mounted at {MOUNT_POINT}")),
        Err(errno) => Outcome::Missing(format!(
            "mounting at {MOUNT_POINT} failed ({errno}): in a container, mount it on the host"
        )),
    }
}

fn is_mounted() -> bool {
    statfs(MOUNT_POINT).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounted the way systemd does it: root's alone, nothing in it can run.
fn mount_it() -> Result<(), Errno> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("bpf"),
        MOUNT_POINT,
        Some("bpf"),
        flags,
        Some("mode=700"),
    )
}
