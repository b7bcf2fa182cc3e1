//! Frames of synthetic flows, and their checksums.
//!
//! They are plain: no tags, no IP options, nothing in fragments. Checksums
//! are made by a full sum, where the program brings them up to date.

use std::net::IpAddr;

use balancer_common::checksum;
use balancer_common::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP,
};

use super::flows::Flow;
use crate::config::model::Protocol;

/// Where the frames say that they come to, and from.
const ETHERNET: [u8; 12] = [2, 0, 0x5e, 0x10, 0, 1, 2, 0, 0x5e, 0x10, 0, 2];
const TTL: u8 = 64;
/// What SYNs announce, on Ethernet.
const MSS: u16 = 1460;
const SYN: u8 = 0x02;
const PSH_ACK: u8 = 0x18;
/// No frame of ours is shorter.
pub(super) const LEAST_LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// What a flow sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first packet of a TCP connection.
    Syn,
    /// A later one.
    Segment,
    /// A UDP packet.
    Datagram,
}

impl Kind {
    /// In a difference.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Segment => "segment",
            Self::Datagram => "datagram",
        }
    }
}

/// A frame of the flow with this payload; a SYN has none.
pub(crate) fn build(flow: &Flow, kind: Kind, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ETHERNET.to_vec();
    let transport = match kind {
        Kind::Syn => tcp(flow, SYN, &syn_options(), &[]),
        Kind::Segment => tcp(flow, PSH_ACK, &[], payload),
        Kind::Datagram => udp(flow, payload),
    };
    let protocol = match flow.protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
    };
    match (flow.client.ip(), flow.service.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend(ETHERTYPE_IPV4);
            let len = (IPV4_LEN + transport.len()) as u16;
            frame.extend([0x45, traffic_class]);
            frame.extend(len.to_be_bytes());
            frame.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => {
            frame.extend(ETHERTYPE_IPV6);
            frame.extend((0x6000_0000 | u32::from(traffic_class) << 20).to_be_bytes());
            frame.extend((transport.len() as u16).to_be_bytes());
            frame.extend([protocol, TTL]);
            frame.extend(octets(source));
            frame.extend(octets(destination));
        }
    }
    frame.extend(transport);
    seal(&mut frame);
    frame
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn syn_options() -> [u8; 4] {
    let [high, low] = MSS.to_be_bytes();
    [2, 4, high, low]
}

fn tcp(flow: &Flow, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(TCP_LEN + options.len() + payload.len());
    header.extend(flow.client.port().to_be_bytes());
    header.extend(flow.service.port().to_be_bytes());
    header.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    let words = ((TCP_LEN + options.len()) / 4) as u8;
    header.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header.extend(options);
    header.extend(payload);
    header
}

fn udp(flow: &Flow, payload: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(UDP_LEN + payload.len());
    header.extend(flow.client.port().to_be_bytes());
    header.extend(flow.service.port().to_be_bytes());
    header.extend(((UDP_LEN + payload.len()) as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(payload);
    header
}

/// Whether a frame of ours is IPv4.
pub(super) fn is_v4(frame: &[u8]) -> bool {
    frame[ETHERNET_LEN] >> 4 == 4
}

/// Where the transport header of a frame of ours begins.
pub(super) fn transport_at(frame: &[u8]) -> usize {
    ETHERNET_LEN + if is_v4(frame) { IPV4_LEN } else { IPV6_LEN }
}

/// Lowers the MSS of a SYN of ours.
pub(super) fn clamp_mss(frame: &mut [u8], limit: u16) {
    let at = transport_at(frame) + TCP_LEN + 2;
    let mss = MSS.min(limit).to_be_bytes();
    frame[at..at + 2].copy_from_slice(&mss);
    seal(frame);
}

/// Makes the checksums of a frame of ours anew.
pub(super) fn seal(frame: &mut [u8]) {
    let transport_at = transport_at(frame);
    let (protocol, addresses) = if is_v4(frame) {
        frame[24..26].fill(0);
        let header = checksum::finish(checksum::sum(&frame[ETHERNET_LEN..transport_at]));
        frame[24..26].copy_from_slice(&header.to_be_bytes());
        (frame[23], checksum::sum(&frame[26..34]))
    } else {
        (frame[20], checksum::sum(&frame[22..54]))
    };
    let at = transport_at + if protocol == PROTOCOL_TCP { 16 } else { 6 };
    frame[at..at + 2].fill(0);
    let transport = &frame[transport_at..];
    let pseudo = addresses + u32::from(protocol) + transport.len() as u32;
    let mut check = checksum::finish(pseudo + checksum::sum(transport));
    if check == 0 && protocol == PROTOCOL_UDP {
        check = 0xffff;
    }
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: &str, service: &str, protocol: Protocol) -> Flow {
        Flow {
            client: client.parse().unwrap(),
            service: service.parse().unwrap(),
            protocol,
        }
    }

    #[test]
    fn frame_has_the_checksums_that_a_receiver_sums_to_ones() {
        let flow = flow("203.0.113.1:40000", "192.0.2.1:80", Protocol::Tcp);
        let frame = build(&flow, Kind::Syn, 0, &[]);
        let ip = &frame[ETHERNET_LEN..];
        assert_eq!(checksum::fold(checksum::sum(&ip[..20])), 0xffff);
        let pseudo = checksum::sum(&ip[12..20]) + 6 + (ip.len() - 20) as u32;
        assert_eq!(checksum::fold(pseudo + checksum::sum(&ip[20..])), 0xffff);
        assert_eq!(ip[32] >> 4, 6, "six words of TCP header");
        assert_eq!(ip[40..], [2, 4, 0x05, 0xb4]);
    }

    #[test]
    fn lower_mss_leaves_a_right_checksum() {
        let flow = flow("[2001:db8::1]:40000", "[2001:db8::2]:80", Protocol::Tcp);
        let mut frame = build(&flow, Kind::Syn, 0xb8, &[]);
        clamp_mss(&mut frame, 1200);
        let ip = &frame[ETHERNET_LEN..];
        assert_eq!(ip[..2], [0x6b, 0x80]);
        assert_eq!(ip[62..64], 1200_u16.to_be_bytes());
        let pseudo = checksum::sum(&ip[8..40]) + 6 + 24;
        assert_eq!(checksum::fold(pseudo + checksum::sum(&ip[40..])), 0xffff);
        let before = frame.clone();
        clamp_mss(&mut frame, 9000);
        assert_ne!(frame, before, "a limit above it leaves what was announced");
    }
}
