//! Echo requests to a service's address, and their answers.
//!
//! The answer is the request turned round: addresses swapped, type changed,
//! TTL as of a fresh packet, checksums brought up to date (RFC 792, RFC 4443).
//! A request with IP options or extension headers, in fragments, or of a wrong
//! length is left to the host's stack.
//!
//! Pure, like [`crate::parse`].

use crate::checksum;
use crate::parse::{Frame, IPV4_LEN, IPV6_LEN};

/// IP protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

const ECHO_LEN: usize = 8;
const ANSWER_TTL: u8 = 64;
const REQUEST_V4: [u8; 2] = [8, 0];
const ANSWER_V4: [u8; 2] = [0, 0];
const REQUEST_V6: [u8; 2] = [128, 0];
const ANSWER_V6: [u8; 2] = [129, 0];

/// An echo request over IPv4: its headers. Aligned, as the kernel allows no
/// misaligned store on a program's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct EchoV4 {
    ip: [u8; IPV4_LEN],
    checksum: u16,
}

/// The request in a frame whose IP header begins at `ip_at`.
#[inline(always)]
pub fn echo_v4(frame: &(impl Frame + ?Sized), ip_at: usize) -> Option<EchoV4> {
    let ip: [u8; IPV4_LEN] = frame.bytes(ip_at)?;
    let [kind, code, high, low]: [u8; 4] = frame.bytes(ip_at + IPV4_LEN)?;
    let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let is_request = ip[0] == 0x45
        && ip[9] == PROTOCOL_ICMP
        && ip[8] != 0
        && !is_fragment
        && [kind, code] == REQUEST_V4
        && total_len >= IPV4_LEN + ECHO_LEN
        && ip_at + total_len <= frame.len();
    is_request.then_some(EchoV4 {
        ip,
        checksum: u16::from_be_bytes([high, low]),
    })
}

impl EchoV4 {
    /// The address that was asked.
    #[inline(always)]
    pub fn destination(&self) -> [u8; 4] {
        let ip = &self.ip;
        [ip[16], ip[17], ip[18], ip[19]]
    }

    /// IP header and first ICMP word of the answer.
    #[inline(always)]
    pub fn answer(&self) -> ([u8; IPV4_LEN], [u8; 4]) {
        let mut ip = self.ip;
        let old = u16::from_be_bytes([ip[8], ip[9]]);
        let new = u16::from_be_bytes([ANSWER_TTL, PROTOCOL_ICMP]);
        let check = checksum::update(u16::from_be_bytes([ip[10], ip[11]]), old, new);
        ip[8] = ANSWER_TTL;
        [ip[10], ip[11]] = check.to_be_bytes();
        ip[12..16].copy_from_slice(&self.ip[16..20]);
        ip[16..20].copy_from_slice(&self.ip[12..16]);
        (ip, answer(self.checksum, REQUEST_V4, ANSWER_V4))
    }
}

/// An echo request over IPv6: its headers, aligned as [`EchoV4`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct EchoV6 {
    ip: [u8; IPV6_LEN],
    checksum: u16,
}

/// As [`echo_v4`], for IPv6.
#[inline(always)]
pub fn echo_v6(frame: &(impl Frame + ?Sized), ip_at: usize) -> Option<EchoV6> {
    let ip: [u8; IPV6_LEN] = frame.bytes(ip_at)?;
    let [kind, code, high, low]: [u8; 4] = frame.bytes(ip_at + IPV6_LEN)?;
    let payload_len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let is_request = ip[0] >> 4 == 6
        && ip[6] == PROTOCOL_ICMPV6
        && ip[7] != 0
        && [kind, code] == REQUEST_V6
        && payload_len >= ECHO_LEN
        && ip_at + IPV6_LEN + payload_len <= frame.len();
    is_request.then_some(EchoV6 {
        ip,
        checksum: u16::from_be_bytes([high, low]),
    })
}

impl EchoV6 {
    /// The address that was asked.
    #[inline(always)]
    pub fn destination(&self) -> [u8; 16] {
        let mut destination = [0; 16];
        destination.copy_from_slice(&self.ip[24..40]);
        destination
    }

    /// IP header and first ICMPv6 word of the answer. The pseudo-header sums
    /// to the same with its addresses swapped.
    #[inline(always)]
    pub fn answer(&self) -> ([u8; IPV6_LEN], [u8; 4]) {
        let mut ip = self.ip;
        ip[7] = ANSWER_TTL;
        ip[8..24].copy_from_slice(&self.ip[24..40]);
        ip[24..40].copy_from_slice(&self.ip[8..24]);
        (ip, answer(self.checksum, REQUEST_V6, ANSWER_V6))
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
        assert_eq!(echo.destination(), [192, 0, 2, 1]);
        let (ip, icmp) = echo.answer();
        assert_eq!(checksum::fold(checksum::sum(&ip)), 0xffff);
        assert_eq!(ip[12..], [192, 0, 2, 1, 10, 0, 0, 1]);
        let sum = checksum::sum(&icmp) + checksum::sum(&frame[38..]);
        assert_eq!(checksum::fold(sum), 0xffff);
        assert_eq!(icmp[0], 0);
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
