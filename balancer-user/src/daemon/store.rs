//! The daemon's own files.
//!
//! `lock` is held while a daemon runs, so that a second one is refused.
//! `layout` is the version of the rest, and one that this balancer does not
//! know is left alone. `revisions` holds every configuration
//! ([`super::revisions`]), `seats.json` what the numbers in the kernel's
//! tables mean, and `incidents.json` those that are open and the last ones. Each is written to a new file, synced and renamed, so that a
//! crash leaves the old one or the new one. Who may write here decides what
//! is forwarded, so that has to be the daemon's user alone.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::model::Config;
use crate::config::{self, render};
use crate::desired::Seating;
use crate::plan::needs_restart;
use crate::revision::{self, Author, Cause, OperatorDrain, Origin, Outcome, Revision};

use super::incidents::Known;
use super::revisions::{Revisions, Stored, with_way_out, write_durably};
use super::unix_now;

/// Version of `seats.json`.
const VERSION: u32 = 1;
const SEATING: &str = "seats.json";
const INCIDENTS: &str = "incidents.json";
/// Version of the directory: which files there are and what they are for.
const LAYOUT: u32 = 1;
const LAYOUT_FILE: &str = "layout";

/// What the numbers in the kernel's tables mean.
#[derive(Serialize, Deserialize)]
struct Seated {
    version: u32,
    /// What the tables go by, in hexadecimal digits.
    instance: String,
    seating: Seating,
}

/// The state directory, locked.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Makes the directory where there is none, and locks it.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(|error| with_way_out("making", directory, &error))?;
        check_owner(directory)?;
        let path = directory.join("lock");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| with_way_out("opening", &path, &error))?;
        let mut holder = String::new();
        file.read_to_string(&mut holder).unwrap_or_default();
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "another balancer (process {}) uses the state directory {}; stop it, or set \
                 another node.state_dir",
                holder.trim(),
                directory.display()
            ),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        };
        // The lock holds without it: it is for a second one's message.
        let noted = lock
            .set_len(0)
            .and_then(|()| write!(lock, "{}", std::process::id()));
        if let Err(error) = noted {
            let error = with_way_out("writing", &path, &error);
            tracing::warn!(%error, "changes will be refused until that is mended");
        }
        check_layout(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the last daemon left of the meaning of its tables' numbers; none
    /// if it is not of the tables with this instance, or of this version.
    pub(super) fn load_seating(&self, instance: u64) -> anyhow::Result<Seating> {
        let path = self.directory.join(SEATING);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let seated: Seated = serde_json::from_slice(&bytes)
            .with_context(|| format!("reading {}", path.display()))?;
        if seated.version != VERSION || seated.instance != format!("{instance:016x}") {
            bail!("{} is of other tables", path.display());
        }
        Ok(seated.seating)
    }

    /// Writes what the numbers mean in the tables with this instance.
    pub(super) fn save_seating(&self, instance: u64, seating: &Seating) -> io::Result<()> {
        let seated = Seated {
            version: VERSION,
            instance: format!("{instance:016x}"),
            seating: seating.clone(),
        };
        self.write(SEATING, &seated)
    }

    /// What the last daemon knew of incidents; nothing if there was none.
    pub(super) fn load_incidents(&self) -> anyhow::Result<Known> {
        let path = self.directory.join(INCIDENTS);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes what the next daemon is to know of them.
    pub(super) fn save_incidents(&self, known: &Known) -> io::Result<()> {
        self.write(INCIDENTS, known)
    }

    fn write(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(content)?;
        write_durably(&self.directory, name, &bytes)
    }
}

/// Refuses a directory in which somebody else may write.
fn check_owner(directory: &Path) -> anyhow::Result<()> {
    let metadata = fs::metadata(directory)
        .with_context(|| format!("looking at the state directory {}", directory.display()))?;
    let (owner, own) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if owner != own && owner != 0 {
        bail!(
            "the state directory {} belongs to user {owner}, who could change what is forwarded; \
             `chown` it to user {own}, or set another node.state_dir",
            directory.display()
        );
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        bail!(
            "the state directory {} has mode {mode:04o}, so others than its owner could change \
             what is forwarded; `chmod go-w` it, or set another node.state_dir",
            directory.display()
        );
    }
    Ok(())
}

/// Refuses a directory of another layout; one without a version gets it.
fn check_layout(directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(LAYOUT_FILE);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == LAYOUT.to_string() => Ok(()),
        Ok(text) => bail!(
            "the state directory {} has layout {:?}, and this balancer knows layout {LAYOUT}; \
             start the balancer that wrote it, or set another node.state_dir",
            directory.display(),
            text.trim()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let written = write_durably(directory, LAYOUT_FILE, format!("{LAYOUT}\n").as_bytes());
            if let Err(error) = written {
                tracing::warn!(%error, "changes will be refused until that is mended");
            }
            Ok(())
        }
        Err(error) => Err(with_way_out("reading", &path, &error).into()),
    }
}

