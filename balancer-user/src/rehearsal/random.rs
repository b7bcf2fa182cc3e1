//! Numbers for synthetic flows: the same ones for the same service, so that
//! a rehearsal that is repeated says the same.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Steele, Lea and Flood's SplitMix64: 64 bits of state, every number once.
pub(super) struct Random(u64);

impl Random {
    /// The numbers that belong to a name.
    pub(super) fn of(name: &str) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(name.as_bytes());
        Self(hasher.finish())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not 0; none is preferred by more than
    /// a part in 2^32.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }
}
