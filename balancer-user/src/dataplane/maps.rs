//! The maps of the program over their life: one line each.
//!
//! A program that takes another one's place finds its maps again, so that
//! tables, flow records and counters outlive it. What a map holds decides
//! when it is replaced after all ([`Life`]). Maps that are not named here
//! belong to one copy of the program alone.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Map, MapData, MapInfo, MapType};
use balancer_common::layout::{
    FlowKey, FlowRecord, FragmentKey, FragmentRecord, GENERATIONS, Handshake, HandshakeCounters,
    LimitKey, MARKS_PER_ELEMENT, MAX_EGRESS_PORTS, Marks, Member, MemberCounters, NatCursors,
    NatKey, NatQueued, NatRecord, NatSettings, Node, ServiceOptions, ServiceV4, ServiceV6,
    SlotBlock, SourceKey,
};
use balancer_common::verdict::Reason;

use super::Error;
use super::capacity::Capacity;

/// When a map is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Written by the controller. When one is too small, all of this life are
    /// replaced together and written anew, as they point into each other.
    Table,
    /// Written by the program: replaced, and then empty, when the size that
    /// is asked for is another.
    Records,
    /// As `Records`, of a feature that may be unused: kept while large enough.
    Occasional,
    /// Counted by the program. Where there are too few, a larger map counts
    /// on and the smaller one keeps what it had ([`super::counts`]).
    Counts,
}

/// A map.
pub(super) struct Row {
    /// As the kernel object calls it.
    pub(super) name: &'static str,
    pub(super) life: Life,
    kind: MapType,
    /// Bytes of a key and of a value.
    key: usize,
    value: usize,
    /// How many entries are asked for.
    pub(super) entries: fn(&Capacity) -> u32,
}

/// Entries of each map.
pub(super) type Sizes = BTreeMap<&'static str, u32>;

/// What translations each CPU sees to.
pub(super) const NAT_CURSORS: &str = "NAT_CURSORS";
/// Which ones, in a part for each CPU.
pub(super) const NAT_QUEUE: &str = "NAT_QUEUE";

/// Every map that outlives a program.
pub(super) const MAPS: &[Row] = &[
    table::<Node>("NODE", |_| 1),
    table::<ServiceV4>("SERVICES_V4", |capacity| capacity.buckets_v4 * 2),
    table::<ServiceV6>("SERVICES_V6", |capacity| capacity.buckets_v6 * 2),
    table::<ServiceOptions>("OPTIONS", |capacity| capacity.services * 2),
    table::<NatSettings>("NAT_SETTINGS", |_| GENERATIONS),
    table::<SlotBlock>("SLOTS", |capacity| capacity.blocks),
    table::<Marks>("TOUCHED", |capacity| {
        capacity.blocks.div_ceil(MARKS_PER_ELEMENT)
    }),
    table::<Member>("MEMBERS", |capacity| capacity.members * 2),
    // `struct bpf_devmap_val`: an interface and a program.
    Row {
        kind: MapType::DevMap,
        ..table::<[u32; 2]>("EGRESS", |_| MAX_EGRESS_PORTS)
    },
    // A key begins with the length of its prefix.
    Row {
        kind: MapType::LpmTrie,
        key: size_of::<u32>() + size_of::<SourceKey>(),
        ..table::<u32>("SOURCES", |capacity| capacity.sources)
    },
    records::<FlowKey, FlowRecord>("FLOWS", |capacity| capacity.flows),
    records::<FlowKey, FlowRecord>("PROBATION", |capacity| capacity.flows),
    records::<FragmentKey, FragmentRecord>("FRAGMENTS", |capacity| capacity.fragments),
    occasional::<NatKey, NatRecord>("NAT", |capacity| capacity.translations),
    Row {
        kind: MapType::PerCpuArray,
        ..occasional::<u32, NatCursors>(NAT_CURSORS, |_| 1)
    },
    Row {
        kind: MapType::Array,
        ..occasional::<u32, NatQueued>(NAT_QUEUE, |capacity| capacity.queued_translations)
    },
    occasional::<LimitKey, u64>("LIMITS", |capacity| capacity.limits),
    Row {
        kind: MapType::Array,
        ..occasional::<u32, Handshake>("HANDSHAKES", |capacity| capacity.handshakes)
    },
    counts::<MemberCounters>("COUNTERS", |capacity| capacity.counters),
    counts::<HandshakeCounters>("HANDSHAKE_COUNTERS", |capacity| capacity.handshake_counters),
    counts::<u64>("REASONS", |_| Reason::COUNT as u32),
];

const fn table<V>(name: &'static str, entries: fn(&Capacity) -> u32) -> Row {
    Row {
        name,
        life: Life::Table,
        kind: MapType::Array,
        key: size_of::<u32>(),
        value: size_of::<V>(),
        entries,
    }
}

const fn records<K, V>(name: &'static str, entries: fn(&Capacity) -> u32) -> Row {
    Row {
        name,
        life: Life::Records,
        kind: MapType::LruHash,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
    }
}

const fn occasional<K, V>(name: &'static str, entries: fn(&Capacity) -> u32) -> Row {
    Row {
        life: Life::Occasional,
        ..records::<K, V>(name, entries)
    }
}

const fn counts<V>(name: &'static str, entries: fn(&Capacity) -> u32) -> Row {
    Row {
        name,
        life: Life::Counts,
        kind: MapType::PerCpuArray,
        key: size_of::<u32>(),
        value: size_of::<V>(),
        entries,
    }
}