/// Holds a directory against a second daemon.
pub(super) fn lock_directory(directory: &Path, key: &str) -> anyhow::Result<Flock<File>> {
    let file = File::open(directory).with_context(|| format!("opening {}", directory.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => anyhow::anyhow!(
            "another balancer holds {}; stop it, or set another {key}",
            directory.display()
        ),
        error => anyhow::anyhow!("locking {}: {error}", directory.display()),
    })
}

/// What a start begins with.
pub(super) struct Resumed {
    pub(super) config: Config,
    pub(super) origin: Origin,
    /// The revision that this is; none if it is to become one.
    pub(super) number: Option<u64>,
    /// The revision in force before.
    pub(super) parent: Option<u64>,
    /// Whether the file is not the one that it came from: it is to be read
    /// again once all is as it was.
    pub(super) is_newer: bool,
}

/// The configuration to start with: the last one in force if the file is
/// still the one it came from, or if an earlier daemon's program forwards by
/// it; else the file, with the drains that were made by command.
pub(super) fn resume(
    file: &Config,
    file_digest: &str,
    last: Option<Stored>,
    is_forwarding: bool,
) -> Resumed {
    let fresh = |config: Config, drains: Vec<OperatorDrain>, parent: Option<u64>| Resumed {
        config,
        origin: Origin {
            file_digest: file_digest.to_owned(),
            changes: Vec::new(),
            drains,
        },
        number: None,
        parent,
        is_newer: false,
    };
    let Some(Stored { revision, config }) = last else {
        return fresh(file.clone(), Vec::new(), None);
    };
    let Revision { number, origin, .. } = revision;
    let is_newer = origin.file_digest != file_digest;
    let examined = config::examine(format!("revision {number}"), config, None);
    match examined.config {
        Some(config) if !examined.report.has_errors() => {
            let can_wait = is_forwarding && needs_restart(&config.node, &file.node).is_empty();
            if !is_newer || can_wait {
                if !origin.changes.is_empty() {
                    tracing::info!(changes = ?origin.changes, "continuing with changes made by command");
                }
                return Resumed {
                    config,
                    origin,
                    number: Some(number),
                    parent: None,
                    is_newer,
                };
            }
        }
        _ => tracing::warn!(revision = number, "this version refuses it; using the file"),
    }
    let mut config = file.clone();
    let drains = carry_drains(&mut config, origin.drains);
    if !origin.changes.is_empty() {
        tracing::warn!(
            undone = ?origin.changes,
            kept_drains = ?drains,
            "the file changed, so changes made by command are undone; drains are kept"
        );
    }
    fresh(config, drains, Some(number))
}

/// The number of the revision that a start begins with; a file that is new
/// becomes one.
pub(super) fn first_revision(
    revisions: &mut Revisions,
    resumed: &Resumed,
    file: &Path,
) -> io::Result<u64> {
    if let Some(number) = resumed.number {
        return Ok(number);
    }
    let config = render::render(&resumed.config);
    let number = revisions.next_number();
    let revision = Revision {
        version: revision::VERSION,
        number,
        parent: resumed.parent,
        made_at: unix_now(),
        author: Author::daemon(),
        cause: Cause::Start,
        summary: format!("started with {}", file.display()),
        reason: None,
        allowed: Vec::new(),
        plan: None,
        origin: resumed.origin.clone(),
        stages: Vec::new(),
        outcome: Outcome::Committed { at: unix_now() },
        config_digest: revision::digest(&config),
    };
    revisions.add(&Stored { revision, config })?;
    Ok(number)
}

/// Drains again what a command drained, where it still exists.
pub(super) fn carry_drains(config: &mut Config, drains: Vec<OperatorDrain>) -> Vec<OperatorDrain> {
    drains
        .into_iter()
        .filter(|drain| {
            let found = config
                .service_mut(&drain.service)
                .and_then(|service| service.backend_mut(&drain.backend));
            found.map(|backend| backend.drain = true).is_some()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_another_layout_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let layout = dir.path().join(LAYOUT_FILE);
        assert_eq!(fs::read_to_string(&layout).unwrap(), "1\n");
        drop(Store::open(dir.path()).unwrap());
        fs::write(&layout, "2\n").unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("has layout \"2\""), "{error}");
        assert_eq!(fs::read_to_string(&layout).unwrap(), "2\n");
    }

    #[test]
    fn second_daemon_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Store::open(dir.path()).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
    }
}
