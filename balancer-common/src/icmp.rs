//! Echo requests to a service's address, and their answers.
//!
//! The answer is the request turned round: addresses swapped, type changed,
//! TTL as of a fresh packet, checksums brought up to date (RFC 792, RFC 4443).
//! A request with IP options or extension headers, in fragments, or of a wrong
//! length is left to the host's stack.
//!
//! Pure, like [`crate::parse`].

use crate::checksum;
use crate::parse::{Frame, IPV4_LEN, IPV6_LEN, field};

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// Where the TTL stands in an IPv4 header.
pub const TTL_AT: usize = 8;
/// Where the hop limit stands in an IPv6 header.
pub const HOP_LIMIT_AT: usize = 7;

const ECHO_LEN: usize = 8;
const ANSWER_TTL: u8 = 64;
const REQUEST_V4: [u8; 2] = [8, 0];
const ANSWER_V4: [u8; 2] = [0, 0];
const REQUEST_V6: [u8; 2] = [128, 0];
const ANSWER_V6: [u8; 2] = [129, 0];

/// An echo request over IPv4: what its answer is made of. In whole words, as
/// the kernel allows no misaligned store on a program's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct EchoV4 {
    source: [u8; 4],
    /// The address that was asked.
    pub destination: [u8; 4],
    ttl: u32,
    header_checksum: u32,
    checksum: u32,
}

/// The request in a frame whose IP header begins at `ip_at`.
#[inline(always)]
pub fn echo_v4(frame: &(impl Frame + ?Sized), ip_at: usize) -> Option<EchoV4> {
    let ip: &[u8; IPV4_LEN] = frame.view(ip_at)?;
    let [kind, code, high, low] = *frame.view(ip_at + IPV4_LEN)?;
    let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let is_request = ip[0] == 0x45
        && ip[9] == PROTOCOL_ICMP
        && ip[8] != 0
        && !is_fragment
        && [kind, code] == REQUEST_V4
        && total_len >= IPV4_LEN + ECHO_LEN
        && ip_at + total_len <= frame.len();
    is_request.then(|| EchoV4 {
        source: field(ip, 12),
        destination: field(ip, 16),
        ttl: u32::from(ip[TTL_AT]),
        header_checksum: u32::from(u16::from_be_bytes([ip[10], ip[11]])),
        checksum: u32::from(u16::from_be_bytes([high, low])),
    })
}

impl EchoV4 {
    /// Of the answer: what stands in its IP header from the TTL on, and its
    /// first ICMP word.
    #[inline(always)]
    pub fn answer(&self) -> ([u8; IPV4_LEN - TTL_AT], [u8; 4]) {
        let old = u16::from_be_bytes([self.ttl as u8, PROTOCOL_ICMP]);
        let new = u16::from_be_bytes([ANSWER_TTL, PROTOCOL_ICMP]);
        let [high, low] = checksum::update(self.header_checksum as u16, old, new).to_be_bytes();
        let ([a, b, c, d], [e, f, g, h]) = (self.destination, self.source);
        // Of an answer that is zero but for its checksum, only the other form
        // of zero is right; of any other answer, both are (RFC 1071, 1).
        let message = match answer(self.checksum as u16, REQUEST_V4, ANSWER_V4) {
            [0, 0, 0, 0] => [0, 0, 0xff, 0xff],
            message => message,
        };
        (
            [ANSWER_TTL, PROTOCOL_ICMP, high, low, a, b, c, d, e, f, g, h],
            message,
        )
    }
}

/// As [`EchoV4`], over IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct EchoV6 {
    source: [u8; 16],
    /// The address that was asked.
    pub destination: [u8; 16],
    checksum: u32,
}

/// As [`echo_v4`], for IPv6.
#[inline(always)]
pub fn echo_v6(frame: &(impl Frame + ?Sized), ip_at: usize) -> Option<EchoV6> {
    let ip: &[u8; IPV6_LEN] = frame.view(ip_at)?;
    let [kind, code, high, low] = *frame.view(ip_at + IPV6_LEN)?;
    let payload_len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let is_request = ip[0] >> 4 == 6
        && ip[6] == PROTOCOL_ICMPV6
        && ip[7] != 0
        && [kind, code] == REQUEST_V6
        && payload_len >= ECHO_LEN
        && ip_at + IPV6_LEN + payload_len <= frame.len();
    is_request.then(|| EchoV6 {
        source: field(ip, 8),
        destination: field(ip, 24),
        checksum: u32::from(u16::from_be_bytes([high, low])),
    })
}

impl EchoV6 {
    /// Of the answer: its hop limit, source and destination, which end the IP
    /// header, and its first ICMPv6 word. The pseudo-header sums to the same
    /// with its addresses swapped.
    #[inline(always)]
    pub fn answer(&self) -> (u8, [u8; 16], [u8; 16], [u8; 4]) {
        let icmp = answer(self.checksum as u16, REQUEST_V6, ANSWER_V6);
        (ANSWER_TTL, self.destination, self.source, icmp)
    }
}

#[inline(always)]
fn answer(checksum: u16, request: [u8; 2], answer: [u8; 2]) -> [u8; 4] {
    let check = checksum::update(
        checksum,
        u16::from_be_bytes(request),
        u16::from_be_bytes(answer),
    );
    let [high, low] = check.to_be_bytes();
    [answer[0], answer[1], high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn request_v4() -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 8];
        frame[14] = 0x45;
        frame[17] = 28;
        frame[22] = 7;
        frame[23] = PROTOCOL_ICMP;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 1]);
        frame[34] = 8;
        frame[38..42].copy_from_slice(&[0x12, 0x34, 0, 1]);
        let check = checksum::finish(checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        let check = checksum::finish(checksum::sum(&frame[34..]));
        frame[36..38].copy_from_slice(&check.to_be_bytes());
        frame
    }

    #[test]
    fn answer_has_right_checksums_and_swapped_addresses() {
        let frame = request_v4();
        let echo = echo_v4(frame.as_slice(), 14).unwrap();
        assert_eq!(echo.destination, [192, 0, 2, 1]);
        let (rest, icmp) = echo.answer();
        let sum = checksum::sum(&frame[14..14 + TTL_AT]) + checksum::sum(&rest);
        assert_eq!(checksum::fold(sum), 0xffff);
        assert_eq!(rest[4..], [192, 0, 2, 1, 10, 0, 0, 1]);
        let sum = checksum::sum(&icmp) + checksum::sum(&frame[38..]);
        assert_eq!(checksum::fold(sum), 0xffff);
        assert_eq!(icmp[0], 0);
    }

    #[test]
    fn answer_that_is_zero_but_for_its_checksum_is_right() {
        let mut frame = request_v4();
        frame[36..42].copy_from_slice(&[0xf7, 0xff, 0, 0, 0, 0]);
        let (_, icmp) = echo_v4(frame.as_slice(), 14).unwrap().answer();
        assert_eq!(icmp, [0, 0, 0xff, 0xff]);
    }

    #[test]
    fn what_is_no_whole_request_is_left_alone() {
        let changes: [(usize, u8); 7] = [
            (14, 0x46),
            (17, 27),
            (17, 29),
            (20, 0x20),
            (22, 0),
            (34, 0),
            (35, 1),
        ];
        for (at, value) in changes {
            let mut frame = request_v4();
            frame[at] = value;
            assert_eq!(echo_v4(frame.as_slice(), 14), None, "byte {at}");
        }
    }
}
