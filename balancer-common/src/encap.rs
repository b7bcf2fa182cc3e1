//! Outer headers of the tunnel modes.
//!
//! DSCP and ECN are copied to the outer header (RFC 6040, normal mode). IPv4
//! is sent with DF and identification 0, as RFC 6864 allows for packets that
//! are never fragmented. The checksum of the outer IPv4 header is a sum of
//! constants that the controller makes once ([`outer_sum`]) and the two
//! words that vary. IPv6 carries the flow's hash as its label (RFC 6438), so
//! that routers spread flows of one tunnel.
//!
//! GUE (draft-ietf-intarea-gue) is sent in variant 1, where the packet
//! stands behind the UDP header at once. Its source port comes from the
//! flow's hash (RFC 7510, section 3 does the same); the UDP checksum is zero,
//! as the packet inside has its own (RFC 6935, RFC 6936).
//!
//! Where the outer source is a prefix, the hash also fills its low bits
//! ([`Member::spread_bits`]), for receivers that spread by addresses alone.

use crate::checksum;
use crate::layout::Member;
use crate::parse::{IPV4_LEN, IPV6_LEN, field};

/// TTL or hop limit of outer headers.
pub const OUTER_TTL: u8 = 64;

/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// GUE source ports are this and 14 bits of the hash: the dynamic range.
const SOURCE_PORTS: u16 = 0xc000;
/// An IPv4 header's second word: identification 0, DF, no offset.
const DONT_FRAGMENT: u32 = 0x4000;

/// Bytes that a member's kind puts before a packet.
#[inline(always)]
pub const fn overhead(kind: u8) -> u32 {
    match kind {
        Member::IPIP_V4 => IPV4_LEN as u32,
        Member::IPIP_V6 => IPV6_LEN as u32,
        Member::GUE_V4 => (IPV4_LEN + UDP_LEN) as u32,
        Member::GUE_V6 => (IPV6_LEN + UDP_LEN) as u32,
        _ => 0,
    }
}

/// Folded sum of the outer IPv4 header without type of service and length.
pub fn outer_sum(source: [u8; 4], destination: [u8; 4], protocol: u8) -> u16 {
    let constants = [0x45, 0, 0x40, 0, OUTER_TTL, protocol];
    checksum::fold(checksum::sum(&constants) + checksum::sum(&source) + checksum::sum(&destination))
}

/// What the flow's hash adds to the outer source, in its low 32 bits.
#[inline(always)]
fn spread(member: &Member, hash: u64) -> u32 {
    hash as u32 & ((1u64 << (member.spread_bits & 63)) - 1) as u32
}

/// The outer IPv4 header before `inner_len` bytes, in words: one store each.
///
/// `inner_len` plus the header must fit 16 bits: the MTU check before says so.
#[inline(always)]
pub fn outer_ipv4(
    member: &Member,
    traffic_class: u8,
    inner_len: u32,
    protocol: u8,
    hash: u64,
) -> [[u8; 4]; IPV4_LEN / 4] {
    let total_len = inner_len + IPV4_LEN as u32;
    let spread = spread(member, hash);
    let sum = u32::from(member.outer_sum)
        + u32::from(traffic_class)
        + total_len
        + (spread >> 16)
        + (spread & 0xffff);
    let first = 0x45 << 24 | u32::from(traffic_class) << 16 | total_len & 0xffff;
    let third =
        u32::from(OUTER_TTL) << 24 | u32::from(protocol) << 16 | u32::from(checksum::finish(sum));
    [
        first.to_be_bytes(),
        DONT_FRAGMENT.to_be_bytes(),
        third.to_be_bytes(),
        outer_source_v4(member, hash),
        field(&member.outer_destination, 0),
    ]
}

/// The outer IPv4 source address.
#[inline(always)]
pub fn outer_source_v4(member: &Member, hash: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = member.outer_source;
    (u32::from_be_bytes([a, b, c, d]) | spread(member, hash)).to_be_bytes()
}

