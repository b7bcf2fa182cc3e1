//! What must become of each packet of one service: the plan, packet by packet.

use std::net::{IpAddr, SocketAddr};

use balancer_common::hash;
use balancer_common::layout::FLOW_KEYS;
use balancer_common::parse::{PROTOCOL_TCP, PROTOCOL_UDP};
use balancer_common::verdict::Reason;

use super::Candidate;
use super::flows::{self, Flow};
use super::outgoing::Way;
use super::owners::{NOBODY, Owners};
use super::packet::Kind;
use super::random::Random;
use crate::config::model::{Affinity, Protocol, Quic, Service};
use crate::dataplane::ServiceId;

/// Bytes of a packet's payload, enough for any connection id.
const PAYLOAD_LEN: usize = 40;
/// First bytes of QUIC packets: a short header, and a long one of an Initial.
const SHORT: u8 = 0x40;
const INITIAL: u8 = 0xc0;

/// The plan for one service.
pub(super) struct Script<'a> {
    pub(super) service: &'a Service,
    pub(super) id: ServiceId,
    pub(super) owners: Owners<'a>,
    pub(super) alive: Vec<bool>,
    ways: Vec<Option<Way<'a>>>,
    keys: [u64; FLOW_KEYS],
}

/// One packet of a flow.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) flow: &'a Flow,
    pub(super) kind: Kind,
    /// Nothing was seen of the flow since the change.
    pub(super) is_old: bool,
    pub(super) names: Named,
    /// A translation holds the flow's backend: nobody is named any more.
    pub(super) is_held: bool,
}

/// What a packet says of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    Nobody,
    /// The backend at this place.
    Backend(u16),
    /// An id that no backend has.
    Unknown,
}

/// What must become of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Dropped(Reason),
    Sent { backend: u16, reason: Reason },
}

impl<'a> Script<'a> {
    pub(super) fn new(
        candidate: &'a Candidate,
        service: &'a Service,
        id: ServiceId,
        owners: Owners<'a>,
    ) -> Self {
        let node = &candidate.config.node;
        let hops = &candidate.world.hops;
        let backends = service.backends.iter();
        let ways =
            backends.map(|backend| Way::to(node, service, backend, hops.get(&backend.address)));
        Self {
            ways: ways.collect(),
            alive: super::owners::alive(candidate, service, id),
            keys: crate::seed::flow_keys(&candidate.seed),
            service,
            id,
            owners,
        }
    }

