//! ICMP errors that tell a client what fits: "fragmentation needed" (RFC 792
//! with RFC 1191) and ICMPv6 "packet too big" (RFC 4443, 3.2), from the
//! service's address.
//!
//! An error quotes a fixed length, the most that the RFCs allow: 576 bytes in
//! all for IPv4 (RFC 1812, 4.3.2.3), 1,280 for IPv6 (RFC 4443, 2.4). Shorter
//! packets are not answered: no way that is to carry IP is so narrow.
//! Pure; who calls brings the quote's checksum.

use crate::checksum;
use crate::icmp::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::parse::{IPV4_LEN, IPV6_LEN};

/// Bytes of an ICMP header.
pub const ICMP_LEN: usize = 8;
/// Bytes that an ICMP error quotes.
pub const QUOTE_V4: usize = 576 - IPV4_LEN - ICMP_LEN;
/// Bytes that an ICMPv6 error quotes.
pub const QUOTE_V6: usize = 1280 - IPV6_LEN - ICMP_LEN;
/// No IPv4 host has to take an MTU below (RFC 791).
const LEAST_MTU_V4: u32 = 68;
/// No IPv6 link has an MTU below (RFC 8200, 5).
const LEAST_MTU_V6: u32 = 1280;

/// Nanoseconds between two errors that a CPU sends, on average: 10,000 a
/// second. RFC 4443, 2.4 (f), asks for a limit.
const INTERVAL_NS: u64 = 100_000;
/// How far ahead of that a CPU may be: 1,000 errors at once.
const BURST_NS: u64 = 100_000_000;

const TTL: u8 = 64;
/// Precedence of internetwork control (RFC 1812, 4.3.2.5).
const CONTROL: u8 = 0xc0;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;

/// When the next error is due on a CPU on which one was due at `due_ns`, if
/// one may be sent now.
#[inline(always)]
pub fn spend(due_ns: u64, now_ns: u64) -> Option<u64> {
    let due_ns = if due_ns > now_ns { due_ns } else { now_ns };
    (due_ns - now_ns < BURST_NS).then_some(due_ns + INTERVAL_NS)
}