/// The outer IPv6 source address: its halves, in memory order. Bytes that are
/// put into a copy on the stack would be waited for when it is read by words.
#[inline(always)]
pub fn outer_source_v6(member: &Member, hash: u64) -> [u64; 2] {
    let high = u64::from_ne_bytes(field(&member.outer_source, 0));
    let low = u64::from_ne_bytes(field(&member.outer_source, 8));
    [high, low | u64::from(spread(member, hash)).to_be()]
}

/// The UDP header of GUE before `inner_len` bytes.
#[inline(always)]
pub fn gue(member: &Member, inner_len: u32, hash: u64) -> [u8; UDP_LEN] {
    let source = SOURCE_PORTS | hash as u16 & !SOURCE_PORTS;
    let port = u16::from_be_bytes(member.port);
    let len = (inner_len + UDP_LEN as u32) as u16;
    (u64::from(source) << 48 | u64::from(port) << 32 | u64::from(len) << 16).to_be_bytes()
}

/// The first eight bytes of the outer IPv6 header; the member's two
/// addresses follow.
#[inline(always)]
pub fn outer_ipv6(traffic_class: u8, inner_len: u32, next_header: u8, hash: u64) -> [u8; 8] {
    let first = 6 << 28 | u32::from(traffic_class) << 20 | hash as u32 & 0x000f_ffff;
    let second = (inner_len & 0xffff) << 16 | u32::from(next_header) << 8 | u32::from(OUTER_TTL);
    (u64::from(first) << 32 | u64::from(second)).to_be_bytes()
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
            source: u32,
            destination: [u8; 4],
            traffic_class: u8,
            inner_len in 20u32..65_000,
            spread_bits in 0u8..=32,
            hash: u64,
        ) {
            let fixed = !(((1u64 << spread_bits) - 1) as u32);
            let source = (source & fixed).to_be_bytes();
            let mut member = Member::zeroed();
            member.outer_source[..4].copy_from_slice(&source);
            member.outer_destination[..4].copy_from_slice(&destination);
            member.outer_sum = outer_sum(source, destination, PROTOCOL_IPIP);
            member.spread_bits = spread_bits;
            let header = outer_ipv4(&member, traffic_class, inner_len, PROTOCOL_IPIP, hash);
            prop_assert_eq!(checksum::fold(checksum::sum(header.as_flattened())), 0xffff);
            let sent = u32::from_be_bytes(header[3]);
            prop_assert_eq!(sent & fixed, u32::from_be_bytes(source));
            prop_assert_eq!(sent & !fixed, hash as u32 & !fixed);
        }
    }

    #[test]
    fn ipv6_header_holds_class_label_and_length() {
        assert_eq!(
            outer_ipv6(0xab, 0x1234, 41, 0xffff_ffff_fff5_4321),
            [0x6a, 0xb5, 0x43, 0x21, 0x12, 0x34, 41, 64]
        );
    }

    #[test]
    fn gue_header_takes_its_source_port_from_the_hash() {
        let mut member = Member::zeroed();
        member.port = 6080u16.to_be_bytes();
        assert_eq!(
            gue(&member, 40, 0xffff_ffff_ffff_0123),
            [0xc1, 0x23, 0x17, 0xc0, 0, 48, 0, 0]
        );
    }

    #[test]
    fn prefix_of_an_ipv6_source_is_filled_from_its_end() {
        let mut member = Member::zeroed();
        member.outer_source[0] = 0xfd;
        member.spread_bits = 16;
        let [high, low] = outer_source_v6(&member, 0xaaaa_bbbb_cccc_dddd).map(u64::to_ne_bytes);
        assert_eq!(high[..2], [0xfd, 0]);
        assert_eq!(low, [0, 0, 0, 0, 0, 0, 0xdd, 0xdd]);
    }
}
