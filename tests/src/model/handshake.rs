//! The model's account of sampled handshakes.
//!
//! A flow is sampled if the low half of its hash is below the sample. The
//! low 14 bits of the hash are its place, the high half tells it from
//! others there (its lowest bit does not). The model has no clock: it does
//! not know how long a handshake took, nor whether one that lost its place
//! had failed or was only young.

use std::collections::{BTreeMap, HashMap};

use balancer_common::layout::HandshakeCounters;

use super::parse::Opening;

#[derive(Debug, Clone, Copy)]
struct Waiting {
    tag: u64,
    counter: u32,
}

/// Handshakes under way, and what came of the others.
#[derive(Debug, Clone, Default)]
pub struct Handshakes {
    places: HashMap<u64, Waiting>,
    counted: BTreeMap<u32, HandshakeCounters>,
}

impl Handshakes {
    /// A packet of a flow with this hash went to the member with that
    /// counter.
    pub fn see(&mut self, hash: u64, counter: u32, opening: Opening, is_reset: bool) {
        let (place, tag) = (hash % (1 << 14), hash >> 33);
        let waiting = self.places.get(&place).copied();
        let is_here = waiting.is_some_and(|waiting| waiting.tag == tag);
        if is_reset {
            if is_here {
                self.places.remove(&place);
                self.of(counter).abandoned += 1;
            }
        } else if opening == Opening::Syn {
            if is_here {
                self.of(counter).repeated += 1;
                return;
            }
            self.of(counter).started += 1;
            if let Some(other) = self.places.insert(place, Waiting { tag, counter }) {
                self.of(other.counter).displaced += 1;
            }
        } else if is_here {
            self.places.remove(&place);
            self.of(counter).finished += 1;
        }
    }

    /// What is counted of each member; those that failed by age stand under
    /// `displaced`, and the histogram is empty.
    pub fn counted(&self) -> &BTreeMap<u32, HandshakeCounters> {
        &self.counted
    }

    /// How many handshakes nobody knows the end of.
    pub fn waiting(&self) -> usize {
        self.places.len()
    }

    fn of(&mut self, counter: u32) -> &mut HandshakeCounters {
        self.counted.entry(counter).or_default()
    }
}
