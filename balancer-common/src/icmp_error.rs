//! Reads ICMP errors: what they say, and the packet that they quote.
//!
//! Errors are destination unreachable, packet too big, time exceeded and
//! parameter problem (RFC 792, RFC 4443). Eight bytes behind the quoted IP
//! header are enough to tell a flow; with fewer, or where a later fragment is
//! quoted, there is none. Checksums are not looked at: who gets the error
//! checks its own, and one that is made of it is right if that was.
//!
//! Pure, like [`crate::parse`].

use crate::icmp::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::parse::{
    Frame, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Part, field, fixed_ipv4_into,
    fixed_ipv6_into,
};
use crate::unusual::{Fragment, chain};

/// Bytes of an ICMP header.
pub const ICMP_LEN: usize = 8;

/// What is quoted of a transport header at least.
pub(crate) const LEAST_QUOTED: usize = 8;
/// Where a router names no MTU (RFC 1191, 5): all hosts take that much.
const UNNAMED_MTU: u32 = 576;

pub(crate) const UNREACHABLE_V4: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
pub(crate) const TIME_EXCEEDED_V4: u8 = 11;
pub(crate) const PARAMETER_PROBLEM_V4: u8 = 12;
pub(crate) const UNREACHABLE_V6: u8 = 1;
pub(crate) const TOO_BIG_V6: u8 = 2;
pub(crate) const TIME_EXCEEDED_V6: u8 = 3;
pub(crate) const PARAMETER_PROBLEM_V6: u8 = 4;

/// The packet that an error quotes, as far as it has to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<A> {
    /// Source address, network order.
    pub source: A,
    /// Destination address, network order.
    pub destination: A,
    /// The first four bytes behind its headers: ports of TCP and UDP.
    pub ports: [u8; 4],
    /// IP protocol number of what is behind its headers.
    pub protocol: u8,
    /// Where that begins in the frame.
    pub transport_at: usize,
}

