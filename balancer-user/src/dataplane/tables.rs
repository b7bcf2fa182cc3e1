//! How a [`State`] lies in the maps, and how a change gets there.
//!
//! A change is written into the generation that is not in force and into
//! free regions of `SLOTS`; one store then flips the whole configuration.
//! The generation and the regions that were in force are written again only
//! after every CPU has left them ([`Memory::wait_for_readers`]), which is
//! waited for at the next change, so that no change pays for it.
//!
//! Invariants: what is in force is never written; a plan that does not fit
//! changes nothing; the state is always read back from the memory itself.

mod audit;
mod head;
mod keys;
mod lending;
mod marks;
mod read;
mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Weak;
use std::sync::atomic::AtomicU8;

use balancer_common::layout::{
    LAYOUT_VERSION, Member, NatSettings, Node, SLOTS_PER_BLOCK, ServiceOptions, ServiceV4,
    ServiceV6, Slot, SlotBlock, Target,
};
use bytemuck::Zeroable;

use super::blocks::{Blocks, Region};
use super::lookup::{self, Placement};
use super::table::Shelf;
use super::{Error, Plan, ServiceId, ServiceKey, State};
use crate::moment::{self, Moment};
use keys::{Leads, all_keys, target_of};
use sources::{Set, Sets};

pub use audit::{Audit, Drift};
pub use sources::SourceEntry;

/// The shared maps as memory.
pub trait Memory: Send {
    /// The entry of `NODE`.
    fn node(&mut self) -> &mut Node;
    /// Both generations of `SERVICES_V4`.
    fn services_v4(&mut self) -> &mut [ServiceV4];
    /// Both generations of `SERVICES_V6`.
    fn services_v6(&mut self) -> &mut [ServiceV6];
    /// Both generations of `OPTIONS`.
    fn options(&mut self) -> &mut [ServiceOptions];
    /// Both generations of `NAT_SETTINGS`.
    fn nat_settings(&mut self) -> &mut [NatSettings];
    /// All of `SLOTS`.
    fn slots(&mut self) -> &mut [SlotBlock];
    /// The same for threads that read beside this one, where they can.
    fn shelf(&self) -> Option<Weak<dyn Shelf>> {
        None
    }
    /// A mark for each block of `SLOTS`; the packet path sets them meanwhile.
    fn marks(&mut self) -> &[AtomicU8];
    /// Both generations of `MEMBERS`.
    fn members(&mut self) -> &mut [Member];
    /// Makes a generation the one in force; everything written before is
    /// seen by who sees the flip.
    fn flip(&mut self, generation: u32);
    /// Returns when no packet is under way that began before the call.
    fn wait_for_readers(&mut self) -> Result<(), Error>;
    /// Enters a prefix into `SOURCES`.
    fn add_source(&mut self, entry: &SourceEntry) -> Result<(), Error>;
    /// Takes a prefix out of `SOURCES`.
    fn remove_source(&mut self, entry: &SourceEntry);
    /// All of `SOURCES`.
    fn sources(&mut self) -> Vec<SourceEntry>;
    /// The interface at an index of the device map, as the map has it now.
    fn interface_at(&mut self, port: u8) -> Option<u32>;
    /// Enters an interface at an index of the device map.
    fn set_interface(&mut self, port: u8, interface: u32) -> Result<(), Error>;
    /// Index of an interface in the device map, entered if it is new.
    fn egress_port(&mut self, interface: u32) -> Result<u8, Error>;
}

/// The tables of one loaded program.
pub struct Tables<M> {
    memory: M,
    blocks: Blocks,
    regions: BTreeMap<ServiceId, Region>,
    /// What is in force, with slots.
    state: State,
    sets: Sets,
    /// Regions that packets may still read, and whose tables they were.
    retired: Vec<(ServiceId, Region)>,
    unsettled: bool,
    /// The generation that was brought into force last.
    generation: u32,
    /// The last service of the present round of audits.
    audited: Option<ServiceId>,
    /// Where whoever has a table may read its slots.
    shelf: Option<Weak<dyn Shelf>>,
}

/// Where everything of the next generation goes; made before any write.
struct Layout {
    seed: u64,
    buckets: Vec<u32>,
    keys: Vec<(ServiceKey, Leads)>,
    first_member: BTreeMap<ServiceId, u32>,
}

