//! Revisions as plain files under `revisions` in the state directory.
//!
//! `00000041.toml` is the configuration, `00000041.json` the rest with the
//! digests of both. The configuration is written and synced first, so a
//! revision exists once its second file has its name; every write goes to a
//! new file that is synced and renamed. What does not match its digest is
//! named and never used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::config::model::Keep;
use crate::moment::{self, Moment};
use crate::revision::{self, Outcome, Revision, UnixSeconds, digest};

/// A revision's file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    /// Digest of `revision` as compact JSON.
    digest: String,
    revision: serde_json::Value,
}

/// A revision with its configuration, a file's text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) revision: Revision,
    pub(super) config: String,
}

/// All revisions.
#[derive(Debug)]
pub(super) struct Revisions {
    directory: PathBuf,
    /// Those that can be read, in brief: a thousand of them may be kept for
    /// months.
    known: BTreeMap<u64, Revision>,
    /// Why others cannot.
    damaged: BTreeMap<u64, String>,
    /// Those that were interrupted, and the disk does not say so.
    unnoted: Vec<Revision>,
}

impl Revisions {
    /// Reads what is there; one that the last daemon left pending is marked
    /// as interrupted.
    ///
    /// # Errors
    /// A directory that cannot be used.
    pub(super) fn open(state_dir: &Path, now: UnixSeconds) -> anyhow::Result<Self> {
        let directory = state_dir.join("revisions");
        fs::create_dir_all(&directory)
            .map_err(|error| with_way_out("making", &directory, &error))?;
        let mut revisions = Self {
            directory,
            known: BTreeMap::new(),
            damaged: BTreeMap::new(),
            unnoted: Vec::new(),
        };
        let mut pending = Vec::new();
        for number in revisions.numbers()? {
            match revisions.read(number) {
                Ok(revision) => {
                    revisions.remember(&revision);
                    if revision.outcome == Outcome::Pending {
                        pending.push(revision);
                    }
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    tracing::error!(revision = number, %why, "a revision is damaged; it is not used");
                    revisions.damaged.insert(number, why);
                }
            }
        }
        for mut revision in pending {
            tracing::warn!(
                revision = revision.number,
                summary = %revision.summary,
                "the last daemon ended in the middle of this change; it is not in force"
            );
            revision.outcome = Outcome::Interrupted { at: now };
            // Pending or interrupted, it is not in force: a disk that is
            // full is no reason to leave the backends unwatched.
            if let Err(error) = revisions.note(&revision) {
                tracing::error!(revision = revision.number, %error, "its outcome is not stored");
                revisions.remember(&revision);
                revisions.unnoted.push(revision);
            }
        }
        Ok(revisions)
    }

    /// Revisions whose outcome is to be stored once the disk takes it.
    pub(super) fn take_unnoted(&mut self) -> BTreeMap<u64, Revision> {
        let unnoted = std::mem::take(&mut self.unnoted).into_iter();
        unnoted.map(|it| (it.number, it)).collect()
    }

    /// The revision in force when the last daemon ended: the newest that was
    /// committed. `None` if there is none, or the newest is damaged, which
    /// nobody can tell from one that was committed.
    pub(super) fn in_force(&self) -> Option<Stored> {
        let revision = self.known.values().rev().find(|it| it.is_committed())?;
        if let Some((number, why)) = self.damaged.range(revision.number..).next() {
            tracing::error!(
                damaged = number,
                %why,
                intact = revision.number,
                "the newest revision is damaged, so none is taken for the one in force"
            );
            return None;
        }
        self.load(revision.number)
            .inspect_err(|error| tracing::error!(%error, "the revision in force cannot be read"))
            .ok()
    }

    /// The number of the next revision.
    pub(super) fn next_number(&self) -> u64 {
        let last = self.known.keys().chain(self.damaged.keys()).max();
        last.map_or(1, |last| last + 1)
    }

    /// Those that can be read, in brief and the oldest first, and why others
    /// cannot.
    pub(super) fn all(&self) -> (Vec<Revision>, BTreeMap<u64, String>) {
        (self.known.values().cloned().collect(), self.damaged.clone())
    }

    /// The newest committed one before this one: where a rollback leads.
    pub(super) fn last_good_before(&self, number: u64) -> Option<&Revision> {
        let before = self.known.range(..number).map(|(_, revision)| revision);
        before.rev().find(|revision| revision.is_committed())
    }

    /// The revision of that number, in brief.
    pub(super) fn one(&self, number: u64) -> Option<&Revision> {
        self.known.get(&number)
    }