impl<A> Quoted<A> {
    /// Whether it has ports.
    #[inline(always)]
    pub fn is_tcp_or_udp(&self) -> bool {
        matches!(self.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
    }
}

/// Reads the ICMP error in a frame whose IPv4 header begins at `ip_at`, ports
/// zero. Gives what fits, if it says that a packet was too big, or 0; `None`,
/// and nothing written, if it is no error.
#[inline(always)]
pub fn v4_into(
    frame: &(impl Frame + ?Sized),
    ip_at: usize,
    packet: &mut Packet<[u8; 4]>,
) -> Option<u32> {
    let ip: &[u8; IPV4_LEN] = frame.view(ip_at)?;
    let header_len = header_len_v4(ip[0])?;
    // A fragment, the first one too, is the stack's.
    if ip[9] != PROTOCOL_ICMP || u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 {
        return None;
    }
    let icmp: [u8; ICMP_LEN] = frame.bytes(ip_at + header_len as usize)?;
    let mtu = match (icmp[0], icmp[1]) {
        (UNREACHABLE_V4, FRAGMENTATION_NEEDED) => {
            match u32::from(u16::from_be_bytes([icmp[6], icmp[7]])) {
                0 => UNNAMED_MTU,
                mtu => mtu,
            }
        }
        (UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_PROBLEM_V4, _) => 0,
        _ => return None,
    };
    fixed_ipv4_into(ip, ip_at, header_len, packet);
    packet.part = Part::Error;
    Some(mtu)
}

/// As [`v4_into`], for ICMPv6.
#[inline(always)]
pub fn v6_into(
    frame: &(impl Frame + ?Sized),
    ip_at: usize,
    packet: &mut Packet<[u8; 16]>,
) -> Option<u32> {
    let ip: &[u8; IPV6_LEN] = frame.view(ip_at)?;
    let chain = chain(frame, ip_at, ip[6]).ok()?;
    if ip[0] >> 4 != 6 || chain.protocol != PROTOCOL_ICMPV6 || chain.fragment != Fragment::None {
        return None;
    }
    let icmp: [u8; ICMP_LEN] = frame.bytes(ip_at + chain.len as usize)?;
    let mtu = match icmp[0] {
        TOO_BIG_V6 => match u32::from_be_bytes(field(&icmp, 4)) {
            0 => UNNAMED_MTU,
            mtu => mtu,
        },
        UNREACHABLE_V6 | TIME_EXCEEDED_V6 | PARAMETER_PROBLEM_V6 => 0,
        _ => return None,
    };
    fixed_ipv6_into(ip, ip_at, chain.len, packet);
    packet.part = Part::Error;
    Some(mtu)
}

/// The ports of a flow's other direction.
#[inline(always)]
pub const fn reversed([a, b, c, d]: [u8; 4]) -> [u8; 4] {
    [c, d, a, b]
}

/// The IPv4 packet that is quoted at `at`, in a packet that ends at `end`.
#[inline(always)]
pub fn quoted_v4(frame: &(impl Frame + ?Sized), at: usize, end: usize) -> Option<Quoted<[u8; 4]>> {
    let ip: &[u8; IPV4_LEN] = frame.view(at)?;
    let transport_at = at + header_len_v4(ip[0])? as usize;
    let is_later = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0;
    if is_later || transport_at + LEAST_QUOTED > end {
        return None;
    }
    let behind: [u8; LEAST_QUOTED] = frame.bytes(transport_at)?;
    Some(Quoted {
        source: field(ip, 12),
        destination: field(ip, 16),
        ports: field(&behind, 0),
        protocol: ip[9],
        transport_at,
    })
}

/// As [`quoted_v4`], for IPv6, with extension headers.
#[inline(always)]
pub fn quoted_v6(frame: &(impl Frame + ?Sized), at: usize, end: usize) -> Option<Quoted<[u8; 16]>> {
    let ip: &[u8; IPV6_LEN] = frame.view(at)?;
    let chain = chain(frame, at, ip[6]).ok()?;
    let transport_at = at + chain.len as usize;
    let is_later = matches!(chain.fragment, Fragment::Later(_));
    if ip[0] >> 4 != 6 || is_later || transport_at + LEAST_QUOTED > end {
        return None;
    }
    let behind: [u8; LEAST_QUOTED] = frame.bytes(transport_at)?;
    Some(Quoted {
        source: field(ip, 8),
        destination: field(ip, 24),
        ports: field(&behind, 0),
        protocol: chain.protocol,
        transport_at,
    })
}

#[inline(always)]
fn header_len_v4(first: u8) -> Option<u32> {
    let len = u32::from(first & 0x0f) * 4;
    (first >> 4 == 4 && len >= IPV4_LEN as u32).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// "Fragmentation needed", MTU 1400, with eight quoted bytes of TCP.
    fn error_v4() -> Vec<u8> {
        let mut bytes = vec![0; 20 + 8 + 20 + 8];
        [bytes[0], bytes[3], bytes[8], bytes[9]] = [0x45, 56, 60, 1];
        bytes[12..20].copy_from_slice(&[10, 0, 0, 9, 192, 0, 2, 1]);
        [bytes[20], bytes[21], bytes[26], bytes[27]] = [3, 4, 5, 0x78];
        [bytes[28], bytes[37]] = [0x45, 6];
        bytes[40..48].copy_from_slice(&[192, 0, 2, 1, 10, 0, 0, 1]);
        bytes[48..52].copy_from_slice(&[0, 80, 0x12, 0x34]);
        bytes
    }

    #[test]
    fn eight_bytes_tell_the_quoted_flow() {
        let bytes = error_v4();
        let mut packet = Packet::EMPTY;
        let mtu = v4_into(bytes.as_slice(), 0, &mut packet);
        assert_eq!((mtu, packet.ip_len), (Some(1400), 56));
        let quoted = quoted_v4(bytes.as_slice(), 28, 56).unwrap();
        assert_eq!(quoted.source, [192, 0, 2, 1]);
        assert_eq!(quoted.destination, [10, 0, 0, 1]);
        assert_eq!(quoted.ports, [0, 80, 0x12, 0x34]);
        assert!(quoted.is_tcp_or_udp());
        assert_eq!(quoted_v4(bytes.as_slice(), 28, 55), None, "seven do not");
    }

    #[test]
    fn what_is_no_error_or_quotes_no_ports_is_told() {
        let of = |at: usize, value: u8| {
            let mut bytes = error_v4();
            bytes[at] = value;
            let mut packet = Packet::EMPTY;
            let mtu = v4_into(bytes.as_slice(), 0, &mut packet);
            (mtu, quoted_v4(bytes.as_slice(), 28, 56).is_some())
        };
        assert_eq!(of(21, 1), (Some(0), true));
        assert_eq!(of(20, 11), (Some(0), true));
        assert_eq!(of(20, 4), (None, true), "source quench");
        assert_eq!(of(20, 5), (None, true), "redirect");
        assert_eq!(of(6, 0x20), (None, true), "a fragment");
        assert_eq!(of(35, 1), (Some(1400), false), "a later fragment is quoted");
        assert_eq!(of(28, 0x44), (Some(1400), false));
        let (mut bytes, mut packet) = (error_v4(), Packet::EMPTY);
        bytes[26..28].fill(0);
        assert_eq!(v4_into(bytes.as_slice(), 0, &mut packet), Some(576));
    }

    #[test]
    fn quoted_extension_headers_are_stepped_over() {
        let mut bytes = vec![0; 40 + 8 + 8];
        [bytes[0], bytes[6], bytes[40]] = [0x60, 60, 17];
        bytes[48..52].copy_from_slice(&[0, 53, 0x12, 0x34]);
        let quoted = quoted_v6(bytes.as_slice(), 0, 56).unwrap();
        assert_eq!((quoted.protocol, quoted.transport_at), (17, 48));
        assert_eq!(quoted.ports, [0, 53, 0x12, 0x34]);
    }
}