impl<M: Memory> Tables<M> {
    /// Tables in fresh, zeroed memory.
    pub fn new(mut memory: M) -> Self {
        let blocks = Blocks::new(memory.slots().len() as u32);
        let node = memory.node();
        node.layout_version = LAYOUT_VERSION;
        Self {
            memory,
            blocks,
            regions: BTreeMap::new(),
            state: State::empty(),
            sets: Sets::default(),
            retired: Vec::new(),
            unsettled: false,
            generation: 0,
            audited: None,
            shelf: None,
        }
    }

    /// What is in force, with slots.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The memory.
    pub fn memory(&mut self) -> &mut M {
        &mut self.memory
    }

    /// Gives the memory to another process, so to say.
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// Brings a plan into force.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        self.settle()?;
        let next = self.after(plan)?;
        let layout = self.lay_out(&next)?;
        let mut regions = self.take_regions(plan)?;
        let written = self.sets.write(&mut self.memory, plan).and_then(|sets| {
            let written = self.write_generation(&next, &layout, plan, (&regions, &sets));
            match written {
                Ok(()) => Ok(sets),
                Err(error) => {
                    self.sets.discard(&mut self.memory, sets);
                    Err(error)
                }
            }
        });
        let sets = match written {
            Ok(sets) => sets,
            Err(error) => {
                for region in regions.into_values() {
                    self.blocks.give(region);
                }
                return Err(error);
            }
        };
        moment::passed(Moment::GenerationWritten);
        let generation = 1 - self.memory.node().active;
        self.memory.flip(generation);
        moment::passed(Moment::Flipped);
        self.generation = generation;
        self.sets.commit(plan, sets);
        self.unsettled = true;
        for id in plan.remove.iter().chain(plan.upsert.keys()) {
            let region = self.regions.remove(id);
            self.retired.extend(region.map(|region| (*id, region)));
        }
        self.regions.append(&mut regions);
        for (id, service) in &plan.upsert {
            self.lend(*id, &service.table);
        }
        self.state = next;
        Ok(())
    }

    /// Waits until the other generation and the retired regions are unused.
    pub fn settle(&mut self) -> Result<(), Error> {
        if self.unsettled {
            self.memory.wait_for_readers()?;
            self.unsettled = false;
            self.sets.settle(&mut self.memory);
            for (id, region) in std::mem::take(&mut self.retired) {
                self.move_marks(id, region);
                self.blocks.give(region);
            }
        }
        Ok(())
    }

    /// What a plan would bring into force.
    pub fn after(&self, plan: &Plan) -> Result<State, Error> {
        let mut next = self.state.clone();
        if let Some(flow_keys) = plan.flow_keys {
            next.flow_keys = flow_keys;
        }
        next.settings = plan.settings.unwrap_or(next.settings);
        for id in &plan.remove {
            next.services.remove(id);
        }
        for (id, service) in &plan.upsert {
            if !service.table.has_slots() {
                return Err(Error::NoSlots(*id));
            }
            next.services.insert(*id, service.clone());
        }
        Ok(next)
    }

    fn lay_out(&mut self, next: &State) -> Result<Layout, Error> {
        let mut first_member = BTreeMap::new();
        let mut members = 0;
        for (id, service) in &next.services {
            first_member.insert(*id, members as u32);
            members += service.members.len();
        }
        fits("MEMBERS", members, self.memory.members().len() / 2)?;
        fits(
            "OPTIONS",
            next.services.len(),
            self.memory.options().len() / 2,
        )?;
        let next_generation = 1 - self.memory.node().active;
        let keys = all_keys(next, self.first_options(next_generation));
        let v4 = keys.iter().filter(|(key, _)| key.address.is_ipv4()).count();
        let half_v4 = self.memory.services_v4().len() / 2;
        let half_v6 = self.memory.services_v6().len() / 2;
        // Above half full a two-choice hash has no solution any more.
        fits("SERVICES_V4", v4, half_v4 / 2)?;
        fits("SERVICES_V6", keys.len() - v4, half_v6 / 2)?;
        let only_keys: Vec<ServiceKey> = keys.iter().map(|(key, _)| *key).collect();
        let Placement { seed, buckets } =
            lookup::place_keys(&only_keys, half_v4 as u32, half_v6 as u32).ok_or(Error::Full {
                map: "SERVICES",
                needed: keys.len(),
                limit: half_v4.min(half_v6),
            })?;
        Ok(Layout {
            seed,
            buckets,
            keys,
            first_member,
        })
    }

    fn take_regions(&mut self, plan: &Plan) -> Result<BTreeMap<ServiceId, Region>, Error> {
        let mut regions = BTreeMap::new();
        for (id, service) in &plan.upsert {
            let count = service.table.slot_count().div_ceil(SLOTS_PER_BLOCK);
            if let Some(region) = self.blocks.take(count) {
                regions.insert(*id, region);
                continue;
            }
            for region in regions.into_values() {
                self.blocks.give(region);
            }
            return Err(Error::Full {
                map: "SLOTS",
                needed: count as usize,
                limit: self.blocks.free_count() as usize,
            });
        }
        Ok(regions)
    }

    fn write_generation(
        &mut self,
        next: &State,
        layout: &Layout,
        plan: &Plan,
        (regions, sets): (&BTreeMap<ServiceId, Region>, &BTreeMap<ServiceId, Set>),
    ) -> Result<(), Error> {
        let generation = 1 - self.memory.node().active;
        self.write_members(next, layout, generation)?;
        self.write_options(next, sets, generation);
        for (id, service) in &plan.upsert {
            let region = regions.get(id).ok_or(Error::NoSlots(*id))?;
            let blocks = &mut self.memory.slots()[region.first as usize..][..region.count as usize];
            let slots = bytemuck::cast_slice_mut::<SlotBlock, Slot>(blocks);
            if !service.table.write_to(slots) {
                return Err(Error::NoSlots(*id));
            }
        }
        moment::passed(Moment::HalfWritten);
        let first_options = self.first_options(generation);
        let targets: BTreeMap<ServiceId, Target> = next
            .services
            .iter()
            .zip(first_options..)
            .filter_map(|((id, service), options)| {
                let region = regions.get(id).or_else(|| self.regions.get(id))?;
                let target = Target {
                    service: *id,
                    table: region.first,
                    table_len: service.table.slot_count(),
                    members: layout.first_member[id]
                        + generation * (self.memory.members().len() / 2) as u32,
                    options,
                    member_count: service.members.len() as u16,
                    flags: service.flags,
                };
                Some((*id, target))
            })
            .collect();
        self.write_services(layout, &targets, generation);
        self.write_head(next, layout, generation);
        Ok(())
    }

    /// Where a generation's half of `OPTIONS` begins.
    fn first_options(&mut self, generation: u32) -> u32 {
        generation * (self.memory.options().len() / 2) as u32
    }

    fn write_members(
        &mut self,
        next: &State,
        layout: &Layout,
        generation: u32,
    ) -> Result<(), Error> {
        let half = self.memory.members().len() / 2;
        for (id, service) in &next.services {
            let first = generation as usize * half + layout.first_member[id] as usize;
            for (index, member) in service.members.iter().enumerate() {
                let egress_port = match member.egress {
                    0 => 0,
                    interface => self.memory.egress_port(interface)?,
                };
                self.memory.members()[first + index] = Member {
                    egress_port,
                    ..*member
                };
            }
        }
        Ok(())
    }

    fn write_services(
        &mut self,
        layout: &Layout,
        targets: &BTreeMap<ServiceId, Target>,
        generation: u32,
    ) {
        let half_v4 = self.memory.services_v4().len() / 2;
        let half_v6 = self.memory.services_v6().len() / 2;
        let (at_v4, at_v6) = (generation as usize * half_v4, generation as usize * half_v6);
        self.memory.services_v4()[at_v4..][..half_v4].fill(ServiceV4::zeroed());
        self.memory.services_v6()[at_v6..][..half_v6].fill(ServiceV6::zeroed());
        for ((key, leads), bucket) in layout.keys.iter().zip(&layout.buckets) {
            let target = target_of(*leads, targets);
            let port = key.port.to_be_bytes();
            match key.address {
                IpAddr::V4(address) => {
                    self.memory.services_v4()[at_v4 + *bucket as usize] = ServiceV4 {
                        address: address.octets(),
                        port,
                        protocol: key.protocol,
                        reserved: 0,
                        target,
                    };
                }
                IpAddr::V6(address) => {
                    self.memory.services_v6()[at_v6 + *bucket as usize] = ServiceV6 {
                        address: address.octets(),
                        port,
                        protocol: key.protocol,
                        reserved: 0,
                        target,
                        padding: 0,
                    };
                }
            }
        }
    }
}

fn fits(map: &'static str, needed: usize, limit: usize) -> Result<(), Error> {
    if needed > limit {
        return Err(Error::Full { map, needed, limit });
    }
    Ok(())
}
