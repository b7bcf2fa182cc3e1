//! A private copy of the program over the tables of a running balancer.
//!
//! It reads the tables that are in force, the very memory, and everything
//! that the program writes is its own: counters, flow records, translations,
//! marks, limits. So it can be asked what would become of a packet while
//! nothing of the running balancer notes it. What is recorded of the one
//! packet's flow is copied over before it is asked.

use std::collections::BTreeSet;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use balancer_common::features::Features;
use balancer_common::layout::{
    FlowKey, FlowRecord, LimitKey, NatKey, NatRecord, ServiceOptions, TraceRecord,
};
use bytemuck::{NoUninit, Pod};

use super::mapping::Mapped;
use super::maps::{self, Sizes};
use super::object::Object;
use super::set::{self, MapSet};
use super::trial::Outcome;
use super::{Error, ServiceId, runner};

/// Records that each map of the copy has room for: one flow's, with room for
/// what a kernel keeps in reserve for each CPU.
const RECORDS: u32 = 1 << 14;

/// What a copy is loaded from. It holds nothing of the kernel: where the
/// balancer has gone over to other tables meanwhile, loading fails.
#[derive(Debug, Clone)]
pub struct Blueprint {
    set: MapSet,
    sizes: Sizes,
    features: Features,
}

/// A loaded copy.
pub struct Shadow {
    blueprint: Blueprint,
    object: Object,
    record: Mapped<TraceRecord>,
    running: Running,
    buffer: Vec<u8>,
}

type Records<K, V> = HashMap<MapData, K, V>;
type FlowBytes = [u8; size_of::<FlowKey>()];
type FlowValue = [u8; size_of::<FlowRecord>()];
type NatBytes = [u8; size_of::<NatKey>()];
type NatValue = [u8; size_of::<NatRecord>()];
type LimitBytes = [u8; size_of::<LimitKey>()];

/// The running balancer's records, which are only looked up. The kernel does
/// not take a look from here for a use of the entry.
struct Running {
    flows: Records<FlowBytes, FlowValue>,
    probation: Records<FlowBytes, FlowValue>,
    translations: Records<NatBytes, NatValue>,
    limits: Records<LimitBytes, u64>,
}

/// What a packet is asked for with.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The frame.
    pub frame: &'a [u8],
    /// The interface it comes in on, by its number.
    pub interface: u32,
    /// Its five-tuple as `NAT` has it.
    pub packet: NatKey,
}

/// What is recorded of a packet's flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// In `FLOWS`.
    pub flow: Option<FlowRecord>,
    /// In `PROBATION`.
    pub probation: Option<FlowRecord>,
    /// What the packet is rewritten to; only `fullnat` has one for requests.
    pub request: Option<NatRecord>,
    /// What its replies are rewritten to.
    pub reply: Option<NatRecord>,
}

impl Blueprint {
    pub(super) fn new(set: &MapSet, sizes: &Sizes, features: Features) -> Self {
        Self {
            set: set.clone(),
            sizes: sizes.clone(),
            features,
        }
    }

    /// That of the tables that were pinned last under `pin_dir`, with a program
    /// of these features.
    ///
    /// # Errors
    /// Nothing is pinned there.
    pub fn find(pin_dir: &Path, features: Features) -> Result<Self, Error> {
        let set = set::newest(pin_dir)?.ok_or_else(|| {
            Error::Foreign(format!("{}: no maps are pinned there", pin_dir.display()))
        })?;
        let sizes = set.sizes()?;
        Ok(Self::new(&set, &sizes, features))
    }

    /// Whether a balancer that gives `other` still uses these tables.
    pub fn is_of_same_tables(&self, other: &Self) -> bool {
        self.set == other.set && self.features == other.features
    }

    /// The pins of the tables.
    pub(super) fn set(&self) -> &MapSet {
        &self.set
    }

    /// What the program can do.
    pub(super) fn features(&self) -> Features {
        self.features
    }

