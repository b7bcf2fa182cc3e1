//! The two hashes of the packet path: flow to slot, and service to bucket.
//!
//! The flow hash is pair-multiply-shift over 32-bit words with secret 64-bit
//! keys (Thorup, "High Speed Hashing for Integers and Strings", 2015), which
//! is strongly universal: without the keys nobody can choose flows that meet
//! more often than by chance. An invertible finaliser (the 64-bit one of
//! MurmurHash3) then spreads what arithmetic progressions in ports would
//! leave regular. It is no cipher: who can see the backend of a great many
//! chosen flows can learn about the keys, which is why they change with the
//! seed. Words are little-endian readings of the packet's bytes, so that all
//! machines agree.

use crate::layout::FLOW_KEYS;
use crate::parse::field;

/// An address as the hashes and keys see it.
pub trait Address: Copy + PartialEq {
    /// All bytes zero.
    const ZERO: Self;

    /// The address padded with zero bytes to the length of IPv6.
    fn padded(self) -> [u8; 16];
    /// Keyed sum of the products of source and destination words.
    fn multiply(keys: &[u64; FLOW_KEYS], source: Self, destination: Self) -> u64;
    /// 64 bits for the service lookup.
    fn lookup_word(self, seed: u64) -> u64;
}

// Words are read whole: bytes that are put together are kept apart until then,
// and the kernel's stack has no room for them.

#[inline(always)]
fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_le_bytes(bytes))
}

/// Half of an IPv6 address.
#[inline(always)]
fn half(address: &[u8; 16], index: usize) -> u64 {
    u64::from_le_bytes(field(address, 8 * index))
}

/// The product of the two words of half an address.
#[inline(always)]
fn pair_of_half(key_a: u64, key_b: u64, half: u64) -> u64 {
    pair(key_a, half & 0xffff_ffff, key_b, half >> 32)
}

#[inline(always)]
fn pair(key_a: u64, a: u64, key_b: u64, b: u64) -> u64 {
    key_a.wrapping_add(a).wrapping_mul(key_b.wrapping_add(b))
}

impl Address for [u8; 4] {
    const ZERO: Self = [0; 4];

    #[inline(always)]
    fn padded(self) -> [u8; 16] {
        let mut padded = [0; 16];
        padded[..4].copy_from_slice(&self);
        padded
    }

    #[inline(always)]
    fn multiply(keys: &[u64; FLOW_KEYS], source: Self, destination: Self) -> u64 {
        pair(keys[2], word(source), keys[3], word(destination))
    }

    #[inline(always)]
    fn lookup_word(self, _seed: u64) -> u64 {
        word(self)
    }
}

impl Address for [u8; 16] {
    const ZERO: Self = [0; 16];

    #[inline(always)]
    fn padded(self) -> [u8; 16] {
        self
    }

    #[inline(always)]
    fn multiply(keys: &[u64; FLOW_KEYS], source: Self, destination: Self) -> u64 {
        pair_of_half(keys[2], keys[3], half(&source, 0))
            .wrapping_add(pair_of_half(keys[4], keys[5], half(&source, 1)))
            .wrapping_add(pair_of_half(keys[6], keys[7], half(&destination, 0)))
            .wrapping_add(pair_of_half(keys[8], keys[9], half(&destination, 1)))
    }

    #[inline(always)]
    fn lookup_word(self, seed: u64) -> u64 {
        let (high, low) = (half(&self, 0), half(&self, 1));
        let mixed = (high ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_add(low)
    }
}

#[inline(always)]
const fn finalise(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// Hash of a flow; `ports` are source and destination port as in the packet.
#[inline(always)]
pub fn flow<A: Address>(
    keys: &[u64; FLOW_KEYS],
    source: A,
    destination: A,
    ports: [u8; 4],
    protocol: u8,
) -> u64 {
    let first = pair(keys[0], word(ports), keys[1], u64::from(protocol));
    finalise(first.wrapping_add(A::multiply(keys, source, destination)))
}

/// The slot a flow falls into: the hash's high half scaled to the table, so
/// that no division is needed.
#[inline(always)]
pub const fn slot(hash: u64, table_len: u32) -> u32 {
    (((hash >> 32) * table_len as u64) >> 32) as u32
}

/// The two buckets a service key may stand in; `port` in network order. The
/// first one costs one product for IPv4, and most services stand in it.
#[inline(always)]
pub fn buckets<A: Address>(
    seed: u64,
    mask: u32,
    address: A,
    port: [u8; 2],
    protocol: u8,
) -> (u32, u32) {
    let rest = u64::from(u16::from_le_bytes(port)) << 32 | u64::from(protocol) << 48;
    let key = address.lookup_word(seed) ^ rest;
    // A bit of a product depends on the bits below it, so all have to be there.
    let mixed = (key ^ key >> 32 ^ seed).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let again = (mixed ^ mixed >> 32).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((mixed >> 40) as u32 & mask, (again >> 40) as u32 & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [u64; FLOW_KEYS] = [
        0x0706_0504_0302_0100,
        0xf0e1_d2c3_b4a5_9687,
        0x1234_5678_9abc_def1,
        0x0fed_cba9_8765_4321,
        0x5555_1111_7777_3333,
        0x9999_2222_8888_4444,
        0x1357_9bdf_0246_8ace,
        0xfdb9_7531_eca8_6420,
        0xaaaa_5555_bbbb_6666,
        0x0123_89ab_4567_cdef,
    ];

    #[test]
    fn sequential_ports_of_one_client_spread_evenly() {
        let mut seen = [0u32; 16];
        for port in 1024u16..=65_535 {
            let [high, low] = port.to_be_bytes();
            let hash = flow(&KEYS, [10, 0, 0, 1], [192, 0, 2, 1], [high, low, 0, 80], 6);
            seen[slot(hash, 16) as usize] += 1;
        }
        let expected = (65_536 - 1024) / 16;
        for count in seen {
            assert!(count.abs_diff(expected) < expected / 10, "{seen:?}");
        }
    }

    #[test]
    fn every_field_of_the_five_tuple_counts() {
        let base = flow(&KEYS, [10, 0, 0, 1], [192, 0, 2, 1], [4, 0, 0, 80], 6);
        for other in [
            flow(&KEYS, [10, 0, 0, 2], [192, 0, 2, 1], [4, 0, 0, 80], 6),
            flow(&KEYS, [10, 0, 0, 1], [192, 0, 2, 2], [4, 0, 0, 80], 6),
            flow(&KEYS, [10, 0, 0, 1], [192, 0, 2, 1], [4, 1, 0, 80], 6),
            flow(&KEYS, [10, 0, 0, 1], [192, 0, 2, 1], [4, 0, 0, 81], 6),
            flow(&KEYS, [10, 0, 0, 1], [192, 0, 2, 1], [4, 0, 0, 80], 17),
        ] {
            assert_ne!(base, other);
        }
        let long = flow(&KEYS, [1; 16], [2; 16], [4, 0, 0, 80], 6);
        for byte in 0..16 {
            let mut source = [1; 16];
            source[byte] ^= 0x80;
            assert_ne!(long, flow(&KEYS, source, [2; 16], [4, 0, 0, 80], 6));
        }
    }

    #[test]
    fn slot_stays_inside_the_table() {
        assert_eq!(slot(u64::MAX, 65_537), 65_536);
        assert_eq!(slot(0, 65_537), 0);
    }
}
