//! What the kernel should hold and what it holds, in our own types.
//!
//! [`State`] is a whole configuration as the packet path sees it. [`plan`]
//! compares two of them, [`Dataplane`] reads one back and applies a plan. The
//! kernel is behind [`aya`], plain memory behind [`fake`]; both share
//! [`tables`], which knows how a state lies in the maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use balancer_common::features::Features;
use balancer_common::layout::{
    FLOW_KEYS, HandshakeCounters, Member, MemberCounters, NatSettings, ServiceOptions,
};
use balancer_common::verdict::Reason;
use ipnet::IpNet;

pub mod attach;
pub mod aya;
mod batch;
pub mod bench;
pub mod blocks;
pub mod capacity;
pub mod capture;
pub mod census;
mod counts;
pub mod decap;
mod embedded;
pub mod fake;
pub mod features;
pub mod generator;
mod handshakes;
pub mod heap;
mod loaded;
pub mod lookup;
mod mapping;
mod maps;
mod memory;
pub mod meter;
pub mod object;
mod packed;
mod ports;
pub mod runner;
mod set;
pub mod shadow;
mod table;
pub mod tables;
pub mod trial;
mod unlink;

use attach::Attached;
use capacity::Capacity;
pub use handshakes::Opened;
use shadow::Blueprint;
pub use table::{Recipe, Table};
use tables::{Audit, Drift};

/// Number of a service: stable while the controller lives, never 0.
pub type ServiceId = u32;

/// Everything the packet path needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Keys of the flow hash, drawn from the seed.
    pub flow_keys: [u64; FLOW_KEYS],
    /// What holds for all services.
    pub settings: Settings,
    /// The services by number.
    pub services: BTreeMap<ServiceId, ServiceState>,
}

impl State {
    /// No service, all keys zero: what a fresh map holds.
    pub fn empty() -> Self {
        Self {
            flow_keys: [0; FLOW_KEYS],
            settings: Settings::default(),
            services: BTreeMap::new(),
        }
    }
}

/// What holds for all services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether echo requests to a service's address are answered.
    pub answer_echo: bool,
    /// TCP flows are timed whose hash, low half, is below this.
    pub handshake_sample: u32,
    /// Entries of each of the two flow tables; a copy keeps those it was
    /// loaded with.
    pub flow_records: u32,
    /// What rules translations; all zero where no service needs any.
    pub nat: NatSettings,
}

impl Default for Settings {
    /// Nothing is done that can be left out.
    fn default() -> Self {
        Self {
            answer_echo: false,
            handshake_sample: 0,
            flow_records: 1 << 17,
            nat: NatSettings::default(),
        }
    }
}

/// One service of a [`State`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// Address, port and protocol of each way in; sorted, without doubles.
    pub keys: Vec<ServiceKey>,
    /// Members by index; an index nobody owns has kind [`Member::NONE`].
    /// `egress_port` is the dataplane's own and zero here.
    pub members: Vec<Member>,
    /// Who owns which slot.
    pub table: Table,
    /// [`Target`](balancer_common::layout::Target) flags: what of `options`
    /// is asked for.
    pub flags: u16,
    /// Everything that only some services ask for; its `sources` is the
    /// dataplane's own and zero here.
    pub options: ServiceOptions,
    /// Members by the server id in a QUIC connection id, zeros behind it.
    pub server_ids: BTreeMap<[u8; 8], u16>,
    /// Sources that are allowed or denied.
    pub sources: Arc<SourceRules>,
}

impl ServiceState {
    /// A service that asks for nothing but its members by hash.
    pub fn new(keys: Vec<ServiceKey>, members: Vec<Member>, table: Table) -> Self {
        Self {
            keys,
            members,
            table,
            flags: 0,
            options: ServiceOptions::default(),
            server_ids: BTreeMap::new(),
            sources: Arc::default(),
        }
    }
}

/// Prefixes of sources, and whether they are allowed or denied; of those
/// that match a source the longest counts.
pub type SourceRules = BTreeMap<IpNet, bool>;

/// What a client dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub address: IpAddr,
    /// The port; 0 is any.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// What takes one state to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Keys of the flow hash, where they change.
    pub flow_keys: Option<[u64; FLOW_KEYS]>,
    /// What holds for all services, where that changes.
    pub settings: Option<Settings>,
    /// Services that are new or differ, whole.
    pub upsert: BTreeMap<ServiceId, ServiceState>,
    /// Services that go.
    pub remove: Vec<ServiceId>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.flow_keys.is_none()
            && self.settings.is_none()
            && self.upsert.is_empty()
            && self.remove.is_empty()
    }
}

/// What takes `actual` to `desired`.
pub fn plan(desired: &State, actual: &State) -> Plan {
    Plan {
        flow_keys: (desired.flow_keys != actual.flow_keys).then_some(desired.flow_keys),
        settings: (desired.settings != actual.settings).then_some(desired.settings),
        upsert: desired
            .services
            .iter()
            .filter(|(id, service)| actual.services.get(id) != Some(service))
            .map(|(id, service)| (*id, service.clone()))
            .collect(),
        remove: actual
            .services
            .keys()
            .filter(|id| !desired.services.contains_key(id))
            .copied()
            .collect(),
    }
}

