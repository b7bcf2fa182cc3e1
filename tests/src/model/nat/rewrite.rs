//! Packets with other ends: each checksum is changed by what its words have
//! changed by (RFC 1624).

use std::net::{IpAddr, SocketAddr};

use super::TCP;
use crate::model::forward::ones_complement_sum;
use crate::model::icmp_error::Told;
use crate::model::parse::{Flow, Part};

/// The frame with other ends. Checksums that were wrong stay as wrong: each
/// is changed by what its words have changed by (RFC 1624).
pub(super) fn rewrite(
    frame: &[u8],
    flow: &Flow,
    ethernet: [u8; 12],
    ends: [SocketAddr; 2],
) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..12].copy_from_slice(&ethernet);
    let (ip, transport) = (flow.ip_at, flow.ip_at + flow.header_len);
    let addresses: Vec<u8> = ends.iter().flat_map(|end| octets(end.ip())).collect();
    let ports = ends.map(|end| end.port().to_be_bytes()).concat();
    let checksum_at = transport + if flow.protocol == TCP { 16 } else { 6 };
    let addresses_at = if flow.destination.is_ipv4() {
        out[ip + 8] -= 1;
        out[ip + 12..ip + 20].copy_from_slice(&addresses);
        let (old, new) = (&frame[ip + 8..ip + 20], out[ip + 8..ip + 20].to_vec());
        // The checksum itself, at 2, is no part of what it sums.
        let words = |bytes: &[u8]| [&bytes[..2], &bytes[4..]].concat();
        adjust(&mut out, ip + 10, &words(old), &words(&new));
        ip + 12
    } else {
        out[ip + 7] -= 1;
        out[ip + 8..ip + 40].copy_from_slice(&addresses);
        ip + 8
    };
    // What a later fragment begins with is in the middle of something.
    if let Part::Later(_) = flow.part {
        return out;
    }
    out[transport..transport + 4].copy_from_slice(&ports);
    let old_addresses = &frame[addresses_at..addresses_at + addresses.len()];
    let old = [old_addresses, &frame[transport..transport + 4]].concat();
    let new = [addresses, ports].concat();
    let is_summed = flow.protocol == TCP || out[checksum_at..checksum_at + 2] != [0, 0];
    if is_summed {
        adjust(&mut out, checksum_at, &old, &new);
    }
    // RFC 768: a sum of zero is sent as ones, as zero says that there is none.
    if is_summed && flow.protocol != TCP && out[checksum_at..checksum_at + 2] == [0, 0] {
        out[checksum_at..checksum_at + 2].copy_from_slice(&[0xff, 0xff]);
    }
    out
}

/// An error about a packet that answers those of its flow, which become ones
/// between these ends: what is quoted becomes what they are answered with.
pub fn rewrite_error(
    frame: &[u8],
    told: &Told,
    ethernet: [u8; 12],
    [from, to]: [SocketAddr; 2],
) -> Vec<u8> {
    let flow = &told.flow;
    let (ip, icmp) = (flow.ip_at, flow.ip_at + flow.header_len);
    let (quoted, end) = (icmp + 8, flow.ip_at + flow.ip_len);
    let mut out = frame.to_vec();
    out[..12].copy_from_slice(&ethernet);
    let (len, at) = if from.is_ipv4() { (4, 12) } else { (16, 8) };
    if out[ip + at..][..len] == octets(flow.source) {
        out[ip + at..][..len].copy_from_slice(&octets(from.ip()));
    }
    out[ip + at + len..][..len].copy_from_slice(&octets(to.ip()));
    out[quoted + at..][..len].copy_from_slice(&octets(to.ip()));
    out[quoted + at + len..][..len].copy_from_slice(&octets(from.ip()));
    if from.is_ipv4() {
        out[ip + 8] -= 1;
        let words = |bytes: &[u8]| [&bytes[ip + 8..ip + 10], &bytes[ip + 12..ip + 20]].concat();
        let (old, new) = (words(frame), words(&out));
        adjust(&mut out, ip + 10, &old, &new);
        let new = out[quoted + 12..quoted + 20].to_vec();
        adjust(
            &mut out,
            quoted + 10,
            &frame[quoted + 12..quoted + 20],
            &new,
        );
    } else {
        out[ip + 7] -= 1;
    }
    let transport = told.transport_at;
    out[transport..][..2].copy_from_slice(&to.port().to_be_bytes());
    out[transport + 2..][..2].copy_from_slice(&from.port().to_be_bytes());
    let is_tcp = flow.protocol == TCP;
    let checksum = transport + if is_tcp { 16 } else { 6 };
    let is_summed = if is_tcp {
        checksum + 2 <= end
    } else {
        frame[checksum..checksum + 2] != [0, 0]
    };
    if is_summed {
        let words =
            |bytes: &[u8]| [&bytes[quoted + at..][..2 * len], &bytes[transport..][..4]].concat();
        let (old, new) = (words(frame), words(&out));
        adjust(&mut out, checksum, &old, &new);
        if !is_tcp && out[checksum..checksum + 2] == [0, 0] {
            out[checksum..checksum + 2].copy_from_slice(&[0xff, 0xff]);
        }
    }
    let words = |bytes: &[u8]| {
        let mut words = bytes[icmp + 4..end].to_vec();
        words.resize(words.len().next_multiple_of(2), 0);
        if from.is_ipv6() {
            words.extend(&bytes[ip + at..][..2 * len]);
        }
        words
    };
    let (old, new) = (words(frame), words(&out));
    adjust(&mut out, icmp + 2, &old, &new);
    out
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The field's sum, less the old words, plus the new ones.
fn adjust(out: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let mut words = vec![!out[at], !out[at + 1]];
    words.extend(old.iter().map(|byte| !byte));
    words.extend(new);
    let check = !ones_complement_sum(&words);
    out[at..at + 2].copy_from_slice(&check.to_be_bytes());
}
