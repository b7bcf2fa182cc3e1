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
