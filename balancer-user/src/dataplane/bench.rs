//! Programs loaded to be measured.
//!
//! A [`Subject`] is a program as it forwards, attached to nothing, with what
//! it takes of the kernel. [`HotLoop`] runs it over one frame a great many
//! times. Nothing here is used by the balancer itself;
//! [`super::generator`] shares the template with it.

mod hot_loop;
mod sink;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{MapData, MapInfo};
use aya::programs::{ProgramFd, Xdp};
use balancer_common::features::Features;

pub use hot_loop::{Chosen, HotLoop, Run, Stimulus};
pub(super) use hot_loop::{fill_template, words};
pub use sink::Sink;

use super::capacity::Capacity;
use super::capture::{Tap, Wish};
use super::decap::{Counts, DecapTrial, Unwrapping};
use super::maps;
use super::memory::KernelMemory;
use super::object::{Object, Purpose};
use super::set;
use super::tables::Tables;
use super::{Counters, Error, State, features, plan};

/// A loaded program.
pub struct Subject {
    program: Program,
    load_time: Duration,
}

enum Program {
    Balancer(Box<Balancer>),
    Decap(Box<DecapTrial>),
}

struct Balancer {
    object: Object,
    tables: Tables<KernelMemory>,
    state: State,
}

/// What a loaded program takes of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Instructions the verifier looked at, those on several ways more than
    /// once.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub machine_code_len: u32,
    /// From the object's bytes to a verified program with its maps.
    pub load_time: Duration,
    /// Bytes of each map by the kernel's own account (`memlock`), by name.
    pub maps: Vec<(String, u64)>,
}

impl Footprint {
    /// Bytes of all maps.
    pub fn map_bytes(&self) -> u64 {
        self.maps.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Subject {
    /// The load balancer with these tables, as the running one would be
    /// loaded: with maps of that size, and nothing it has no use for.
    pub fn balancer(state: &State) -> Result<Self, Error> {
        Self::balancer_with(state, features::needed(state))
    }

    /// As [`Subject::balancer`], able to do what is given.
    pub fn balancer_with(state: &State, features: Features) -> Result<Self, Error> {
        Self::loaded(state, features, Purpose::Forward, |_| Ok(()))
    }

    /// As [`Subject::balancer_with`], for a capture to which nothing is granted.
    pub fn capturing(state: &State, features: Features, wish: &Wish) -> Result<Self, Error> {
        let open = |object: &mut Object| Tap::open(object.ebpf(), wish).map(drop);
        Self::loaded(state, features, Purpose::Capture, open)
    }

    fn loaded(
        state: &State,
        features: Features,
        purpose: Purpose,
        open: impl FnOnce(&mut Object) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let sizes = maps::sizes(&Capacity::for_state(state));
        let began = Instant::now();
        let mut object = Object::load(&sizes, features, purpose, None)?;
        let load_time = began.elapsed();
        open(&mut object)?;
        let mut tables = Tables::new(object.map_memory()?);
        tables.apply(&plan(state, &State::empty()))?;
        let balancer = Balancer {
            object,
            tables,
            state: state.clone(),
        };
        Ok(Self {
            program: Program::Balancer(Box::new(balancer)),
            load_time,
        })
    }

    /// The backend's side.
    pub fn decap(unwrapping: &Unwrapping) -> Result<Self, Error> {
        let began = Instant::now();
        let program = Program::Decap(Box::new(DecapTrial::load(unwrapping)?));
        Ok(Self {
            program,
            load_time: began.elapsed(),
        })
    }

    /// Changes the load balancer's tables, as a running one would.
    pub fn change(&mut self, state: &State) -> Result<(), Error> {
        let Program::Balancer(balancer) = &mut self.program else {
            return Err(Error::Foreign("decap has no tables".to_owned()));
        };
        let change = plan(state, &balancer.state);
        balancer.tables.apply(&change)?;
        balancer.state = state.clone();
        balancer.tables.settle()
    }

    /// The load balancer's counters of these members and all reasons.
    pub fn counters(&mut self, members: &[u32]) -> Result<Counters, Error> {
        match &mut self.program {
            Program::Balancer(balancer) => balancer.object.counters(members),
            Program::Decap(_) => Err(Error::Foreign("decap has no members".to_owned())),
        }
    }

    /// What the backend's side unwrapped and refused.
    pub fn unwrapped(&self) -> Result<Counts, Error> {
        match &self.program {
            Program::Balancer(_) => Err(Error::Foreign("the balancer unwraps nothing".to_owned())),
            Program::Decap(decap) => decap.counts(),
        }
    }

    /// What it takes of the kernel.
    pub fn footprint(&mut self) -> Result<Footprint, Error> {
        let load_time = self.load_time;
        let failed = |error| Error::kernel("asking the kernel about the program", error);
        let info = self.xdp()?.info().map_err(failed)?;
        let ids = info.map_ids().map_err(failed)?.unwrap_or_default();
        Ok(Footprint {
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            machine_code_len: info.size_jitted(),
            load_time,
            maps: ids.into_iter().map(map_memory).collect::<Result<_, _>>()?,
        })
    }

    fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        match &mut self.program {
            Program::Balancer(balancer) => balancer.object.program(),
            Program::Decap(decap) => decap.program(),
        }
    }

    fn fd(&mut self) -> Result<&ProgramFd, Error> {
        self.xdp()?
            .fd()
            .map_err(|error| Error::kernel("the program's descriptor", error))
    }
}

/// Has the kernel keep account of the time it spends in BPF programs, until
/// the descriptor is closed; `/proc/PID/fdinfo` of who holds a program tells.
pub fn time_programs() -> Result<OwnedFd, Error> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .map_err(|error| Error::kernel("having BPF programs timed", error))
}

/// Bytes of the maps of the balancer whose pins are in this directory, by
/// name and the kernel's own account.
pub fn pinned_maps(pin_dir: &Path) -> Result<Vec<(String, u64)>, Error> {
    let Some(set) = set::newest(pin_dir)? else {
        return Err(Error::Foreign(format!("no maps in {}", pin_dir.display())));
    };
    let pins = set.pins().filter_map(|pin| MapData::from_pin(pin).ok());
    pins.map(|map| {
        let info = map
            .info()
            .map_err(|error| Error::kernel("asking the kernel about a map", error))?;
        // By the map itself: its number is for those who have no more.
        let name = info.name_as_str().unwrap_or("?").to_owned();
        Ok((name, memory_of(map.fd().as_fd())?))
    })
    .collect()
}

/// Name and memory of a map by its number.
fn map_memory(id: u32) -> Result<(String, u64), Error> {
    let failed = |error| Error::kernel(format!("asking the kernel about map {id}"), error);
    let info = MapInfo::from_id(id).map_err(failed)?;
    let name = info.name_as_str().unwrap_or("?").to_owned();
    let fd = info.fd().map_err(failed)?;
    Ok((name, memory_of(fd.as_fd())?))
}

/// Memory of an open map.
fn memory_of(fd: BorrowedFd<'_>) -> Result<u64, Error> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = std::fs::read_to_string(&path).map_err(|error| Error::kernel(&path, error))?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .and_then(|value| value.trim().parse().ok())
        .ok_or_else(|| Error::kernel(&path, "no line `memlock`"))
}
