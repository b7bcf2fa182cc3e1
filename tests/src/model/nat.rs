//! The model's translations: rewritten packets, and the way back.
//!
//! Time stands still here: a translation is never silent for long enough to
//! be over. What becomes of those that are has tests of its own. And there is
//! one CPU, the machine's first.

mod rewrite;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use balancer_common::layout::{Member, NatSettings};
use balancer_common::verdict::Reason;
use balancer_user::dataplane::ServiceId;
use balancer_user::dataplane::object::possible_cpus;

use super::icmp_error::Told;
use super::parse::{Flow, Part};
use rewrite::rewrite;

pub use rewrite::rewrite_error;

const TCP: u8 = 6;

/// A packet by its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ends {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
}

/// What a backend's packet becomes, and how the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reply {
    source: SocketAddr,
    destination: SocketAddr,
    service: ServiceId,
    ethernet: [u8; 12],
    finished: [bool; 2],
    is_reset: bool,
}

/// `fullnat`: what a client's packet becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    source: SocketAddr,
    backend: SocketAddr,
    service: ServiceId,
    member: u16,
    incarnation: u16,
}

/// All translations.
#[derive(Debug, Clone, Default)]
pub struct Table {
    replies: HashMap<Ends, Reply>,
    requests: HashMap<Ends, Request>,
    /// How many ports were looked at so far, of each family.
    looked_at: [u64; 2],
}

/// Ports that are looked at for a flow.
const TRIES: u32 = 16;

/// TCP flags.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Table {
    /// How many translations there are.
    pub fn len(&self) -> usize {
        self.replies.len() + self.requests.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// The service that a packet which is for none is a reply of.
    pub fn service_of(&self, flow: &Flow) -> Option<ServiceId> {
        Some(self.replies.get(&ends(flow))?.service)
    }

    /// The reply as the client gets it: from where it sent to, back the way
    /// that its last packet came.
    ///
    /// # Errors
    /// When the TTL has run out.
    ///
    /// # Panics
    /// When it is no reply.
    pub fn reply(&mut self, frame: &[u8], flow: &Flow) -> Result<Vec<u8>, Reason> {
        check_ttl(flow)?;
        let reply = self.replies.get_mut(&ends(flow)).expect("a reply");
        reply.note(tcp_flags(frame, flow), BACKEND);
        let ends = [reply.source, reply.destination];
        Ok(rewrite(frame, flow, reply.ethernet, ends))
    }

    /// `nat`: the packet as the member gets it, from the client itself. A
    /// backend cannot tell two flows of one client's port from each other, so
    /// the first one keeps it.
    ///
    /// # Errors
    /// When another flow has the member.
    pub fn request(
        &mut self,
        frame: &[u8],
        flow: &Flow,
        service: ServiceId,
        member: &Member,
        ethernet: [u8; 12],
    ) -> Result<Vec<u8>, Reason> {
        let Ends {
            source: client,
            destination: dialled,
            protocol,
        } = ends(flow);
        let backend = backend(member, dialled);
        let way_back = Ends {
            source: backend,
            destination: client,
            protocol,
        };
        let reply = Reply::to(frame, flow, service);
        let found = self.replies.entry(way_back).or_insert(reply);
        if found.source != dialled {
            return Err(Reason::NatConflict);
        }
        found.ethernet = reply.ethernet;
        found.note(tcp_flags(frame, flow), CLIENT);
        Ok(rewrite(frame, flow, ethernet, [client, backend]))
    }

    /// `fullnat`: the member that the flow stays with, by index. A flow whose
    /// member is dead or another's begins anew, and so does one whose
    /// connection is closed, with a SYN.
    pub fn member_of(
        &mut self,
        frame: &[u8],
        flow: &Flow,
        service: ServiceId,
        members: &[Member],
    ) -> Option<u16> {
        let request = *self.requests.get(&ends(flow))?;
        let reply = self.replies.get_mut(&request.way_back(flow.protocol))?;
        let this = Reply::to(frame, flow, service);
        let flags = tcp_flags(frame, flow);
        let opens = flags & (SYN | ACK) == SYN;
        let is_same = (reply.source, reply.destination) == (this.source, this.destination);
        let member = members.get(usize::from(request.member))?;
        let is_alive = member.kind != Member::NONE && member.flags & Member::ALIVE != 0;
        if request.service != service
            || !is_same
            || opens && reply.is_closed()
            || !is_alive
            || member.incarnation != request.incarnation
        {
            return None;
        }
        reply.ethernet = this.ethernet;
        reply.note(flags, CLIENT);
        Some(request.member)
    }

    /// `fullnat`: the member of a flow that there is, by index.
    pub fn known(&self, flow: &Flow, service: ServiceId, members: &[Member]) -> Option<u16> {
        let request = self.requests.get(&ends(flow))?;
        let reply = self.replies.get(&request.way_back(flow.protocol))?;
        let Ends {
            source,
            destination,
            ..
        } = ends(flow);
        let is_same = (reply.source, reply.destination) == (destination, source);
        let member = members.get(usize::from(request.member))?;
        let is_alive = member.kind != Member::NONE && member.flags & Member::ALIVE != 0;
        let is_its = request.service == service && member.incarnation == request.incarnation;
        (is_same && is_alive && is_its).then_some(request.member)
    }

    /// An error about what the flow's client sent, as the client gets it.
    ///
    /// # Errors
    /// When the TTL has run out.
    ///
    /// # Panics
    /// When the flow is not translated.
    pub fn error_reply(&self, frame: &[u8], told: &Told) -> Result<Vec<u8>, Reason> {
        check_ttl(&told.flow)?;
        let reply = self.replies[&ends(&told.flow)];
        let ends = [reply.source, reply.destination];
        Ok(rewrite_error(frame, told, reply.ethernet, ends))
    }

    /// Between whom the packets of a flow go on, of a client to this member.
    pub fn error_ends(&self, flow: &Flow, member: &Member) -> [SocketAddr; 2] {
        match self.requests.get(&ends(flow)) {
            Some(request) if member.kind == Member::FULLNAT => [request.source, request.backend],
            _ => [ends(flow).source, backend(member, ends(flow).destination)],
        }
    }

    /// `fullnat`: the packet as the member gets it, after [`Table::member_of`].
    ///
    /// # Errors
    /// When the flow is new and no port is found for it.
    pub fn full_request(
        &mut self,
        frame: &[u8],
        flow: &Flow,
        (service, settings): (ServiceId, &NatSettings),
        (index, member): (u16, &Member),
        (ethernet, is_known): ([u8; 12], bool),
    ) -> Result<Vec<u8>, Reason> {
        if !is_known {
            let mut request = Request {
                source: ends(flow).destination,
                backend: backend(member, ends(flow).destination),
                service,
                member: index,
                incarnation: member.incarnation,
            };
            self.find_port(flow, settings, &mut request)?;
            let mut reply = Reply::to(frame, flow, service);
            reply.note(tcp_flags(frame, flow), CLIENT);
            self.replies.insert(request.way_back(flow.protocol), reply);
            self.requests.insert(ends(flow), request);
        }
        let request = self.requests[&ends(flow)];
        Ok(rewrite(
            frame,
            flow,
            ethernet,
            [request.source, request.backend],
        ))
    }

    /// The first CPU's ports come first; each with every address in turn.
    fn find_port(
        &mut self,
        flow: &Flow,
        settings: &NatSettings,
        request: &mut Request,
    ) -> Result<(), Reason> {
        let family = usize::from(flow.destination.is_ipv6());
        let addresses = u64::from(settings.source_counts[family]);
        let cpus = possible_cpus().expect("the machine has CPUs");
        let ports = u64::from(settings.port_count / cpus);
        if addresses * ports == 0 {
            return Err(Reason::PortsExhausted);
        }
        for _ in 0..TRIES {
            let at = self.looked_at[family] % (addresses * ports);
            self.looked_at[family] += 1;
            let octets = settings.sources[family][(at % addresses) as usize];
            let address = address(&octets, flow.destination.is_ipv4());
            let port = u64::from(settings.first_port) + at / addresses;
            request.source = SocketAddr::new(address, port as u16);
            if !self.replies.contains_key(&request.way_back(flow.protocol)) {
                return Ok(());
            }
        }
        Err(Reason::PortsExhausted)
    }
}

