//! Probes as bytes, and answers read from bytes. Pure.
//!
//! A probe of a backend is put into the member's headers by the functions
//! that the kernel program itself calls.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::checksum;
use balancer_common::encap;
use balancer_common::layout::Member;
use balancer_common::parse::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_IPIP, PROTOCOL_IPV6, PROTOCOL_TCP, PROTOCOL_UDP,
};

use crate::config::model::Mac;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const TTL: u8 = 64;
/// RFC 4861, 7.1: neighbour discovery is from the link itself.
const LINK_TTL: u8 = 255;
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const BROADCAST: [u8; 6] = [0xff; 6];

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// What a SYN offers: Ethernet's usual.
const MSS: [u8; 4] = [2, 4, 0x05, 0xb4];

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;

/// What tells one probe of a backend from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    /// An address of this host.
    pub(super) source: IpAddr,
    /// The service's address, of the same family.
    pub(super) destination: IpAddr,
    pub(super) mark: Mark,
}

/// The part of a probe that its answer brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mark {
    /// A SYN.
    Tcp {
        source_port: u16,
        destination_port: u16,
        sequence: u32,
    },
    /// An echo request.
    Echo { identifier: u16, sequence: u16 },
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// The service's address.
    pub(super) source: IpAddr,
    /// Of the probe.
    pub(super) mark: Mark,
    pub(super) kind: AnswerKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerKind {
    /// The connection or the echo is taken; with the segment size that the
    /// server announces.
    Taken { mss: Option<u16> },
    /// A reset.
    Refused,
}

impl Probe {
    /// The packet that asks.
    pub(super) fn request(&self) -> Vec<u8> {
        match self.mark {
            Mark::Tcp { sequence, .. } => self.segment(sequence, SYN, &MSS),
            Mark::Echo {
                identifier,
                sequence,
            } => {
                let kind = match self.destination {
                    IpAddr::V4(_) => ECHO_REQUEST,
                    IpAddr::V6(_) => ECHO_REQUEST_V6,
                };
                let mut icmp = vec![kind, 0, 0, 0];
                icmp.extend(identifier.to_be_bytes());
                icmp.extend(sequence.to_be_bytes());
                self.packet(icmp_protocol(self.destination), TTL, icmp, 2)
            }
        }
    }

    /// The packet that ends what a SYN began.
    pub(super) fn reset(&self) -> Option<Vec<u8>> {
        match self.mark {
            Mark::Tcp { sequence, .. } => Some(self.segment(sequence.wrapping_add(1), RST, &[])),
            Mark::Echo { .. } => None,
        }
    }

    fn segment(&self, sequence: u32, flags: u8, options: &[u8]) -> Vec<u8> {
        let Mark::Tcp {
            source_port,
            destination_port,
            ..
        } = self.mark
        else {
            return Vec::new();
        };
        let words = 5 + options.len() as u8 / 4;
        let mut tcp = Vec::with_capacity(20 + options.len());
        tcp.extend(source_port.to_be_bytes());
        tcp.extend(destination_port.to_be_bytes());
        tcp.extend(sequence.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend([words << 4, flags]);
        tcp.extend(0xffff_u16.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        self.packet(PROTOCOL_TCP, TTL, tcp, 16)
    }

    /// Sets the checksum that stands at `sum_at` of the payload, and puts an
    /// IP header before it.
    fn packet(&self, protocol: u8, ttl: u8, mut payload: Vec<u8>, sum_at: usize) -> Vec<u8> {
        let len = payload.len() as u16;
        let mut sum = checksum::sum(&payload);
        if protocol != PROTOCOL_ICMP {
            sum += u32::from(protocol) + u32::from(len);
            sum += address_sum(self.source) + address_sum(self.destination);
        }
        payload[sum_at..sum_at + 2].copy_from_slice(&checksum::finish(sum).to_be_bytes());
        let mut packet = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header_v4(source, destination, protocol, ttl, len)
            }
            _ => header_v6(self.source, self.destination, protocol, ttl, len),
        };
        packet.extend(payload);
        packet
    }
}

