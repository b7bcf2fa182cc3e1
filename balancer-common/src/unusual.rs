//! Reads IP packets of all kinds: with options or extension headers, behind
//! tags, in fragments, and ICMP.
//!
//! At most [`MAX_EXTENSIONS`] extension headers are stepped over (RFC 8200,
//! 4): hop-by-hop options where they come first, destination options, a
//! routing header that has no segment left, one fragment header. What is
//! behind another header, encrypted or of unknown length, is the stack's.
//!
//! Pure, like [`crate::parse`], and like its first step this one fails only
//! with reasons that let the packet pass.

use crate::hash::Address;
use crate::icmp::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::layout::FragmentKey;
use crate::parse::{
    Frame, IPV4_LEN, IPV6_LEN, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Part, field, fixed_ipv4,
    fixed_ipv6,
};
use crate::verdict::Reason;

/// Extension headers before TCP, UDP or ICMPv6 that are stepped over.
pub const MAX_EXTENSIONS: usize = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers come in units of eight bytes, and none is shorter.
const UNIT: u32 = 8;
/// More fragments: in IPv4's word of flags and offset.
const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;
/// The last bit of the fragment header's second word.
const MORE_V6: u16 = 1;
const OFFSET_V6: u16 = 0xfff8;

/// A packet read as far as it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusual<A> {
    /// TCP or UDP, ports and all.
    Packet(Packet<A>),
    /// ICMP or ICMPv6 of that family, whole: `ports` are zero.
    Icmp(Packet<A>),
    /// A later fragment, and its identification: `ports` are zero until
    /// somebody knows them, and `protocol` is what its own header claims.
    Later(Packet<A>, u32),
}

/// What the extension headers of a packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// What follows them.
    pub protocol: u8,
    /// Bytes of the IPv6 header and all of them.
    pub len: u32,
    /// Whether it is one of several fragments, and which.
    pub fragment: Fragment,
}

/// How a packet stands to fragmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// Not at all, or an atomic fragment (RFC 6946).
    None,
    /// The first of several, with its identification as in the packet.
    First(u32),
    /// Another one.
    Later(u32),
}

/// Key under which the fragments of one packet find each other.
#[inline(always)]
pub fn fragment_key<A: Address>(
    source: A,
    destination: A,
    protocol: u8,
    identification: u32,
) -> FragmentKey {
    // RFC 8200, 4.5: the next header of IPv6 fragments may differ, so it is
    // no part of the key.
    let protocol = if size_of::<A>() == 4 {
        protocol
    } else {
        FRAGMENT
    };
    FragmentKey {
        source: source.padded(),
        destination: destination.padded(),
        identification: identification.to_ne_bytes(),
        protocol: u32::from(protocol),
    }
}

/// Reads an IPv4 packet (RFC 791); options are skipped.
#[inline(always)]
pub fn ipv4(frame: &(impl Frame + ?Sized), ip_at: usize) -> Result<Unusual<[u8; 4]>, Reason> {
    let ip: &[u8; IPV4_LEN] = frame.view(ip_at).ok_or(Reason::Truncated)?;
    let header_len = u32::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header_len < IPV4_LEN as u32 {
        return Err(Reason::BadIpHeader);
    }
    let mut packet = fixed_ipv4(ip, ip_at, header_len);
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    let identification = u32::from_ne_bytes([ip[4], ip[5], 0, 0]);
    match packet.protocol {
        PROTOCOL_TCP | PROTOCOL_UDP if fragment & OFFSET_V4 != 0 => {
            Ok(Unusual::Later(packet, identification))
        }
        PROTOCOL_TCP | PROTOCOL_UDP => {
            let at = ip_at + header_len as usize;
            packet.ports = frame.bytes(at).ok_or(Reason::Truncated)?;
            if fragment & MORE_V4 != 0 {
                packet.part = Part::First(identification);
            }
            Ok(Unusual::Packet(packet))
        }
        PROTOCOL_ICMP if fragment & (MORE_V4 | OFFSET_V4) == 0 => Ok(Unusual::Icmp(packet)),
        _ => Err(Reason::NotTcpUdp),
    }
}

