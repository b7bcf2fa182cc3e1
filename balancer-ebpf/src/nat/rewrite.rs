//! Rewrites addresses, ports and TTL in the frame, and brings the checksums up
//! to date (RFC 1624). It touches nothing but that; who knows the new addresses
//! is [`super`].

use aya_ebpf::programs::XdpContext;
use balancer_common::checksum::Delta;
use balancer_common::icmp_error::ICMP_LEN;
use balancer_common::layout::NatSettings;
use balancer_common::parse::{Frame, PROTOCOL_TCP};

use super::scratch::{MOST_HEADERS, Scratch};
use crate::packet::{FreshFrame, XdpFrame};

/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Where the checksum stands in a UDP header.
const UDP_CHECKSUM: usize = 6;
/// Where the checksum stands in an ICMP header.
const ICMP_CHECKSUM: usize = 2;

/// Rewrites the packet of the scratch entry, whose transport header is whole;
/// of a later fragment, which has none, only the addresses.
#[inline(always)]
pub(super) fn headers(ctx: &XdpContext, scratch: &Scratch) -> Option<()> {
    let frame = XdpFrame::of(ctx);
    let addresses = if scratch.pool == NatSettings::V4 as u32 {
        ipv4(frame, scratch)?
    } else {
        ipv6(frame, scratch)?
    };
    if scratch.is_later() {
        return Some(());
    }
    let delta = addresses.and(Delta::of(&scratch.arrives.ports, &scratch.ports));
    let at = scratch.transport_at();
    frame.write(at, scratch.ports)?;
    if scratch.arrives.protocol == u32::from(PROTOCOL_TCP) {
        let field = frame.bytes(at + TCP_CHECKSUM)?;
        return frame.write(at + TCP_CHECKSUM, delta.apply(field));
    }
    let field = frame.bytes(at + UDP_CHECKSUM)?;
    frame.write(at + UDP_CHECKSUM, delta.apply_udp(field))
}

/// Gives what became of the addresses' sum.
#[inline(always)]
fn ipv4(frame: &XdpFrame, scratch: &Scratch) -> Option<Delta> {
    let at = (scratch.ip_at as usize & MOST_HEADERS) + 8;
    let (from, to) = (first(&scratch.source), first(&scratch.destination));
    let delta = Delta::of(first(&scratch.arrives.source), from)
        .and(Delta::of(first(&scratch.arrives.destination), to));
    let [ttl, protocol, check @ ..]: [u8; 4] = frame.bytes(at)?;
    let lower = ttl.wrapping_sub(1);
    let hop = Delta::of(&[ttl, protocol], &[lower, protocol]);
    let [high, low] = delta.and(hop).apply(check);
    frame.write(at, [lower, protocol, high, low])?;
    frame.write(at + 4, *from)?;
    frame.write(at + 8, *to)?;
    Some(delta)
}

/// Likewise.
#[inline(always)]
fn ipv6(frame: &XdpFrame, scratch: &Scratch) -> Option<Delta> {
    let at = (scratch.ip_at as usize & MOST_HEADERS) + 6;
    // Two bytes, as the verifier does not follow the check of a single one.
    let [protocol, hops]: [u8; 2] = frame.bytes(at)?;
    frame.write(at, [protocol, hops.wrapping_sub(1)])?;
    frame.write(at + 2, scratch.source)?;
    frame.write(at + 18, scratch.destination)?;
    let delta = Delta::of(&scratch.arrives.source, &scratch.source);
    Some(delta.and(Delta::of(
        &scratch.arrives.destination,
        &scratch.destination,
    )))
}

