//! Weighted Maglev tables.
//!
//! Each backend has its own permutation of the slots, drawn from its name's
//! hash, and takes turns in claiming the next free slot of it (Eisenbud et
//! al., "Maglev", NSDI 2016, section 3.4). Weights set how often a backend's
//! turn comes and how many slots it may claim in all, so its slots are within
//! one of its exact share. A table
//! depends on nothing but names, weights and size: every balancer of a group
//! builds the same one, and losing a backend moves few slots of the others.
//!
//! Pure and deterministic.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// One backend as the table sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What the permutation is drawn from: the same text on every balancer.
    pub identity: &'a str,
    /// Index written into the slots.
    pub index: u16,
    /// Share of slots relative to the others; 0 gets none.
    pub weight: u16,
}

struct Permutation {
    next: u32,
    skip: u32,
    index: u16,
    weight: u32,
    credit: u32,
    /// Slots still to be claimed.
    quota: u32,
}

/// The owner of every slot; empty if no entry has weight.
///
/// `size` must be a prime above the number of entries, so that every skip
/// visits every slot; indexes must be below `u16::MAX`.
pub fn build(entries: &[Entry<'_>], size: u32) -> Vec<u16> {
    let mut turns: Vec<Permutation> = entries
        .iter()
        .filter(|entry| entry.weight > 0)
        .map(|entry| permutation(entry, size))
        .collect();
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else {
        return Vec::new();
    };
    // The file's order must not matter: all balancers of a group agree.
    turns.sort_by_key(|turn| (turn.next, turn.skip, turn.weight));
    set_quotas(&mut turns, size);
    let mut slots = Slots::new(size);
    let mut free = size;
    while free > 0 {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < heaviest {
                continue;
            }
            turn.credit -= heaviest;
            if turn.quota > 0 {
                turn.quota -= 1;
                slots.claim(turn);
                free -= 1;
            }
        }
    }
    slots.owners
}

fn permutation(entry: &Entry<'_>, size: u32) -> Permutation {
    Permutation {
        next: (hash(entry.identity, 0) % u64::from(size)) as u32,
        skip: (hash(entry.identity, 1) % u64::from(size - 1)) as u32 + 1,
        index: entry.index,
        weight: u32::from(entry.weight),
        credit: 0,
        quota: 0,
    }
}

/// Shares out the slots by largest remainder; ties go by the permutation's
/// start, which does not depend on the order of the entries.
fn set_quotas(turns: &mut [Permutation], size: u32) {
    let total: u64 = turns.iter().map(|turn| u64::from(turn.weight)).sum();
    let exact = |turn: &Permutation| u64::from(size) * u64::from(turn.weight);
    let mut left = size;
    for turn in turns.iter_mut() {
        turn.quota = (exact(turn) / total) as u32;
        left -= turn.quota;
    }
    let mut order: Vec<usize> = (0..turns.len()).collect();
    order.sort_by_key(|at| {
        (
            std::cmp::Reverse(exact(&turns[*at]) % total),
            turns[*at].next,
        )
    });
    for at in order.into_iter().take(left as usize) {
        turns[at].quota += 1;
    }
}

/// The slots, and which have been claimed: of ten that are looked at nine
/// have, and a bit for each fits into the nearest cache.
struct Slots {
    owners: Vec<u16>,
    claimed: Vec<u64>,
}

impl Slots {
    fn new(size: u32) -> Self {
        Self {
            owners: vec![0; size as usize],
            claimed: vec![0; size.div_ceil(u64::BITS) as usize],
        }
    }

    /// Claims the next free slot of the permutation. There is one: the caller
    /// counts them.
    fn claim(&mut self, turn: &mut Permutation) {
        let size = self.owners.len() as u32;
        loop {
            let slot = turn.next;
            turn.next += turn.skip;
            if turn.next >= size {
                turn.next -= size;
            }
            let word = &mut self.claimed[(slot / u64::BITS) as usize];
            let bit = 1 << (slot % u64::BITS);
            if *word & bit == 0 {
                *word |= bit;
                self.owners[slot as usize] = turn.index;
                return;
            }
        }
    }
}

/// A hash that is part of the contract between balancers of a group: it has
/// fixed keys and must not change within a layout version.
fn hash(identity: &str, salt: u64) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x6d61_676c_6576, salt);
    hasher.write(identity.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u32 = 65_537;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("backend-{n}")).collect()
    }

    fn entries<'a>(names: &'a [String], weights: &[u16]) -> Vec<Entry<'a>> {
        names
            .iter()
            .zip(weights)
            .enumerate()
            .map(|(index, (identity, weight))| Entry {
                identity,
                index: index as u16,
                weight: *weight,
            })
            .collect()
    }

    fn counts(table: &[u16], members: usize) -> Vec<u32> {
        let mut counts = vec![0; members];
        for owner in table {
            counts[usize::from(*owner)] += 1;
        }
        counts
    }

    #[test]
    fn shares_follow_the_weights_within_one_slot() {
        let names = names(4);
        let table = build(&entries(&names, &[1, 2, 3, 4]), SIZE);
        for (index, count) in counts(&table, 4).into_iter().enumerate() {
            let exact = f64::from(SIZE) * (index as f64 + 1.0) / 10.0;
            assert!((f64::from(count) - exact).abs() <= 1.0, "{index}: {count}");
        }
    }

    #[test]
    fn removing_one_of_a_hundred_moves_under_1_5_percent_of_the_others_slots() {
        let names = names(100);
        let all = entries(&names, &[100; 100]);
        let before = build(&all, SIZE);
        for gone in 0..100u16 {
            let rest: Vec<_> = all.iter().copied().filter(|e| e.index != gone).collect();
            let after = build(&rest, SIZE);
            let others = before.iter().filter(|owner| **owner != gone).count();
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(a, b)| **a != gone && a != b)
                .count();
            assert!(
                moved as f64 / (others as f64) < 0.015,
                "removing {gone} moved {moved} of {others}"
            );
        }
    }

    #[test]
    fn no_weight_gives_no_table() {
        let names = names(2);
        assert!(build(&entries(&names, &[0, 0]), 13).is_empty());
        assert!(build(&[], 13).is_empty());
    }

    #[test]
    fn the_order_of_entries_does_not_matter() {
        let names = names(10);
        let mut shuffled = entries(&names, &[100; 10]);
        let straight = build(&shuffled, SIZE);
        shuffled.reverse();
        assert_eq!(straight, build(&shuffled, SIZE));
    }

    proptest! {
        #[test]
        fn every_slot_has_an_owner_with_its_share(
            weights in prop::collection::vec(0u16..1000, 1..40)
        ) {
            let names = names(weights.len());
            let table = build(&entries(&names, &weights), 5_003);
            let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
            if total == 0 {
                prop_assert!(table.is_empty());
                return Ok(());
            }
            prop_assert_eq!(table.len(), 5_003);
            for (count, weight) in counts(&table, weights.len()).into_iter().zip(&weights) {
                let exact = 5_003.0 * f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(count) - exact).abs() <= 1.0, "{} {}", count, exact);
            }
        }
    }
}
