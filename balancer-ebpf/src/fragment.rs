//! Fragments: the first one leaves a record, later ones follow it.
//!
//! Only the first fragment of a packet has ports. Its record names them and
//! the member it went to, so that later ones reach the same one even if a
//! table changes between them. A later fragment that comes before the first
//! is dropped by name: nothing is held back here.

use aya_ebpf::programs::XdpContext;
use balancer_common::layout::{FragmentRecord, Target};
use balancer_common::parse::{Frame, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Part};
use balancer_common::unusual::fragment_key;
use balancer_common::verdict::Reason;

use crate::maps::{self, Generation};
use crate::packet::FreshFrame;
use crate::pick::Picked;
use crate::vip::{self, Family};

/// A later fragment with the ports of its first one.
#[inline(always)]
pub(crate) fn claim<A: Family>(
    mut packet: Packet<A>,
    identification: u32,
) -> Result<Packet<A>, Reason> {
    let (source, destination) = (packet.source, packet.destination);
    let key = fragment_key(source, destination, packet.protocol, identification);
    let Some(record) = maps::fragment(&key) else {
        return Err(unclaimed(&packet));
    };
    packet.ports = record.ports;
    packet.protocol = record.protocol as u8;
    packet.part = Part::Later(record);
    Ok(packet)
}

/// Only what claims TCP or UDP to a service's address is surely for it.
#[inline(always)]
fn unclaimed<A: Family>(packet: &Packet<A>) -> Reason {
    if !matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP) {
        return Reason::LaterFragment;
    }
    match maps::generation() {
        Some(node) if vip::has_address(&node, packet.destination) => Reason::FragmentUnknown,
        Some(_) => Reason::LaterFragment,
        None => Reason::BadTable,
    }
}

/// A first fragment to a service's address that is for no service passes, so
/// its later ones have to pass, too.
#[inline(always)]
pub(crate) fn remember_foreign<A: Family>(ctx: &XdpContext, node: &Generation, packet: &Packet<A>) {
    if let Part::First(identification) = packet.part
        && vip::has_address(node, packet.destination)
    {
        leave::<A>(ctx, place(packet), identification, 0, 0);
    }
}

/// The first fragment of a backend's packet: its later ones only need ports,
/// which lead to the same translation.
#[inline(always)]
pub(crate) fn remember_reply<A: Family>(ctx: &XdpContext, packet: &Packet<A>) {
    if let Part::First(identification) = packet.part {
        leave::<A>(ctx, place(packet), identification, 0, 0);
    }
}

/// Leaves the record of a first fragment that goes to this member; the frame
/// is still as it came.
#[inline(always)]
pub(crate) fn remember<A: Family>(
    ctx: &XdpContext,
    target: &Target,
    packet: &Packet<A>,
    picked: &Picked,
) {
    if let Part::First(identification) = packet.part {
        let owner = u32::from(picked.index) | u32::from(picked.member.incarnation) << 16;
        leave::<A>(ctx, place(packet), identification, target.service, owner);
    }
}

/// Where IP and transport header begin, and the protocol, in one number.
#[inline(always)]
fn place<A>(packet: &Packet<A>) -> u64 {
    let transport_at = packet.ip_at as u64 + u64::from(packet.header_len);
    packet.ip_at as u64 | transport_at << 16 | u64::from(packet.protocol) << 32
}

/// A function of its own, with nothing but numbers for it: what is rare shall
/// take neither registers nor stack from what is not. The rest it reads from
/// the frame again.
#[inline(never)]
fn leave<A: Family>(ctx: &XdpContext, place: u64, identification: u32, service: u32, owner: u32) {
    let frame = FreshFrame::of(ctx);
    let ip_at = (place & 0x1f) as usize;
    let transport_at = (place >> 16 & 0x7fff) as usize;
    let protocol = (place >> 32) as u8;
    if let Some(ports) = frame.bytes(transport_at)
        && let Some((source, destination)) = A::addresses(frame, ip_at)
    {
        let record = FragmentRecord {
            ports,
            protocol: u32::from(protocol),
            service,
            member: owner as u16,
            incarnation: (owner >> 16) as u16,
        };
        let key = fragment_key(source, destination, protocol, identification);
        maps::record_fragment(&key, &record);
    }
}
