//! How many records of the tables that the program itself fills are in use.
//!
//! Read a part at a time, so that a table of millions costs a little every
//! second and nobody waits for it. A count is of one whole round: records that
//! come or go meanwhile may be in it or not.

use std::os::fd::AsFd as _;

use aya::maps::MapData;
use balancer_common::layout::{FlowKey, FlowRecord, NatKey, NatRecord};
use bytemuck::AnyBitPattern;

use super::shadow::Blueprint;
use super::{Error, batch};

/// Entries that are asked for at once; no bucket of a hash has more.
const CHUNK: usize = 4096;
/// Looks in which a round over the largest table is done.
const LOOKS_A_ROUND: usize = 30;
/// Entries of a look at least.
const LEAST_A_LOOK: usize = 16_384;

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    /// Records in use.
    pub used: u64,
    /// Records that it has room for.
    pub capacity: u32,
}

impl Occupancy {
    /// From 0 to 1.
    pub fn share(&self) -> f64 {
        self.used as f64 / f64::from(self.capacity.max(1))
    }
}

/// Walks over one hash, again and again.
struct Walk<K, V> {
    map: MapData,
    capacity: u32,
    /// Where to go on, in the kernel's words.
    cursor: Option<u32>,
    used: u64,
    last: Option<Occupancy>,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: AnyBitPattern, V: AnyBitPattern> Walk<K, V> {
    fn open(blueprint: &Blueprint, name: &str) -> Result<Self, Error> {
        let map = blueprint.open(name)?;
        let info = super::maps::info(name, &map)?;
        Ok(Self {
            capacity: info.max_entries(),
            map,
            cursor: None,
            used: 0,
            last: None,
            keys: vec![K::zeroed(); CHUNK],
            values: vec![V::zeroed(); CHUNK],
        })
    }

    /// Goes on for a look's worth of entries, each in use as so many.
    fn look(&mut self, mut uses: impl FnMut(&K, &V) -> u64) -> Result<(), Error> {
        let wanted = LEAST_A_LOOK.max(self.capacity as usize / LOOKS_A_ROUND);
        let mut seen = 0;
        while seen < wanted {
            let (count, is_over) = self.batch()?;
            let records = self.keys[..count].iter().zip(&self.values[..count]);
            self.used += records.map(|(key, value)| uses(key, value)).sum::<u64>();
            seen += count;
            if is_over {
                self.last = Some(Occupancy {
                    used: self.used,
                    capacity: self.capacity,
                });
                (self.cursor, self.used) = (None, 0);
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next entries, and whether they are the last ones.
    fn batch(&mut self) -> Result<(usize, bool), Error> {
        let map = self.map.fd().as_fd();
        let read = batch::lookup(map, self.cursor, &mut self.keys, &mut self.values, 1)
            .map_err(|error| Error::kernel("counting records", error))?;
        self.cursor = Some(read.last);
        Ok((read.count, read.is_over))
    }
}

/// Counts over the flow table and the table of translations.
pub struct Census {
    blueprint: Blueprint,
    flows: Walk<FlowKey, FlowRecord>,
    translations: Walk<NatKey, NatRecord>,
}

impl Census {
    /// Of these tables.
    ///
    /// # Errors
    /// They have gone.
    pub fn open(blueprint: &Blueprint) -> Result<Self, Error> {
        Ok(Self {
            blueprint: blueprint.clone(),
            flows: Walk::open(blueprint, "FLOWS")?,
            translations: Walk::open(blueprint, "NAT")?,
        })
    }

    /// Whether it is of these tables.
    pub fn is_of(&self, blueprint: &Blueprint) -> bool {
        self.blueprint.is_of_same_tables(blueprint)
    }

    /// Goes on a little, with what tells how many records in use one stands
    /// for: itself, none, or another one, too.
    ///
    /// # Errors
    /// A system call fails.
    pub fn look(
        &mut self,
        flows: impl FnMut(&FlowKey, &FlowRecord) -> u64,
        translations: impl FnMut(&NatKey, &NatRecord) -> u64,
    ) -> Result<(), Error> {
        self.flows.look(flows)?;
        self.translations.look(translations)
    }

    /// The flow table at the end of the last round.
    pub fn flows(&self) -> Option<Occupancy> {
        self.flows.last
    }

    /// The table of translations, likewise.
    pub fn translations(&self) -> Option<Occupancy> {
        self.translations.last
    }
}

impl std::fmt::Debug for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Census").field(&self.blueprint).finish()
    }
}
