//! The daemon's own files.
//!
//! `lock` is held while a daemon runs, so that a second one is refused.
//! `running.json` holds the configuration in force with the changes made by
//! command, so that they outlive a restart, and `seats.json` what the numbers
//! in the kernel's tables mean. Each is written to a new file, synced and
//! renamed, so that a crash leaves the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config;
use crate::config::model::Config;
use crate::desired::Seating;

/// Version of both files.
const VERSION: u32 = 1;
const RUNNING: &str = "running.json";
const SEATING: &str = "seats.json";

/// What a restart has to know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Running {
    /// Version of this structure; [`Store::save`] sets it.
    pub version: u32,
    /// Digest of the file the configuration came from.
    pub file_digest: String,
    /// Changes made by command since, a sentence each; not the drains.
    pub changes: Vec<String>,
    /// Service and backend of each drain made by command.
    pub drains: Vec<(String, String)>,
    /// The configuration in force, as a file.
    pub config: String,
}

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
        fs::create_dir_all(directory)
            .with_context(|| format!("making the state directory {}", directory.display()))?;
        let path = directory.join("lock");
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
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
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// What the last daemon left; none if there was none or its file is of
    /// another version or damaged, which is said.
    pub(super) fn load(&self) -> Option<Running> {
        let path = self.directory.join(RUNNING);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "changes made by command are lost");
                return None;
            }
        };
        match serde_json::from_slice::<Running>(&bytes) {
            Ok(running) if running.version == VERSION => Some(running),
            Ok(running) => {
                tracing::warn!(
                    path = %path.display(),
                    version = running.version,
                    "written by another version; changes made by command are lost"
                );
                None
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "changes made by command are lost");
                None
            }
        }
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

    /// Writes what a restart has to know, durably.
    pub(super) fn save(&self, running: &Running) -> io::Result<()> {
        let running = Running {
            version: VERSION,
            ..running.clone()
        };
        self.write(RUNNING, &running)
    }

    fn write(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(content)?;
        let temporary = self.directory.join(format!("{name}.new"));
        // The configuration may hold the seed.
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.directory.join(name))?;
        File::open(&self.directory)?.sync_all()
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

/// Digest of a configuration file's text.
pub(super) fn digest(text: &str) -> String {
    format!("{:016x}", twox_hash::XxHash3_64::oneshot(text.as_bytes()))
}

/// The configuration to start with: the last one in force if the file is
/// still the one it came from, else the file, with the drains that were made
/// by command.
pub(super) fn resume(file: &Config, file_digest: &str, last: Option<Running>) -> (Config, Running) {
    let fresh = |drains: Vec<(String, String)>, config: &Config| Running {
        file_digest: file_digest.to_owned(),
        drains,
        config: config::render::render(config),
        ..Running::default()
    };
    let Some(last) = last else {
        return (file.clone(), fresh(Vec::new(), file));
    };
    if last.file_digest == file_digest && !last.changes.is_empty() {
        let examined = config::examine("running.json", last.config.clone(), None);
        match examined.config {
            Some(config) if !examined.report.has_errors() => {
                tracing::info!(changes = ?last.changes, "continuing with changes made by command");
                return (config, last);
            }
            _ => tracing::warn!("the last configuration in force is damaged; using the file"),
        }
    }
    let mut config = file.clone();
    let drains = carry_drains(&mut config, last.drains);
    if last.file_digest != file_digest && !last.changes.is_empty() {
        tracing::warn!(
            undone = ?last.changes,
            kept_drains = ?drains,
            "the file changed, so changes made by command are undone; drains are kept"
        );
    }
    let running = fresh(drains, &config);
    (config, running)
}

/// Drains again what a command drained, where it still exists.
pub(super) fn carry_drains(
    config: &mut Config,
    drains: Vec<(String, String)>,
) -> Vec<(String, String)> {
    drains
        .into_iter()
        .filter(|(service, backend)| {
            let found = config
                .service_mut(service)
                .and_then(|service| service.backend_mut(backend));
            found.map(|backend| backend.drain = true).is_some()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_no_state() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load(), None);
        let running = Running {
            version: VERSION,
            file_digest: "ab".to_owned(),
            changes: vec!["a change".to_owned()],
            drains: vec![("web".to_owned(), "a".to_owned())],
            config: String::new(),
        };
        store.save(&running).unwrap();
        assert_eq!(store.load(), Some(running));
        fs::write(dir.path().join("running.json"), "{").unwrap();
        assert_eq!(store.load(), None);
    }
}
