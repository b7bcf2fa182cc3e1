//! Whether the checksums of a frame are right: IPv4, TCP, UDP, ICMP, ICMPv6,
//! also inside tunnels (IP in IP of all families, GUE), each summed in full.
//!
//! Fragments have their IPv4 header checked and no more: the checksum of their
//! transport header covers bytes of other frames. Written from the RFCs, and
//! sharing nothing with the packet path.

use crate::model::forward::ones_complement_sum;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const IPV4: u8 = 4;
const IPV6: u8 = 41;

/// Destination port of Generic UDP Encapsulation, by IANA's list.
const GUE_PORT: u16 = 6080;

/// Extension headers of IPv6 (RFC 8200, 4): hop-by-hop options, routing,
/// destination options, fragment.
const EXTENSIONS: [u8; 4] = [0, 43, 60, FRAGMENT];
const FRAGMENT: u8 = 44;

/// Tunnels in tunnels, and extension headers of a packet, that are followed.
const MAX_DEPTH: usize = 8;

/// Judges every checksum of an Ethernet frame. Frames without one are right.
///
/// # Errors
/// What is wrong, or where the frame is cut off.
pub fn judge(frame: &[u8]) -> Result<(), String> {
    let mut at = 12;
    let mut ethertype = u16_at(frame, at)?;
    while matches!(ethertype, 0x8100 | 0x88a8) {
        at += 4;
        ethertype = u16_at(frame, at)?;
    }
    let packet = &frame[at + 2..];
    match ethertype {
        0x0800 => judge_ip(packet, IPV4, 0),
        0x86dd => judge_ip(packet, IPV6, 0),
        _ => Ok(()),
    }
}

/// A packet of either version; `protocol` is how an outer header names it.
fn judge_ip(packet: &[u8], protocol: u8, depth: usize) -> Result<(), String> {
    if depth == MAX_DEPTH {
        return Err("tunnels in tunnels without an end".to_owned());
    }
    match protocol {
        IPV4 => judge_v4(packet, depth),
        _ => judge_v6(packet, depth),
    }
}

/// RFC 791, 3.1.
fn judge_v4(packet: &[u8], depth: usize) -> Result<(), String> {
    let header_len = usize::from(byte_at(packet, 0)? & 0x0f) * 4;
    let header = part(packet, 0, header_len)?;
    if packet[0] >> 4 != 4 || header_len < 20 {
        return Err(format!("no IPv4 header: begins with {:#04x}", packet[0]));
    }
    if ones_complement_sum(header) != 0xffff {
        return Err("wrong IPv4 header checksum".to_owned());
    }
    let len = usize::from(u16_at(header, 2)?);
    let is_fragment = u16_at(header, 6)? & 0x3fff != 0;
    let payload = part(packet, header_len, len)?;
    if is_fragment {
        return Ok(());
    }
    let addresses = &header[12..20];
    judge_payload(payload, header[9], addresses, depth)
}

/// RFC 8200, 3 and 4.
fn judge_v6(packet: &[u8], depth: usize) -> Result<(), String> {
    let header = part(packet, 0, 40)?;
    if header[0] >> 4 != 6 {
        return Err(format!("no IPv6 header: begins with {:#04x}", header[0]));
    }
    let mut payload = part(packet, 40, 40 + usize::from(u16_at(header, 4)?))?;
    let mut next = header[6];
    for _ in 0..MAX_DEPTH {
        if !EXTENSIONS.contains(&next) {
            return judge_payload(payload, next, &header[8..40], depth);
        }
        if next == FRAGMENT && u16_at(payload, 2)? & 0xfff9 != 0 {
            return Ok(());
        }
        // The length of a fragment header is fixed, and its second byte zero.
        let len = (usize::from(byte_at(payload, 1)?) + 1) * 8;
        next = payload[0];
        payload = part(payload, len, payload.len())?;
    }
    Err("extension headers without an end".to_owned())
}