/// Reads an IPv6 packet (RFC 8200).
#[inline(always)]
pub fn ipv6(frame: &(impl Frame + ?Sized), ip_at: usize) -> Result<Unusual<[u8; 16]>, Reason> {
    let ip: &[u8; IPV6_LEN] = frame.view(ip_at).ok_or(Reason::Truncated)?;
    if ip[0] >> 4 != 6 {
        return Err(Reason::BadIpHeader);
    }
    let chain = chain(frame, ip_at, ip[6])?;
    let mut packet = fixed_ipv6(ip, ip_at, chain.len);
    packet.protocol = chain.protocol;
    match (chain.fragment, chain.protocol) {
        // What else is in fragments is the stack's, first ones and later ones.
        (
            Fragment::Later(identification),
            PROTOCOL_TCP | PROTOCOL_UDP | ROUTING | DESTINATION_OPTIONS,
        ) => Ok(Unusual::Later(packet, identification)),
        (Fragment::Later(_), _) => Err(Reason::NotTcpUdp),
        (fragment, PROTOCOL_TCP | PROTOCOL_UDP) => {
            let at = ip_at + chain.len as usize;
            packet.ports = frame.bytes(at).ok_or(Reason::Truncated)?;
            if let Fragment::First(identification) = fragment {
                packet.part = Part::First(identification);
            }
            Ok(Unusual::Packet(packet))
        }
        (Fragment::None, PROTOCOL_ICMPV6) => Ok(Unusual::Icmp(packet)),
        _ => Err(Reason::NotTcpUdp),
    }
}

