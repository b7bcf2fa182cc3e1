//! What is known of the targets, for whoever asks.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::target::{TargetId, TargetStatus};
use super::{Entry, Shared};
use crate::health::{Counts, Durations, State};

/// Targets that are looked at while changes of the targets wait.
const PAGE: usize = 1024;

/// What is known of a scheduler's targets, at any time and from any task.
#[derive(Debug, Clone)]
pub struct States {
    pub(super) shared: Arc<Shared>,
}

impl States {
    /// Every target, by service and backend.
    pub fn all(&self) -> Vec<TargetStatus> {
        let targets = self.shared.targets();
        targets.values().map(Entry::status).collect()
    }

    /// The state of every target.
    pub fn health(&self) -> BTreeMap<TargetId, State> {
        let targets = self.shared.targets();
        let states = targets.iter();
        states
            .map(|(id, entry)| (id.clone(), entry.watched.judge().monitor.state()))
            .collect()
    }

    /// One target.
    pub fn one(&self, id: &TargetId) -> Option<TargetStatus> {
        self.shared.targets().get(id).map(Entry::status)
    }

    /// How many probes of each target ended how, by service and backend. Taken
    /// a page at a time: nobody waits for all.
    pub fn counts(&self) -> Vec<(TargetId, Counts)> {
        let mut all: Vec<(TargetId, Counts)> = Vec::new();
        loop {
            let targets = self.shared.targets();
            let after = match all.last() {
                Some((id, _)) => Bound::Excluded(id.clone()),
                None => Bound::Unbounded,
            };
            let rest = targets.range((after, Bound::Unbounded));
            let before = all.len();
            all.extend(
                rest.take(PAGE)
                    .map(|(id, entry)| (id.clone(), entry.watched.judge().monitor.counts())),
            );
            if all.len() < before + PAGE {
                return all;
            }
        }
    }

    /// Probes that started late because too many were under way.
    pub fn delayed_probes(&self) -> u64 {
        self.shared.delayed.load(Ordering::Relaxed)
    }

    /// How long after its time each probe began: busy CPUs, or too many under
    /// way.
    pub fn lateness(&self) -> Durations {
        *self.shared.lateness()
    }
}
