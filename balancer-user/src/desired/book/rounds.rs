//! Waits for the silence of flows of earlier owners.

use std::time::{Duration, Instant};

use balancer_common::layout::{SLOTS_PER_BLOCK, Slot};

use super::{Book, Drain};

/// A wait for silence.
#[derive(Debug)]
pub(super) struct Round {
    ends: Instant,
    length: Duration,
    /// Blocks of which a slot came into change after the round began.
    fresh: Vec<bool>,
}

impl Book {
    /// Begins a round where slots came into change, or notes that they did
    /// in the middle of one.
    pub(super) fn note_round(&mut self, slots: &[Slot], length: Duration, now: Instant) {
        if !slots.iter().any(|slot| slot.is_unsettled()) {
            self.round = None;
            return;
        }
        let before = self.table.slots().unwrap_or_default();
        let Some(round) = &mut self.round else {
            self.round = Some(Round::begin(slots.len(), length, now));
            return;
        };
        round.length = length;
        for (at, (slot, before)) in slots.iter().zip(before).enumerate() {
            if *slot != before && slot.is_unsettled() {
                round.fresh[at / SLOTS_PER_BLOCK as usize] = true;
            }
        }
    }

    /// When the present round is over, or the first drain.
    pub(in crate::desired) fn next_end(&self) -> Option<Instant> {
        self.drain_ends().chain(self.round_ends()).min()
    }

    /// When the present round is over and all drains.
    pub(in crate::desired) fn last_end(&self) -> Option<Instant> {
        self.drain_ends().chain(self.round_ends()).max()
    }

    fn drain_ends(&self) -> impl Iterator<Item = Instant> {
        let seats = if self.may_drain { &*self.seats } else { &[] };
        seats
            .iter()
            .flatten()
            .filter_map(|owner| match owner.drain {
                Drain::Until(end) => Some(end),
                Drain::No | Drain::Over => None,
            })
    }

    /// When the present round is over.
    pub(in crate::desired) fn round_ends(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.ends)
    }

    /// Ends the round: `touched` are the blocks of which a slot in change
    /// sent something to an earlier owner since the round before; one that is
    /// not in it counts as touched.
    pub(in crate::desired) fn end_round(&mut self, touched: &[bool], now: Instant) {
        let Some(round) = self.round.take() else {
            return;
        };
        let is_quiet = |at: usize| {
            let block = at / SLOTS_PER_BLOCK as usize;
            touched.get(block) == Some(&false) && round.fresh.get(block) == Some(&false)
        };
        let before = self.table.slots().unwrap_or_default();
        let slots: Vec<Slot> = before
            .iter()
            .enumerate()
            .map(|(at, slot)| if is_quiet(at) { slot.settle() } else { *slot })
            .collect();
        if slots.iter().any(|slot| slot.is_unsettled()) {
            self.round = Some(Round::begin(slots.len(), round.length, now));
        }
        if slots != before {
            self.table = self.table.with_same_owners(&slots);
        }
    }
}

impl Round {
    fn begin(slot_count: usize, length: Duration, now: Instant) -> Self {
        Self {
            ends: now + length,
            length,
            fresh: vec![false; slot_count.div_ceil(SLOTS_PER_BLOCK as usize)],
        }
    }
}
