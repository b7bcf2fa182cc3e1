//! The model's memory of first fragments.
//!
//! RFC 791, 3.2 and RFC 8200, 4.5: fragments of one packet share source,
//! destination and identification, and in IPv4 the protocol.

use std::collections::HashMap;
use std::net::IpAddr;

use balancer_common::verdict::Reason;
use balancer_user::dataplane::ServiceId;

use super::parse::{Flow, Part};

/// Where a first fragment went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its service; none if it was for another port of a service's address.
    pub service: Option<ServiceId>,
    /// Index of its member.
    pub member: u16,
    /// That member's incarnation.
    pub incarnation: u16,
}

/// First fragments by what their later ones have in common with them.
#[derive(Debug, Clone, Default)]
pub struct Fragments(HashMap<Name, First>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    protocol: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
struct First {
    ports: [u16; 2],
    protocol: u8,
    origin: Origin,
}

impl Name {
    fn of(flow: &Flow, identification: u32) -> Self {
        Self {
            source: flow.source,
            destination: flow.destination,
            identification,
            protocol: flow.source.is_ipv4().then_some(flow.protocol),
        }
    }
}

impl Fragments {
    /// Gives a later fragment what its first one said. `is_ours` is whether
    /// some service has its destination.
    ///
    /// # Errors
    /// When the first one did not come before.
    pub fn claim(&self, flow: &mut Flow, is_ours: bool) -> Result<Option<Origin>, Reason> {
        let Part::Later(identification) = flow.part else {
            return Ok(None);
        };
        match self.0.get(&Name::of(flow, identification)) {
            Some(first) => {
                flow.ports = first.ports;
                flow.protocol = first.protocol;
                Ok(Some(first.origin))
            }
            None if is_ours && matches!(flow.protocol, 6 | 17) => Err(Reason::FragmentUnknown),
            None => Err(Reason::LaterFragment),
        }
    }

    /// Remembers a packet if it is a first fragment.
    pub fn remember(&mut self, flow: &Flow, origin: Origin) {
        if let Part::First(identification) = flow.part {
            let first = First {
                ports: flow.ports,
                protocol: flow.protocol,
                origin,
            };
            self.0.insert(Name::of(flow, identification), first);
        }
    }

    /// How many are remembered.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
