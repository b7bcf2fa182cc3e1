//! The load balancer's object, loaded with the sizes of a configuration.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU8;

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use balancer_common::features::Features;
use balancer_common::layout::{
    MARKS_PER_ELEMENT, Marks, Member, MemberCounters, NatSettings, Node, ServiceOptions,
    ServiceV4, ServiceV6, SlotBlock, TraceRecord,
};
use balancer_common::verdict::Reason;

use super::capacity::Capacity;
use super::mapping::{Mapped, wait_for_readers};
use super::tables::Memory;
use super::{Counters, Error, embedded};

/// What a copy is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be attached.
    Forward,
    /// To be asked by test runs what it does with a packet, and why.
    Trace,
}

/// A loaded copy of the load balancer.
pub struct Object {
    ebpf: Ebpf,
    members: PerCpuArray<MapData, [u64; 4]>,
    reasons: PerCpuArray<MapData, u64>,
}

impl Object {
    /// Loads and verifies a copy, with fresh maps.
    pub fn load(capacity: Capacity, features: Features, purpose: Purpose) -> Result<Self, Error> {
        let tracing = u8::from(purpose == Purpose::Trace);
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("SERVICES_V4", capacity.buckets_v4 * 2)
            .map_max_entries("SERVICES_V6", capacity.buckets_v6 * 2)
            .map_max_entries("OPTIONS", capacity.services * 2)
            .map_max_entries("SLOTS", capacity.blocks)
            .map_max_entries("TOUCHED", capacity.blocks.div_ceil(MARKS_PER_ELEMENT))
            .map_max_entries("MEMBERS", capacity.members * 2)
            .map_max_entries("COUNTERS", capacity.counters)
            .map_max_entries("FLOWS", capacity.flows)
            .map_max_entries("PROBATION", capacity.flows)
            .map_max_entries("NAT", capacity.translations)
            .override_global("TRACING", &tracing, true)
            .override_global("FEATURES", &features.0, true);
        let mut ebpf = loader
            .load(embedded::BALANCER.bytes()?)
            .map_err(|error| load_error("creating the maps", &error))?;
        xdp(&mut ebpf, "balancer")?
            .load()
            .map_err(|error| load_error("loading the kernel program", &error))?;
        let members = take(&mut ebpf, "COUNTERS")?;
        let reasons = take(&mut ebpf, "REASONS")?;
        Ok(Self {
            members,
            reasons,
            ebpf,
        })
    }

    /// The program.
    pub fn program(&mut self) -> Result<&mut Xdp, Error> {
        xdp(&mut self.ebpf, "balancer")
    }

    /// The object, to take further maps or a log from.
    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Maps the tables.
    pub(super) fn map_memory(&mut self, capacity: Capacity) -> Result<KernelMemory, Error> {
        Ok(KernelMemory {
            node: map(&self.ebpf, "NODE", 1)?,
            services_v4: map(&self.ebpf, "SERVICES_V4", capacity.buckets_v4 as usize * 2)?,
            services_v6: map(&self.ebpf, "SERVICES_V6", capacity.buckets_v6 as usize * 2)?,
            options: map(&self.ebpf, "OPTIONS", capacity.services as usize * 2)?,
            nat_settings: map(&self.ebpf, "NAT_SETTINGS", 2)?,
            slots: map(&self.ebpf, "SLOTS", capacity.blocks as usize)?,
            touched: map(
                &self.ebpf,
                "TOUCHED",
                capacity.blocks.div_ceil(MARKS_PER_ELEMENT) as usize,
            )?,
            members: map(&self.ebpf, "MEMBERS", capacity.members as usize * 2)?,
            egress: take_dev_map(&mut self.ebpf)?,
            ports: Vec::new(),
        })
    }

    /// Maps what a copy loaded for [`Purpose::Trace`] writes.
    pub(super) fn map_trace(&self) -> Result<Mapped<TraceRecord>, Error> {
        map(&self.ebpf, "TRACE", 1)
    }

    /// Entries of `COUNTERS`.
    pub(super) fn counter_count(&self) -> u32 {
        self.members.len()
    }

