//! The configuration file: its model, reading, writing and checking.
//!
//! [`load`] does it all for a file, [`examine`] for a text; both hand back
//! every finding at once, and a [`model::Config`] only if the text itself
//! has no fault. Whether that may be used is for the report to say.

pub mod capacity;
pub mod check;
pub mod diagnostic;
pub mod model;
pub mod parse;
pub mod prime;
pub mod render;
pub mod schema;
pub mod spans;
mod wording;

use std::fmt;
use std::fs::{File, FileType};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use check::SlotCounts;
use diagnostic::Report;
use model::Config;
use spans::Spans;

/// Largest file that is read.
pub const MAX_FILE_LEN: u64 = 16 << 20;
/// How often a file is read that is being written.
const TRIES: usize = 3;

/// What examining a text gave.
#[derive(Debug, Clone)]
pub struct Examined {
    /// The configuration, if the text itself has no fault. It may still
    /// break rules: use it only if the report has no errors.
    pub config: Option<Config>,
    /// Where its parts stand, for findings of rules that live elsewhere.
    pub spans: Spans,
    /// All findings.
    pub report: Report,
}

/// Why a file could not be read as text.
#[derive(Debug)]
pub enum LoadError {
    /// The system would not hand it out.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is none that can be read to its end at once: a pipe may wait for a
    /// writer that never comes.
    NoFile {
        /// What should be one.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It was written while it was read, again and again.
    BeingWritten {
        /// The file.
        path: PathBuf,
    },
    /// It is larger than [`MAX_FILE_LEN`].
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not UTF-8.
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first byte that is not, from 0.
        offset: usize,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::NoFile { path, kind } => write!(
                f,
                "{} is {kind} and no regular file; write the configuration into one",
                path.display()
            ),
            Self::BeingWritten { path } => write!(
                f,
                "{} is being written; ask again when it is whole, or write another file and \
                 rename it to this one",
                path.display()
            ),
            Self::TooLarge { path } => write!(
                f,
                "{} is larger than {MAX_FILE_LEN} bytes, the limit for a configuration",
                path.display()
            ),
            Self::NotUtf8 { path, offset } => write!(
                f,
                "{} is not UTF-8 at byte {offset}; save it as UTF-8",
                path.display()
            ),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::NoFile { .. }
            | Self::BeingWritten { .. }
            | Self::TooLarge { .. }
            | Self::NotUtf8 { .. } => None,
        }
    }
}

/// Reads and checks a file. `tables` serves the rule `table-share`, which
/// does not run without it.
pub fn load(path: &Path, tables: Option<&SlotCounts<'_>>) -> Result<Examined, LoadError> {
    Ok(examine(path.display().to_string(), read(path)?, tables))
}

/// Reads a file of at most [`MAX_FILE_LEN`] bytes.
pub fn read(path: &Path) -> Result<String, LoadError> {
    let bytes = File::open(path).and_then(|mut file| bytes(&mut file));
    text(path, bytes)
}

/// As [`read`], of a regular file only, and of none that is being written:
/// never waits for who writes into a pipe, and never takes half of a file for
/// all of it.
pub fn read_regular(path: &Path) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if let Some(kind) = irregular(metadata.file_type()) {
        let path = path.to_owned();
        return Err(LoadError::NoFile { path, kind });
    }
    for _ in 0..TRIES {
        let mut options = File::options();
        // What took its place meanwhile is not waited for, either.
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(failed)?;
        let before = state(&file).map_err(failed)?;
        let bytes = bytes(&mut file);
        if state(&file).map_err(failed)? == before {
            return text(path, bytes);
        }
    }
    Err(LoadError::BeingWritten {
        path: path.to_owned(),
    })
}

/// What is another one after a write.
fn state(file: &File) -> io::Result<(u64, i64, i64)> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

fn irregular(file: FileType) -> Option<&'static str> {
    match () {
        () if file.is_file() => None,
        () if file.is_dir() => Some("a directory"),
        () if file.is_fifo() => Some("a pipe"),
        () if file.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

fn bytes(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed shows that there is more, also where the
    // length is not known beforehand.
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(path: &Path, bytes: io::Result<Vec<u8>>) -> Result<String, LoadError> {
    let bytes = bytes.map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
        });
    }
    String::from_utf8(bytes).map_err(|error| LoadError::NotUtf8 {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to(),
    })
}

/// Checks a text that is called `name` in messages.
pub fn examine(
    name: impl Into<String>,
    text: impl Into<String>,
    tables: Option<&SlotCounts<'_>>,
) -> Examined {
    let text = text.into();
    let mut parsed = parse::parse(&text);
    let mut findings = std::mem::take(&mut parsed.findings);
    findings.extend(check::check(&parsed, tables));
    Examined {
        config: parsed.config,
        spans: parsed.spans,
        report: Report::new(name, text, findings),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
