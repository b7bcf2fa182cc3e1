//! Totals that never go back, from counts that may.
//!
//! A backend that gets another address counts anew, a member that goes takes
//! its counts with it, and a probe that is set up anew begins at zero. What a
//! sum loses so is added to it from then on: to Prometheus it stands still
//! for a moment. A service or backend that goes is forgotten with its totals.

use std::collections::HashMap;
use std::sync::Arc;

use balancer_common::layout::HANDSHAKE_BUCKETS;

use super::{Detail, Observed, ServiceObserved};
use crate::dataplane::Counters;
use crate::health::{Counts, STEPS};
use crate::probe::scheduler::TargetId;

/// What is counted of a backend or service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Packets sent.
    Packets,
    /// Their bytes.
    Bytes,
    /// New flows.
    Flows,
    /// Packets of clients with RST.
    Resets,
    /// Timed handshakes that clients finished.
    Finished,
    /// Those that did not end, or with a reset.
    Unfinished,
    /// Those of which nobody knows.
    Unknown,
    /// Further SYNs of timed handshakes.
    Repeated,
    /// Probes that passed.
    Passed,
    /// Probes that failed on the backend's side.
    Failed,
    /// Probes that failed on our own side.
    Local,
    /// Changes of the probes' state.
    Transitions,
}

const COUNTS: usize = Count::Transitions as usize + 1;
const PROBE_STEPS: usize = STEPS.len() + 1;
const STEPS_LEN: usize = HANDSHAKE_BUCKETS + PROBE_STEPS + 1;

/// What was counted, by [`Count`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals([u64; COUNTS]);

impl Totals {
    /// One of them.
    pub fn of(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    fn add(&mut self, count: Count, more: u64) {
        self.0[count as usize] += more;
    }
}

/// Handshakes and probes by the time they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps([u64; STEPS_LEN]);

impl Default for Steps {
    fn default() -> Self {
        Self([0; STEPS_LEN])
    }
}

impl Steps {
    /// Handshakes by powers of two of microseconds.
    pub fn handshakes(&self) -> &[u64] {
        &self.0[..HANDSHAKE_BUCKETS]
    }

    /// Probes by [`STEPS`].
    pub fn probes(&self) -> &[u64] {
        &self.0[HANDSHAKE_BUCKETS..STEPS_LEN - 1]
    }

    /// Time of all probes, in microseconds.
    pub fn probes_micros(&self) -> u64 {
        self.0[STEPS_LEN - 1]
    }

    fn add(&mut self, more: impl IntoIterator<Item = u64>, from: usize) {
        for (sum, more) in self.0[from..].iter_mut().zip(more) {
            *sum += more;
        }
    }
}

/// Totals of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTotals {
    /// Of all its backends, those that went among them.
    pub totals: Totals,
    /// The same by time.
    pub steps: Steps,
    /// Of each backend, in the shape's order; empty where they are not told.
    pub backends: Vec<Totals>,
    /// The same by time; empty where they are not told.
    pub backend_steps: Vec<Steps>,
}

/// What was told last.
#[derive(Debug, Default)]
pub struct Ledger {
    services: HashMap<Arc<str>, Account>,
}

#[derive(Debug, Default)]
struct Account {
    totals: Monotone<COUNTS>,
    steps: Monotone<STEPS_LEN>,
    backends: HashMap<Arc<str>, (Monotone<COUNTS>, Option<Box<Monotone<STEPS_LEN>>>)>,
}

/// Sums that stand still where a count goes back.
#[derive(Debug)]
struct Monotone<const N: usize> {
    last: [u64; N],
    lost: Option<Box<[u64; N]>>,
}

impl<const N: usize> Default for Monotone<N> {
    fn default() -> Self {
        Self {
            last: [0; N],
            lost: None,
        }
    }
}

impl<const N: usize> Monotone<N> {
    fn take(&mut self, now: &[u64; N]) -> [u64; N] {
        for (at, (last, now)) in self.last.iter().zip(now).enumerate() {
            if now < last {
                self.lost.get_or_insert_with(|| Box::new([0; N]))[at] += last - now;
            }
        }
        self.last = *now;
        let mut told = *now;
        for (told, lost) in told
            .iter_mut()
            .zip(self.lost.iter().flat_map(|it| it.iter()))
        {
            *told += lost;
        }
        told
    }
}

