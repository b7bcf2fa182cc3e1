//! Which flows that exist would go to another backend.
//!
//! Packets of a capture go through two private copies of the program, one with
//! the tables in force and one with the candidate's, and where they came out
//! is compared by name. Neither has the records of the running program: where
//! these keep a flow, it shows as what its slot says. Flows on record are
//! asked for in a copy over the running tables, records and all.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use balancer_common::layout::{FlowKey, NatKey};
use balancer_common::parse::{self, Frame};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Candidate;
use super::flows::Flow;
use super::names::NamedState;
use super::packet::{self, Kind};
use super::report::MAX_DIFFERENCES;
use crate::config::model::{Backend, Config, Protocol, Service};
use crate::dataplane::Error;
use crate::dataplane::shadow::{Question, Shadow};
use crate::dataplane::trial::{MAX_FRAME, MIN_FRAME, Outcome, Trial};

/// The loopback's number: where test runs come in.
const LOOPBACK: u32 = 1;

/// What becomes of flows that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Moves {
    /// Flows to a service, now or then.
    pub flows: u64,
    /// Packets that are none's or that could not be run, and records that no
    /// packet goes by any more.
    pub others: u64,
    /// Flows that would go elsewhere.
    pub moved: u64,
    /// How many, by service, backend now and backend then.
    pub by_backend: Vec<FlowMove>,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

/// Flows that move from one backend to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowMove {
    /// The service's name.
    pub service: String,
    /// The backend now, or why there is none.
    pub from: String,
    /// The backend then, or why there is none.
    pub to: String,
    /// How many flows.
    pub flows: u64,
}

/// Runs frames, from the Ethernet header on, under both states.
///
/// # Errors
/// A copy could not be loaded.
pub fn moves<'a>(
    in_force: &NamedState,
    candidate: &NamedState,
    frames: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Moves, Error> {
    let mut now = Trial::load(&in_force.state)?;
    let mut then = Trial::load(&candidate.state)?;
    let mut tally = Tally::default();
    let mut seen = HashSet::new();
    for frame in frames {
        let flow = five_tuple(frame).filter(|_| (MIN_FRAME..=MAX_FRAME).contains(&frame.len()));
        let Some(flow) = flow else {
            tally.moves.others += 1;
            continue;
        };
        if !seen.insert(flow.clone()) {
            continue;
        }
        let (before, after) = (now.run(frame)?, then.run(frame)?);
        let service = service(in_force, &before).or_else(|| service(candidate, &after));
        let (from, to) = (goes(in_force, &before), goes(candidate, &after));
        tally.add(service, &flow, from, to);
    }
    Ok(tally.all())
}

/// Asks the running balancer's own tables and records where the flows go that
/// it has on record, and what becomes of each: it stays while its backend is
/// there, and goes by the candidate's tables else.
///
/// # Errors
/// A copy could not be loaded or asked.
pub fn recorded(
    shadow: &mut Shadow,
    in_force: &NamedState,
    candidate: &Candidate,
    running: &Config,
    keys: &[FlowKey],
) -> Result<Moves, Error> {
    let mut then = Trial::load(&candidate.tables.state)?;
    let mut tally = Tally::default();
    let options = |id| Some(in_force.state.services.get(&id)?.options);
    for key in keys {
        let name = in_force.names.service(key.service);
        let Some((name, before)) = name.and_then(|name| Some((name, running.service(name)?)))
        else {
            tally.moves.others += 1;
            continue;
        };
        let flow = flow_of(key, before);
        let kind = match before.protocol {
            Protocol::Tcp => Kind::Segment,
            Protocol::Udp => Kind::Datagram,
        };
        let frame = packet::build(&flow, kind, 0, &[]);
        let question = Question {
            frame: &frame,
            interface: LOOPBACK,
            packet: nat_key(key, before),
        };
        let (outcome, record) = shadow.ask(&question, options)?;
        // A record that the program does not go by is one of the past.
        let owner = record.flow.or(record.probation).map(|it| it.member);
        let Some(member) = owner.filter(|owner| outcome.member == Some(*owner)) else {
            tally.moves.others += 1;
            continue;
        };
        let from = goes(in_force, &outcome);
        let server = in_force.names.server(key.service, member);
        let after = candidate.config.service(name);
        let stays = after
            .zip(server)
            .is_some_and(|(after, (backend, address))| {
                let is_same = |it: &Backend| it.address == address;
                has_same_way(before, after) && after.backend(backend).is_some_and(is_same)
            });
        let to = match stays {
            true => from.clone(),
            false => goes(&candidate.tables, &then.run(&frame)?),
        };
        let tuple = five_tuple(&frame).unwrap_or_default();
        tally.add(Some(name.to_owned()), &tuple, from, to);
    }
    Ok(tally.all())
}

