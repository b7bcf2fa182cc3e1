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
    /// What `skip` times gives 1, modulo the size; worked out when it is
    /// first asked for.
    inverse: Option<u32>,
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
    while slots.free > 0 {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < heaviest {
                continue;
            }
            turn.credit -= heaviest;
            if turn.quota > 0 {
                turn.quota -= 1;
                slots.claim(turn);
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
        inverse: None,
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

/// With so few slots left, going through these costs less than going on in a
/// permutation until it meets one of them. Half of all steps would be for the
/// last few hundred slots.
const FEW_LEFT: u32 = 256;

/// The slots, and which have been claimed: of those that are looked at most
/// have, and a bit for each fits into the nearest cache.
struct Slots {
    owners: Vec<u16>,
    claimed: Vec<u64>,
    free: u32,
    /// The free ones in no order, once they are [`FEW_LEFT`].
    left: Vec<u32>,
}

impl Slots {
    fn new(size: u32) -> Self {
        Self {
            owners: vec![0; size as usize],
            claimed: vec![0; size.div_ceil(u64::BITS) as usize],
            free: size,
            left: Vec::new(),
        }
    }

    /// Claims the next free slot of the permutation. There is one: the caller
    /// counts them.
    fn claim(&mut self, turn: &mut Permutation) {
        let slot = if self.free > FEW_LEFT {
            self.walk(turn)
        } else {
            self.pick(turn)
        };
        self.free -= 1;
        self.owners[slot as usize] = turn.index;
        turn.next = slot + turn.skip;
        if turn.next >= self.owners.len() as u32 {
            turn.next -= self.owners.len() as u32;
        }
    }

    /// The next free slot, by looking at one after the other: at four at a
    /// time, as which of them it is cannot be foreseen, and a branch for each
    /// costs more than to look at one too many.
    fn walk(&mut self, turn: &Permutation) -> u32 {
        let size = self.owners.len() as u32;
        let after = |slot: u32, skip: u32| {
            let next = slot + skip;
            next.min(next.wrapping_sub(size))
        };
        let [one, two] = [turn.skip, after(turn.skip, turn.skip)];
        let (three, four) = (after(one, two), after(two, two));
        let mut slot = turn.next;
        loop {
            let ahead = [slot, after(slot, one), after(slot, two), after(slot, three)];
            let free = ahead.iter().zip(0..).fold(0_u32, |free, (slot, at)| {
                let word = self.claimed[(slot / u64::BITS) as usize];
                free | ((!word >> (slot % u64::BITS)) as u32 & 1) << at
            });
            if free != 0 {
                let slot = ahead[free.trailing_zeros() as usize & 3];
                self.claimed[(slot / u64::BITS) as usize] |= 1 << (slot % u64::BITS);
                return slot;
            }
            slot = after(slot, four);
        }
    }

    /// The same by asking of each free slot when its turn would come.
    fn pick(&mut self, turn: &mut Permutation) -> u32 {
        let size = self.owners.len() as u32;
        if self.left.is_empty() {
            let is_free = |slot: &u32| {
                let word = self.claimed[(slot / u64::BITS) as usize];
                word & 1 << (slot % u64::BITS) == 0
            };
            self.left = (0..size).filter(is_free).collect();
        }
        let skip = turn.skip;
        let inverse = *turn.inverse.get_or_insert_with(|| inverse(skip, size));
        let steps = Times::new(inverse, size);
        let ahead = |slot: &u32| slot + if *slot < turn.next { size } else { 0 } - turn.next;
        let least = self.left.iter().map(|slot| steps.of(ahead(slot))).min();
        let is_least = |slot: &u32| Some(steps.of(ahead(slot))) == least;
        let at = self.left.iter().position(is_least).unwrap_or_default();
        self.left.swap_remove(at)
    }
}

/// Products with one factor, modulo a number: by a multiplication, as a
/// division for each takes longer than all else (Shoup, in NTL).
struct Times {
    factor: u64,
    modulus: u64,
    /// The factor as a part of the modulus, in 2^-32.
    part: u64,
}

impl Times {
    fn new(factor: u32, modulus: u32) -> Self {
        let (factor, modulus) = (u64::from(factor), u64::from(modulus));
        Self {
            factor,
            modulus,
            part: (factor << u32::BITS) / modulus,
        }
    }

    /// Of a number below the modulus.
    fn of(&self, number: u32) -> u32 {
        let number = u64::from(number);
        let rest = self.factor * number - ((self.part * number) >> u32::BITS) * self.modulus;
        // At most one modulus too large.
        let less = rest.wrapping_sub(self.modulus);
        rest.min(less) as u32
    }
}

/// What `number` times gives 1 modulo a prime (Fermat: its power of two less
/// than the prime).
fn inverse(number: u32, prime: u32) -> u32 {
    let prime = u64::from(prime);
    let (mut result, mut power, mut exponent) = (1 % prime, u64::from(number) % prime, prime - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * power % prime;
        }
        power = power * power % prime;
        exponent >>= 1;
    }
    result as u32
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

    /// The paper's way, slot by slot.
    fn slowly(entries: &[Entry<'_>], size: u32) -> Vec<u16> {
        let mut turns: Vec<Permutation> = entries
            .iter()
            .filter(|entry| entry.weight > 0)
            .map(|entry| permutation(entry, size))
            .collect();
        let heaviest = turns.iter().map(|turn| turn.weight).max().unwrap();
        turns.sort_by_key(|turn| (turn.next, turn.skip, turn.weight));
        set_quotas(&mut turns, size);
        let mut owners: Vec<Option<u16>> = vec![None; size as usize];
        while owners.contains(&None) {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < heaviest {
                    continue;
                }
                turn.credit -= heaviest;
                if turn.quota == 0 {
                    continue;
                }
                turn.quota -= 1;
                while owners[turn.next as usize].is_some() {
                    turn.next = (turn.next + turn.skip) % size;
                }
                owners[turn.next as usize] = Some(turn.index);
            }
        }
        owners.into_iter().flatten().collect()
    }

    #[test]
    fn table_does_not_change_with_the_code_that_builds_it() {
        // Balancers of a group may be of different builds.
        let mut hasher = SipHasher13::new_with_keys(1, 2);
        let names = names(100);
        let weights: Vec<u16> = (0..100).map(|at| 60 + at * 7 % 90).collect();
        let table = build(&entries(&names, &weights), SIZE);
        assert_eq!(table, slowly(&entries(&names, &weights), SIZE));
        for owner in table {
            hasher.write_u16(owner);
        }
        assert_eq!(hasher.finish(), 0xc0750e88635ac742);
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
        fn slots_are_claimed_as_by_the_paper(
            weights in prop::collection::vec(0u16..50, 1..30),
            size in prop::sample::select(vec![31u32, 251, 257, 263, 1009, 2003]),
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let names = names(weights.len());
            let entries = entries(&names, &weights);
            prop_assert_eq!(build(&entries, size), slowly(&entries, size));
        }

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
