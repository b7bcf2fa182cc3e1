//! What came of the sampled handshakes.
//!
//! The program counts what it sees; a handshake of which nothing more is seen
//! is found here, by looking through the places. Its place stays: whatever
//! takes it later counts it just so, and no count goes back.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::time::Duration;

use balancer_common::handshake::is_overdue;
use balancer_common::layout::{Handshake, HandshakeCounters};
use nix::time::{ClockId, clock_gettime};

use super::Error;
use super::counts::{Counts, ascending};
use super::mapping::Mapped;
use super::maps::Source;
use super::memory;

/// A sampled flow that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Index of the member's counters.
    pub counter: u32,
    /// The client's address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
}

/// [`HandshakeCounters`], as they are counted.
pub(super) type Words = [u64; size_of::<HandshakeCounters>() / size_of::<u64>()];

/// Handshakes under way.
pub(super) struct Places(Mapped<Handshake>);

impl Places {
    pub(super) fn open(source: &mut impl Source) -> Result<Self, Error> {
        Ok(Self(memory::map(source, "HANDSHAKES")?))
    }

    /// Empties the places of a member, whose counter another one is to have.
    pub(super) fn leave(&mut self, counter: u32) {
        for at in 0..self.0.len() {
            if self.0.copy_of(at).counter == counter {
                let tag = at * size_of::<Handshake>() + offset_of!(Handshake, tag);
                self.0.store(tag, 0);
            }
        }
    }

    /// Whose flows were sampled since that moment, by the member's counter.
    pub(super) fn openings(&self, lately: Duration) -> Result<Vec<Opened>, Error> {
        let since = now()?.saturating_sub(lately).as_nanos() as u64;
        let places = (0..self.0.len()).map(|at| self.0.copy_of(at));
        let lately = places.filter(|place| place.started_ns > since);
        let opened = |place: Handshake| Opened {
            counter: place.counter,
            source: place.source,
        };
        Ok(lately.map(opened).collect())
    }

    /// Handshakes that have failed by now, by the member's counter.
    fn overdue(&self, now: Duration) -> BTreeMap<u32, u64> {
        let now_ns = now.as_nanos() as u64;
        let mut overdue = BTreeMap::new();
        for place in (0..self.0.len()).map(|at| self.0.copy_of(at)) {
            if place.tag != 0 && is_overdue(place.started_ns, now_ns) {
                *overdue.entry(place.counter).or_default() += 1;
            }
        }
        overdue
    }
}

/// Sums over all CPUs; overdue handshakes count as abandoned.
pub(super) fn counters(
    places: &Places,
    counted: &Counts<Words>,
    members: &[u32],
) -> Result<BTreeMap<u32, HandshakeCounters>, Error> {
    let overdue = places.overdue(now()?);
    let known = ascending(members);
    let abandoned = |index: &u32| HandshakeCounters {
        abandoned: overdue.get(index).copied().unwrap_or(0),
        ..HandshakeCounters::default()
    };
    let mut sums: BTreeMap<u32, HandshakeCounters> = known
        .iter()
        .map(|index| (*index, abandoned(index)))
        .collect();
    counted.for_each(&known, |index, words| {
        if let Some(sum) = sums.get_mut(&index) {
            *sum += bytemuck::cast_ref(words);
        }
    })?;
    Ok(sums)
}

/// The clock that the program reads.
fn now() -> Result<Duration, Error> {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .map_err(|error| Error::kernel("reading the monotonic clock", error))
}