    /// All of them, the newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Revision> {
        self.known.values().rev()
    }

    /// The newest one that is over.
    pub(super) fn last_over(&self) -> Option<&Revision> {
        let mut newest = self.known.values().rev();
        newest.find(|it| it.outcome != Outcome::Pending)
    }

    /// The newest of all, where that one is not in force: its change was
    /// undone, or a daemon ended in the middle of it.
    pub(super) fn undone_after(&self, number: u64) -> Option<&Revision> {
        let (newest, revision) = self.known.last_key_value()?;
        (*newest > number && !revision.is_committed()).then_some(revision)
    }

    /// A revision with its configuration.
    ///
    /// # Errors
    /// There is none of that number, or it is damaged.
    pub(super) fn load(&self, number: u64) -> anyhow::Result<Stored> {
        if let Some(why) = self.damaged.get(&number) {
            bail!("revision {number} is damaged and cannot be used: {why}");
        }
        let Some(known) = self.known.get(&number) else {
            match (self.known.keys().next(), self.known.keys().next_back()) {
                (Some(first), Some(last)) => {
                    bail!("there is no revision {number}; there are {first} to {last}")
                }
                _ => bail!("there is no revision {number}, as there is none yet"),
            }
        };
        let path = self.path(number, "toml");
        let config =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        if digest(&config) != known.config_digest {
            bail!(
                "{} was edited or is torn: its digest is not that of revision {number}",
                path.display()
            );
        }
        let mut revision = self.read(number)?;
        // The disk may not have taken it yet.
        revision.outcome = known.outcome.clone();
        Ok(Stored { revision, config })
    }

    /// Writes a new revision with its configuration, durably.
    pub(super) fn add(&mut self, stored: &Stored) -> io::Result<()> {
        let number = stored.revision.number;
        self.write(number, "toml", stored.config.as_bytes())?;
        moment::passed(Moment::ConfigStored);
        self.note(&stored.revision)?;
        moment::passed(Moment::RevisionStored);
        Ok(())
    }

    /// Writes what became of a revision, durably.
    pub(super) fn note(&mut self, revision: &Revision) -> io::Result<()> {
        let value = serde_json::to_value(revision)?;
        let sealed = Sealed {
            digest: digest(&value.to_string()),
            revision: value,
        };
        let mut bytes = serde_json::to_vec_pretty(&sealed)?;
        bytes.push(b'\n');
        self.write(revision.number, "json", &bytes)?;
        self.remember(revision);
        Ok(())
    }

    /// Has what became of a revision told, though the disk does not say it.
    pub(super) fn remember(&mut self, revision: &Revision) {
        let brief = revision.clone().in_brief();
        self.known.insert(revision.number, brief);
    }

    /// Removes the oldest: what is more than `keep` says, in number or in age.
    /// The one in force stays, and the one before it, to which a rollback leads.
    pub(super) fn prune(&mut self, keep: Keep, now: UnixSeconds) {
        let committed = |revision: &&Revision| revision.is_committed();
        let newest = self.known.values().rev().filter(committed);
        let needed: Vec<u64> = newest.take(2).map(|revision| revision.number).collect();
        let surplus = self.known.len().saturating_sub(keep.revisions as usize);
        let oldest = now.saturating_sub(keep.age.as_secs());
        let goes = self.known.values().enumerate().filter(|(index, revision)| {
            let is_over = *index < surplus || revision.made_at < oldest;
            is_over && revision.outcome != Outcome::Pending && !needed.contains(&revision.number)
        });
        for number in goes.map(|(_, it)| it.number).collect::<Vec<_>>() {
            // The one without which it does not exist goes first.
            for extension in ["json", "toml"] {
                if let Err(error) = fs::remove_file(self.path(number, extension)) {
                    tracing::warn!(revision = number, %error, "an old revision cannot be removed");
                }
                if extension == "json" {
                    moment::passed(Moment::HalfPruned);
                }
            }
            self.known.remove(&number);
        }
    }

    fn numbers(&self) -> anyhow::Result<Vec<u64>> {
        let entries = fs::read_dir(&self.directory)
            .with_context(|| format!("reading {}", self.directory.display()))?;
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".json"));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, number: u64) -> anyhow::Result<Revision> {
        let path = self.path(number, "json");
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let sealed: Sealed = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is torn or no revision", path.display()))?;
        if digest(&sealed.revision.to_string()) != sealed.digest {
            bail!(
                "{} was edited: its digest is not what it says",
                path.display()
            );
        }
        let version = sealed
            .revision
            .get("version")
            .and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(revision::VERSION)) {
            bail!(
                "{} is of version {}, this balancer reads version {}",
                path.display(),
                version.map_or("unknown".to_owned(), |version| version.to_string()),
                revision::VERSION
            );
        }
        let revision: Revision = serde_json::from_value(sealed.revision)
            .with_context(|| format!("reading {}", path.display()))?;
        if revision.number != number {
            bail!("{} holds revision {}", path.display(), revision.number);
        }
        Ok(revision)
    }

    fn path(&self, number: u64, extension: &str) -> PathBuf {
        self.directory.join(format!("{number:08}.{extension}"))
    }

    fn write(&self, number: u64, extension: &str, bytes: &[u8]) -> io::Result<()> {
        write_durably(&self.directory, &format!("{number:08}.{extension}"), bytes)
    }
}

/// Writes a file so that a crash leaves the old one or the new one, whole.
pub(super) fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let write = || {
        // The configuration may hold the seed.
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        moment::passed(Moment::FileWritten);
        fs::rename(&temporary, directory.join(name))?;
        moment::passed(Moment::FileNamed);
        File::open(directory)?.sync_all()
    };
    write().map_err(|error| {
        // On a full disk the part that was written is in the way.
        let _ = fs::remove_file(&temporary);
        with_way_out("writing", &directory.join(name), &error)
    })
}

/// What failed, where, and what an operator can do about it.
pub(super) fn with_way_out(doing: &str, path: &Path, error: &io::Error) -> io::Error {
    let way_out = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or set another node.state_dir",
        io::ErrorKind::PermissionDenied => {
            "the daemon has to write there: see `ls -ld` and `lsattr -d`"
        }
        _ => "see what is at that path, or set another node.state_dir",
    };
    let text = format!("{doing} {}: {error}; {way_out}", path.display());
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests;
