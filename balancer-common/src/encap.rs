//! Outer headers of the tunnel modes.
//!
//! DSCP and ECN are copied to the outer header (RFC 6040, normal mode). IPv4
//! is sent with DF and identification 0, as RFC 6864 allows for packets that
//! are never fragmented. The checksum of the outer IPv4 header is a sum of
//! constants that the controller makes once ([`outer_sum`]) and the two
//! words that vary. IPv6 carries the flow's hash as its label (RFC 6438), so
//! that routers spread flows of one tunnel.

use crate::checksum;
use crate::layout::Member;
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN};

/// TTL or hop limit of outer headers.
pub const OUTER_TTL: u8 = 64;

/// Bytes that a member's kind puts before a packet.
#[inline(always)]
pub const fn overhead(kind: u8) -> u32 {
    match kind {
        Member::IPIP_V4 => IPV4_LEN as u32,
        Member::IPIP_V6 => IPV6_LEN as u32,
        _ => 0,
    }
}

/// EtherType of an outer header.
#[inline(always)]
pub const fn ethertype(kind: u8) -> [u8; 2] {
    match kind {
        Member::IPIP_V6 => ETHERTYPE_IPV6,
        _ => ETHERTYPE_IPV4,
    }
}

/// Folded sum of the outer IPv4 header without type of service and length.
pub fn outer_sum(source: [u8; 4], destination: [u8; 4], protocol: u8) -> u16 {
    let constants = [0x45, 0, 0x40, 0, OUTER_TTL, protocol];
    checksum::fold(checksum::sum(&constants) + checksum::sum(&source) + checksum::sum(&destination))
}

/// The outer IPv4 header of a packet of `inner_len` bytes.
///
/// `inner_len` plus the header must fit 16 bits: the MTU check before says so.
#[inline(always)]
pub fn outer_ipv4(
    member: &Member,
    traffic_class: u8,
    inner_len: u32,
    protocol: u8,
) -> [u8; IPV4_LEN] {
    let total_len = (inner_len + IPV4_LEN as u32) as u16;
    let sum = u32::from(member.outer_sum) + u32::from(traffic_class) + u32::from(total_len);
    let [check_high, check_low] = checksum::finish(sum).to_be_bytes();
    let [len_high, len_low] = total_len.to_be_bytes();
    let [a, b, c, d, ..] = member.outer_source;
    let [e, f, g, h, ..] = member.outer_destination;
    [
        0x45,
        traffic_class,
        len_high,
        len_low,
        0,
        0,
        0x40,
        0,
        OUTER_TTL,
        protocol,
        check_high,
        check_low,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
    ]
}

/// The first eight bytes of the outer IPv6 header; the member's two
/// addresses follow.
#[inline(always)]
pub fn outer_ipv6(traffic_class: u8, inner_len: u32, next_header: u8, hash: u64) -> [u8; 8] {
    let first = 6 << 28 | u32::from(traffic_class) << 20 | hash as u32 & 0x000f_ffff;
    let [a, b, c, d] = first.to_be_bytes();
    let [len_high, len_low] = (inner_len as u16).to_be_bytes();
    [a, b, c, d, len_high, len_low, next_header, OUTER_TTL]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::PROTOCOL_IPIP;
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn outer_checksum_is_the_full_one(
            source: [u8; 4], destination: [u8; 4], traffic_class: u8, inner_len in 20u32..65_000
        ) {
            let mut member = Member::zeroed();
            member.outer_source[..4].copy_from_slice(&source);
            member.outer_destination[..4].copy_from_slice(&destination);
            member.outer_sum = outer_sum(source, destination, PROTOCOL_IPIP);
            let header = outer_ipv4(&member, traffic_class, inner_len, PROTOCOL_IPIP);
            prop_assert_eq!(checksum::fold(checksum::sum(&header)), 0xffff);
        }
    }

    #[test]
    fn ipv6_header_holds_class_label_and_length() {
        assert_eq!(
            outer_ipv6(0xab, 0x1234, 41, 0xffff_ffff_fff5_4321),
            [0x6a, 0xb5, 0x43, 0x21, 0x12, 0x34, 41, 64]
        );
    }
}