    /// Sums over all CPUs of these members' counters and all reasons.
    pub fn counters(&self, members: &[u32]) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        for index in members {
            let values = self
                .members
                .get(index, 0)
                .map_err(|error| Error::kernel(format!("reading counter {index}"), error))?;
            let mut sum = MemberCounters::default();
            for [packets, bytes, flows, resets] in values.iter() {
                sum.packets += packets;
                sum.bytes += bytes;
                sum.flows += flows;
                sum.resets += resets;
            }
            counters.members.insert(*index, sum);
        }
        for reason in Reason::ALL {
            let values = self
                .reasons
                .get(&(*reason as u32), 0)
                .map_err(|error| Error::kernel("reading the reasons", error))?;
            counters.reasons.push((*reason, values.iter().sum()));
        }
        Ok(counters)
    }

    /// Writes a member's counters on one CPU and zero on the others.
    pub fn set_counters(&mut self, index: u32, counters: MemberCounters) -> Result<(), Error> {
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| Error::kernel("counting CPUs", error))?;
        let mut values = vec![[0; 4]; cpus];
        values[0] = [
            counters.packets,
            counters.bytes,
            counters.flows,
            counters.resets,
        ];
        let values = PerCpuValues::try_from(values)
            .map_err(|error| Error::kernel(format!("writing counter {index}"), error))?;
        self.members
            .set(index, values, 0)
            .map_err(|error| Error::kernel(format!("writing counter {index}"), error))
    }
}

/// A verifier's complaint is long; its end says what is wrong.
fn load_error(doing: &str, error: &dyn std::error::Error) -> Error {
    let mut cause = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        cause.push_str(": ");
        cause.push_str(&inner.to_string());
        source = inner.source();
    }
    Error::kernel(doing, cause)
}

/// A program of the object by name.
pub(super) fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, Error> {
    ebpf.program_mut(name)
        .ok_or_else(|| Error::Foreign(format!("the kernel object has no program {name}")))?
        .try_into()
        .map_err(|error| Error::kernel(format!("program {name}"), error))
}

/// A map of the object by name, in the type the caller wants it.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, Error>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    ebpf.take_map(name)
        .ok_or_else(|| Error::Foreign(format!("the kernel object has no map {name}")))?
        .try_into()
        .map_err(|error| Error::kernel(format!("map {name}"), error))
}

fn take_dev_map(ebpf: &mut Ebpf) -> Result<aya::maps::DevMap<MapData>, Error> {
    take(ebpf, "EGRESS")
}

/// Maps an array of the object into memory, by name.
pub(super) fn map<T: bytemuck::Pod>(
    ebpf: &Ebpf,
    name: &str,
    len: usize,
) -> Result<Mapped<T>, Error> {
    let map = ebpf
        .map(name)
        .ok_or_else(|| Error::Foreign(format!("the kernel object has no map {name}")))?;
    let aya::maps::Map::Array(data) = map else {
        return Err(Error::Foreign(format!("map {name} is no array")));
    };
    Mapped::new(name, data.fd().as_fd(), len)
}

/// The tables of one loaded copy.
pub struct KernelMemory {
    node: Mapped<Node>,
    services_v4: Mapped<ServiceV4>,
    services_v6: Mapped<ServiceV6>,
    options: Mapped<ServiceOptions>,
    nat_settings: Mapped<NatSettings>,
    slots: Mapped<SlotBlock>,
    touched: Mapped<Marks>,
    members: Mapped<Member>,
    egress: aya::maps::DevMap<MapData>,
    /// Interface at each index of the device map.
    ports: Vec<u32>,
}

impl Memory for KernelMemory {
    fn node(&mut self) -> &mut Node {
        &mut self.node.elements()[0]
    }

    fn services_v4(&mut self) -> &mut [ServiceV4] {
        self.services_v4.elements()
    }

    fn services_v6(&mut self) -> &mut [ServiceV6] {
        self.services_v6.elements()
    }

    fn options(&mut self) -> &mut [ServiceOptions] {
        self.options.elements()
    }

    fn nat_settings(&mut self) -> &mut [NatSettings] {
        self.nat_settings.elements()
    }

    fn slots(&mut self) -> &mut [SlotBlock] {
        self.slots.elements()
    }

    fn marks(&mut self) -> &[AtomicU8] {
        self.touched.atomics()
    }

    fn members(&mut self) -> &mut [Member] {
        self.members.elements()
    }

    fn flip(&mut self, generation: u32) {
        self.node
            .store(std::mem::offset_of!(Node, active), generation);
    }

    fn wait_for_readers(&mut self) -> Result<(), Error> {
        wait_for_readers()
    }

    fn egress_port(&mut self, interface: u32) -> Result<u8, Error> {
        if let Some(port) = self.ports.iter().position(|known| *known == interface) {
            return Ok(port as u8);
        }
        let port = self.ports.len() as u32;
        if port >= self.egress.len() {
            return Err(Error::Full {
                map: "EGRESS",
                needed: self.ports.len() + 1,
                limit: self.egress.len() as usize,
            });
        }
        self.egress
            .set(port, interface, None, 0)
            .map_err(|error| Error::kernel(format!("entering interface {interface}"), error))?;
        self.ports.push(interface);
        Ok(port as u8)
    }
}
