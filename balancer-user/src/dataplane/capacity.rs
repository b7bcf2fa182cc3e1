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
    /// Entries of the queue in which they are looked after.
    pub queued_translations: u32,
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
/// Tables that one change can replace before a larger copy is needed: so many
/// at least, and at most.
const SPARE_TABLES: (u32, u32) = (4, 32);
/// From so many members on there is room for a quarter more, and not for as
/// many again: each takes some hundred bytes, and its counters as many a CPU.
const MANY_MEMBERS: u32 = 1 << 14;
/// From so many blocks on, 64 MB, a change of most tables gets maps of its
/// own each time, rather than maps twice as large for good.
const MANY_BLOCKS: u32 = 1 << 20;

impl Capacity {
    /// Room for the state and for everyday changes to it: the buckets are
    /// filled to a quarter at most, so that a seed that fits is found at
    /// once, and a quarter of the tables, 32 at most, can be replaced in one
    /// change.
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
        let mut last_counter = 0;
        for service in state.services.values() {
            members += service.members.len() as u32;
            let table = service.table.slot_count().div_ceil(SLOTS_PER_BLOCK);
            blocks += table;
            largest = largest.max(table);
            let counters = service.members.iter().map(|member| member.counter);
            last_counter = last_counter.max(counters.max().unwrap_or_default());
        }
        let room = if members <= MANY_MEMBERS {
            members
        } else {
            MANY_MEMBERS.max(members / 4)
        };
        let members = (members + room).max(LEAST_MEMBERS);
        // Who goes gives its index back, so no more are in use than members.
        let counters = members.max(last_counter + 1);
        let (least, most) = SPARE_TABLES;
        let spare = (blocks / 4).clamp(largest * least, largest * most);
        Self {
            buckets_v4: buckets(keys(true)),
            buckets_v6: buckets(keys(false) + server_ids as u32),
            services: (state.services.len() as u32 * 2).max(LEAST_SERVICES),
            blocks: blocks + spare,
            members,
            counters,
            handshakes: if_used(Features::HANDSHAKES, HANDSHAKE_SLOTS),
            handshake_counters: if_used(Features::HANDSHAKES, counters),
            sources: (prefixes as u32 * 2).max(LEAST_SOURCES),
            limits: if_used(Features::LIMIT, LIMITS),
            flows: state.settings.flow_records,
            translations: translations(state),
            queued_translations: queued_translations(state),
            fragments: FRAGMENTS,
        }
    }

    /// Room for a change that did not fit: everything may change at once,
    /// unless that takes too much memory.
    pub fn grown_for(state: &State) -> Self {
        let fitted = Self::for_state(state);
        let is_large = fitted.blocks >= MANY_BLOCKS;
        Self {
            blocks: fitted.blocks * if is_large { 1 } else { 2 },
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

/// Twice as many as there may be flows: packets do not come to all CPUs alike,
/// and each has an equal part.
fn queued_translations(state: &State) -> u32 {
    match translations(state) {
        1 => 1,
        _ => state.settings.flow_records * 2,
    }
}

/// Each key may come with a mark of its address.
fn buckets(keys: u32) -> u32 {
    (keys * 2 * 4).next_power_of_two().max(LEAST_BUCKETS)
}

#[cfg(test)]
mod tests {
    use balancer_common::layout::{Member, Slot};
    use bytemuck::Zeroable;

    use super::super::{ServiceKey, ServiceState, Table, maps};
    use super::*;

    /// Whatever the machine: counters are for each of two CPUs.
    #[test]
    fn maps_of_a_thousand_services_of_a_hundred_backends_take_under_400_megabytes() {
        let table = Table::of(&vec![Slot::settled(1); 65_537]);
        let mut state = State::empty();
        state.settings.handshake_sample = u32::MAX;
        for id in 1..=1000 {
            let key = ServiceKey {
                address: [198, 18, (id / 250) as u8, (id % 250) as u8].into(),
                port: 80,
                protocol: 6,
            };
            let members = (0..100).map(|at| Member {
                counter: (id - 1) * 100 + at,
                kind: Member::L2,
                ..Member::zeroed()
            });
            let service = ServiceState::new(vec![key], members.collect(), table.clone());
            state.services.insert(id, service);
        }
        for capacity in [Capacity::for_state(&state), Capacity::grown_for(&state)] {
            assert!(capacity.members >= 100_000 && capacity.counters >= 100_000);
            assert!(capacity.blocks > 1000 * 4097);
            let bytes = maps::bytes(&capacity, 2);
            assert!(bytes < 400_000_000, "{bytes}");
        }
    }

    #[test]
    fn empty_state_still_has_room_for_a_first_service() {
        let capacity = Capacity::for_state(&State::empty());
        assert_eq!(capacity.buckets_v4, LEAST_BUCKETS);
        assert_eq!(capacity.members, LEAST_MEMBERS);
        assert!(capacity.blocks >= 1);
    }
}