fn icmp_protocol(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => PROTOCOL_ICMP,
        IpAddr::V6(_) => PROTOCOL_ICMPV6,
    }
}

fn address_sum(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => checksum::sum(&address.octets()),
        IpAddr::V6(address) => checksum::sum(&address.octets()),
    }
}

fn header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, ttl: u8, len: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + len).to_be_bytes());
    // Identification 0, not to be fragmented (RFC 6864).
    header.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum::finish(checksum::sum(&header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header_v6(source: IpAddr, destination: IpAddr, protocol: u8, ttl: u8, len: u16) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V6(address) => Ipv6Addr::octets(&address),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
    };
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(len.to_be_bytes());
    header.extend([protocol, ttl]);
    header.extend(octets(source));
    header.extend(octets(destination));
    header
}

/// The frame in which the balancer would send `packet` to a resolved member
/// of a mode without translation.
pub(super) fn to_member(member: &Member, packet: &[u8], hash: u64) -> Vec<u8> {
    let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let len = packet.len() as u32;
    let (inner, own_type) = match is_v6 {
        true => (PROTOCOL_IPV6, ETHERTYPE_IPV6),
        false => (PROTOCOL_IPIP, ETHERTYPE_IPV4),
    };
    let mut outer = Vec::new();
    let ethertype = match member.kind {
        Member::IPIP_V4 => {
            let header = encap::outer_ipv4(member, 0, len, inner, hash);
            outer.extend(header.as_flattened());
            ETHERTYPE_IPV4
        }
        Member::GUE_V4 => {
            let len = len + encap::UDP_LEN as u32;
            let header = encap::outer_ipv4(member, 0, len, PROTOCOL_UDP, hash);
            outer.extend(header.as_flattened());
            outer.extend(encap::gue(member, packet.len() as u32, hash));
            ETHERTYPE_IPV4
        }
        Member::IPIP_V6 => {
            push_outer_v6(&mut outer, member, len, inner, hash);
            ETHERTYPE_IPV6
        }
        Member::GUE_V6 => {
            let outer_len = len + encap::UDP_LEN as u32;
            push_outer_v6(&mut outer, member, outer_len, PROTOCOL_UDP, hash);
            outer.extend(encap::gue(member, len, hash));
            ETHERTYPE_IPV6
        }
        _ => own_type,
    };
    let mut frame = member.ethernet.to_vec();
    frame.extend(ethertype);
    frame.extend(outer);
    frame.extend(packet);
    frame
}

fn push_outer_v6(outer: &mut Vec<u8>, member: &Member, len: u32, next: u8, hash: u64) {
    outer.extend(encap::outer_ipv6(0, len, next, hash));
    let source = encap::outer_source_v6(member, hash);
    outer.extend(source.iter().flat_map(|half| half.to_ne_bytes()));
    outer.extend(member.outer_destination);
}

/// What an IP packet answers to a probe, if it is an answer.
pub(super) fn answer(packet: &[u8]) -> Option<Answer> {
    let (source, protocol, payload) = split(packet)?;
    let at = |place: usize| {
        Some(u16::from_be_bytes([
            *payload.get(place)?,
            *payload.get(place + 1)?,
        ]))
    };
    if protocol == PROTOCOL_TCP {
        let flags = *payload.get(13)?;
        let acknowledged = u32::from(at(8)?) << 16 | u32::from(at(10)?);
        let kind = match flags & (SYN | RST | ACK) {
            both if both == SYN | ACK => AnswerKind::Taken { mss: mss(payload) },
            both if both == RST | ACK => AnswerKind::Refused,
            _ => return None,
        };
        let mark = Mark::Tcp {
            source_port: at(2)?,
            destination_port: at(0)?,
            sequence: acknowledged.wrapping_sub(1),
        };
        return Some(Answer { source, mark, kind });
    }
    let is_reply = matches!(
        (protocol, payload.first()?),
        (PROTOCOL_ICMP, &ECHO_REPLY) | (PROTOCOL_ICMPV6, &ECHO_REPLY_V6)
    );
    is_reply.then_some(Answer {
        source,
        mark: Mark::Echo {
            identifier: at(4)?,
            sequence: at(6)?,
        },
        kind: AnswerKind::Taken { mss: None },
    })
}