    /// Entries of a map, by its name in the object.
    pub fn entries(&self, name: &str) -> Option<u32> {
        self.sizes.get(name).copied()
    }

    /// Keys of flows that the balancer has on record, of live and new ones
    /// alike, each once, `most` at most.
    ///
    /// # Errors
    /// The tables have gone, or cannot be read.
    pub fn recorded(&self, most: usize) -> Result<Vec<FlowKey>, Error> {
        let mut set = self.set.clone();
        // A flow's record on probation stays there when it gets a lasting one.
        let mut seen = BTreeSet::new();
        for name in ["FLOWS", "PROBATION"] {
            let records: Records<FlowBytes, FlowValue> = maps::typed(&mut set, name)?;
            // Where one is evicted meanwhile, reading may begin anew.
            for key in records.keys().take(most) {
                seen.insert(key.map_err(|error| Error::kernel(format!("reading {name}"), error))?);
            }
        }
        Ok(seen.into_iter().take(most).map(bytemuck::cast).collect())
    }

    /// One of the tables, by its name in the object.
    pub(super) fn open(&self, name: &str) -> Result<MapData, Error> {
        let pin = self.set.pin(name);
        MapData::from_pin(&pin)
            .map_err(|error| Error::kernel(format!("opening {}", pin.display()), error))
    }

    /// Loads a copy. It takes the time that the kernel takes to verify the program.
    ///
    /// # Errors
    /// The kernel refuses, or the tables have gone.
    pub fn load(&self) -> Result<Shadow, Error> {
        let shared: BTreeSet<&str> = maps::shared_tables().collect();
        let mut sizes = self.sizes.clone();
        for (name, size) in &mut sizes {
            if !shared.contains(name) {
                *size = (*size).min(RECORDS);
            }
        }
        let mut object = Object::load_beside(&self.set, &shared, &sizes, self.features)?;
        let mut set = self.set.clone();
        Ok(Shadow {
            record: object.map_trace()?,
            object,
            running: Running {
                flows: maps::typed(&mut set, "FLOWS")?,
                probation: maps::typed(&mut set, "PROBATION")?,
                translations: maps::typed(&mut set, "NAT")?,
                limits: maps::typed(&mut set, "LIMITS")?,
            },
            blueprint: self.clone(),
            buffer: runner::buffer(),
        })
    }
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shadow").field(&self.blueprint).finish()
    }
}

impl Shadow {
    /// What it was loaded from.
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// What becomes of a packet, and what is recorded of its flow. `options`
    /// are those of a service by number.
    ///
    /// # Errors
    /// A system call fails.
    pub fn ask(
        &mut self,
        question: &Question<'_>,
        options: impl Fn(ServiceId) -> Option<ServiceOptions>,
    ) -> Result<(Outcome, Recorded), Error> {
        // The first run finds the service and, where the flow is translated,
        // what to; with that its records can be looked up.
        self.forget()?;
        let mut recorded = self.copy_translations(&question.packet)?;
        let first = self.run(question)?;
        let Some(service) = first.service else {
            return Ok((first, recorded));
        };
        self.forget()?;
        let request = self.copy_translations(&question.packet)?;
        if recorded.reply.is_none() {
            recorded.reply = self.copy_reply(&first.frame)?;
        }
        recorded.request = request.request;
        let key = FlowKey {
            source: question.packet.source,
            service,
            ports: question.packet.ports,
        };
        let bytes: FlowBytes = bytemuck::cast(key);
        recorded.flow = copy(self.object.ebpf(), "FLOWS", &self.running.flows, bytes)?;
        let probation = &self.running.probation;
        recorded.probation = copy(self.object.ebpf(), "PROBATION", probation, bytes)?;
        if let Some(options) = options(service) {
            let key = balancer_common::limit::key(service, question.packet.source, &options);
            let key: LimitBytes = bytemuck::cast(key);
            copy::<_, _, u64>(self.object.ebpf(), "LIMITS", &self.running.limits, key)?;
        }
        Ok((self.run(question)?, recorded))
    }

