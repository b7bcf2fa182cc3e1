//! Random options of TCP and extension headers of IPv6.

use super::packet::{fragment_v6, options, routing};
use super::rng::Rng;

/// Options of a SYN, mostly with an MSS, at any place.
pub(super) fn tcp_options(rng: &mut Rng) -> Vec<u8> {
    let mut options = Vec::new();
    for _ in 0..rng.below(9) {
        let option: &[u8] = match rng.below(16) {
            0..6 => &[1],
            6..8 => &[4, 2],
            8..10 => &[3, 3, 7],
            10 => &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            11 => &[0],
            12 => &[254, 0],
            13 => &[2, 4, 0x02, 0x00],
            14 => &[2, 4, 0x05, 0xb4],
            _ => &[2, 4, 0xff, 0xff],
        };
        options.extend_from_slice(option);
    }
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

/// One to four extension headers, mostly ones to step over.
pub(super) fn extensions(rng: &mut Rng) -> Vec<(u8, Vec<u8>)> {
    let count = 1 + rng.below(4);
    let headers = (0..count).map(|index| match rng.below(12) {
        0..3 if index == 0 => options(0, 1),
        0..6 => options(60, 1 + rng.below(3) as u8),
        6..9 => routing(u8::from(rng.chance(10))),
        9 => options(60, 40),
        10 => options(rng.pick(&[0, 50, 51, 135, 139, 140]), 1),
        _ => fragment_v6(0, rng.next() as u32),
    });
    headers.collect()
}
