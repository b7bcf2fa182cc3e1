//! A terminal with a program in it: what it shows, and keys for it.
//!
//! The program has a pseudo-terminal of its own, as in a window; what it writes
//! goes through a terminal emulator, so that tests see the screen that a person
//! would. [`picture`] makes that screen a drawing for the documentation.

mod picture;

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use vt100::Parser;

use super::process::Process;
use super::wait::wait_for;

/// A running program and its screen. Dropping it hangs up, as closing the
/// window does.
pub struct Terminal {
    process: Process,
    keys: File,
    screen: Arc<Mutex<Parser>>,
}

impl Terminal {
    /// Starts a program in a terminal of so many rows and columns.
    ///
    /// # Errors
    /// When there is no pseudo-terminal to be had or the program cannot be started.
    pub fn start(
        program: &Path,
        arguments: &[&str],
        (rows, columns): (NonZeroU16, NonZeroU16),
    ) -> Result<Self> {
        let size = Winsize {
            ws_row: rows.get(),
            ws_col: columns.get(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).context("no pseudo-terminal")?;
        // A program that held this end would never be hung up on.
        fcntl(&pair.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // A session of its own, or the program would ask the terminal of whoever
        // runs the tests how large it is.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(program)
            .args(arguments);
        command.env("TERM", "xterm-256color");
        command.stdin(Stdio::from(pair.slave.try_clone()?));
        command.stdout(Stdio::from(pair.slave.try_clone()?));
        command.stderr(Stdio::from(pair.slave));
        let process = Process::spawn_piped("a program in a terminal", command)?;
        let keys = File::from(pair.master);
        let screen = Arc::new(Mutex::new(Parser::new(rows, columns, 0)));
        let (mut output, drawn) = (keys.try_clone()?, Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is the end: nobody holds the other side any more.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                lock(&drawn).process(&buffer[..count]);
            }
        });
        Ok(Self {
            process,
            keys,
            screen,
        })
    }

    /// What is on the screen, a line a row, without spaces at its end.
    pub fn text(&self) -> String {
        lock(&self.screen).screen().contents()
    }

    /// Presses keys, as the bytes that they send.
    ///
    /// # Errors
    /// When the program has gone.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        let written = self.keys.write_all(keys.as_bytes());
        written.with_context(|| format!("pressing {keys:?}"))
    }

    /// Waits until the screen is as wanted.
    ///
    /// # Errors
    /// When it is not in time; the screen is in the message.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut is_it: impl FnMut(&str) -> bool,
    ) -> Result<String> {
        wait_for(what, limit, || Some(self.text()).filter(|text| is_it(text)))
            .with_context(|| format!("the screen:\n{}", self.text()))
    }

    /// The screen as SVG, titled for who cannot see it.
    pub fn picture(&self, title: &str) -> String {
        picture::draw(lock(&self.screen).screen(), title)
    }

    /// The program.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn lock(screen: &Mutex<Parser>) -> MutexGuard<'_, Parser> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}
