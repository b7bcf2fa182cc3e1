//! The load balancer's object, loaded with fresh maps or over those of a set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{HashMap, MapError};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfError, EbpfLoader};
use balancer_common::capture::mode;
use balancer_common::features::Features;
use balancer_common::layout::{HandshakeCounters, MemberCounters, NatKey, NatRecord, TraceRecord};
use balancer_common::verdict::Reason;

use super::capture;
use super::counts::{Counts, ascending};
use super::handshakes::{self, Opened, Places};
use super::mapping::Mapped;
use super::maps::{NAT_QUEUE, Sizes, Source};
use super::memory::{self, KernelMemory};
use super::set::MapSet;
use super::{Counters, Error, embedded};

/// What a copy is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be attached.
    Forward,
    /// To be asked by test runs what it does with a packet, and why.
    Trace,
    /// To be attached, and to tell of packets.
    Capture,
}

impl Purpose {
    /// As the program knows it.
    fn number(self) -> u8 {
        match self {
            Self::Forward => mode::OFF,
            Self::Trace => mode::TRACE,
            Self::Capture => mode::CAPTURE,
        }
    }
}

/// A loaded copy of the load balancer.
pub struct Object {
    ebpf: Ebpf,
    counts: AllCounts,
    /// Of handshakes; none if none are timed.
    places: Option<Places>,
}

/// Every map that counts.
pub(super) struct AllCounts {
    pub(super) members: Counts<[u64; 4]>,
    pub(super) handshakes: Counts<handshakes::Words>,
    pub(super) reasons: Counts<u64>,
}

impl AllCounts {
    pub(super) fn open(source: &mut impl Source, set: Option<&MapSet>) -> Result<Self, Error> {
        Ok(Self {
            members: Counts::open(source, set, "COUNTERS")?,
            handshakes: Counts::open(source, set, "HANDSHAKE_COUNTERS")?,
            reasons: Counts::open(source, set, "REASONS")?,
        })
    }

    fn succeed(&mut self, older: &Self) -> Result<(), Error> {
        self.members.succeed(&older.members)?;
        self.handshakes.succeed(&older.handshakes)?;
        self.reasons.succeed(&older.reasons)
    }
}

impl Object {
    /// Loads and verifies a copy. Without a set it has fresh maps of these
    /// sizes to itself; with one it uses those that are pinned there, which
    /// have these sizes, and pins there what it makes.
    pub(super) fn load(
        sizes: &Sizes,
        features: Features,
        purpose: Purpose,
        set: Option<&MapSet>,
    ) -> Result<Self, Error> {
        let pins = |name: &str| set.map(|set| set.pin(name));
        let mut ebpf = load(sizes, features, purpose, pins)?;
        let program = xdp(&mut ebpf, "balancer")?;
        if let Some(set) = set {
            set.pin_program(program)?;
        }
        let is_timing = features.contains(Features::HANDSHAKES);
        Ok(Self {
            counts: AllCounts::open(&mut ebpf, set)?,
            places: is_timing.then(|| Places::open(&mut ebpf)).transpose()?,
            ebpf,
        })
    }

