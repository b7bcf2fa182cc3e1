//! Somebody who changes the configuration all the time, by command.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::scene::{LIMIT, SHARED};
use crate::balancer::binary;
use crate::frames::Rng;
use crate::lab::wait_for;

/// Between two of them.
const REST: Duration = Duration::from_millis(400);

/// What became of the changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Made.
    pub made: u64,
    /// Not made, by the first line of what was said, figures left out.
    pub refused: BTreeMap<String, u64>,
}

/// Changes that go on until [`Changes::stop`].
pub(super) struct Changes {
    shared: Arc<Shared>,
    /// Closed to end it.
    go_on: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<Tally>>>,
}

#[derive(Default)]
struct Shared {
    tried: AtomicU64,
    /// Held while a change is made.
    turn: Mutex<()>,
}

impl Changes {
    /// Begins; `vip` is the address of a service that comes and goes, `server`
    /// that of its only backend.
    pub(super) fn start(socket: PathBuf, vip: String, server: String, seed: u64) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let inside = Arc::clone(&shared);
        let (go_on, closed) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("soak-changes".into())
            .spawn(move || {
                let mut rng = Rng::new(seed);
                let mut tally = Tally::default();
                while closed.recv_timeout(REST) == Err(RecvTimeoutError::Timeout) {
                    let arguments = draw(&mut rng, &vip, &server);
                    let turn = inside.turn.lock().unwrap_or_else(PoisonError::into_inner);
                    let made = tally.make(&socket, &arguments);
                    drop(turn);
                    inside.tried.fetch_add(1, Ordering::Relaxed);
                    made?;
                }
                Ok(tally)
            })?;
        Ok(Self {
            shared,
            go_on: Some(go_on),
            thread: Some(thread),
        })
    }

    /// Lets nobody change anything until the guard is dropped.
    pub(super) fn pause(&self) -> MutexGuard<'_, ()> {
        self.shared
            .turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many more were tried.
    pub(super) fn wait_more(&self, more: u64) -> Result<()> {
        let wanted = self.shared.tried.load(Ordering::Relaxed) + more;
        wait_for(&format!("{more} more changes"), LIMIT, || {
            (self.shared.tried.load(Ordering::Relaxed) >= wanted).then_some(())
        })
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> Result<Tally> {
        self.go_on.take();
        let thread = self.thread.take().context("stopped before")?;
        thread
            .join()
            .map_err(|_| anyhow!("who changes things panicked"))?
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.go_on.take();
        if let Some(thread) = self.thread.take() {
            // What it came to is not wanted; its command must have ended.
            let _ = thread.join();
        }
    }
}

impl Tally {
    fn make(&mut self, socket: &PathBuf, arguments: &[String]) -> Result<()> {
        let output = Command::new(binary())
            .arg("--socket")
            .arg(socket)
            .args(arguments)
            .output()
            .context("cannot run balancer")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => self.made += 1,
            // No daemon, a full disk, a change that did harm, nothing to do.
            Some(1) => *self.refused.entry(kind(&said)).or_default() += 1,
            _ => ensure!(
                false,
                "balancer {} ended with {}: {said}",
                arguments.join(" "),
                output.status
            ),
        }
        Ok(())
    }
}

/// The first line, with every number and path left out, cut short.
fn kind(said: &str) -> String {
    let line = said.lines().next().unwrap_or("nothing was said");
    let words = line.split(' ').map(|word| match word {
        word if word.contains('/') => "PATH",
        word if word.starts_with(|it: char| it.is_ascii_digit()) => "N",
        word => word,
    });
    let words: Vec<&str> = words.take(14).collect();
    words.join(" ")
}

/// A change that harms nobody: shares are other than before, `six` has one
/// server less for a while, a service comes or goes.
fn draw(rng: &mut Rng, vip: &str, server: &str) -> Vec<String> {
    let service = rng.pick(&["web", "six"]);
    let backend = format!("backend{}", rng.below(SHARED));
    let words: Vec<String> = match rng.below(8) {
        0..4 => {
            let weight = (70 + rng.below(60)).to_string();
            ["backend", "weight", service, &backend, &weight]
                .map(String::from)
                .into()
        }
        4 => ["backend", "drain", "six", "backend1"]
            .map(String::from)
            .into(),
        5 => ["backend", "undrain", "six", "backend1"]
            .map(String::from)
            .into(),
        6 => ["service", "remove", "extra"].map(String::from).into(),
        _ => {
            let backend = format!("backend0={server}");
            [
                "service",
                "add",
                "extra",
                "--address",
                vip,
                "--port",
                "9999",
                "--protocol",
                "tcp",
                "--forward",
                "l2",
                "--backend",
                &backend,
            ]
            .map(String::from)
            .into()
        }
    };
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_kind_are_counted_together() {
        let first = kind("error: cannot write /a/b: 12 bytes left\nmore");
        assert_eq!(first, kind("error: cannot write /c: 7 bytes left"));
        assert_eq!(kind(""), "nothing was said");
    }
}
