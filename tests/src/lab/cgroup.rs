//! Limits of memory: a control group of the lab's own.
//!
//! Of the kernel's memory, too: a BPF map is charged to the group of whoever
//! makes it. What a process had before it was taken in stays charged elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cleanup;
use super::wait::wait_for;

/// How long the processes of a group may take to be gone.
const LIMIT: Duration = Duration::from_secs(10);

/// A group; on drop it goes, when the processes in it have ended.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    files: Files,
}

/// What the two versions call their files.
#[derive(Clone, Copy, Debug)]
struct Files {
    limit: &'static str,
    used: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
};
const V2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
};

impl MemoryGroup {
    /// Makes a group without a limit.
    ///
    /// # Errors
    /// When memory is not accounted by control groups on this host.
    pub fn create() -> Result<Self> {
        let (root, files) = root()?;
        let path = root.join(cleanup::unique_name());
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let group = Self { path, files };
        ensure!(
            group.path.join(files.limit).exists(),
            "{} has no {}",
            group.path.display(),
            files.limit
        );
        Ok(group)
    }

    /// Takes a process in.
    ///
    /// # Errors
    /// When it is gone.
    pub fn take(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Bytes that are charged to it.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn used(&self) -> Result<u64> {
        let text = fs::read_to_string(self.path.join(self.files.used))?;
        Ok(text.trim().parse()?)
    }

    /// Sets the limit; none where there is to be none.
    ///
    /// # Errors
    /// When more is in use.
    pub fn set_limit(&self, bytes: Option<u64>) -> Result<()> {
        let unlimited = if self.files.limit == V2.limit {
            "max"
        } else {
            "-1"
        };
        let value = bytes.map_or_else(|| unlimited.to_owned(), |bytes| bytes.to_string());
        self.write(self.files.limit, &value)
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that has ended is in the group until it is waited for.
        let gone = wait_for("the group to be empty", LIMIT, || {
            fs::remove_dir(&self.path).ok()
        });
        if let Err(error) = gone {
            eprintln!("lab: {}: {error:#}", self.path.display());
        }
    }
}

/// Where groups of memory are made.
fn root() -> Result<(PathBuf, Files)> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(path), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = Path::new(path);
        if kind == "cgroup" && options.split(',').any(|it| it == "memory") {
            return Ok((path.to_owned(), V1));
        }
        let controllers = path.join("cgroup.controllers");
        let has_memory = |text: String| text.split_whitespace().any(|it| it == "memory");
        if kind == "cgroup2" && fs::read_to_string(controllers).is_ok_and(has_memory) {
            fs::write(path.join("cgroup.subtree_control"), "+memory").with_context(|| {
                format!("no groups of memory can be made in {}", path.display())
            })?;
            return Ok((path.to_owned(), V2));
        }
    }
    anyhow::bail!("this host has no control groups of memory: mount /sys/fs/cgroup")
}