    /// Loads a copy to be traced that reads the `shared` maps of a set, and has
    /// the others to itself. It pins nothing.
    pub(super) fn load_beside(
        set: &MapSet,
        shared: &BTreeSet<&str>,
        sizes: &Sizes,
        features: Features,
    ) -> Result<Self, Error> {
        let pins = |name: &str| shared.contains(name).then(|| set.pin(name));
        let mut ebpf = load(sizes, features, Purpose::Trace, pins)?;
        Ok(Self {
            counts: AllCounts::open(&mut ebpf, None)?,
            places: None,
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

    /// Maps the tables; once.
    pub(super) fn map_memory(&mut self) -> Result<KernelMemory, Error> {
        KernelMemory::open(&mut self.ebpf)
    }

    /// Maps what a copy loaded for [`Purpose::Trace`] writes; once.
    pub(super) fn map_trace(&mut self) -> Result<Mapped<TraceRecord>, Error> {
        memory::map(&mut self.ebpf, "TRACE")
    }

    /// Goes on with what was counted in an older set; before it is attached.
    pub(super) fn succeed(&mut self, older: &MapSet) -> Result<(), Error> {
        let older = AllCounts::open(&mut older.clone(), Some(older))?;
        self.counts.succeed(&older)
    }

    /// Sums over all CPUs of these members' counters and all reasons.
    pub fn counters(&mut self, members: &[u32]) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        let known = ascending(members);
        let zero = |index: &u32| (*index, MemberCounters::default());
        counters.members = known.iter().map(zero).collect();
        self.counts.members.for_each(&known, |index, counted| {
            if let Some(sum) = counters.members.get_mut(&index) {
                add(sum, counted);
            }
        })?;
        if let Some(places) = &mut self.places {
            let counted = &self.counts.handshakes;
            counters.handshakes = handshakes::counters(places, counted, members)?;
        }
        for reason in Reason::ALL {
            let values = self.counts.reasons.values(*reason as u32)?;
            counters.reasons.push((*reason, values.iter().sum()));
        }
        Ok(counters)
    }

    /// Sums over all CPUs of these members' timed handshakes; empty where none
    /// is timed.
    pub(super) fn handshakes(
        &mut self,
        members: &[u32],
    ) -> Result<BTreeMap<u32, HandshakeCounters>, Error> {
        let Some(places) = &self.places else {
            return Ok(BTreeMap::new());
        };
        handshakes::counters(places, &self.counts.handshakes, members)
    }

    /// The sampled flows that were opened that lately.
    pub(super) fn openings(&mut self, lately: Duration) -> Result<Vec<Opened>, Error> {
        self.places
            .as_ref()
            .map_or_else(|| Ok(Vec::new()), |places| places.openings(lately))
    }

    /// Sums of what members counted, at every index below `count`.
    pub(super) fn loads(&mut self, count: u32) -> Result<Vec<MemberCounters>, Error> {
        let mut sums = vec![MemberCounters::default(); count as usize];
        let all: Vec<u32> = (0..count).collect();
        self.counts.members.for_each(&all, |index, counted| {
            if let Some(sum) = sums.get_mut(index as usize) {
                add(sum, counted);
            }
        })?;
        Ok(sums)
    }

    /// Sets a member's counters to zero.
    pub(super) fn clear_counters(&mut self, index: u32) -> Result<(), Error> {
        self.counts.members.clear(index)?;
        if let Some(places) = &mut self.places {
            places.leave(index);
        }
        self.counts.handshakes.clear(index)
    }

    /// Removes every record of `NAT`.
    pub(super) fn clear_translations(&mut self) -> Result<(), Error> {
        self.clear::<[u8; size_of::<NatKey>()], [u8; size_of::<NatRecord>()]>("NAT")
    }

    /// Removes every record of a map.
    pub(super) fn clear<K: aya::Pod, V: aya::Pod>(&mut self, name: &str) -> Result<(), Error> {
        let failed = |error| Error::kernel(format!("clearing map {name}"), error);
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or_else(|| Error::Foreign(format!("the kernel object has no map {name}")))?;
        let mut records = HashMap::<_, K, V>::try_from(map).map_err(failed)?;
        let keys: Vec<K> = records.keys().flatten().collect();
        for key in keys {
            // One that was evicted meanwhile is gone as well.
            match records.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

/// Creates the maps, or takes those that `pins` gives, and has the kernel
/// verify the program.
fn load(
    sizes: &Sizes,
    features: Features,
    purpose: Purpose,
    pins: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Ebpf, Error> {
    let cpus = possible_cpus()?;
    let nat_room = sizes.get(NAT_QUEUE).copied().unwrap_or_default() / cpus.max(1);
    let tracing = purpose.number();
    let mut loader = EbpfLoader::new();
    for (name, entries) in sizes {
        loader.map_max_entries(name, *entries);
        if let Some(pin) = pins(name) {
            loader.map_pin_path(name, pin);
        }
    }
    if purpose == Purpose::Capture {
        for (name, entries) in capture::sizes(cpus) {
            loader.map_max_entries(name, entries);
        }
        for name in capture::MAPS {
            if let Some(pin) = pins(name) {
                loader.map_pin_path(name, pin);
            }
        }
    }
    loader
        .override_global("TRACING", &tracing, true)
        .override_global("CPUS", &cpus, true)
        .override_global("NAT_ROOM", &nat_room, true)
        .override_global("FEATURES", &features.0, true);
    let mut ebpf = loader
        .load(embedded::BALANCER.bytes()?)
        .map_err(|error| no_room(&error, sizes).unwrap_or_else(|| load_error(MAKING, &error)))?;
    xdp(&mut ebpf, "balancer")?
        .load()
        .map_err(|error| load_error("loading the kernel program", &error))?;
    Ok(ebpf)
}

/// How many CPUs this machine may have: what is per CPU has so many parts.
pub fn possible_cpus() -> Result<u32, Error> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(path, error)| Error::kernel(format!("counting CPUs in {path}"), error))?;
    u32::try_from(cpus).map_err(|error| Error::kernel("counting CPUs", error))
}

const MAKING: &str = "creating the maps";

/// What is said where the kernel has no memory for a map, or the daemon's
/// control group, to which it is charged, may have no more.
fn no_room(error: &EbpfError, sizes: &Sizes) -> Option<Error> {
    let EbpfError::MapError(MapError::CreateError { name, io_error }) = error else {
        return None;
    };
    let entries = sizes.get(name.as_str())?;
    (io_error.raw_os_error() == Some(libc::ENOMEM)).then(|| {
        let cause = format!(
            "not enough memory for the {entries} entries of map {name}: {io_error}; raise what the \
             daemon may have, which is MemoryMax of its unit (memory.max of its control group), or \
             the host's memory, or lower node.flow_table_size"
        );
        Error::kernel(MAKING, cause)
    })
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

pub(super) fn add(sum: &mut MemberCounters, [packets, bytes, flows, resets]: &[u64; 4]) {
    sum.packets += packets;
    sum.bytes += bytes;
    sum.flows += flows;
    sum.resets += resets;
}
