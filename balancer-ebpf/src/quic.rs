//! Finds the member that a QUIC connection id names.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::layout::{Member, Target};
use balancer_common::parse::{Frame, PROTOCOL_UDP, Packet, Part};
use balancer_common::quic::{self, Server};
use balancer_common::verdict::Reason;

use crate::maps::{self, Generation};
use crate::packet::{FreshFrame, XdpFrame};
use crate::{features, pick, vip};

const UDP_LEN: u32 = 8;

/// The packet names no server: it goes to its flow's slot.
pub(crate) const UNNAMED: u32 = u32::MAX;
/// No living member has the id that the packet names.
pub(crate) const UNKNOWN: u32 = u32::MAX - 1;

/// Whether the answer is a member.
#[inline(always)]
pub(crate) fn is_member(named: u32) -> bool {
    named < UNKNOWN && features::any(Features::QUIC)
}

/// What to say of a packet that was forwarded.
#[inline(always)]
pub(crate) fn reason(named: u32) -> Reason {
    if named == UNKNOWN && features::any(Features::QUIC) {
        Reason::UnknownServerId
    } else {
        Reason::Forwarded
    }
}

/// Index of the living member that a packet of a QUIC service names,
/// [`UNNAMED`] or [`UNKNOWN`]. Of a packet in fragments only the first one
/// can name it; a flow whose translation holds a member is not asked.
#[inline(always)]
pub(crate) fn route<A, const PLAIN: bool>(
    ctx: &XdpContext,
    node: &Generation,
    target: &Target,
    packet: &Packet<A>,
    kept: u32,
) -> u32 {
    if !features::asked(target, Target::QUIC, Features::QUIC)
        || packet.protocol != PROTOCOL_UDP
        || kept != 0
        || matches!(packet.part, Part::Later(_) | Part::Error)
    {
        return UNNAMED;
    }
    if PLAIN {
        return find_plain(ctx, node, target, packet);
    }
    let payload = packet.ip_at as u32 + packet.header_len + UDP_LEN;
    let end = packet.ip_at as u32 + packet.ip_len;
    let place = u64::from(payload) << 32 | u64::from(end);
    let members = u64::from(target.members) << 32 | u64::from(target.member_count);
    quic_server(ctx.ctx, node.index, target.options, members, place)
}

/// A function of its own, that the kernel verifies once: the member of the
/// server id in a UDP payload. `place` is where the payload begins and where
/// it ends, 32 bits each; `members` the index of the service's first member,
/// and how many it has.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn quic_server(
    ctx: *mut xdp_md,
    generation: u32,
    options: u32,
    members: u64,
    place: u64,
) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(node) = maps::generation_at(generation) else {
        return UNNAMED;
    };
    let payload = (place >> 32) as usize & 0x7fff;
    let end = (place & 0x1_ffff) as usize;
    let seats = ((members >> 32) as u32, members as u32);
    find(FreshFrame::of(&ctx), &node, options, seats, (payload, end))
}

/// Where everything is at a constant place: not a function of its own, as a
/// return costs more than the look-ups.
#[inline(always)]
fn find_plain<A>(ctx: &XdpContext, node: &Generation, target: &Target, packet: &Packet<A>) -> u32 {
    let headers_len = packet.header_len + UDP_LEN;
    let payload = (packet.ip_at as u32 + headers_len) as usize;
    let end = packet.ip_at + packet.ip_len as usize;
    let seats = (target.members, u32::from(target.member_count));
    find(
        XdpFrame::of(ctx),
        node,
        target.options,
        seats,
        (payload, end),
    )
}

/// The member of the server id in a UDP payload, which begins and ends at
/// `place`. `seats` is the index of the service's first member, and how many
/// it has.
#[inline(always)]
fn find(
    frame: &impl Frame,
    node: &Generation,
    options: u32,
    seats: (u32, u32),
    place: (usize, usize),
) -> u32 {
    let Some(known) = maps::options(options) else {
        return UNNAMED;
    };
    let (offset, len) = (known.server_id_offset, known.server_id_len);
    let Server::Id(id) = quic::server(frame, place.0, place.1, offset, len) else {
        return UNNAMED;
    };
    vip::server(node, options, id)
        .filter(|index| pick::own(seats.0, seats.1, *index).is_some_and(Member::is_alive))
        .map_or(UNKNOWN, u32::from)
}
