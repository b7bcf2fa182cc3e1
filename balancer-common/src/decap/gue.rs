//! Generic UDP Encapsulation (draft-ietf-intarea-gue): what follows the UDP
//! header.
//!
//! Variant 1 is no header at all: the inner packet begins at once, and the
//! two bits of the variant are those of its version. Variant 0 is a header of
//! four bytes and up to 31 words behind it:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! | 0 |C|  Hlen   |    protocol   |             flags             |
//! ```
//!
//! Each flag may change what the packet means (encryption, fragments, remote
//! checksums), and none is known here. Without flags the words are data that
//! both ends agreed on; they are stepped over, as Linux does.

use super::{Family, Refusal};
use crate::parse::{Frame, PROTOCOL_IPIP, PROTOCOL_IPV6};

/// The port that IANA assigned to GUE.
pub const PORT: u16 = 6080;
/// Bytes of the header of variant 0 without the words behind it.
pub const HEADER_LEN: usize = 4;
/// Most words behind it that its five bits can tell.
pub const MAX_WORDS: usize = 31;

const VARIANT: u8 = 0xc0;
const CONTROL: u8 = 0x20;
const WORDS: u8 = 0x1f;

/// What stands between the UDP header and the inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Its bytes: 0 in variant 1, 4 to 128 in variant 0.
    pub(super) len: usize,
    /// What follows it.
    pub(super) family: Family,
}

/// Reads the header at `at`.
#[inline(always)]
pub(super) fn read(frame: &(impl Frame + ?Sized), at: usize) -> Result<Header, Refusal> {
    let header: [u8; HEADER_LEN] = frame.bytes(at).ok_or(Refusal::Truncated)?;
    let [first, protocol, flags_high, flags_low] = header;
    match first >> 4 {
        4 => Ok(Header {
            len: 0,
            family: Family::V4,
        }),
        6 => Ok(Header {
            len: 0,
            family: Family::V6,
        }),
        // Variant 1 with the version of neither.
        5 | 7 => Err(Refusal::BadInnerVersion),
        _ if first & (VARIANT | CONTROL) | flags_high | flags_low != 0 => {
            Err(Refusal::UnsupportedGue)
        }
        _ => Ok(Header {
            len: HEADER_LEN + usize::from(first & WORDS) * 4,
            family: match protocol {
                PROTOCOL_IPIP => Family::V4,
                PROTOCOL_IPV6 => Family::V6,
                _ => return Err(Refusal::UnsupportedGue),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_bytes(bytes: [u8; 4]) -> Result<Header, Refusal> {
        read(bytes.as_slice(), 0)
    }

    #[test]
    fn variant_1_is_the_inner_packet_itself() {
        for (first, family) in [(0x45, Family::V4), (0x4f, Family::V4), (0x60, Family::V6)] {
            let header = Header { len: 0, family };
            // Later bytes are the packet's and say nothing about GUE.
            assert_eq!(read_bytes([first, 0xff, 0xff, 0xff]), Ok(header));
        }
        for first in [0x50, 0x5f, 0x70] {
            assert_eq!(read_bytes([first, 4, 0, 0]), Err(Refusal::BadInnerVersion));
        }
    }

    #[test]
    fn variant_0_names_its_length_and_what_follows() {
        for (bytes, len, family) in [
            ([0, 4, 0, 0], 4, Family::V4),
            ([0, 41, 0, 0], 4, Family::V6),
            ([1, 4, 0, 0], 8, Family::V4),
            ([31, 41, 0, 0], 4 + MAX_WORDS * 4, Family::V6),
        ] {
            assert_eq!(read_bytes(bytes), Ok(Header { len, family }));
        }
    }

    #[test]
    fn what_is_not_understood_is_unsupported() {
        for bytes in [
            [0x20, 4, 0, 0],
            [0x80, 4, 0, 0],
            [0xc0, 4, 0, 0],
            [0, 4, 0x80, 0],
            [0, 4, 0, 1],
            [0, 6, 0, 0],
            [0, 0, 0, 0],
        ] {
            assert_eq!(read_bytes(bytes), Err(Refusal::UnsupportedGue), "{bytes:?}");
        }
        assert_eq!(read([0, 4, 0].as_slice(), 0), Err(Refusal::Truncated));
    }

    proptest! {
        #[test]
        fn header_is_never_longer_than_its_bits_can_say(bytes: [u8; 4]) {
            if let Ok(header) = read_bytes(bytes) {
                prop_assert!(header.len <= HEADER_LEN + MAX_WORDS * 4);
                prop_assert_eq!(header.len % 4, 0);
                prop_assert_eq!(header.len == 0, bytes[0] >> 6 == 1);
            }
        }
    }
}
