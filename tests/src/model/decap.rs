//! What the backend's program should do with every packet, in plain Rust.
//!
//! Written from RFC 2003, 2473, 4213, 6040, 768 and the draft of GUE, and from
//! the rules that `balancer-common` documents; it shares nothing with the
//! program but the names of forms and refusals.
//!
//! A tunnel packet is judged in this order: its source, fragments, the lengths
//! around the inner packet, the UDP checksum, the GUE header, the inner
//! version, the inner length, ECN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::decap::{Form, Refusal};
use balancer_user::dataplane::trial::Action;

use super::forward::{checksum, ones_complement_sum};

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Where it goes.
    pub action: Action,
    /// The frame as it goes there.
    pub frame: Vec<u8>,
    /// What is counted: a form and bytes, or a refusal, or nothing.
    pub counted: Option<Result<(Form, u64), Refusal>>,
}

/// The outer packet.
struct Tunnel<'a> {
    source: IpAddr,
    destination: IpAddr,
    ecn: u8,
    protocol: u8,
    is_fragment: bool,
    /// All bytes behind the headers that were stepped over.
    carried: &'a [u8],
    /// Bytes of it that the outer header speaks of.
    carried_len: Option<usize>,
}

/// Unwraps packets of the sources for which `is_trusted` holds.
pub fn unwrap(frame: &[u8], gue_port: u16, is_trusted: impl Fn(IpAddr) -> bool) -> Outcome {
    let untouched = |action, counted| Outcome {
        action,
        frame: frame.to_vec(),
        counted,
    };
    let Some((link_len, tunnel)) = tunnel(frame, gue_port) else {
        return untouched(Action::Pass, None);
    };
    let judged = if is_trusted(tunnel.source) {
        inner(&tunnel, gue_port)
    } else {
        Err(Refusal::UntrustedSource)
    };
    match judged {
        Err(Refusal::EcnDrop) => untouched(Action::Drop, Some(Err(Refusal::EcnDrop))),
        Err(refusal) => untouched(Action::Pass, Some(Err(refusal))),
        Ok((form, bytes, packet)) => {
            let mut out = frame[..link_len].to_vec();
            let ethertype = if packet[0] >> 4 == 4 {
                0x0800u16
            } else {
                0x86dd
            };
            out[link_len - 2..].copy_from_slice(&ethertype.to_be_bytes());
            out.extend(packet);
            Outcome {
                action: Action::Pass,
                frame: out,
                counted: Some(Ok((form, bytes))),
            }
        }
    }
}

/// The tunnel packet in a frame, and the bytes before it.
fn tunnel(frame: &[u8], gue_port: u16) -> Option<(usize, Tunnel<'_>)> {
    let mut link_len = 14;
    for _ in 0..2 {
        if matches!(frame.get(link_len - 2..link_len)?, [0x81, 0] | [0x88, 0xa8]) {
            link_len += 4;
        }
    }
    let packet = frame.get(link_len..)?;
    let tunnel = match frame[link_len - 2..link_len] {
        [0x08, 0x00] => ipv4(packet)?,
        [0x86, 0xdd] => ipv6(packet)?,
        _ => return None,
    };
    match tunnel.protocol {
        4 | 41 => Some((link_len, tunnel)),
        17 => (word(tunnel.carried, 2)? == gue_port).then_some((link_len, tunnel)),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Tunnel<'_>> {
    let header = packet.get(..20)?;
    let header_len = usize::from(header[0] % 16) * 4;
    if header[0] / 16 != 4 || header_len < 20 {
        return None;
    }
    let fragment = word(header, 6)?;
    let (offset, more) = (fragment % 0x2000, fragment & 0x2000 != 0);
    // A later fragment begins in the middle of the datagram.
    if header[9] == 17 && offset != 0 {
        return None;
    }
    Some(Tunnel {
        source: Ipv4Addr::from(<[u8; 4]>::try_from(&header[12..16]).ok()?).into(),
        destination: Ipv4Addr::from(<[u8; 4]>::try_from(&header[16..20]).ok()?).into(),
        ecn: header[1] % 4,
        protocol: header[9],
        is_fragment: offset != 0 || more,
        carried: packet.get(header_len..).unwrap_or_default(),
        carried_len: usize::from(word(header, 2)?).checked_sub(header_len),
    })
}

fn ipv6(packet: &[u8]) -> Option<Tunnel<'_>> {
    let header = packet.get(..40)?;
    if header[0] / 16 != 6 {
        return None;
    }
    let mut tunnel = Tunnel {
        source: Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?).into(),
        destination: Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?).into(),
        ecn: header[1] / 16 % 4,
        protocol: header[6],
        is_fragment: false,
        carried: &packet[40..],
        carried_len: Some(usize::from(word(header, 4)?)),
    };
    match header[6] {
        60 => {
            let options = tunnel.carried.get(..8)?;
            if options[1] != 0 || !all_skippable(&options[2..]) {
                return None;
            }
            tunnel.protocol = options[0];
            tunnel.carried = &tunnel.carried[8..];
            tunnel.carried_len = tunnel.carried_len.and_then(|len| len.checked_sub(8));
        }
        44 => {
            let fragment = tunnel.carried.get(..4)?;
            tunnel.protocol = fragment[0];
            if fragment[0] == 17 && word(fragment, 2)? / 8 != 0 {
                return None;
            }
            tunnel.is_fragment = true;
            tunnel.carried = tunnel.carried.get(8..).unwrap_or_default();
        }
        _ => {}
    }
    Some(tunnel)
}

