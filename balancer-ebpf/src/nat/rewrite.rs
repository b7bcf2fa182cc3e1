//! Rewrites addresses, ports and TTL in the frame, and brings the checksums up
//! to date (RFC 1624). It touches nothing but that; who knows the new addresses
//! is [`super`].

use aya_ebpf::programs::XdpContext;
use balancer_common::checksum::Delta;
use balancer_common::layout::NatSettings;
use balancer_common::parse::{Frame, PROTOCOL_TCP};

use super::scratch::{MOST_HEADERS, Scratch};
use crate::packet::XdpFrame;

/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Where the checksum stands in a UDP header.
const UDP_CHECKSUM: usize = 6;

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

#[inline(always)]
fn first(address: &[u8; 16]) -> &[u8; 4] {
    // Never the else: sixteen bytes have a first four.
    address.first_chunk().unwrap_or(&[0; 4])
}