    fn run(&mut self, question: &Question<'_>) -> Result<Outcome, Error> {
        let program = self.object.program()?;
        let (action, len) = runner::run_from(
            program,
            question.interface,
            question.frame,
            &mut self.buffer,
        )?;
        let record = self.record.elements()[0];
        Outcome::read(record, action, self.buffer[..len].to_vec())
    }

    fn forget(&mut self) -> Result<(), Error> {
        for name in ["FLOWS", "PROBATION"] {
            self.object.clear::<FlowBytes, FlowValue>(name)?;
        }
        self.object.clear::<LimitBytes, u64>("LIMITS")?;
        self.object.clear_translations()
    }

    /// The request's record, and that of its replies, which it leads to.
    fn copy_translations(&mut self, packet: &NatKey) -> Result<Recorded, Error> {
        let translations = &self.running.translations;
        let key: NatBytes = bytemuck::cast(*packet);
        let request: Option<NatRecord> = copy(self.object.ebpf(), "NAT", translations, key)?;
        let reply = match &request {
            Some(record) => {
                let key: NatBytes = bytemuck::cast(answers(record, packet.protocol));
                copy(self.object.ebpf(), "NAT", translations, key)?
            }
            None => None,
        };
        Ok(Recorded {
            request,
            reply,
            ..Recorded::default()
        })
    }

    /// The record of the replies to a frame that left.
    fn copy_reply(&mut self, frame: &[u8]) -> Result<Option<NatRecord>, Error> {
        let Some(left) = five_tuple(frame) else {
            return Ok(None);
        };
        let key: NatBytes = bytemuck::cast(left.turned());
        copy(self.object.ebpf(), "NAT", &self.running.translations, key)
    }
}

/// The key of the packets that answer what leaves by a request's record.
fn answers(record: &NatRecord, protocol: u32) -> NatKey {
    NatKey {
        source: record.source,
        destination: record.destination,
        ports: record.ports,
        protocol,
    }
    .turned()
}

/// Of a plain frame, as the question's are.
fn five_tuple(frame: &[u8]) -> Option<NatKey> {
    let at = balancer_common::parse::link(frame).ok()?.len;
    let mut key = NatKey {
        source: [0; 16],
        destination: [0; 16],
        ports: [0; 4],
        protocol: 0,
    };
    let (len, protocol, ports_at) = match frame.get(at)? >> 4 {
        4 => (4, at + 9, at + 20),
        _ => (16, at + 6, at + 40),
    };
    let addresses = if len == 4 { at + 12 } else { at + 8 };
    key.source[..len].copy_from_slice(frame.get(addresses..addresses + len)?);
    key.destination[..len].copy_from_slice(frame.get(addresses + len..addresses + 2 * len)?);
    key.ports
        .copy_from_slice(frame.get(ports_at..ports_at + 4)?);
    key.protocol = u32::from(*frame.get(protocol)?);
    Some(key)
}

/// Copies a running record into the map of that name of the copy; gives it.
fn copy<K, V, R>(
    ebpf: &mut Ebpf,
    name: &str,
    running: &Records<K, V>,
    key: K,
) -> Result<Option<R>, Error>
where
    K: aya::Pod,
    V: aya::Pod + NoUninit,
    R: Pod,
{
    let failed = |error: MapError| Error::kernel(format!("copying a record of {name}"), error);
    let value = match running.get(&key, 0) {
        Ok(value) => value,
        Err(MapError::KeyNotFound) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let map = ebpf
        .map_mut(name)
        .ok_or_else(|| Error::Foreign(format!("the kernel object has no map {name}")))?;
    let mut own = HashMap::<_, K, V>::try_from(map).map_err(failed)?;
    own.insert(key, value, 0).map_err(failed)?;
    Ok(Some(bytemuck::cast(value)))
}
