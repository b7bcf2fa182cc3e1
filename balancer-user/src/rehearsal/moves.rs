//! Which flows that exist would go to another backend.
//!
//! Their packets go through two private copies of the program, one with the
//! tables in force and one with the candidate's, and where they came out is
//! compared by name. Neither copy has the records of the running program: a
//! flow that is kept by a record alone shows as what its slot says.

use std::collections::{BTreeMap, HashSet};

use balancer_common::parse::{self, Frame};
use serde::{Deserialize, Serialize};

use super::names::NamedState;
use super::report::MAX_DIFFERENCES;
use crate::dataplane::trial::{MAX_FRAME, MIN_FRAME, Outcome, Trial};
use crate::dataplane::{Error, State};

/// What becomes of flows that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Flows to a service, now or then, each by its first packet.
    pub flows: u64,
    /// Packets that are none's, or that could not be run.
    pub others: u64,
    /// Flows that would go elsewhere.
    pub moved: u64,
    /// How many, by service, backend now and backend then.
    pub by_backend: Vec<FlowMove>,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

/// Flows that move from one backend to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    let (mut now, mut then) = (load(&in_force.state)?, load(&candidate.state)?);
    let mut moves = Moves::default();
    let mut seen = HashSet::new();
    let mut counts: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for frame in frames {
        if !(MIN_FRAME..=MAX_FRAME).contains(&frame.len()) {
            moves.others += 1;
            continue;
        }
        let Some(flow) = five_tuple(frame) else {
            moves.others += 1;
            continue;
        };
        if !seen.insert(flow.clone()) {
            continue;
        }
        let (before, after) = (now.run(frame)?, then.run(frame)?);
        let of = |names: &NamedState, outcome: &Outcome| {
            let name = outcome.service.and_then(|id| names.names.service(id));
            name.map(str::to_owned)
        };
        let service = of(in_force, &before).or_else(|| of(candidate, &after));
        let Some(service) = service else {
            moves.others += 1;
            continue;
        };
        moves.flows += 1;
        let (from, to) = (goes(in_force, &before), goes(candidate, &after));
        if from == to {
            continue;
        }
        moves.moved += 1;
        if moves.examples.len() < MAX_DIFFERENCES {
            let example = format!("service {service}: {} from {from} to {to}", describe(&flow));
            moves.examples.push(example);
        }
        *counts.entry((service, from, to)).or_default() += 1;
    }
    let moved = counts
        .into_iter()
        .map(|((service, from, to), flows)| FlowMove {
            service,
            from,
            to,
            flows,
        });
    moves.by_backend = moved.collect();
    Ok(moves)
}

fn load(state: &State) -> Result<Trial, Error> {
    Trial::load(state)
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
type FiveTuple = (Vec<u8>, [u8; 4], u8);

/// What tells a flow; headers beyond the plain ones are left to the program,
/// and their packets taken for flows of their own.
fn five_tuple(frame: &[u8]) -> Option<FiveTuple> {
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
        Ok(v4) => std::net::IpAddr::from(v4),
        Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()),
    };
    let ends = [
        std::net::SocketAddr::new(address(&addresses[..half]), u16::from_be_bytes([*a, *b])),
        std::net::SocketAddr::new(address(&addresses[half..]), u16::from_be_bytes([*c, *d])),
    ];
    let name = match *protocol {
        parse::PROTOCOL_TCP => "tcp",
        parse::PROTOCOL_UDP => "udp",
        _ => "ip",
    };
    format!("{name} {} -> {}", ends[0], ends[1])
}
