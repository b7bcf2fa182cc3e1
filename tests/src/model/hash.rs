//! The model's flow hash, from the text of `balancer_common::hash`.
//!
//! The five-tuple is read as 32-bit words, little-endian as they lie in the
//! packet: both ports in one word, the protocol, the source, the destination.
//! Neighbouring words make pairs, each pair with two keys of its own:
//! `(key + word) * (key' + word')` in 64 bits. The sum of the products goes
//! through the finaliser of MurmurHash3 (x64, 128 bits: `fmix64`).

use std::net::IpAddr;

use balancer_common::layout::FLOW_KEYS;

use super::parse::Flow;

/// Hash of a flow.
pub fn flow(keys: &[u64; FLOW_KEYS], flow: &Flow) -> u64 {
    five_tuple(
        keys,
        flow.source,
        flow.destination,
        flow.ports,
        flow.protocol,
    )
}

/// The same for a service that goes by the source address: ports and protocol
/// count as zero, so that all services of an address agree.
pub fn of_source(keys: &[u64; FLOW_KEYS], flow: &Flow) -> u64 {
    five_tuple(keys, flow.source, flow.destination, [0, 0], 0)
}

/// Hash of the flow with these addresses, source and destination port.
///
/// # Panics
/// When the addresses are of two families.
pub fn five_tuple(
    keys: &[u64; FLOW_KEYS],
    source: IpAddr,
    destination: IpAddr,
    ports: [u16; 2],
    protocol: u8,
) -> u64 {
    let mut bytes = [0; 4 * FLOW_KEYS];
    bytes[..2].copy_from_slice(&ports[0].to_be_bytes());
    bytes[2..4].copy_from_slice(&ports[1].to_be_bytes());
    bytes[4] = protocol;
    let used = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[8..12].copy_from_slice(&source.octets());
            bytes[12..16].copy_from_slice(&destination.octets());
            16
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes[8..24].copy_from_slice(&source.octets());
            bytes[24..40].copy_from_slice(&destination.octets());
            40
        }
        _ => panic!("a packet from {source} to {destination}"),
    };
    let mut sum = 0u64;
    for (pair, keys) in bytes[..used].chunks(8).zip(keys.chunks(2)) {
        let word = |at: usize| {
            u64::from(u32::from_le_bytes([
                pair[at],
                pair[at + 1],
                pair[at + 2],
                pair[at + 3],
            ]))
        };
        let left = keys[0].wrapping_add(word(0));
        let right = keys[1].wrapping_add(word(4));
        sum = sum.wrapping_add(left.wrapping_mul(right));
    }
    fmix64(sum)
}

/// The slot of a hash: its high half, scaled to the table.
pub fn slot(hash: u64, slot_count: usize) -> usize {
    let high = u128::from(hash >> 32);
    ((high * slot_count as u128) >> 32) as usize
}

fn fmix64(mut k: u64) -> u64 {
    for multiplier in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        k ^= k >> 33;
        k = k.wrapping_mul(multiplier);
    }
    k ^ k >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finaliser_gives_the_values_of_murmur_hash_3() {
        // Computed by hand from the reference: fmix64(0) and fmix64(1).
        assert_eq!(fmix64(0), 0);
        assert_eq!(fmix64(1), 0xb456_bcfc_34c2_cb2c);
    }

    #[test]
    fn zero_keys_multiply_neighbouring_words() {
        // ports 0x0000_0100 * protocol 6, plus source 2 * destination 3.
        let hash = five_tuple(
            &[0; FLOW_KEYS],
            [2, 0, 0, 0].into(),
            [3, 0, 0, 0].into(),
            [1, 0],
            6,
        );
        assert_eq!(hash, fmix64(0x0100 * 6 + 2 * 3));
    }
}