impl Row {
    /// Refuses a map that is not what this build means by the name.
    pub(super) fn check(&self, info: &MapInfo) -> Result<(), Error> {
        let is = (
            info.map_type().ok(),
            info.key_size() as usize,
            info.value_size() as usize,
        );
        if is == (Some(self.kind), self.key, self.value) {
            return Ok(());
        }
        Err(Error::Foreign(format!(
            "map {} is {:?} with keys of {} and values of {} bytes, where this build has {:?}, {} \
             and {}",
            self.name, is.0, is.1, is.2, self.kind, self.key, self.value
        )))
    }
}

/// The sizes of fresh maps.
pub(super) fn sizes(wanted: &Capacity) -> Sizes {
    let size = |row: &Row| (row.name, (row.entries)(wanted));
    MAPS.iter().map(size).collect()
}

/// Bytes of the entries of all maps, with so many CPUs.
#[cfg(test)]
pub(super) fn bytes(wanted: &Capacity, cpus: usize) -> usize {
    let bytes = |row: &Row| {
        let copies = match row.kind {
            MapType::PerCpuArray => cpus,
            _ => 1,
        };
        let key = match row.life {
            Life::Records | Life::Occasional => row.key,
            Life::Table | Life::Counts => 0,
        };
        (key + row.value * copies) * (row.entries)(wanted) as usize
    };
    MAPS.iter().map(bytes).sum()
}

/// The tables that a program reads and never writes.
pub(super) fn shared_tables() -> impl Iterator<Item = &'static str> {
    let tables = MAPS.iter().filter(|row| row.life == Life::Table);
    tables.map(|row| row.name).filter(|name| *name != "TOUCHED")
}

/// What becomes of maps of these sizes when others are wanted: the sizes of
/// all, and the names of those that stay. With `fresh_tables` no table does.
pub(super) fn succession(
    has: &Sizes,
    wanted: &Capacity,
    fresh_tables: bool,
) -> (Sizes, BTreeSet<&'static str>) {
    let mut sizes = Sizes::new();
    let mut kept = BTreeSet::new();
    for row in MAPS {
        let wanted = (row.entries)(wanted);
        let has = has.get(row.name).copied().unwrap_or_default();
        let stays = match row.life {
            Life::Table => !fresh_tables,
            Life::Records => has == wanted,
            Life::Occasional | Life::Counts => has >= wanted,
        };
        if stays {
            kept.insert(row.name);
        }
        let size = match (stays, row.life) {
            (true, _) => has,
            (false, Life::Records | Life::Occasional) => wanted,
            (false, Life::Table | Life::Counts) => wanted.max(has),
        };
        sizes.insert(row.name, size);
    }
    (sizes, kept)
}

/// All of these sizes, and all stay.
pub(super) fn unchanged(has: &Sizes) -> (Sizes, BTreeSet<&'static str>) {
    (has.clone(), has.keys().copied().collect())
}

/// Where maps are taken from.
pub(super) trait Source {
    /// A map by name.
    fn map(&mut self, name: &str) -> Result<Map, Error>;
}

impl Source for aya::Ebpf {
    fn map(&mut self, name: &str) -> Result<Map, Error> {
        self.take_map(name)
            .ok_or_else(|| Error::Foreign(format!("the kernel object has no map {name}")))
    }
}

/// A map in the type the caller wants it.
pub(super) fn typed<M>(source: &mut impl Source, name: &str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    source
        .map(name)?
        .try_into()
        .map_err(|error| Error::kernel(format!("map {name}"), error))
}

/// What the kernel says of a map.
pub(super) fn info(name: &str, map: &MapData) -> Result<MapInfo, Error> {
    map.info()
        .map_err(|error| Error::kernel(format!("asking for map {name}"), error))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn larger_tables_come_alone_and_nothing_else_shrinks_or_goes() {
        let small = Capacity::for_state(&State::empty());
        let has = sizes(&small);
        let (same, kept) = succession(&has, &small, false);
        assert_eq!(same, has);
        assert_eq!(kept.len(), MAPS.len());

        let grown = Capacity {
            blocks: small.blocks * 2,
            services: 1,
            ..small
        };
        let (sizes, kept) = succession(&has, &grown, true);
        assert_eq!(sizes["SLOTS"], small.blocks * 2);
        assert_eq!(sizes["OPTIONS"], has["OPTIONS"]);
        let lives: BTreeSet<_> = MAPS
            .iter()
            .map(|row| (row.life == Life::Table, kept.contains(row.name)))
            .collect();
        assert_eq!(lives, BTreeSet::from([(true, false), (false, true)]));
    }

    #[test]
    fn records_go_when_another_size_is_asked_for_and_counts_when_too_few() {
        let small = Capacity::for_state(&State::empty());
        let other = Capacity {
            flows: small.flows / 2,
            counters: small.counters + 1,
            ..small
        };
        let (sizes, kept) = succession(&sizes(&small), &other, false);
        assert_eq!(sizes["FLOWS"], small.flows / 2);
        assert_eq!(sizes["COUNTERS"], small.counters + 1);
        for gone in ["FLOWS", "PROBATION", "COUNTERS"] {
            assert!(!kept.contains(gone), "{gone}");
        }
        assert!(kept.contains("SLOTS") && kept.contains("REASONS"));
    }
}
