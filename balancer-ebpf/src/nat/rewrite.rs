//! Rewrites addresses, ports and TTL in the frame, and brings the checksums up
//! to date (RFC 1624). It touches nothing but that; who knows the new addresses
//! is [`super`].

use aya_ebpf::programs::XdpContext;
use balancer_common::checksum::Delta;
use balancer_common::parse::{Frame, PROTOCOL_TCP, Packet};
use balancer_common::verdict::Reason;

use crate::packet::XdpFrame;
use crate::vip::Family;

/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM: usize = 16;
/// Where the checksum stands in a UDP header.
const UDP_CHECKSUM: usize = 6;

/// A family whose headers can be rewritten. New addresses are those of
/// records: padded, and read where they lie, as the stack has no room for them.
pub(crate) trait Translated: Family {
    /// Rewrites the addresses and lowers the TTL in the packet's header.
    fn rewrite(frame: &XdpFrame, packet: &Packet<Self>, new: &Addresses<'_>) -> Option<()>;

    /// What becomes of the sum of the addresses.
    fn delta(packet: &Packet<Self>, new: &Addresses<'_>) -> Delta;
}

/// What a packet's addresses become.
pub(crate) struct Addresses<'a> {
    pub(crate) source: &'a [u8; 16],
    pub(crate) destination: &'a [u8; 16],
}

impl Translated for [u8; 4] {
    #[inline(always)]
    fn rewrite(frame: &XdpFrame, packet: &Packet<Self>, new: &Addresses<'_>) -> Option<()> {
        let ttl_at = packet.ip_at + 8;
        let [ttl, protocol, check @ ..]: [u8; 4] = frame.bytes(ttl_at)?;
        let lower = ttl.wrapping_sub(1);
        let delta = Delta::of([ttl, protocol], [lower, protocol]);
        let [high, low] = delta.and(Self::delta(packet, new)).apply(check);
        frame.write(ttl_at, [lower, protocol, high, low])?;
        frame.write(ttl_at + 4, *first(new.source))?;
        frame.write(ttl_at + 8, *first(new.destination))
    }

    #[inline(always)]
    fn delta(packet: &Packet<Self>, new: &Addresses<'_>) -> Delta {
        let source = Delta::of(packet.source, *first(new.source));
        source.and(Delta::of(packet.destination, *first(new.destination)))
    }
}

#[inline(always)]
fn first(address: &[u8; 16]) -> &[u8; 4] {
    // Never the else: sixteen bytes have a first four.
    address.first_chunk().unwrap_or(&[0; 4])
}

impl Translated for [u8; 16] {
    #[inline(always)]
    fn rewrite(frame: &XdpFrame, packet: &Packet<Self>, new: &Addresses<'_>) -> Option<()> {
        frame.write(packet.ip_at + 7, [packet.ttl.wrapping_sub(1)])?;
        frame.write(packet.ip_at + 8, *new.source)?;
        frame.write(packet.ip_at + 24, *new.destination)
    }

    #[inline(always)]
    fn delta(packet: &Packet<Self>, new: &Addresses<'_>) -> Delta {
        let source = Delta::of(packet.source, *new.source);
        source.and(Delta::of(packet.destination, *new.destination))
    }
}

/// Rewrites a packet whose transport header is whole, or a later fragment,
/// which has none.
#[inline(always)]
pub(crate) fn headers<A: Translated>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    new: &Addresses<'_>,
    ports: [u8; 4],
) -> Result<(), Reason> {
    let frame = XdpFrame::of(ctx);
    if packet.is_later() {
        return A::rewrite(frame, packet, new).ok_or(Reason::BadLength);
    }
    let at = transport_at(packet);
    let delta = A::delta(packet, new).and(Delta::of(packet.ports, ports));
    let is_tcp = packet.protocol == PROTOCOL_TCP;
    let checksum_at = at + if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let field = frame.bytes(checksum_at).ok_or(Reason::BadLength)?;
    let field = if is_tcp {
        delta.apply(field)
    } else {
        delta.apply_udp(field)
    };
    A::rewrite(frame, packet, new)
        .and_then(|()| frame.write(at, ports))
        .and_then(|()| frame.write(checksum_at, field))
        .ok_or(Reason::BadLength)
}

/// Where the transport header begins. The stages before have checked the same
/// places, and the compiler, which knows, would leave out checks that the
/// verifier wants to see for the pointers made here; so it is kept from knowing.
#[inline(always)]
pub(crate) fn transport_at<A>(packet: &Packet<A>) -> usize {
    core::hint::black_box(packet.ip_at + packet.header_len as usize)
}
