//! The model's way to a member: rewrite, or wrap with a full checksum.

use balancer_common::layout::Member;
use balancer_common::verdict::Reason;

use super::parse::Flow;

const OUTER_TTL: u8 = 64;
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const UDP: u8 = 17;

/// Whether the packet can leave for the member.
///
/// # Errors
/// When it cannot: next hop first, then MTU.
pub fn check(flow: &Flow, member: &Member) -> Result<(), Reason> {
    if member.flags & Member::RESOLVED == 0 {
        return Err(Reason::NoNextHop);
    }
    if flow.ip_len + outer_len(member.kind) > usize::from(member.mtu) {
        return Err(Reason::ExceedsMtu);
    }
    Ok(())
}

/// The frame that leaves for the member, but for translations.
///
/// # Errors
/// When its kind is none.
pub fn send(frame: &[u8], flow: &Flow, member: &Member, hash: u64) -> Result<Vec<u8>, Reason> {
    let mut out = ethernet(frame, member).to_vec();
    match member.kind {
        Member::L2 => out.extend(&frame[12..flow.ip_at]),
        Member::IPIP_V4 => {
            out.extend(&frame[12..flow.ip_at - 2]);
            out.extend([0x08, 0x00]);
            out.extend(outer_v4(flow, member, hash, &[]));
        }
        Member::IPIP_V6 => {
            out.extend(&frame[12..flow.ip_at - 2]);
            out.extend([0x86, 0xdd]);
            out.extend(outer_v6(flow, member, hash, &[]));
        }
        Member::GUE_V4 => {
            let udp = gue(flow, member, hash);
            out.extend(&frame[12..flow.ip_at - 2]);
            out.extend([0x08, 0x00]);
            out.extend(outer_v4(flow, member, hash, &udp));
            out.extend(udp);
        }
        Member::GUE_V6 => {
            let udp = gue(flow, member, hash);
            out.extend(&frame[12..flow.ip_at - 2]);
            out.extend([0x86, 0xdd]);
            out.extend(outer_v6(flow, member, hash, &udp));
            out.extend(udp);
        }
        _ => return Err(Reason::BadTable),
    }
    out.extend(&frame[flow.ip_at..]);
    Ok(out)
}

/// Bytes that go before a packet.
pub fn outer_len(kind: u8) -> usize {
    match kind {
        Member::IPIP_V4 => 20,
        Member::IPIP_V6 => 40,
        Member::GUE_V4 => 20 + 8,
        Member::GUE_V6 => 40 + 8,
        _ => 0,
    }
}

/// Ethernet addresses of the frame that leaves for the member.
pub fn ethernet(frame: &[u8], member: &Member) -> [u8; 12] {
    let mut ethernet = member.ethernet;
    if member.flags & Member::SOURCE_FROM_FRAME != 0 {
        ethernet[6..].copy_from_slice(&frame[..6]);
    }
    ethernet
}

fn inner_protocol(flow: &Flow) -> u8 {
    if flow.destination.is_ipv4() {
        IPV4
    } else {
        IPV6
    }
}

/// RFC 2003, with DSCP and ECN copied (RFC 6040) and an atomic packet's DF
/// and identification (RFC 6864).
pub fn outer_v4(flow: &Flow, member: &Member, hash: u64, udp: &[u8]) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 4 << 4 | 5;
    header[1] = flow.traffic_class;
    header[2..4].copy_from_slice(&((flow.ip_len + 20 + udp.len()) as u16).to_be_bytes());
    header[6..8].copy_from_slice(&(1u16 << 14).to_be_bytes());
    header[8] = OUTER_TTL;
    header[9] = if udp.is_empty() {
        inner_protocol(flow)
    } else {
        UDP
    };
    let source = spread(&member.outer_source[..4], member, hash);
    header[12..16].copy_from_slice(&source);
    header[16..20].copy_from_slice(&member.outer_destination[..4]);
    let check = checksum(&header);
    header[10..12].copy_from_slice(&check.to_be_bytes());
    header
}

/// RFC 2473; the label carries the flow's entropy (RFC 6438).
pub fn outer_v6(flow: &Flow, member: &Member, hash: u64, udp: &[u8]) -> [u8; 40] {
    let label = (hash % (1 << 20)) as u32;
    let first = 0x6000_0000 + (u32::from(flow.traffic_class) << 20) + label;
    let mut header = [0; 40];
    header[..4].copy_from_slice(&first.to_be_bytes());
    header[4..6].copy_from_slice(&((flow.ip_len + udp.len()) as u16).to_be_bytes());
    header[6] = if udp.is_empty() {
        inner_protocol(flow)
    } else {
        UDP
    };
    header[7] = OUTER_TTL;
    header[8..24].copy_from_slice(&spread(&member.outer_source, member, hash));
    header[24..40].copy_from_slice(&member.outer_destination);
    header
}

/// The outer source: its last bits, as many as are to be spread, are those
/// of the hash.
fn spread(base: &[u8], member: &Member, hash: u64) -> Vec<u8> {
    let mut source = base.to_vec();
    for bit in 0..usize::from(member.spread_bits) {
        let byte = source.len() - 1 - bit / 8;
        source[byte] |= ((hash >> bit & 1) as u8) << (bit % 8);
    }
    source
}

/// RFC 768 without a checksum; the source port is of the dynamic range
/// (49152 and up, RFC 6335), its low 14 bits those of the hash.
pub fn gue(flow: &Flow, member: &Member, hash: u64) -> [u8; 8] {
    let source = 49_152 + (hash % 16_384) as u16;
    let len = (8 + flow.ip_len) as u16;
    let mut header = [0; 8];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&member.port);
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header
}

/// The Internet checksum over bytes whose checksum field is zero (RFC 1071).
/// An odd last byte counts as if a zero followed.
pub fn checksum(bytes: &[u8]) -> u16 {
    !ones_complement_sum(bytes)
}

/// Ones' complement sum of big-endian words, each carry added as it comes.
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u16;
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or(0);
        let (wrapped, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], low]));
        sum = wrapped + u16::from(carry);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_gives_the_sum_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(ones_complement_sum(&bytes), 0xddf2);
        assert_eq!(checksum(&bytes), !0xddf2);
    }
}
