//! Configuration files as commands read them.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::output;
use crate::config::model::Service;
use crate::config::{self, Examined, LoadError, MAX_FILE_LEN};
use crate::desired;

/// The name that stands for standard input.
const STDIN: &str = "-";
/// What it is called in messages.
const STDIN_NAME: &str = "stdin";

/// Reads and checks a file with every rule that needs no host; `-` is stdin.
pub(super) fn load(path: &Path) -> anyhow::Result<Examined> {
    let tables = |service: &Service, size: u32| desired::slot_counts(service, size);
    let (name, text) = read_source(path)?;
    Ok(config::examine(name, text, Some(&tables)))
}

/// What a file is called in messages, and its text; `-` is stdin.
pub(super) fn read_source(path: &Path) -> anyhow::Result<(String, String)> {
    if path.as_os_str() == STDIN {
        return Ok((STDIN_NAME.to_owned(), read_stdin()?));
    }
    let text = config::read(path).map_err(unreadable)?;
    Ok((path.display().to_string(), text))
}

/// Reads a text of at most the size of a configuration; `-` is stdin.
pub(super) fn read_text(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() == STDIN {
        return read_stdin();
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_stdin() -> anyhow::Result<String> {
    let path = PathBuf::from(STDIN_NAME);
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_FILE_LEN + 1)
        .read_to_end(&mut bytes)
        .context("cannot read stdin")?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(unreadable(LoadError::TooLarge { path }));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        unreadable(LoadError::NotUtf8 { path, offset })
    })
}

/// The message has its cause in it, so there is no chain to show.
fn unreadable(error: LoadError) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

/// Shows findings on stderr, with the line that sums them up.
pub(super) fn show_findings(examined: &Examined) {
    let report = &examined.report;
    output::note(format_args!(
        "{}{}",
        report.render(output::stderr_has_color()),
        report.summary()
    ));
}