    /// The way to a backend, if it is known.
    pub(super) fn way(&self, backend: u16) -> Option<&Way<'a>> {
        self.ways.get(usize::from(backend))?.as_ref()
    }

    /// Where a backend stands in the file; it is looked for at `likely`
    /// first.
    pub(super) fn place(&self, name: &str, likely: u16) -> Option<u16> {
        let there = self.service.backends.get(usize::from(likely));
        if there.is_some_and(|it| it.name == name) {
            return Some(likely);
        }
        let mut backends = self.service.backends.iter().zip(0..);
        backends.find_map(|(it, at)| (it.name == name).then_some(at))
    }

    /// A flow's hash, and that by which its slot is found.
    pub(super) fn hashes(&self, flow: &Flow) -> (u64, u64) {
        let of_flow = hash_of(&self.keys, flow.client, flow.service, flow.protocol);
        let by_source = match self.service.affinity {
            Affinity::Source => of_source(&self.keys, flow),
            Affinity::Hash | Affinity::Flow { .. } => of_flow,
        };
        (of_flow, by_source)
    }

    /// The slot of a hash.
    pub(super) fn slot(&self, hash: u64) -> u32 {
        hash::slot(hash, self.owners.len())
    }

    fn is_alive(&self, backend: u16) -> bool {
        self.alive.get(usize::from(backend)) == Some(&true)
    }

    /// What must become of a packet of a flow in that slot.
    pub(super) fn expect(&self, step: &Step<'_>, slot: u32) -> Expected {
        if let Some(reason) = flows::refusal(self.service, step.flow.client.ip()) {
            return Expected::Dropped(reason);
        }
        let (backend, reason) = match step.names {
            Named::Backend(backend) if self.is_alive(backend) => (backend, Reason::Forwarded),
            Named::Nobody => (self.by_slot(step, slot), Reason::Forwarded),
            Named::Backend(_) | Named::Unknown => {
                (self.by_slot(step, slot), Reason::UnknownServerId)
            }
        };
        let reason = if step.is_held {
            Reason::Forwarded
        } else {
            reason
        };
        if backend == NOBODY || !self.is_alive(backend) {
            Expected::Dropped(Reason::NoBackend)
        } else if self.way(backend).is_none() {
            Expected::Dropped(Reason::NoNextHop)
        } else {
            Expected::Sent { backend, reason }
        }
    }

    fn by_slot(&self, step: &Step<'_>, slot: u32) -> u16 {
        if step.is_old && step.kind == Kind::Segment {
            self.owners.old_at(slot, |it| self.is_alive(it))
        } else {
            self.owners.new_at(slot)
        }
    }

    /// A payload, and what it says of its server.
    pub(super) fn payload(&self, random: &mut Random) -> ([u8; PAYLOAD_LEN], Named) {
        let mut payload = random.bytes();
        let Some(quic) = &self.service.quic else {
            return (payload, Named::Nobody);
        };
        let names = match random.below(4) {
            0 | 1 => Named::Nobody,
            2 if !self.service.backends.is_empty() => {
                Named::Backend(random.below(self.service.backends.len()) as u16)
            }
            _ => Named::Unknown,
        };
        payload[0] = SHORT;
        let id_at = 1 + usize::from(quic.server_id_offset);
        let id = id_at..id_at + usize::from(quic.server_id_length);
        match names {
            Named::Nobody => {
                payload[0] = INITIAL;
                payload[1..6].copy_from_slice(&[0, 0, 0, 1, 8]);
            }
            Named::Backend(backend) => {
                let backend = &self.service.backends[usize::from(backend)];
                if let Some(server) = &backend.server_id {
                    payload[id].copy_from_slice(server.bytes());
                }
            }
            Named::Unknown => {}
        }
        let names = self.named_by(quic, &payload, names);
        (payload, names)
    }

    /// An id drawn at random may be somebody's.
    fn named_by(&self, quic: &Quic, payload: &[u8], drawn: Named) -> Named {
        if drawn == Named::Nobody {
            return drawn;
        }
        let id_at = 1 + usize::from(quic.server_id_offset);
        let id = &payload[id_at..id_at + usize::from(quic.server_id_length)];
        let is_its = |server: &crate::config::model::ServerId| server.bytes() == id;
        let mut backends = self.service.backends.iter().zip(0..);
        let found = backends.find(|(it, _)| it.server_id.as_ref().is_some_and(is_its));
        found.map_or(Named::Unknown, |(_, at)| Named::Backend(at))
    }
}

fn hash_of(
    keys: &[u64; FLOW_KEYS],
    client: SocketAddr,
    service: SocketAddr,
    protocol: Protocol,
) -> u64 {
    let ([a, b], [c, d]) = (client.port().to_be_bytes(), service.port().to_be_bytes());
    let number = match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    };
    between(keys, client.ip(), service.ip(), [a, b, c, d], number)
}

fn of_source(keys: &[u64; FLOW_KEYS], flow: &Flow) -> u64 {
    between(keys, flow.client.ip(), flow.service.ip(), [0; 4], 0)
}

fn between(
    keys: &[u64; FLOW_KEYS],
    client: IpAddr,
    service: IpAddr,
    ports: [u8; 4],
    protocol: u8,
) -> u64 {
    match (client, service) {
        (IpAddr::V4(client), IpAddr::V4(service)) => {
            hash::flow(keys, client.octets(), service.octets(), ports, protocol)
        }
        (IpAddr::V6(client), IpAddr::V6(service)) => {
            hash::flow(keys, client.octets(), service.octets(), ports, protocol)
        }
        // A client of the other family cannot dial the service.
        _ => 0,
    }
}