/// Steps over the extension headers of the IPv6 header at `ip_at`, whose next
/// header is `first`. Behind a later fragment's header there is no other.
#[inline(always)]
pub fn chain(frame: &(impl Frame + ?Sized), ip_at: usize, first: u8) -> Result<Chain, Reason> {
    let mut chain = Chain {
        protocol: first,
        len: IPV6_LEN as u32,
        fragment: Fragment::None,
    };
    let mut has_fragment = false;
    for index in 0..MAX_EXTENSIONS {
        let is_fragment = chain.protocol == FRAGMENT && !has_fragment;
        let steps_over = match chain.protocol {
            HOP_BY_HOP => index == 0,
            ROUTING | DESTINATION_OPTIONS => true,
            _ => is_fragment,
        };
        if !steps_over {
            return Ok(chain);
        }
        let at = ip_at + chain.len as usize;
        let header: [u8; 8] = frame.bytes(at).ok_or(Reason::Truncated)?;
        if chain.protocol == ROUTING && header[3] != 0 {
            return Err(Reason::SourceRouted);
        }
        chain.protocol = header[0];
        if !is_fragment {
            chain.len += (u32::from(header[1]) + 1) * UNIT;
            continue;
        }
        has_fragment = true;
        chain.len += UNIT;
        let identification = u32::from_ne_bytes(field(&header, 4));
        let place = u16::from_be_bytes([header[2], header[3]]);
        if place & OFFSET_V6 != 0 {
            chain.fragment = Fragment::Later(identification);
            return Ok(chain);
        }
        if place & MORE_V6 != 0 {
            chain.fragment = Fragment::First(identification);
        }
    }
    match chain.protocol {
        ROUTING | FRAGMENT | DESTINATION_OPTIONS => Err(Reason::TooManyExtensions),
        _ => Ok(chain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// An IPv6 header, these headers behind it, and eight bytes of UDP.
    fn packet(first: u8, headers: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; IPV6_LEN];
        bytes[0] = 0x60;
        bytes[6] = first;
        bytes.extend(headers.concat());
        bytes.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        bytes
    }

    const OPTIONS_TO_UDP: [u8; 8] = [17, 0, 1, 4, 0, 0, 0, 0];

    #[test]
    fn headers_of_any_length_are_stepped_over() {
        let mut long = vec![17; 24];
        long[..4].copy_from_slice(&[43, 2, 1, 20]);
        let routing = [17, 0, 0, 0, 0, 0, 0, 0];
        let bytes = packet(0, &[&long, &routing]);
        let Ok(Unusual::Packet(read)) = ipv6(bytes.as_slice(), 0) else {
            panic!("{:?}", ipv6(bytes.as_slice(), 0));
        };
        assert_eq!((read.header_len, read.protocol), (72, 17));
        assert_eq!(read.ports, [0x12, 0x34, 0, 53]);
        assert_eq!(read.part, Part::Whole);
    }

    #[test]
    fn fragment_header_tells_first_from_later_and_atomic() {
        let cases = [
            ([17, 0, 0, 0, 1, 2, 3, 4], Fragment::None),
            ([17, 0, 0, 1, 1, 2, 3, 4], Fragment::First(0x0403_0201)),
            ([17, 0, 0, 8, 1, 2, 3, 4], Fragment::Later(0x0403_0201)),
            // The two bits between offset and flag are reserved.
            ([17, 0, 0, 6, 1, 2, 3, 4], Fragment::None),
        ];
        for (header, fragment) in cases {
            let bytes = packet(FRAGMENT, &[&header]);
            let chain = chain(bytes.as_slice(), 0, FRAGMENT).unwrap();
            let fragment = match fragment {
                Fragment::First(_) => Fragment::First(u32::from_ne_bytes([1, 2, 3, 4])),
                Fragment::Later(_) => Fragment::Later(u32::from_ne_bytes([1, 2, 3, 4])),
                Fragment::None => Fragment::None,
            };
            assert_eq!((chain.fragment, chain.len), (fragment, 48));
        }
    }

    #[test]
    fn what_cannot_be_stepped_over_passes_by_name() {
        let more = [60, 0, 1, 4, 0, 0, 0, 0];
        let cases: &[(u8, &[&[u8]], Reason)] = &[
            (43, &[&[17, 0, 0, 1, 0, 0, 0, 0]], Reason::SourceRouted),
            (60, &[&more, &more, &more, &more], Reason::TooManyExtensions),
            (60, &[&[0, 0, 1, 4, 0, 0, 0, 0]], Reason::NotTcpUdp),
            (51, &[&OPTIONS_TO_UDP], Reason::NotTcpUdp),
            (
                44,
                &[&[44, 0, 0, 0, 0, 0, 0, 1], &OPTIONS_TO_UDP],
                Reason::NotTcpUdp,
            ),
            (44, &[&[58, 0, 0, 1, 0, 0, 0, 1]], Reason::NotTcpUdp),
        ];
        for (first, headers, reason) in cases {
            let bytes = packet(*first, headers);
            assert_eq!(ipv6(bytes.as_slice(), 0), Err(*reason), "{headers:x?}");
        }
        let bytes = packet(60, &[&more, &more, &more, &OPTIONS_TO_UDP]);
        assert!(matches!(ipv6(bytes.as_slice(), 0), Ok(Unusual::Packet(_))));
        assert_eq!(ipv6(&bytes[..60], 0), Err(Reason::Truncated));
    }

    #[test]
    fn key_of_ipv6_fragments_leaves_the_next_header_out() {
        let read = |claimed| {
            let bytes = packet(44, &[&[claimed, 0, 0, 8, 1, 2, 3, 4]]);
            match ipv6(bytes.as_slice(), 0) {
                Ok(Unusual::Later(read, id)) => {
                    fragment_key(read.source, read.destination, read.protocol, id)
                }

                other => panic!("{other:?}"),
            }
        };
        assert_eq!(read(17), read(60));
    }
}