/// RFC 8200, 4.2: type, length, value; type 0 is a single byte.
fn all_skippable(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        if kind / 64 != 0 {
            return false;
        }
        options = match rest {
            _ if *kind == 0 => rest,
            [len, value @ ..] if value.len() >= usize::from(*len) => &value[usize::from(*len)..],
            _ => return false,
        };
    }
    true
}

/// Form, counted bytes, and the inner packet with what follows it.
fn inner(tunnel: &Tunnel<'_>, gue_port: u16) -> Result<(Form, u64, Vec<u8>), Refusal> {
    if tunnel.is_fragment {
        return Err(Refusal::FragmentedOuter);
    }
    let len = tunnel.carried_len.ok_or(Refusal::Truncated)?;
    let carried = tunnel.carried.get(..len).ok_or(Refusal::Truncated)?;
    // The inner packet, and how many bytes before it go.
    let (is_v4, skipped, len) = match tunnel.protocol {
        4 => (true, 0, len),
        41 => (false, 0, len),
        _ => gue(tunnel, carried, gue_port)?,
    };
    let mut packet = tunnel.carried.get(skipped..).unwrap_or_default().to_vec();
    if len < 20 {
        return Err(Refusal::Truncated);
    }
    if packet[0] / 16 != if is_v4 { 4 } else { 6 } {
        return Err(Refusal::BadInnerVersion);
    }
    let own_len = if is_v4 {
        word(&packet, 2).map(usize::from)
    } else {
        word(&packet, 4).map(|payload| 40 + usize::from(payload))
    };
    if own_len.is_none_or(|own| own > len) {
        return Err(Refusal::Truncated);
    }
    mark(&mut packet, is_v4, tunnel.ecn)?;
    Ok((
        form(tunnel.protocol == 17, tunnel.source.is_ipv4(), is_v4),
        len as u64,
        packet,
    ))
}

/// Whether the inner packet is IPv4, the bytes before it, and its length.
fn gue(
    tunnel: &Tunnel<'_>,
    carried: &[u8],
    gue_port: u16,
) -> Result<(bool, usize, usize), Refusal> {
    let udp_len = usize::from(word(carried, 4).ok_or(Refusal::Truncated)?);
    if carried.len() < 8 || udp_len < 8 {
        return Err(Refusal::Truncated);
    }
    let datagram = carried.get(..udp_len).ok_or(Refusal::Truncated)?;
    assert_eq!(word(datagram, 2), Some(gue_port));
    if datagram[6..8] != [0, 0] {
        let mut covered = Vec::new();
        for address in [tunnel.source, tunnel.destination] {
            match address {
                IpAddr::V4(address) => covered.extend(address.octets()),
                IpAddr::V6(address) => covered.extend(address.octets()),
            }
        }
        covered.extend([0, 17]);
        covered.extend((udp_len as u16).to_be_bytes());
        covered.extend(datagram);
        if ones_complement_sum(&covered) != 0xffff {
            return Err(Refusal::BadUdpChecksum);
        }
    }
    // Padding may stand in for a header that the datagram is too short for;
    // its length is judged afterwards.
    let header = tunnel.carried.get(8..12).ok_or(Refusal::Truncated)?;
    let (is_v4, header_len) = match header[0] >> 6 {
        1 => match header[0] >> 4 {
            4 => (true, 0),
            6 => (false, 0),
            _ => return Err(Refusal::BadInnerVersion),
        },
        0 if header[0] & 0x20 == 0 && header[2..] == [0, 0] => match header[1] {
            4 => (true, 4 + usize::from(header[0] & 0x1f) * 4),
            41 => (false, 4 + usize::from(header[0] & 0x1f) * 4),
            _ => return Err(Refusal::UnsupportedGue),
        },
        _ => return Err(Refusal::UnsupportedGue),
    };
    let skipped = 8 + header_len;
    let len = udp_len.checked_sub(skipped).ok_or(Refusal::Truncated)?;
    Ok((is_v4, skipped, len))
}

/// RFC 6040, figure 4: rows are the inner code points Not-ECT, ECT(1),
/// ECT(0), CE, columns the outer ones.
const COMBINED: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

fn mark(packet: &mut [u8], is_v4: bool, outer: u8) -> Result<(), Refusal> {
    let shift = if is_v4 { 0 } else { 4 };
    let old = packet[1] >> shift & 3;
    let new = COMBINED[usize::from(old)][usize::from(outer)].ok_or(Refusal::EcnDrop)?;
    let before = packet[1];
    packet[1] = before & !(3 << shift) | new << shift;
    if is_v4 && packet[1] != before {
        // The error of the old checksum, if it has one, stays as it is: what
        // a header of twenty bytes is off by, added to a full new sum.
        let mut header = packet[..20].to_vec();
        header[10..12].fill(0);
        let full = checksum(&header);
        header[1] = before;
        let off = add(
            u16::from_be_bytes([packet[10], packet[11]]),
            !checksum(&header),
        );
        // Of the two zeros, the one that an updated field has (RFC 1624, 3).
        let check = match add(full, off) {
            0xffff => 0,
            check => check,
        };
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    }
    Ok(())
}

/// Ones' complement addition.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

fn form(is_gue: bool, outer_v4: bool, inner_v4: bool) -> Form {
    match (is_gue, outer_v4, inner_v4) {
        (false, true, true) => Form::Ipip4in4,
        (false, true, false) => Form::Ipip6in4,
        (false, false, true) => Form::Ipip4in6,
        (false, false, false) => Form::Ipip6in6,
        (true, true, true) => Form::Gue4in4,
        (true, true, false) => Form::Gue6in4,
        (true, false, true) => Form::Gue4in6,
        (true, false, false) => Form::Gue6in6,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([word[0], word[1]]))
}
