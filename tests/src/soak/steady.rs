//! What must not grow: memory, descriptors, maps, programs, pins.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use balancer_user::api::types::Status;

use super::scene::{LIMIT, Scene, Service};
use crate::lab::process::status_kib;
use crate::lab::wait_for;

/// Memory may differ by that share and that much, in KiB, between the first
/// and the last look at one daemon: its allocator keeps what it once had.
const MEMORY: (f64, f64) = (1.15, 8192.0);
/// Descriptors: answers on their way, probes.
const DESCRIPTORS: usize = 24;
/// Threads that write and read files beside the main loop, and stay a while.
const THREADS: usize = 8;

/// What a daemon holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Resident, in KiB: its own, its code, the maps that it has mapped.
    pub memory_kib: u64,
    /// Its own alone, in KiB.
    pub own_kib: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Its threads.
    pub threads: usize,
    /// Maps and programs that it has open.
    pub maps: usize,
    /// The same of programs.
    pub programs: usize,
    /// Files below its pin directory.
    pub pins: usize,
    /// Bytes below its state directory.
    pub state_bytes: u64,
}

impl Held {
    /// Looks.
    ///
    /// # Errors
    /// The daemon is gone, or a directory cannot be read.
    fn look(pid: u32, pins: &Path, state: &Path) -> Result<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let mut held = Self {
            memory_kib: status_kib(pid, "VmRSS")?,
            own_kib: status_kib(pid, "RssAnon")?,
            threads: fs::read_dir(process.join("task"))?.count(),
            ..Self::default()
        };
        for entry in fs::read_dir(process.join("fd"))? {
            // One that was closed meanwhile is not there.
            let Ok(target) = fs::read_link(entry?.path()) else {
                continue;
            };
            held.descriptors += 1;
            match target.to_str() {
                Some("anon_inode:bpf-map") => held.maps += 1,
                Some("anon_inode:bpf-prog") => held.programs += 1,
                _ => {}
            }
        }
        (held.pins, _) = below(pins)?;
        (_, held.state_bytes) = below(state)?;
        Ok(held)
    }

    /// What is above what was there at the beginning, but memory.
    fn above(&self, first: &Self) -> Vec<String> {
        let counts = [
            (
                "descriptors",
                self.descriptors,
                first.descriptors + DESCRIPTORS,
            ),
            ("threads", self.threads, first.threads + THREADS),
            ("maps", self.maps, first.maps),
            ("programs", self.programs, first.programs),
            ("pins", self.pins, first.pins),
        ];
        let above = counts.into_iter().filter(|(_, now, most)| now > most);
        above
            .map(|(what, now, most)| format!("{now} {what}, {most} at most"))
            .collect()
    }
}

/// Files and bytes below a directory.
fn below(directory: &Path) -> Result<(usize, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // One that was replaced meanwhile is not there.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            let inside = below(&entry.path())?;
            (files, bytes) = (files + inside.0, bytes + inside.1);
        } else {
            files += 1;
            bytes += entry.metadata().map_or(0, |it| it.len());
        }
    }
    Ok((files, bytes))
}

/// Looks at all daemons of a soak, in calm moments.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Of the first daemon, in the first calm moment.
    pub(super) first: Option<Held>,
    /// Each look at the daemon that now runs.
    pub(super) looks: Vec<Held>,
    pid: u32,
    counters: BTreeMap<String, u64>,
    /// Counters that were compared.
    pub(super) compared: usize,
}

impl Watch {
    /// Looks, and insists that nothing has grown and no counter went back.
    pub(super) fn look(&mut self, scene: &mut Scene<'_>) -> Result<Held> {
        let pid = scene.balancer.process().pid();
        let (pins, state) = (
            scene.balancer.pin_dir().to_owned(),
            scene.balancer.state_dir(),
        );
        let held = match self.first {
            None => Held::look(pid, &pins, &state)?,
            Some(first) => {
                let mut above = Vec::new();
                let fell = wait_for("what it holds to be what it was", LIMIT, || {
                    let held = Held::look(pid, &pins, &state).ok()?;
                    above = held.above(&first);
                    above.is_empty().then_some(held)
                });
                fell.with_context(|| above.join(", "))?
            }
        };
        self.first.get_or_insert(held);
        if pid != self.pid {
            (self.pid, self.looks) = (pid, Vec::new());
        }
        self.looks.push(held);
        let now = totals(&scene.balancer.status()?);
        for (name, before) in &self.counters {
            let count = now.get(name).copied().unwrap_or_default();
            ensure!(
                count >= *before,
                "{name} went back from {before} to {count}"
            );
        }
        self.compared += self.counters.len();
        self.counters = now;
        Ok(held)
    }

    /// Insists that the memory of the daemon that ran longest at last is what
    /// it was; gives the first look that counts and the last.
    pub(super) fn judge(&self) -> Result<(Held, Held)> {
        // It learns its size in the first faults.
        let settled = self.looks.get(self.looks.len() / 4);
        let first = *settled.context("nobody looked")?;
        let last = *self.looks.last().unwrap_or(&first);
        let most = first.memory_kib as f64 * MEMORY.0 + MEMORY.1;
        ensure!(
            last.memory_kib as f64 <= most,
            "memory grew from {} to {} KiB; {:?}",
            first.memory_kib,
            last.memory_kib,
            self.looks
                .iter()
                .map(|it| it.memory_kib)
                .collect::<Vec<_>>()
        );
        Ok((first, last))
    }
}

/// What is counted of the services under load, and by reason.
fn totals(status: &Status) -> BTreeMap<String, u64> {
    let names = Service::ALL.map(Service::name);
    let services = status.services.iter();
    let mut counters = BTreeMap::new();
    for service in services.filter(|it| names.contains(&it.name.as_str())) {
        for backend in &service.backends {
            let name = format!("{} {}", service.name, backend.name);
            counters.insert(format!("{name} flows"), backend.flows);
            counters.insert(format!("{name} packets"), backend.packets);
            counters.insert(format!("{name} bytes"), backend.bytes);
        }
    }
    let reasons = status.reasons.iter();
    counters.extend(reasons.map(|(reason, count)| (format!("reason {reason}"), *count)));
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_is_named() {
        let first = Held {
            descriptors: 10,
            pins: 5,
            ..Held::default()
        };
        let mut now = first;
        now.descriptors += DESCRIPTORS;
        assert_eq!(now.above(&first), Vec::<String>::new());
        now.pins += 1;
        assert_eq!(now.above(&first), ["6 pins, 5 at most"]);
    }

    #[test]
    fn memory_that_grows_is_found() {
        let look = |memory_kib| Held {
            memory_kib,
            ..Held::default()
        };
        let mut watch = Watch {
            looks: [40_000, 60_000, 61_000, 62_000].map(look).into(),
            ..Watch::default()
        };
        assert!(watch.judge().is_ok());
        watch.looks.push(look(90_000));
        assert!(watch.judge().is_err());
    }

    #[test]
    fn this_process_holds_something() {
        let directory = Path::new("/proc/self/task");
        let held = Held::look(std::process::id(), directory, directory).unwrap();
        assert!(held.memory_kib > 0 && held.descriptors > 2 && held.threads > 0);
    }
}