impl Ledger {
    /// Takes what is counted now; `probes` are sorted by target.
    pub fn take(
        &mut self,
        observed: &Observed,
        counters: &Counters,
        probes: &[(TargetId, Counts)],
        detail: Detail,
    ) -> Vec<ServiceTotals> {
        let is_there = |name: &Arc<str>| {
            let mut services = observed.services.iter();
            services.any(|it| it.shape.service == *name)
        };
        if self.services.len() > observed.services.len() {
            self.services.retain(|name, _| is_there(name));
        }
        let services = observed.services.iter();
        services
            .map(|service| {
                let (totals, steps) = counted(service, counters, probes);
                let account = self.services.entry(Arc::clone(&service.shape.service));
                account.or_default().take(service, &totals, &steps, detail)
            })
            .collect()
    }
}

impl Account {
    fn take(
        &mut self,
        service: &ServiceObserved,
        totals: &[Totals],
        steps: &[Steps],
        detail: Detail,
    ) -> ServiceTotals {
        let names = &service.shape.backends;
        if self.backends.len() > names.len() {
            let there: std::collections::HashSet<&Arc<str>> =
                names.iter().map(|(name, _)| name).collect();
            self.backends.retain(|name, _| there.contains(name));
        }
        let mut told = ServiceTotals {
            totals: Totals(self.totals.take(&sum(totals.iter().map(|it| &it.0)))),
            steps: Steps(self.steps.take(&sum(steps.iter().map(|it| &it.0)))),
            ..ServiceTotals::default()
        };
        if detail == Detail::Service {
            return told;
        }
        for ((name, _), (totals, steps)) in names.iter().zip(totals.iter().zip(steps)) {
            let (known, known_steps) = self.backends.entry(Arc::clone(name)).or_default();
            told.backends.push(Totals(known.take(&totals.0)));
            if detail == Detail::Histogram {
                let known = known_steps.get_or_insert_default();
                told.backend_steps.push(Steps(known.take(&steps.0)));
            }
        }
        told
    }
}

fn sum<'a, const N: usize>(parts: impl Iterator<Item = &'a [u64; N]>) -> [u64; N] {
    let mut sum = [0; N];
    for part in parts {
        for (sum, more) in sum.iter_mut().zip(part) {
            *sum += more;
        }
    }
    sum
}

/// What is counted of each backend of a service now.
fn counted(
    service: &ServiceObserved,
    counters: &Counters,
    probes: &[(TargetId, Counts)],
) -> (Vec<Totals>, Vec<Steps>) {
    let shape = &service.shape;
    let mut totals = vec![Totals::default(); shape.backends.len()];
    let mut steps = vec![Steps::default(); shape.backends.len()];
    for (index, position) in &shape.counters {
        let at = *position as usize;
        let (Some(totals), Some(steps)) = (totals.get_mut(at), steps.get_mut(at)) else {
            continue;
        };
        if let Some(member) = counters.members.get(index) {
            totals.add(Count::Packets, member.packets);
            totals.add(Count::Bytes, member.bytes);
            totals.add(Count::Flows, member.flows);
            totals.add(Count::Resets, member.resets);
        }
        if let Some(handshakes) = counters.handshakes.get(index) {
            totals.add(Count::Finished, handshakes.finished);
            totals.add(Count::Unfinished, handshakes.abandoned);
            totals.add(Count::Unknown, handshakes.displaced);
            totals.add(Count::Repeated, handshakes.repeated);
            steps.add(handshakes.histogram, 0);
        }
    }
    let begin = probes.partition_point(|(id, _)| *id.service < *shape.service);
    let of_service = &probes[begin..];
    let end = of_service.partition_point(|(id, _)| *id.service == *shape.service);
    let of_service = &of_service[..end];
    for (((name, _), totals), steps) in shape.backends.iter().zip(&mut totals).zip(&mut steps) {
        let found = of_service.binary_search_by(|(id, _)| id.backend.as_str().cmp(name));
        if let Ok(at) = found {
            let counts = &of_service[at].1;
            totals.add(Count::Passed, counts.passed);
            totals.add(Count::Failed, counts.failed);
            totals.add(Count::Local, counts.local);
            totals.add(Count::Transitions, counts.transitions);
            steps.add(counts.durations.steps, HANDSHAKE_BUCKETS);
            steps.add([counts.durations.sum_micros], STEPS_LEN - 1);
        }
    }
    (totals, steps)
}
