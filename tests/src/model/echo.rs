//! The model's answer to an echo request (RFC 792, RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::forward::ones_complement_sum;

const FRESH_TTL: u8 = 64;

/// The address that is asked, and the frame that answers: the request with
/// both pairs of addresses swapped, the type of an answer and a fresh TTL.
///
/// None for what is not answered: options or extension headers, fragments, a
/// length that the frame does not hold or that is no echo's, TTL 0.
pub fn answer(frame: &[u8]) -> Option<(IpAddr, Vec<u8>)> {
    let mut ethertype = 12;
    for _ in 0..2 {
        if matches!(
            frame.get(ethertype..ethertype + 2)?,
            [0x81, 0x00] | [0x88, 0xa8]
        ) {
            ethertype += 4;
        }
    }
    let at = ethertype + 2;
    let mut out = match frame.get(ethertype..at)? {
        [0x08, 0x00] => answer_v4(frame, at)?,
        [0x86, 0xdd] => answer_v6(frame, at)?,
        _ => return None,
    };
    out.1[..6].copy_from_slice(&frame[6..12]);
    out.1[6..12].copy_from_slice(&frame[..6]);
    Some(out)
}

fn answer_v4(frame: &[u8], at: usize) -> Option<(IpAddr, Vec<u8>)> {
    let packet = frame.get(at..)?;
    let header: [u8; 20] = *packet.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let whole = packet.get(..len)?;
    let is_fragment = header[6] & 0x3f != 0 || header[7] != 0;
    if header[0] != 0x45 || header[9] != 1 || header[8] == 0 || is_fragment {
        return None;
    }
    if len < 28 || whole[20] != 8 || whole[21] != 0 {
        return None;
    }
    let mut out = frame.to_vec();
    out[at + 8] = FRESH_TTL;
    out[at + 12..at + 16].copy_from_slice(&header[16..20]);
    out[at + 16..at + 20].copy_from_slice(&header[12..16]);
    adjust(&mut out, at + 10, &header[8..9], &[FRESH_TTL]);
    out[at + 20] = 0;
    adjust(&mut out, at + 22, &[8], &[0]);
    // Words of which one is not zero never sum to zero in ones' complement,
    // and a sender sums words of zero to zero: its field is all ones.
    if out[at + 22..at + 24] == [0, 0] {
        out[at + 22..at + 24].fill(0xff);
    }
    let destination: [u8; 4] = *header.last_chunk()?;
    Some((Ipv4Addr::from(destination).into(), out))
}

fn answer_v6(frame: &[u8], at: usize) -> Option<(IpAddr, Vec<u8>)> {
    let packet = frame.get(at..)?;
    let header: [u8; 40] = *packet.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let echo = packet.get(40..40 + len)?;
    if header[0] >> 4 != 6 || header[6] != 58 || header[7] == 0 {
        return None;
    }
    if len < 8 || echo[0] != 128 || echo[1] != 0 {
        return None;
    }
    let mut out = frame.to_vec();
    out[at + 7] = FRESH_TTL;
    out[at + 8..at + 24].copy_from_slice(&header[24..40]);
    out[at + 24..at + 40].copy_from_slice(&header[8..24]);
    out[at + 40] = 129;
    adjust(&mut out, at + 42, &[128], &[129]);
    let destination: [u8; 16] = *header.last_chunk()?;
    Some((Ipv6Addr::from(destination).into(), out))
}

/// Brings a checksum up to date after the high byte of some word changed: the
/// sum of all words is what it was, less the old word, plus the new one.
fn adjust(out: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let field = !u16::from_be_bytes([out[at], out[at + 1]]);
    let old = !(u16::from(old[0]) << 8);
    let new = u16::from(new[0]) << 8;
    let words = [field, old, new].map(u16::to_be_bytes).concat();
    let check = !ones_complement_sum(&words);
    out[at..at + 2].copy_from_slice(&check.to_be_bytes());
}