/// Why the kernel could not be read or changed. Nothing of a failed change
/// is in force.
#[derive(Debug)]
pub enum Error {
    /// A map is too small for the change; a larger copy is needed.
    Full {
        /// The map's name.
        map: &'static str,
        /// Entries the change needs.
        needed: usize,
        /// Entries there are.
        limit: usize,
    },
    /// The loaded program cannot do what the change needs: these features
    /// are not in it. Another copy is needed.
    Lacks(Vec<&'static str>),
    /// The plan names a table whose slots nobody has.
    NoSlots(ServiceId),
    /// A system call or a library failed.
    Kernel {
        /// What was tried.
        doing: String,
        /// What it said.
        cause: String,
    },
    /// The kernel holds something this program did not write.
    Foreign(String),
}

impl Error {
    /// Wraps what a library said.
    pub fn kernel(doing: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Kernel {
            doing: doing.into(),
            cause: cause.to_string(),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full { map, needed, limit } => {
                write!(
                    f,
                    "map {map} holds {limit} entries, the change needs {needed}"
                )
            }
            Self::Lacks(features) => write!(
                f,
                "the loaded kernel program was made without {}",
                features.join(", ")
            ),
            Self::NoSlots(id) => write!(f, "service number {id} has a table without slots"),
            Self::Kernel { doing, cause } => write!(f, "{doing}: {cause}"),
            Self::Foreign(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// Sums over all CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// By the members' counter index.
    pub members: BTreeMap<u32, MemberCounters>,
    /// By the same index; empty where no handshake is timed.
    pub handshakes: BTreeMap<u32, HandshakeCounters>,
    /// Packets by reason.
    pub reasons: Vec<(Reason, u64)>,
}

/// A place where packets are forwarded by a [`State`].
pub trait Dataplane: Send {
    /// What is in force now, read back from where packets read it.
    fn read_state(&mut self) -> Result<State, Error>;

    /// What was brought into force last, with slots; what of it has drifted
    /// since is for [`Dataplane::read_state`] to say.
    fn written(&self) -> &State;

    /// What a private copy over the same tables is loaded from; none where no
    /// program runs.
    fn blueprint(&self) -> Option<Blueprint>;

    /// Compares what packets read with what was written, about so many bytes
    /// of it each time; `None` looks at all.
    fn audit(&mut self, budget: Option<usize>) -> Audit;

    /// Writes anew what an audit found.
    fn repair(&mut self, drifts: &[Drift]) -> Result<(), Error>;

    /// The number of the program that is to be attached; none where none is.
    fn program_id(&mut self) -> Option<u32>;

    /// Pins that the next controller would need and that are gone.
    fn lost_pins(&self) -> Vec<String>;

    /// Brings a plan into force at once: a packet sees all of it or nothing.
    fn apply(&mut self, plan: &Plan) -> Result<(), Error>;

    /// Waits until no packet sees what was in force before the last change,
    /// so that the next one need not. To be called when nobody waits.
    fn settle(&mut self) -> Result<(), Error>;

    /// For each block of a service's table (16 slots), whether a slot in change
    /// sent a packet to somebody else than its current owner since this was
    /// last asked.
    fn take_marks(&mut self, service: ServiceId) -> Result<Vec<bool>, Error>;

    /// Replaces the tables by others of at least this capacity that hold
    /// `state`, without a packet in between seeing neither. Flow records and
    /// counters stay.
    fn replace(&mut self, capacity: Capacity, state: &State) -> Result<(), Error>;

    /// Puts a program that can do also what `state` needs in the place of the
    /// one there is; it forwards by the same tables, records and counters.
    fn extend(&mut self, state: &State) -> Result<(), Error>;

    /// What the program in force can do.
    fn features(&self) -> Features;

    /// Brings `state` into force by a plan, with another program or larger
    /// tables where it takes them.
    fn bring(&mut self, plan: &Plan, state: &State) -> Result<(), Error> {
        let mut result = self.apply(plan);
        if let Err(cause @ Error::Lacks(_)) = &result {
            tracing::info!(%cause, "loading another program");
            self.extend(state)?;
            result = self.apply(plan);
        }
        if let Err(cause @ Error::Full { .. }) = &result {
            tracing::info!(%cause, "growing the maps");
            return self.replace(Capacity::grown_for(state), state);
        }
        result
    }

    /// Reads what members have counted, at every index below `count`: for
    /// who asks every second, and has no use for the rest.
    fn loads(&mut self, count: u32) -> Result<Vec<MemberCounters>, Error> {
        let all: Vec<u32> = (0..count).collect();
        let counters = self.counters(&all)?.members;
        let of = |index| counters.get(index).copied().unwrap_or_default();
        Ok(all.iter().map(of).collect())
    }

    /// Reads the counters with these indexes and all reasons.
    fn counters(&mut self, members: &[u32]) -> Result<Counters, Error>;

    /// Reads the timed handshakes of the members with these counters; empty
    /// where none is timed.
    fn handshakes(&mut self, members: &[u32]) -> Result<BTreeMap<u32, HandshakeCounters>, Error> {
        Ok(self.counters(members)?.handshakes)
    }

    /// The sampled flows that were opened that lately, as far as their places
    /// were not taken by others.
    fn openings(&mut self, lately: Duration) -> Result<Vec<Opened>, Error> {
        let _ = lately;
        Ok(Vec::new())
    }

    /// Sets a member's counters to zero, before its index is given again.
    fn reset_counters(&mut self, members: &[u32]) -> Result<(), Error>;

    /// Puts a program that also tells of packets in the place of the one there
    /// is; it forwards by the same tables, records and counters, and so does
    /// any other that takes its place before [`Dataplane::end_capture`].
    fn capture(&mut self, wish: &capture::Wish) -> Result<capture::Tap, Error> {
        let _ = wish;
        Err(Error::Foreign("no kernel program runs here".to_owned()))
    }

    /// Puts the program that only forwards back; nothing happens where it is
    /// there.
    fn end_capture(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Attaches the program again to an interface that has lost it.
    fn attach(&mut self, interface: &str) -> Result<Attached, Error>;

    /// Detaches the program everywhere.
    fn detach(&mut self) -> Result<(), Error>;
}