/// `addresses` are source and destination as the IP header has them.
fn judge_payload(
    payload: &[u8],
    protocol: u8,
    addresses: &[u8],
    depth: usize,
) -> Result<(), String> {
    let is_right = match protocol {
        IPV4 | IPV6 => return judge_ip(payload, protocol, depth + 1),
        UDP => return judge_udp(payload, addresses, depth),
        TCP | ICMP_V6 => covers_pseudo_header(payload, protocol, addresses),
        ICMP => ones_complement_sum(payload) == 0xffff,
        _ => true,
    };
    match (is_right, protocol) {
        (true, _) => Ok(()),
        (false, TCP) => Err("wrong TCP checksum".to_owned()),
        (false, ICMP) => Err("wrong ICMP checksum".to_owned()),
        (false, _) => Err("wrong ICMPv6 checksum".to_owned()),
    }
}

/// RFC 768; over IPv6 no checksum at all is for tunnels alone (RFC 6935).
fn judge_udp(datagram: &[u8], addresses: &[u8], depth: usize) -> Result<(), String> {
    let len = usize::from(u16_at(datagram, 4)?);
    let datagram = part(datagram, 0, len)?;
    let payload = part(datagram, 8, len)?;
    let is_gue = u16_at(datagram, 2)? == GUE_PORT;
    if u16_at(datagram, 6)? == 0 {
        if addresses.len() == 32 && !is_gue {
            return Err("UDP over IPv6 without a checksum".to_owned());
        }
    } else if !covers_pseudo_header(datagram, UDP, addresses) {
        return Err("wrong UDP checksum".to_owned());
    }
    if is_gue {
        return judge_gue(payload, depth);
    }
    Ok(())
}

/// draft-ietf-intarea-gue: variant 1 is an IP packet without a GUE header,
/// variant 0 names what follows its four bytes and options.
fn judge_gue(payload: &[u8], depth: usize) -> Result<(), String> {
    let first = byte_at(payload, 0)?;
    match (first >> 6, first >> 4) {
        (1, 4) => judge_ip(payload, IPV4, depth + 1),
        (1, _) => judge_ip(payload, IPV6, depth + 1),
        (0, _) => {
            let header_len = 4 + usize::from(first & 0x1f) * 4;
            let is_control = first & 0x20 != 0;
            match byte_at(payload, 1)? {
                protocol @ (IPV4 | IPV6) if !is_control => judge_ip(
                    part(payload, header_len, payload.len())?,
                    protocol,
                    depth + 1,
                ),
                _ => Ok(()),
            }
        }
        _ => Err(format!("no variant of GUE: begins with {first:#04x}")),
    }
}

/// RFC 9293, 3.1 and RFC 8200, 8.1: the sum over pseudo header and payload.
fn covers_pseudo_header(payload: &[u8], protocol: u8, addresses: &[u8]) -> bool {
    let mut covered = addresses.to_vec();
    covered.extend((payload.len() as u32).to_be_bytes());
    covered.extend([0, 0, 0, protocol]);
    covered.extend(payload);
    ones_complement_sum(&covered) == 0xffff
}

fn byte_at(bytes: &[u8], at: usize) -> Result<u8, String> {
    Ok(part(bytes, at, at + 1)?[0])
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    let two = part(bytes, at, at + 2)?;
    Ok(u16::from_be_bytes([two[0], two[1]]))
}