/// Whether an error may be sent to a client with this address: one that names
/// a single host (RFC 1122, 3.2.2).
#[inline(always)]
pub fn is_host_v4(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

/// As [`is_host_v4`] (RFC 4443, 2.4 (e)).
#[inline(always)]
pub fn is_host_v6(address: [u8; 16]) -> bool {
    address[0] != 0xff && u128::from_be_bytes(address) > 1
}

/// IPv4 and ICMP header of an error from `service` to `client` that quotes
/// `quote_len` bytes with this sum of their words, in words of four bytes as
/// they lie in the packet. `identification` is the quoted packet's: it varies,
/// and the error may be fragmented on its way.
#[inline(always)]
pub fn v4(
    service: [u8; 4],
    client: [u8; 4],
    mtu: u32,
    identification: [u8; 2],
    quote_len: u32,
    quote_sum: u16,
) -> [u32; 7] {
    const KIND: u32 = (UNREACHABLE as u32) << 24 | (FRAGMENTATION_NEEDED as u32) << 16;
    let mtu = clamp(mtu, LEAST_MTU_V4, u16::MAX as u32);
    let icmp = KIND | u32::from(finish([KIND, mtu, u32::from(quote_sum)]));

    let len = quote_len + (IPV4_LEN + ICMP_LEN) as u32;
    let first = 0x45 << 24 | u32::from(CONTROL) << 16 | len;
    let second = u32::from(u16::from_be_bytes(identification)) << 16;
    let third = u32::from(TTL) << 24 | u32::from(PROTOCOL_ICMP) << 16;
    let [from, to] = [service, client].map(u32::from_be_bytes);
    let third = third | u32::from(finish([first, second, third, from, to]));
    [first, second, third, from, to, icmp, mtu].map(u32::to_be)
}

/// As [`v4`]: two words before the two addresses, and two behind them.
#[inline(always)]
pub fn v6(
    service: [u8; 16],
    client: [u8; 16],
    mtu: u32,
    quote_len: u32,
    quote_sum: u16,
) -> ([u32; 2], [u32; 2]) {
    const KIND: u32 = (PACKET_TOO_BIG as u32) << 24;
    let mtu = clamp(mtu, LEAST_MTU_V6, u32::MAX);
    let len = quote_len + ICMP_LEN as u32;
    // RFC 8200, 8.1: the pseudo-header counts too.
    let [a, b, c, d] = words(service);
    let [e, f, g, h] = words(client);
    let pseudo = [len, u32::from(PROTOCOL_ICMPV6)];
    let sum = [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        pseudo[0],
        pseudo[1],
        KIND,
        mtu,
        u32::from(quote_sum),
    ];
    let icmp = KIND | u32::from(finish(sum));
    let second = len << 16 | u32::from(PROTOCOL_ICMPV6) << 8 | u32::from(TTL);
    (
        [6 << 28, second].map(u32::to_be),
        [icmp, mtu].map(u32::to_be),
    )
}

#[inline(always)]
fn words(address: [u8; 16]) -> [u32; 4] {
    let address = u128::from_be_bytes(address);
    [address >> 96, address >> 64, address >> 32, address].map(|word| word as u32)
}

/// The checksum over words of four bytes: each counts as its two halves.
#[inline(always)]
fn finish<const N: usize>(words: [u32; N]) -> u16 {
    let mut sum = 0u64;
    for word in words {
        sum += u64::from(word);
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    checksum::finish((sum & 0xffff) as u32 + (sum >> 16) as u32)
}

/// [`Ord::clamp`] without its panic.
#[inline(always)]
fn clamp(value: u32, least: u32, most: u32) -> u32 {
    if value < least {
        least
    } else if value > most {
        most
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn a_thousand_errors_may_go_at_once_and_then_one_an_interval() {
        let now = 1_000_000_000_000;
        let mut due = 0;
        let sent = std::iter::from_fn(|| {
            due = spend(due, now)?;
            Some(())
        });
        assert_eq!(sent.count(), 1000);
        assert_eq!(spend(due, now), None);
        let due = spend(due, now + INTERVAL_NS).unwrap();
        assert_eq!(spend(due, now + INTERVAL_NS), None);
        // A quiet second is not saved up.
        assert_eq!(spend(due, 2 * now), Some(2 * now + INTERVAL_NS));
    }

    #[test]
    fn no_error_goes_to_an_address_that_is_no_single_hosts() {
        for first in [0, 127, 224, 239, 255] {
            assert!(!is_host_v4([first, 0, 0, 1]));
        }
        assert!(is_host_v4([10, 0, 0, 1]) && is_host_v4([223, 1, 2, 3]));
        let of = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        for none in ["::", "::1", "ff02::1"] {
            assert!(!is_host_v6(of(none)), "{none}");
        }
        assert!(is_host_v6(of("2001:db8::1")) && is_host_v6(of("fe80::1")));
    }

    proptest! {
        #[test]
        fn both_checksums_of_ipv4_are_the_full_ones(
            service: [u8; 4], client: [u8; 4], mtu in 0u32..70_000, id: [u8; 2], quote: [u8; 32]
        ) {
            let sum = checksum::fold(checksum::sum(&quote));
            let words = v4(service, client, mtu, id, 32, sum).map(u32::to_ne_bytes);
            let headers = words.concat();
            let (ip, icmp) = headers.split_at(IPV4_LEN);
            prop_assert_eq!(checksum::fold(checksum::sum(ip)), 0xffff);
            let whole = [icmp, &quote].concat();
            prop_assert_eq!(checksum::fold(checksum::sum(&whole)), 0xffff);
            let told = u32::from(u16::from_be_bytes([icmp[6], icmp[7]]));
            prop_assert_eq!(told, mtu.clamp(68, 65_535));
        }

        #[test]
        fn checksum_of_ipv6_counts_the_pseudo_header(
            service: [u8; 16], client: [u8; 16], mtu: u32, quote: [u8; 32]
        ) {
            let sum = checksum::fold(checksum::sum(&quote));
            let (ip, icmp) = v6(service, client, mtu, 32, sum);
            let [ip, icmp] = [ip, icmp].map(|words| words.map(u32::to_ne_bytes).concat());
            prop_assert_eq!(ip[4..6].to_vec(), 40u16.to_be_bytes().to_vec());
            let pseudo: Vec<u8> = [&service[..], &client, &[0, 40, 0, 58]].concat();
            let whole = [&pseudo[..], &icmp, &quote].concat();
            prop_assert_eq!(checksum::fold(checksum::sum(&whole)), 0xffff);
        }
    }
}
