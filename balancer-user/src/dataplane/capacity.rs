//! How large the maps are made for a state.

use balancer_common::features::Features;
use balancer_common::layout::{HANDSHAKE_SLOTS, SLOTS_PER_BLOCK};

use super::{State, features};

/// Entries of each map whose size depends on the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Buckets of one generation of `SERVICES_V4`; a power of two.
    pub buckets_v4: u32,
    /// Buckets of one generation of `SERVICES_V6`; a power of two.
    pub buckets_v6: u32,
    /// Entries of one generation of `OPTIONS`.
    pub services: u32,
    /// Blocks of `SLOTS`.
    pub blocks: u32,
    /// Members of one generation.
    pub members: u32,
    /// Entries of `COUNTERS`.
    pub counters: u32,
    /// Entries of `HANDSHAKES`.
    pub handshakes: u32,
    /// Entries of `HANDSHAKE_COUNTERS`.
    pub handshake_counters: u32,
    /// Entries of `SOURCES`.
    pub sources: u32,
    /// Entries of `LIMITS`.
    pub limits: u32,
    /// Entries of each of `FLOWS` and `PROBATION`.
    pub flows: u32,
    /// Entries of the table of translations.
    pub translations: u32,
    /// Packets in fragments whose first one is remembered.
    pub fragments: u32,
}

/// The fragments of a packet come within moments: at a million packets in
/// fragments a second, these are remembered for 16 milliseconds.
const FRAGMENTS: u32 = 1 << 14;
const LEAST_BUCKETS: u32 = 64;
/// Source prefixes whose new flows are limited at the same time.
const LIMITS: u32 = 1 << 16;
/// The trie is only as large as what is in it.
const LEAST_SOURCES: u32 = 1024;
const LEAST_SERVICES: u32 = 64;
const LEAST_MEMBERS: u32 = 1024;
/// Tables that one change can replace before a larger copy is needed.
const SPARE_TABLES: u32 = 4;

impl Capacity {
    /// Room for the state and for everyday changes to it: the buckets are
    /// filled to a quarter at most, so that a seed that fits is found at
    /// once, and a quarter of the tables can be replaced in one change.
    pub fn for_state(state: &State) -> Self {
        let keys = |v4: bool| {
            state
                .services
                .values()
                .flat_map(|service| &service.keys)
                .filter(|key| key.address.is_ipv4() == v4)
                .count() as u32
        };
        let server_ids: usize = state
            .services
            .values()
            .map(|service| service.server_ids.len())
            .sum();
        let prefixes: usize = state
            .services
            .values()
            .map(|service| service.sources.len())
            .sum();
        let features = features::needed(state);
        // A map has one entry at least.
        let if_used = |feature, entries| {
            if features.contains(feature) {
                entries
            } else {
                1
            }
        };
        let mut members = 0;
        let mut blocks = 0;
        let mut largest = 1;
        for service in state.services.values() {
            members += service.members.len() as u32;
            let table = service.table.slot_count().div_ceil(SLOTS_PER_BLOCK);
            blocks += table;
            largest = largest.max(table);
        }
        let members = (members * 2).max(LEAST_MEMBERS);
        Self {
            buckets_v4: buckets(keys(true)),
            buckets_v6: buckets(keys(false) + server_ids as u32),
            services: (state.services.len() as u32 * 2).max(LEAST_SERVICES),
            blocks: blocks + (blocks / 4).max(largest * SPARE_TABLES),
            members,
            counters: members * 2,
            handshakes: if_used(Features::HANDSHAKES, HANDSHAKE_SLOTS),
            handshake_counters: if_used(Features::HANDSHAKES, members * 2),
            sources: (prefixes as u32 * 2).max(LEAST_SOURCES),
            limits: if_used(Features::LIMIT, LIMITS),
            flows: state.settings.flow_records,
            translations: translations(state),
            fragments: FRAGMENTS,
        }
    }

    /// Room for a change that did not fit: everything may change at once.
    pub fn grown_for(state: &State) -> Self {
        let fitted = Self::for_state(state);
        Self {
            blocks: fitted.blocks * 2,
            ..fitted
        }
    }
}

/// A flow has one entry with `nat`, two with `fullnat`; a map that nobody
/// needs is made as small as the kernel allows.
fn translations(state: &State) -> u32 {
    let features = features::needed(state);
    let flows = state.settings.flow_records;
    if features.contains(Features::FULLNAT) {
        return flows * 2;
    }
    if features.contains(Features::NAT) {
        return flows;
    }
    1
}

/// Each key may come with a mark of its address.
fn buckets(keys: u32) -> u32 {
    (keys * 2 * 4).next_power_of_two().max(LEAST_BUCKETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_state_still_has_room_for_a_first_service() {
        let capacity = Capacity::for_state(&State::empty());
        assert_eq!(capacity.buckets_v4, LEAST_BUCKETS);
        assert_eq!(capacity.members, LEAST_MEMBERS);
        assert!(capacity.blocks >= 1);
    }
}