/// Rewrites an ICMP error about a packet that answers those of the scratch
/// entry. `transport_at` is where the quoted transport header begins, `end`
/// where the error ends.
#[inline(always)]
pub(super) fn error(
    ctx: &XdpContext,
    scratch: &Scratch,
    transport_at: usize,
    end: usize,
) -> Option<()> {
    let frame = FreshFrame::of(ctx);
    let icmp_at = scratch.transport_at();
    let quoted_at = icmp_at + ICMP_LEN;
    let (addresses, mut summed) = if scratch.pool == NatSettings::V4 as u32 {
        outer_v4(frame, scratch)?;
        quoted_v4(frame, scratch, quoted_at)?
    } else {
        // ICMPv6 sums the addresses that it is sent between.
        let outer = outer_v6(frame, scratch)?;
        let addresses = quoted_v6(frame, scratch, quoted_at)?;
        (addresses, outer.and(addresses))
    };
    let [a, b, c, d] = scratch.ports;
    let before: [u8; 4] = frame.bytes(transport_at)?;
    let ports = Delta::of(&before, &[c, d, a, b]);
    frame.write(transport_at, [c, d, a, b])?;
    summed = summed.and(ports);
    let changed = addresses.and(ports);
    if scratch.arrives.protocol == u32::from(PROTOCOL_TCP) {
        // There, if enough is quoted.
        if transport_at + TCP_CHECKSUM + 2 <= end {
            let field: [u8; 2] = frame.bytes(transport_at + TCP_CHECKSUM)?;
            let anew = changed.apply(field);
            frame.write(transport_at + TCP_CHECKSUM, anew)?;
            summed = summed.and(Delta::of(&field, &anew));
        }
    } else {
        let field: [u8; 2] = frame.bytes(transport_at + UDP_CHECKSUM)?;
        let anew = changed.apply_udp(field);
        frame.write(transport_at + UDP_CHECKSUM, anew)?;
        summed = summed.and(Delta::of(&field, &anew));
    }
    let field = frame.bytes(icmp_at + ICMP_CHECKSUM)?;
    frame.write(icmp_at + ICMP_CHECKSUM, summed.apply(field))
}

/// The error's own header: to whoever the scratch entry's packets go to, and
/// from where they come from if their sender sent it.
#[inline(always)]
fn outer_v4(frame: &FreshFrame, scratch: &Scratch) -> Option<()> {
    let at = (scratch.ip_at as usize & MOST_HEADERS) + 8;
    let source: [u8; 4] = frame.bytes(at + 4)?;
    let to = first(&scratch.destination);
    let is_senders =
        u32::from_ne_bytes(source) == u32::from_ne_bytes(*first(&scratch.arrives.source));
    let from = if is_senders {
        *first(&scratch.source)
    } else {
        source
    };
    let delta = Delta::of(&source, &from).and(Delta::of(first(&scratch.arrives.destination), to));
    let [ttl, protocol, check @ ..]: [u8; 4] = frame.bytes(at)?;
    let lower = ttl.wrapping_sub(1);
    let hop = Delta::of(&[ttl, protocol], &[lower, protocol]);
    let [high, low] = delta.and(hop).apply(check);
    frame.write(at, [lower, protocol, high, low])?;
    frame.write(at + 4, from)?;
    frame.write(at + 8, *to)
}

/// Gives what became of the addresses' sum, and of the sum of all that was
/// changed: the header's own checksum makes up for them.
#[inline(always)]
fn quoted_v4(frame: &FreshFrame, scratch: &Scratch, at: usize) -> Option<(Delta, Delta)> {
    let (from, to) = (first(&scratch.destination), first(&scratch.source));
    let addresses = Delta::of(first(&scratch.arrives.destination), from)
        .and(Delta::of(first(&scratch.arrives.source), to));
    let field: [u8; 2] = frame.bytes(at + 10)?;
    let anew = addresses.apply(field);
    frame.write(at + 10, anew)?;
    frame.write(at + 12, *from)?;
    frame.write(at + 16, *to)?;
    Some((addresses, addresses.and(Delta::of(&field, &anew))))
}

/// As [`outer_v4`]; gives what became of the addresses' sum.
#[inline(always)]
fn outer_v6(frame: &FreshFrame, scratch: &Scratch) -> Option<Delta> {
    let at = (scratch.ip_at as usize & MOST_HEADERS) + 6;
    let [next, hops]: [u8; 2] = frame.bytes(at)?;
    frame.write(at, [next, hops.wrapping_sub(1)])?;
    let source: [u8; 16] = frame.bytes(at + 2)?;
    let is_senders = u128::from_ne_bytes(source) == u128::from_ne_bytes(scratch.arrives.source);
    let mut delta = Delta::of(&scratch.arrives.destination, &scratch.destination);
    if is_senders {
        delta = delta.and(Delta::of(&scratch.arrives.source, &scratch.source));
        frame.write(at + 2, scratch.source)?;
    }
    frame.write(at + 18, scratch.destination)?;
    Some(delta)
}

/// As [`quoted_v4`]; there is no checksum.
#[inline(always)]
fn quoted_v6(frame: &FreshFrame, scratch: &Scratch, at: usize) -> Option<Delta> {
    frame.write(at + 8, scratch.destination)?;
    frame.write(at + 24, scratch.source)?;
    let from = Delta::of(&scratch.arrives.destination, &scratch.destination);
    Some(from.and(Delta::of(&scratch.arrives.source, &scratch.source)))
}

#[inline(always)]
fn first(address: &[u8; 16]) -> &[u8; 4] {
    // Never the else: sixteen bytes have a first four.
    address.first_chunk().unwrap_or(&[0; 4])
}