/// Source, protocol and payload of an IP packet; extension headers are not
/// stepped over, as no stack puts them before an answer.
fn split(packet: &[u8]) -> Option<(IpAddr, u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let header_len = usize::from(packet[0] & 0xf) * 4;
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            Some((source.into(), *packet.get(9)?, packet.get(header_len..)?))
        }
        6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            Some((source.into(), *packet.get(6)?, packet.get(40..)?))
        }
        _ => None,
    }
}

/// The largest segment that the sender of a SYN takes (RFC 9293, 3.2).
fn mss(segment: &[u8]) -> Option<u16> {
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    let mut options = segment.get(20..header_len)?;
    loop {
        match options {
            [1, rest @ ..] => options = rest,
            [2, 4, high, low, ..] => return Some(u16::from_be_bytes([*high, *low])),
            [kind, len, ..] if *kind > 1 && *len > 1 => {
                options = options.get(usize::from(*len)..)?;
            }
            _ => return None,
        }
    }
}

/// The frame that asks who has an IPv4 address, without an address of its own
/// that somebody could learn (RFC 5227, 2.1.1).
pub(super) fn arp_probe(own: Mac, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = BROADCAST.to_vec();
    frame.extend(own.0);
    frame.extend(ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths 6 and 4, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own.0);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

/// The frame that asks who has an IPv6 address (RFC 4861, 4.3). It has the
/// link's own source, so that it ends nobody's duplicate address detection.
pub(super) fn solicitation(own: Mac, source: Ipv6Addr, wanted: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = wanted.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(wanted.octets());
    icmp.extend([SOURCE_OPTION, 1]);
    icmp.extend(own.0);
    let ends = Probe {
        source: source.into(),
        destination: group.into(),
        mark: Mark::Echo {
            identifier: 0,
            sequence: 0,
        },
    };
    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend(own.0);
    frame.extend(ETHERTYPE_IPV6);
    frame.extend(ends.packet(PROTOCOL_ICMPV6, LINK_TTL, icmp, 2));
    frame
}

/// Who says in an ARP packet that an address is its own.
pub(super) fn arp_claim(packet: &[u8]) -> Option<(IpAddr, Mac)> {
    if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac: [u8; 6] = packet.get(8..14)?.try_into().ok()?;
    let address: [u8; 4] = packet.get(14..18)?.try_into().ok()?;
    Some((address.into(), Mac(mac)))
}

/// Who says in a neighbour advertisement that an address is its own.
pub(super) fn advertised(packet: &[u8]) -> Option<(IpAddr, Mac)> {
    let (_, protocol, payload) = split(packet)?;
    // RFC 4861, 7.1.2: from another link it counts for nothing.
    let is_from_link = *packet.get(7)? == LINK_TTL;
    if protocol != PROTOCOL_ICMPV6 || *payload.first()? != ADVERTISEMENT || !is_from_link {
        return None;
    }
    let target: [u8; 16] = payload.get(8..24)?.try_into().ok()?;
    let mut options = payload.get(24..)?;
    loop {
        match options {
            [TARGET_OPTION, 1, mac @ ..] => {
                let mac: [u8; 6] = mac.get(..6)?.try_into().ok()?;
                return Some((target.into(), Mac(mac)));
            }
            [_, len, ..] if *len > 0 => options = options.get(usize::from(*len) * 8..)?,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