fn part(bytes: &[u8], from: usize, to: usize) -> Result<&[u8], String> {
    bytes
        .get(from..to)
        .ok_or_else(|| format!("cut off: {} bytes, wanted {from} to {to}", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::unhex;

    /// tcpdump agrees that these are right, as far as it looks.
    const GOOD: [(&str, &str); 10] = [
        (
            "tcp over ipv4, padded",
            "02aa0000000102cc0000000108004500002b5eed000040064fde0a000001c00002011234005000000001 \
             00000002501803e8f9f300006f6464000102",
        ),
        (
            "udp over ipv4 without a checksum",
            "02aa0000000102cc0000000108004500001f5eed000040114fdf0a000001c000020112340035000b0000 \
             6f6464",
        ),
        (
            "udp over ipv6, two tags",
            "02aa0000000102cc0000000188a800058100000686dd60000000000c1140fd0000000000000000000000 \
             0000000120010db800000000000000000000000112340035000cf7cc6576656e",
        ),
        (
            "icmp",
            "02aa0000000102cc000000010800450000215eed000040014fed0a000001c00002010800f82b00010002 \
             70696e6721",
        ),
        (
            "icmpv6 behind destination options",
            "02aa0000000102cc0000000186dd6000000000153c40fd00000000000000000000000000000120010db8 \
             0000000000000000000000013a00010400000000800055280001000270696e6721",
        ),
        (
            "first fragment",
            "02aa0000000102cc000000010800450000215eed200040112fdd0a000001c00002011234003507d0abcd \
             626567696e",
        ),
        (
            "ipv6 in ipv4",
            "02aa0000000102cc000000010800450000505eed000040294f960a000001c00002016000000000140640 \
             fd00000000000000000000000000000120010db800000000000000000000000112340050000000010000 \
             0002501803e86ea20000",
        ),
        (
            "ipv4 in ipv6",
            "02aa0000000102cc0000000186dd6000000000280440fd00000000000000000000000000000120010db8 \
             000000000000000000000001450000285eed000040064fe10a000001c000020112340050000000010000 \
             0002501803e8cd5b0000",
        ),
        (
            "gue, variant 0",
            "02aa0000000102cc0000000108004500003d5eed000040114fc10a000001c0000201123417c00029d5be \
             000400004500001d5eed000040114fe10a000001c0000201123400350009a97078",
        ),
        (
            "gue, variant 1, over ipv6",
            "02aa0000000102cc0000000186dd6000000000441140fd00000000000000000000000000000120010db8 \
             000000000000000000000001123417c0004400006000000000140640fd00000000000000000000000000 \
             000120010db8000000000000000000000001123400500000000100000002501803e86ea20000",
        ),
    ];

    fn frame(name: &str) -> Vec<u8> {
        let found = GOOD.iter().find(|(other, _)| *other == name);
        unhex(found.unwrap().1).unwrap()
    }

    #[test]
    fn frames_without_a_fault_are_right() {
        for (name, hex) in GOOD {
            assert_eq!(judge(&unhex(hex).unwrap()), Ok(()), "{name}");
        }
        // ARP has no checksum.
        assert_eq!(
            judge(&unhex("ffffffffffff02cc000000010806 0001").unwrap()),
            Ok(())
        );
    }

    #[test]
    fn one_bit_is_enough_to_be_found() {
        // The name of a frame, the byte to damage, counted from the end if
        // negative, and the complaint.
        let cases: [(&str, isize, &str); 11] = [
            ("tcp over ipv4, padded", 22, "wrong IPv4 header checksum"),
            ("tcp over ipv4, padded", -4, "wrong TCP checksum"),
            ("udp over ipv6, two tags", -1, "wrong UDP checksum"),
            ("udp over ipv6, two tags", 30, "wrong UDP checksum"),
            ("icmp", -1, "wrong ICMP checksum"),
            (
                "icmpv6 behind destination options",
                -1,
                "wrong ICMPv6 checksum",
            ),
            ("first fragment", 22, "wrong IPv4 header checksum"),
            ("ipv6 in ipv4", -10, "wrong TCP checksum"),
            ("ipv4 in ipv6", 62, "wrong IPv4 header checksum"),
            ("gue, variant 0", -1, "wrong UDP checksum"),
            ("gue, variant 1, over ipv6", -10, "wrong TCP checksum"),
        ];
        for (name, at, complaint) in cases {
            let mut damaged = frame(name);
            let at = if at < 0 {
                damaged.len().strict_add_signed(at)
            } else {
                at.unsigned_abs()
            };
            damaged[at] ^= 0x10;
            assert_eq!(judge(&damaged), Err(complaint.to_owned()), "{name}");
        }
    }

    #[test]
    fn padding_is_not_covered() {
        let mut padded = frame("tcp over ipv4, padded");
        *padded.last_mut().unwrap() ^= 1;
        assert_eq!(judge(&padded), Ok(()));
    }

    #[test]
    fn udp_over_ipv6_needs_a_checksum_unless_it_is_a_tunnel() {
        let mut bare = frame("gue, variant 1, over ipv6");
        bare[57] ^= 1;
        let complaint = "UDP over IPv6 without a checksum".to_owned();
        assert_eq!(judge(&bare), Err(complaint));
    }

    #[test]
    fn frame_that_is_cut_off_is_no_good_frame() {
        for (name, hex) in GOOD {
            let whole = unhex(hex).unwrap();
            for len in 0..whole.len() - 3 {
                assert!(judge(&whole[..len]).is_err(), "{len} bytes of {name}");
            }
        }
    }
}
