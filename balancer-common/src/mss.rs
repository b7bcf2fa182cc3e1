//! Finds and lowers the maximum segment size that a SYN announces, which bounds
//! the segments that its receiver sends back (RFC 9293, 3.7.1).
//!
//! At most [`MAX_OPTIONS`] options are looked at; every stack puts this one
//! first. A SYN without it, or with options that contradict themselves, is
//! left as it is. Pure, like [`crate::parse`].

use crate::checksum;
use crate::parse::Frame;

/// Options that are looked at, padding included.
pub const MAX_OPTIONS: usize = 8;

const TCP_LEN: usize = 20;
const CHECKSUM_AT: usize = 16;
const END: u8 = 0;
const PADDING: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;

/// What has to be written for a lower MSS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lowered {
    /// Where the MSS stands, from the TCP header on.
    pub at: usize,
    /// The MSS, network order.
    pub value: [u8; 2],
    /// The TCP checksum, network order.
    pub checksum: [u8; 2],
}

impl Lowered {
    /// Where the checksum stands, from the TCP header on.
    pub const CHECKSUM_AT: usize = CHECKSUM_AT;
}

/// What to write into the TCP header at `tcp_at`, whose data offset holds,
/// so that its MSS is `limit` at most; `None` if it is that already.
#[inline(always)]
pub fn lower(frame: &(impl Frame + ?Sized), tcp_at: usize, limit: u16) -> Option<Lowered> {
    let [words]: [u8; 1] = frame.bytes(tcp_at + 12)?;
    let end = usize::from(words >> 4) * 4;
    let mut at = TCP_LEN;
    for _ in 0..MAX_OPTIONS {
        // No option after this one could be the MSS. The mask is for the
        // verifier: no TCP header is longer.
        at &= 0x3f;
        if at + usize::from(MSS_LEN) > end {
            return None;
        }
        let [kind, len, high, low]: [u8; 4] = frame.bytes(tcp_at + at)?;
        if kind == MSS && len == MSS_LEN {
            return lowered(frame, tcp_at, at + 2, [high, low], limit);
        }
        at += match kind {
            END => return None,
            PADDING => 1,
            _ if len < 2 => return None,
            _ => usize::from(len),
        };
    }
    None
}

#[inline(always)]
fn lowered(
    frame: &(impl Frame + ?Sized),
    tcp_at: usize,
    at: usize,
    old: [u8; 2],
    limit: u16,
) -> Option<Lowered> {
    if u16::from_be_bytes(old) <= limit {
        return None;
    }
    let value = limit.to_be_bytes();
    // Behind an odd number of bytes the MSS straddles two words: its high
    // byte is the low one of a word, and its low byte a high one.
    let as_summed = |bytes: [u8; 2]| {
        if at.is_multiple_of(2) {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    };
    let check = u16::from_be_bytes(frame.bytes(tcp_at + CHECKSUM_AT)?);
    let checksum = checksum::update(check, as_summed(old), as_summed(value)).to_be_bytes();
    Some(Lowered {
        at,
        value,
        checksum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn syn(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0; TCP_LEN];
        header[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
        header.extend(options);
        header[12] = (header.len() / 4) as u8 * 16;
        let check = checksum::finish(checksum::sum(&header));
        header[16..18].copy_from_slice(&check.to_be_bytes());
        header
    }

    #[test]
    fn mss_is_lowered_wherever_it_stands_and_the_checksum_holds() {
        let cases: &[&[u8]] = &[
            &[2, 4, 0x05, 0xb4],
            &[1, 2, 4, 0x05, 0xb4, 1, 1, 0],
            &[3, 3, 7, 2, 4, 0x05, 0xb4, 0],
            &[1, 1, 1, 1, 1, 1, 1, 2, 4, 0x05, 0xb4, 0],
        ];
        for options in cases {
            let mut header = syn(options);
            let lowered = lower(header.as_slice(), 0, 1400).unwrap();
            header[lowered.at..lowered.at + 2].copy_from_slice(&lowered.value);
            header[16..18].copy_from_slice(&lowered.checksum);
            assert_eq!(checksum::fold(checksum::sum(&header)), 0xffff);
            assert_eq!(lowered.value, [0x05, 0x78]);
            assert_eq!(lower(header.as_slice(), 0, 1400), None, "it is low now");
        }
    }

    #[test]
    fn syn_without_a_larger_mss_is_left_alone() {
        let cases: &[&[u8]] = &[
            &[],
            &[2, 4, 0x05, 0x78],
            &[0, 0, 0, 0, 2, 4, 0x05, 0xb4],    // behind the end
            &[3, 1, 0, 0, 2, 4, 0x05, 0xb4],    // length 1
            &[3, 9, 0, 0, 2, 4, 0x05, 0xb4],    // past the header
            &[2, 3, 0x05, 2, 4, 0x05, 0x78, 0], // another length
            &[1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 0x05, 0xb4], // the ninth option
        ];
        for options in cases {
            let header = syn(options);
            assert_eq!(lower(header.as_slice(), 0, 1400), None, "{options:x?}");
        }
        assert_eq!(lower(&syn(cases[1])[..22], 0, 1), None);
    }
}
