//! The model's translations: rewritten packets, and the way back.
//!
//! Time stands still here: a translation is never silent for long enough to
//! be over. What becomes of those that are has tests of its own.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use balancer_common::layout::Member;
use balancer_common::verdict::Reason;
use balancer_user::dataplane::ServiceId;

use super::forward::ones_complement_sum;
use super::parse::{Flow, Part};

const TCP: u8 = 6;

/// A packet by its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ends {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
}

/// What a backend's packet becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reply {
    source: SocketAddr,
    destination: SocketAddr,
    service: ServiceId,
    ethernet: [u8; 12],
}

/// All translations.
#[derive(Debug, Clone, Default)]
pub struct Table {
    replies: HashMap<Ends, Reply>,
}

impl Table {
    /// How many translations there are.
    pub fn len(&self) -> usize {
        self.replies.len()
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
    pub fn reply(&self, frame: &[u8], flow: &Flow) -> Result<Vec<u8>, Reason> {
        check_ttl(flow)?;
        let reply = self.replies[&ends(flow)];
        let ends = [reply.source, reply.destination];
        Ok(rewrite(frame, flow, reply.ethernet, ends))
    }

    /// `nat`: the packet as the member gets it, from the client itself. A
    /// backend cannot tell two flows of one client's port from each other, so
    /// the first one keeps it.
    ///
    /// # Errors
    /// When the TTL has run out, then when another flow has the member.
    pub fn request(
        &mut self,
        frame: &[u8],
        flow: &Flow,
        service: ServiceId,
        member: &Member,
        ethernet: [u8; 12],
    ) -> Result<Vec<u8>, Reason> {
        check_ttl(flow)?;
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
        let reply = Reply {
            source: dialled,
            destination: client,
            service,
            ethernet: turned(frame),
        };
        let found = self.replies.entry(way_back).or_insert(reply);
        if found.source != dialled {
            return Err(Reason::NatConflict);
        }
        found.ethernet = reply.ethernet;
        Ok(rewrite(frame, flow, ethernet, [client, backend]))
    }
}

/// A router lowers the TTL, and forwards nothing that would have none left
/// (RFC 1812, 5.3.1; RFC 8200, 3).
fn check_ttl(flow: &Flow) -> Result<(), Reason> {
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
    let address: IpAddr = if dialled.is_ipv4() {
        let octets: [u8; 4] = *member.outer_destination.first_chunk().expect("of sixteen");
        octets.into()
    } else {
        member.outer_destination.into()
    };
    match u16::from_be_bytes(member.port) {
        0 => SocketAddr::new(address, dialled.port()),
        port => SocketAddr::new(address, port),
    }
}

/// Both Ethernet addresses of an answer to the frame.
fn turned(frame: &[u8]) -> [u8; 12] {
    let mut ethernet = [0; 12];
    ethernet[..6].copy_from_slice(&frame[6..12]);
    ethernet[6..].copy_from_slice(&frame[..6]);
    ethernet
}

/// The frame with other ends. Checksums that were wrong stay as wrong: each
/// is changed by what its words have changed by (RFC 1624).
fn rewrite(frame: &[u8], flow: &Flow, ethernet: [u8; 12], ends: [SocketAddr; 2]) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..12].copy_from_slice(&ethernet);
    let (ip, transport) = (flow.ip_at, flow.ip_at + flow.header_len);
    let addresses: Vec<u8> = ends.iter().flat_map(|end| octets(end.ip())).collect();
    let ports = ends.map(|end| end.port().to_be_bytes()).concat();
    let checksum_at = transport + if flow.protocol == TCP { 16 } else { 6 };
    let addresses_at = if flow.destination.is_ipv4() {
        out[ip + 8] -= 1;
        out[ip + 12..ip + 20].copy_from_slice(&addresses);
        let (old, new) = (&frame[ip + 8..ip + 20], out[ip + 8..ip + 20].to_vec());
        // The checksum itself, at 2, is no part of what it sums.
        let words = |bytes: &[u8]| [&bytes[..2], &bytes[4..]].concat();
        adjust(&mut out, ip + 10, &words(old), &words(&new));
        ip + 12
    } else {
        out[ip + 7] -= 1;
        out[ip + 8..ip + 40].copy_from_slice(&addresses);
        ip + 8
    };
    // What a later fragment begins with is in the middle of something.
    if let Part::Later(_) = flow.part {
        return out;
    }
    out[transport..transport + 4].copy_from_slice(&ports);
    let old_addresses = &frame[addresses_at..addresses_at + addresses.len()];
    let old = [old_addresses, &frame[transport..transport + 4]].concat();
    let new = [addresses, ports].concat();
    let is_summed = flow.protocol == TCP || out[checksum_at..checksum_at + 2] != [0, 0];
    if is_summed {
        adjust(&mut out, checksum_at, &old, &new);
    }
    // RFC 768: a sum of zero is sent as ones, as zero says that there is none.
    if is_summed && flow.protocol != TCP && out[checksum_at..checksum_at + 2] == [0, 0] {
        out[checksum_at..checksum_at + 2].copy_from_slice(&[0xff, 0xff]);
    }
    out
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The field's sum, less the old words, plus the new ones.
fn adjust(out: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let mut words = vec![!out[at], !out[at + 1]];
    words.extend(old.iter().map(|byte| !byte));
    words.extend(new);
    let check = !ones_complement_sum(&words);
    out[at..at + 2].copy_from_slice(&check.to_be_bytes());
}
