//! Lays keys out as a two-choice hash.
//!
//! Every key has two buckets ([`balancer_common::hash::buckets`]) and stands
//! in one of them, alone. The kernel then finds a service with two indexes
//! and two compares at most. Keys are placed as in cuckoo hashing (Pagh and
//! Rodler, 2004): a newcomer takes its bucket, who stood there moves to its
//! other one. Where that finds no end, another seed is tried. Pure.

use std::net::IpAddr;

use balancer_common::hash;

use super::ServiceKey;

/// Which bucket each key got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The seed under which all keys fit.
    pub seed: u64,
    /// Bucket of each key, in the keys' order.
    pub buckets: Vec<u32>,
}

const SEEDS: u64 = 64;
const MOVES: usize = 500;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Seeds that are tried, in order; the same on every run.
fn seeds() -> impl Iterator<Item = u64> {
    (1..=SEEDS).map(|n| n.wrapping_mul(GOLDEN))
}

/// Places the keys under one seed; `choices` gives the two buckets of a key
/// under it.
fn place(
    seed: u64,
    key_count: usize,
    bucket_count: u32,
    choices: impl Fn(usize) -> (u32, u32),
) -> Option<Placement> {
    let mut owners: Vec<Option<usize>> = vec![None; bucket_count as usize];
    for key in 0..key_count {
        let mut homeless = key;
        let mut bucket = choices(key).0;
        let mut moves = 0;
        while let Some(evicted) = owners[bucket as usize].replace(homeless) {
            moves += 1;
            if moves > MOVES {
                return None;
            }
            homeless = evicted;
            let (first, second) = choices(evicted);
            bucket = if bucket == first { second } else { first };
        }
    }
    let mut buckets = vec![0; key_count];
    for (bucket, owner) in owners.iter().enumerate() {
        if let Some(key) = owner {
            buckets[*key] = bucket as u32;
        }
    }
    Some(Placement { seed, buckets })
}

/// Places all keys, each family in an array of its own, under the first seed
/// that fits both.
pub fn place_keys(keys: &[ServiceKey], buckets_v4: u32, buckets_v6: u32) -> Option<Placement> {
    seeds().find_map(|seed| place_families(seed, keys, buckets_v4, buckets_v6))
}

fn place_families(
    seed: u64,
    keys: &[ServiceKey],
    buckets_v4: u32,
    buckets_v6: u32,
) -> Option<Placement> {
    let mut buckets = vec![0; keys.len()];
    for v4 in [true, false] {
        let family: Vec<usize> = (0..keys.len())
            .filter(|at| keys[*at].address.is_ipv4() == v4)
            .collect();
        let count = if v4 { buckets_v4 } else { buckets_v6 };
        let placement = place(seed, family.len(), count, |at| {
            choices(seed, count - 1, &keys[family[at]])
        })?;
        for (at, bucket) in family.into_iter().zip(placement.buckets) {
            buckets[at] = bucket;
        }
    }
    Some(Placement { seed, buckets })
}

fn choices(seed: u64, mask: u32, key: &ServiceKey) -> (u32, u32) {
    let port = key.port.to_be_bytes();
    match key.address {
        IpAddr::V4(address) => hash::buckets(seed, mask, address.octets(), port, key.protocol),
        IpAddr::V6(address) => hash::buckets(seed, mask, address.octets(), port, key.protocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_keys_fit_a_quarter_full_table_and_stand_in_one_of_their_buckets() {
        let keys: Vec<[u8; 4]> = (0..1000u32).map(u32::to_be_bytes).collect();
        let choices =
            |seed, key: usize| hash::buckets(seed, 4095, keys[key], 443u16.to_be_bytes(), 6);
        let placement = seeds()
            .find_map(|seed| place(seed, keys.len(), 4096, |key| choices(seed, key)))
            .unwrap();
        let mut taken = std::collections::HashSet::new();
        for (key, bucket) in placement.buckets.iter().enumerate() {
            let (first, second) = choices(placement.seed, key);
            assert!(*bucket == first || *bucket == second);
            assert!(taken.insert(*bucket));
        }
    }

    #[test]
    fn keys_that_cannot_fit_are_refused_not_lost() {
        assert_eq!(place(1, 3, 64, |_| (5, 9)), None);
        assert_eq!(place(1, 2, 64, |_| (5, 5)), None);
    }
}
