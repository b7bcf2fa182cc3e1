//! Reads plain frames: untagged, IPv4 without options or IPv6 without
//! extension headers, whole, TCP or UDP, or an ICMP error about one. Every
//! offset is a constant there, so that the kernel program has little to do
//! for nearly every packet.
//!
//! What is read is what [`crate::unusual`] and [`crate::icmp_error`] read of
//! the same frame; what is not plain is left to them, with `None`. Written
//! into a place of the caller's: a value would be copied on its way, in words
//! that hold several fields each.

use crate::icmp::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::icmp_error::{
    ICMP_LEN, LEAST_QUOTED, PARAMETER_PROBLEM_V4, PARAMETER_PROBLEM_V6, TIME_EXCEEDED_V4,
    TIME_EXCEEDED_V6, TOO_BIG_V6, UNREACHABLE_V4, UNREACHABLE_V6, reversed,
};
use crate::parse::{
    ETHERNET_LEN, Frame, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Part, field,
    fixed_ipv4_into, fixed_ipv6_into,
};

/// Version 4, five words.
const FIRST_V4: u8 = 0x45;

/// Reads TCP or UDP over IPv4 (RFC 791).
#[inline(always)]
pub fn ipv4(frame: &(impl Frame + ?Sized), packet: &mut Packet<[u8; 4]>) -> Option<()> {
    let ip: &[u8; IPV4_LEN + 4] = frame.view(ETHERNET_LEN)?;
    if ip[0] != FIRST_V4 || !has_ports(ip[9]) || is_fragment(ip) {
        return None;
    }
    fixed_ipv4_into(ip.first_chunk()?, ETHERNET_LEN, IPV4_LEN as u32, packet);
    packet.ports = field(ip, IPV4_LEN);
    Some(())
}

/// Reads TCP or UDP over IPv6 (RFC 8200).
#[inline(always)]
pub fn ipv6(frame: &(impl Frame + ?Sized), packet: &mut Packet<[u8; 16]>) -> Option<()> {
    let ip: &[u8; IPV6_LEN + 4] = frame.view(ETHERNET_LEN)?;
    if ip[0] >> 4 != 6 || !has_ports(ip[6]) {
        return None;
    }
    fixed_ipv6_into(ip.first_chunk()?, ETHERNET_LEN, IPV6_LEN as u32, packet);
    packet.ports = field(ip, IPV6_LEN);
    Some(())
}

/// Reads an error about what was sent to a client as what the client would
/// send in its place (RFC 792).
#[inline(always)]
pub fn error_v4(frame: &(impl Frame + ?Sized), packet: &mut Packet<[u8; 4]>) -> Option<()> {
    const QUOTED_AT: usize = ETHERNET_LEN + IPV4_LEN + ICMP_LEN;
    const QUOTED_LEN: usize = IPV4_LEN + LEAST_QUOTED;
    let ip: &[u8; IPV4_LEN + 1] = frame.view(ETHERNET_LEN)?;
    let is_error = matches!(
        ip[IPV4_LEN],
        UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_PROBLEM_V4
    );
    if ip[9] != PROTOCOL_ICMP || !is_error || ip[0] != FIRST_V4 || is_fragment(ip) {
        return None;
    }
    let quoted: &[u8; QUOTED_LEN] = frame.view(QUOTED_AT)?;
    // A first fragment tells its flow, too.
    let is_later = u16::from_ne_bytes(field(quoted, 6)) & 0x1fff_u16.to_be() != 0;
    if quoted[0] != FIRST_V4 || !has_ports(quoted[9]) || is_later {
        return None;
    }
    fixed_ipv4_into(ip.first_chunk()?, ETHERNET_LEN, IPV4_LEN as u32, packet);
    let service: [u8; 4] = field(quoted, 12);
    let is_whole = packet.ip_len as usize >= IPV4_LEN + ICMP_LEN + QUOTED_LEN;
    if !is_whole || u32::from_ne_bytes(service) != u32::from_ne_bytes(packet.destination) {
        return None;
    }
    packet.source = field(quoted, 16);
    packet.ports = reversed(field(quoted, IPV4_LEN));
    packet.protocol = quoted[9];
    packet.part = Part::Error;
    Some(())
}