impl Request {
    fn way_back(&self, protocol: u8) -> Ends {
        Ends {
            source: self.backend,
            destination: self.source,
            protocol,
        }
    }
}

const CLIENT: usize = 0;
const BACKEND: usize = 1;

impl Reply {
    /// The way back of the flow that a request is of.
    fn to(frame: &[u8], flow: &Flow, service: ServiceId) -> Self {
        Self {
            source: ends(flow).destination,
            destination: ends(flow).source,
            service,
            ethernet: turned(frame),
            finished: [false; 2],
            is_reset: false,
        }
    }

    /// A client's SYN opens the connection again.
    fn note(&mut self, flags: u8, side: usize) {
        if side == CLIENT && flags & (SYN | ACK) == SYN {
            self.finished = [false; 2];
            self.is_reset = false;
        }
        self.finished[side] |= flags & FIN != 0;
        self.is_reset |= flags & RST != 0;
    }

    fn is_closed(&self) -> bool {
        self.finished == [true; 2] || self.is_reset
    }
}

/// None, for UDP and for a later fragment, which has no header.
fn tcp_flags(frame: &[u8], flow: &Flow) -> u8 {
    if flow.protocol == TCP && !matches!(flow.part, Part::Later(_)) {
        frame[flow.ip_at + flow.header_len + 13]
    } else {
        0
    }
}

/// A router lowers the TTL, and forwards nothing that would have none left
/// (RFC 1812, 5.3.1; RFC 8200, 3).
///
/// # Errors
/// When it would have none left.
pub fn check_ttl(flow: &Flow) -> Result<(), Reason> {
    match flow.ttl {
        0 | 1 => Err(Reason::TtlExpired),
        _ => Ok(()),
    }
}

fn ends(flow: &Flow) -> Ends {
    Ends {
        source: SocketAddr::new(flow.source, flow.ports[0]),
        destination: SocketAddr::new(flow.destination, flow.ports[1]),
        protocol: flow.protocol,
    }
}

fn backend(member: &Member, dialled: SocketAddr) -> SocketAddr {
    let address = address(&member.outer_destination, dialled.is_ipv4());
    match u16::from_be_bytes(member.port) {
        0 => SocketAddr::new(address, dialled.port()),
        port => SocketAddr::new(address, port),
    }
}

fn address(octets: &[u8; 16], is_v4: bool) -> IpAddr {
    if is_v4 {
        let octets: [u8; 4] = *octets.first_chunk().expect("of sixteen");
        return octets.into();
    }
    (*octets).into()
}

/// Both Ethernet addresses of an answer to the frame.
fn turned(frame: &[u8]) -> [u8; 12] {
    let mut ethernet = [0; 12];
    ethernet[..6].copy_from_slice(&frame[6..12]);
    ethernet[6..].copy_from_slice(&frame[..6]);
    ethernet
}
