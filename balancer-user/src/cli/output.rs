//! What commands write: results on stdout, everything else on stderr.
//!
//! Neither may end a command in a panic. A reader of stdout that has enough
//! and leaves is told apart from a fault by [`Closed`].

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};

use anyhow::Context;
use serde::Serialize;

/// Nobody reads stdout any more.
#[derive(Debug)]
pub(super) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout is closed")
    }
}

impl std::error::Error for Closed {}

/// Stdout, buffered; what is not flushed is lost.
pub(super) struct Stdout(BufWriter<StdoutLock<'static>>);

impl Stdout {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Writes text that ends its own lines.
    pub(super) fn write(&mut self, text: &str) -> anyhow::Result<()> {
        told_apart(self.0.write_all(text.as_bytes()))
    }

    /// Hands over what was written.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        told_apart(self.0.flush())
    }
}

fn told_apart(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        result => result.context("writing to stdout"),
    }
}

/// Writes a result that ends its own lines.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = Stdout::new();
    stdout.write(text)?;
    stdout.flush()
}

/// Writes a result as JSON for people and programs.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("writing JSON")?;
    print(&format!("{text}\n"))
}

/// Writes a result as JSON in one line, where more lines follow.
pub(super) fn print_line(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value).context("writing JSON")?;
    print(&format!("{text}\n"))
}

/// Writes a line for people to stderr; there is no one to tell if that fails.
pub(super) fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether results may be coloured.
pub(super) fn stdout_has_color() -> bool {
    color_is_welcome() && io::stdout().is_terminal()
}

/// Whether messages may be coloured.
pub(super) fn stderr_has_color() -> bool {
    color_is_welcome() && io::stderr().is_terminal()
}

/// <https://no-color.org>: present and not empty, whatever its value.
fn color_is_welcome() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