/// As [`error_v4`], of ICMPv6 (RFC 4443).
#[inline(always)]
pub fn error_v6(frame: &(impl Frame + ?Sized), packet: &mut Packet<[u8; 16]>) -> Option<()> {
    const QUOTED_AT: usize = ETHERNET_LEN + IPV6_LEN + ICMP_LEN;
    const QUOTED_LEN: usize = IPV6_LEN + LEAST_QUOTED;
    let ip: &[u8; IPV6_LEN + 1] = frame.view(ETHERNET_LEN)?;
    let is_error = matches!(
        ip[IPV6_LEN],
        TOO_BIG_V6 | UNREACHABLE_V6 | TIME_EXCEEDED_V6 | PARAMETER_PROBLEM_V6
    );
    if ip[6] != PROTOCOL_ICMPV6 || !is_error || ip[0] >> 4 != 6 {
        return None;
    }
    let quoted: &[u8; QUOTED_LEN] = frame.view(QUOTED_AT)?;
    if quoted[0] >> 4 != 6 || !has_ports(quoted[6]) {
        return None;
    }
    fixed_ipv6_into(ip.first_chunk()?, ETHERNET_LEN, IPV6_LEN as u32, packet);
    let service: [u8; 16] = field(quoted, 8);
    let is_whole = packet.ip_len as usize >= IPV6_LEN + ICMP_LEN + QUOTED_LEN;
    if !is_whole || u128::from_ne_bytes(service) != u128::from_ne_bytes(packet.destination) {
        return None;
    }
    packet.source = field(quoted, 24);
    packet.ports = reversed(field(quoted, IPV6_LEN));
    packet.protocol = quoted[6];
    packet.part = Part::Error;
    Some(())
}

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP
}

/// Thirteen bits of offset; the bit before them is "more fragments". Read as
/// one word, not byte by byte.
#[inline(always)]
fn is_fragment(ip: &[u8]) -> bool {
    u16::from_ne_bytes(field(ip, 6)) & 0x3fff_u16.to_be() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};
    use crate::unusual::{self, Unusual};
    use std::vec;
    use std::vec::Vec;

    fn tcp_v4() -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        [frame[14], frame[17], frame[22], frame[23]] = [0x45, 40, 64, PROTOCOL_TCP];
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 1]);
        frame[34..38].copy_from_slice(&[0x12, 0x34, 0, 80]);
        frame
    }

    fn udp_v6() -> Vec<u8> {
        let mut frame = vec![0; 62];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV6);
        [frame[14], frame[19], frame[20], frame[21]] = [0x6a, 8, PROTOCOL_UDP, 64];
        [frame[37], frame[53], frame[54]] = [1, 2, 7];
        frame
    }

    /// An error from a router about what 192.0.2.1:80 sent to 10.0.0.1:4660.
    fn error() -> Vec<u8> {
        let mut frame = vec![0; 70];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        [frame[14], frame[17], frame[22], frame[23]] = [0x45, 56, 64, PROTOCOL_ICMP];
        frame[26..34].copy_from_slice(&[198, 51, 100, 9, 192, 0, 2, 1]);
        [frame[34], frame[35]] = [UNREACHABLE_V4, 1];
        [frame[42], frame[51]] = [0x45, PROTOCOL_TCP];
        frame[54..62].copy_from_slice(&[192, 0, 2, 1, 10, 0, 0, 1]);
        frame[62..66].copy_from_slice(&[0, 80, 0x12, 0x34]);
        frame
    }

    #[test]
    fn plain_packet_is_read_as_any_other() {
        let mut packet = Packet::EMPTY;
        assert_eq!(ipv4(tcp_v4().as_slice(), &mut packet), Some(()));
        let read = unusual::ipv4(tcp_v4().as_slice(), ETHERNET_LEN);
        assert_eq!(read, Ok(Unusual::Packet(packet)));
        let mut packet = Packet::EMPTY;
        assert_eq!(ipv6(udp_v6().as_slice(), &mut packet), Some(()));
        let read = unusual::ipv6(udp_v6().as_slice(), ETHERNET_LEN);
        assert_eq!(read, Ok(Unusual::Packet(packet)));
    }

    #[test]
    fn error_is_read_as_what_the_client_would_send() {
        let mut packet = Packet::EMPTY;
        assert_eq!(error_v4(error().as_slice(), &mut packet), Some(()));
        assert_eq!(packet.source, [10, 0, 0, 1]);
        assert_eq!(packet.destination, [192, 0, 2, 1]);
        assert_eq!(packet.ports, [0x12, 0x34, 0, 80]);
        assert!(packet.is_error());
    }

    #[test]
    fn what_is_not_plain_is_left() {
        let changed = |mut frame: Vec<u8>, at: usize, value| {
            frame[at] = value;
            frame
        };
        let mut packet = Packet::EMPTY;
        for (at, value) in [(14, 0x46), (14, 0x65), (20, 0x20), (21, 1), (23, 1)] {
            let frame = changed(tcp_v4(), at, value);
            assert_eq!(ipv4(frame.as_slice(), &mut packet), None, "byte {at}");
        }
        let changes = [
            (14, 0x46),
            (17, 55),
            (21, 1),
            (33, 2),
            (34, 8),
            (42, 0x46),
            (49, 1),
            (51, 1),
        ];
        for (at, value) in changes {
            let frame = changed(error(), at, value);
            assert_eq!(error_v4(frame.as_slice(), &mut packet), None, "byte {at}");
        }
        let frame = changed(udp_v6(), 20, 44);
        let mut packet = Packet::EMPTY;
        assert_eq!(ipv6(frame.as_slice(), &mut packet), None);
    }
}
