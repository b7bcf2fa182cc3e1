//! The beginnings of QUIC packets, for the generator.

use super::packet::NOISE;
use super::rng::Rng;

/// The first bytes of a QUIC packet, mostly one that names a server.
pub(super) fn header(rng: &mut Rng, server_ids: &[[u8; 8]]) -> Vec<u8> {
    let mut header = Vec::new();
    if rng.chance(40) {
        let version = rng.pick(&[1_u32, 1, 1, 0x6b33_43cf, 0, 0xff00_001d]);
        header.push(0xc0 | rng.below(64) as u8);
        header.extend(version.to_be_bytes());
        header.push(rng.pick(&[8, 8, 8, 20, 3, 0]));
    } else {
        header.push(rng.below(128) as u8);
    }
    // What offset the service has is not asked: one of them is right.
    header.extend(&NOISE[..rng.pick(&[0, 1, 1, 3])]);
    if !server_ids.is_empty() && rng.chance(90) {
        header.extend(rng.pick(server_ids));
    }
    header
}