/// Whether packets of the old flows still find the service and its servers.
fn has_same_way(before: &Service, after: &Service) -> bool {
    let is_kept = !after.forward.is_translation() && !before.forward.is_translation();
    (before.address, before.protocol) == (after.address, after.protocol)
        && (before.forward == after.forward || is_kept)
}

/// The flow of a record: the service stands for address and protocol.
fn flow_of(key: &FlowKey, service: &Service) -> Flow {
    let [a, b, c, d] = key.ports;
    let client = match service.address {
        IpAddr::V4(_) => {
            let [a, b, c, d, ..] = key.source;
            IpAddr::from([a, b, c, d])
        }
        IpAddr::V6(_) => IpAddr::from(key.source),
    };
    Flow {
        client: SocketAddr::new(client, u16::from_be_bytes([a, b])),
        service: SocketAddr::new(service.address, u16::from_be_bytes([c, d])),
        protocol: service.protocol,
    }
}

fn nat_key(key: &FlowKey, service: &Service) -> NatKey {
    let mut destination = [0; 16];
    match service.address {
        IpAddr::V4(address) => destination[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => destination = address.octets(),
    }
    NatKey {
        source: key.source,
        destination,
        ports: key.ports,
        protocol: u32::from(match service.protocol {
            Protocol::Tcp => parse::PROTOCOL_TCP,
            Protocol::Udp => parse::PROTOCOL_UDP,
        }),
    }
}

/// Flows, counted by where they go.
#[derive(Default)]
struct Tally {
    moves: Moves,
    counts: BTreeMap<(String, String, String), u64>,
}

impl Tally {
    fn add(&mut self, service: Option<String>, flow: &FiveTuple, from: String, to: String) {
        let Some(service) = service else {
            self.moves.others += 1;
            return;
        };
        self.moves.flows += 1;
        if from == to {
            return;
        }
        self.moves.moved += 1;
        if self.moves.examples.len() < MAX_DIFFERENCES {
            let example = format!("service {service}: {} from {from} to {to}", describe(flow));
            self.moves.examples.push(example);
        }
        *self.counts.entry((service, from, to)).or_default() += 1;
    }

    fn all(self) -> Moves {
        let moved = self.counts.into_iter();
        let moved = moved.map(|((service, from, to), flows)| FlowMove {
            service,
            from,
            to,
            flows,
        });
        Moves {
            by_backend: moved.collect(),
            ..self.moves
        }
    }
}

fn service(names: &NamedState, outcome: &Outcome) -> Option<String> {
    let name = outcome.service.and_then(|id| names.names.service(id));
    name.map(str::to_owned)
}

/// The backend by name, or why there is none.
fn goes(names: &NamedState, outcome: &Outcome) -> String {
    let backend = outcome
        .service
        .zip(outcome.member)
        .and_then(|(service, member)| names.names.backend(service, member));
    match backend {
        Some(name) => name.to_owned(),
        None => format!("none ({})", outcome.reason.name()),
    }
}

/// Addresses, ports and protocol.
pub type FiveTuple = (Vec<u8>, [u8; 4], u8);

/// What tells a flow. Headers beyond the plain ones are left to the program,
/// and their packets taken for flows of their own.
pub fn five_tuple(frame: &[u8]) -> Option<FiveTuple> {
    let link = parse::link(frame).ok()?;
    let at = link.len;
    let (addresses, protocol, transport_at) = match frame.get(at)? >> 4 {
        4 => {
            let header_len = usize::from(frame[at] & 0xf) * 4;
            (
                frame.get(at + 12..at + 20)?,
                *frame.get(at + 9)?,
                at + header_len,
            )
        }
        6 => (frame.get(at + 8..at + 40)?, *frame.get(at + 6)?, at + 40),
        _ => return None,
    };
    let ports = Frame::bytes(frame, transport_at)?;
    Some((addresses.to_vec(), ports, protocol))
}

fn describe((addresses, [a, b, c, d], protocol): &FiveTuple) -> String {
    let half = addresses.len() / 2;
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()),
    };
    let ends = [
        SocketAddr::new(address(&addresses[..half]), u16::from_be_bytes([*a, *b])),
        SocketAddr::new(address(&addresses[half..]), u16::from_be_bytes([*c, *d])),
    ];
    let name = match *protocol {
        parse::PROTOCOL_TCP => "tcp",
        parse::PROTOCOL_UDP => "udp",
        _ => "ip",
    };
    format!("{name} {} -> {}", ends[0], ends[1])
}
