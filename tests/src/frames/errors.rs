//! Random ICMP errors about packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::icmp_error::IcmpError;
use super::packet::options;
use super::rng::Rng;

/// An error about the IP packet in `quote`, mostly to its sender, with most of
/// it quoted or just enough, or not quite.
pub(super) fn about(rng: &mut Rng, mut quote: Vec<u8>) -> Option<IcmpError> {
    let is_v4 = quote.first()? / 16 == 4;
    let (router, sender): (IpAddr, IpAddr) = if is_v4 {
        let octets: [u8; 4] = *quote.get(12..)?.first_chunk()?;
        (Ipv4Addr::new(198, 51, 100, 9).into(), octets.into())
    } else {
        let octets: [u8; 16] = *quote.get(8..)?.first_chunk()?;
        let router = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 9);
        (router.into(), octets.into())
    };
    let least = if is_v4 { 28 } else { 48 };
    let quote_len = match rng.below(10) {
        0 => rng.below(least + 60),
        1..4 => least,
        4..6 => least + rng.pick(&[20, 28, 40, 48]),
        _ => rng.pick(&[120, 528, 1232, 1400]),
    };
    quote.truncate(quote_len);
    let kinds: &[[u8; 2]] = if is_v4 {
        &[
            [3, 1],
            [3, 3],
            [3, 4],
            [3, 4],
            [11, 0],
            [12, 0],
            [4, 0],
            [5, 1],
        ]
    } else {
        &[[1, 0], [2, 0], [2, 0], [3, 0], [4, 1], [135, 0], [128, 0]]
    };
    let mut error = IcmpError::new(router, sender, rng.pick(kinds), &quote);
    let mtu: u16 = rng.pick(&[0, 68, 576, 1280, 1380, 1500, 9000]);
    error.rest[2..].copy_from_slice(&mtu.to_be_bytes());
    if rng.chance(10) {
        error.wrong_by = 1 + rng.below(1000) as u16;
    }
    if rng.chance(10) {
        error.vlans = vec![100; 1 + rng.below(2)];
    }
    if rng.chance(10) {
        error.ttl = rng.pick(&[0, 1, 255]);
    }
    if rng.chance(10) {
        error.options = vec![1; 4 * (1 + rng.below(10))];
        error.extensions = vec![options(60, 1 + rng.below(3) as u8)];
    }
    if rng.chance(10) {
        error.padding_len = rng.below(20);
    }
    Some(error)
}

/// The IP packet in a frame, behind its tags.
pub(super) fn ip_packet(frame: &[u8]) -> Vec<u8> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    frame.get(at + 2..).unwrap_or_default().to_vec()
}
