//! The Internet checksum (RFC 1071).
//!
//! Words are big-endian values in host integers; sums are kept in 32 bits
//! and folded once at the end.

/// Folds a sum of 16-bit words into one, carries included.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for the sum of all other words.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// The checksum field after one word changed: RFC 1624, equation 3.
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(!checksum as u32 + !old as u32 + new as u32)
}

/// What checksums must be changed by for words that were rewritten.
///
/// Kept in the machine's byte order: a ones' complement sum is the same in
/// either, its bytes swapped (RFC 1071, section 2 B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Nothing was rewritten.
    pub const NONE: Self = Self(0);

    /// The bytes of `old`, two or a multiple of four at an even place of what
    /// is summed, became those of `new`.
    #[inline(always)]
    pub fn of<const N: usize>(old: &[u8; N], new: &[u8; N]) -> Self {
        const { assert!(N == 2 || N.is_multiple_of(4)) };
        if N == 2 {
            let [old, new] = [[old[0], old[1]], [new[0], new[1]]].map(u16::from_ne_bytes);
            return Self(u64::from(!old) + u64::from(new));
        }
        let mut sum = 0;
        let mut at = 0;
        while at < N {
            let word =
                |of: &[u8; N]| u32::from_ne_bytes([of[at], of[at + 1], of[at + 2], of[at + 3]]);
            sum += u64::from(!word(old)) + u64::from(word(new));
            at += 4;
        }
        Self(sum)
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum field after the change: RFC 1624, equation 3.
    #[inline(always)]
    pub const fn apply(self, field: [u8; 2]) -> [u8; 2] {
        let sum = self.0 + !u16::from_ne_bytes(field) as u64;
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_ne_bytes()
    }

    /// As [`Delta::apply`] for UDP, where 0 says that there is no checksum,
    /// and a sum that comes out as 0 is sent as its other form (RFC 768).
    #[inline(always)]
    pub const fn apply_udp(self, field: [u8; 2]) -> [u8; 2] {
        if u16::from_ne_bytes(field) == 0 {
            return field;
        }
        match u16::from_ne_bytes(self.apply(field)) {
            0 => [0xff, 0xff],
            checksum => checksum.to_ne_bytes(),
        }
    }
}

/// Sum of the bytes as big-endian words; an odd last byte is the high half.
/// For at most 128 KiB, so that 32 bits hold it.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    let mut sum = 0;
    for word in &mut words {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u32::from(u16::from_be_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_of_rfc_1071_style_example_sums_to_its_checksum() {
        // A header with a known checksum of 0xb861, field zeroed.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0x00,
            0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(finish(sum(&header)), 0xb861);
    }

    #[test]
    fn update_is_what_a_full_sum_gives() {
        let mut words = [0x12, 0x34, 0xff, 0xff, 0x00, 0x01, 0xab, 0xcd];
        let before = finish(sum(&words));
        words[2..4].copy_from_slice(&[0x40, 0x06]);
        assert_eq!(update(before, 0xffff, 0x4006), finish(sum(&words)));
    }

    proptest! {
        #[test]
        fn delta_gives_what_a_full_sum_gives(
            before: [u8; 16], old: [u8; 8], new: [u8; 8], old_ports: [u8; 4], new_ports: [u8; 4]
        ) {
            // As in a header, some word is never zero.
            let field = |address: [u8; 8], ports: [u8; 4]| {
                finish(1 + sum(&before) + sum(&address) + sum(&ports)).to_be_bytes()
            };
            let delta = Delta::of(&old, &new).and(Delta::of(&old_ports, &new_ports));
            let (was, is) = (field(old, old_ports), field(new, new_ports));
            prop_assert_eq!(delta.apply(was), is);
            let udp = |field| if field == [0, 0] { [0xff, 0xff] } else { field };
            prop_assert_eq!(delta.apply_udp(udp(was)), udp(is));
            prop_assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
        }
    }

    #[test]
    fn udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
        // Sums of 0xfffe before and 0xffff after.
        assert_eq!(Delta::of(&[0, 1], &[0, 2]).apply_udp([0, 1]), [0xff, 0xff]);
        assert_eq!(Delta::of(&[0, 1], &[0, 2]).apply([0, 1]), [0, 0]);
        assert_eq!(Delta::NONE.apply_udp([0xff, 0xff]), [0xff, 0xff]);
    }

    #[test]
    fn odd_byte_counts_as_the_high_half() {
        assert_eq!(sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
    }

    #[test]
    fn fold_adds_every_carry() {
        assert_eq!(fold(0x0001_ffff), 1);
        assert_eq!(fold(0xffff_ffff), 0xffff);
    }
}
