//! ICMP errors about flows that are translated (RFC 5508): what is quoted
//! becomes what the receiver knows, and the error goes on to it.
//!
//! An error is about a packet of one direction, and goes to who sent that. So
//! it is taken here for a packet of the other direction, and becomes what such
//! a packet becomes; in the quote, all is the other way round.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::layout::{NatRecord, NatSettings, Target};
use balancer_common::parse::Packet;
use balancer_common::verdict::Reason;

use super::scratch::scratch;
use super::{DONE, NOBODYS, NOT_DONE, find_reply, go_back, was_found};
use crate::vip::Family;
use crate::{Verdict, features, icmp_error, maps, pick};

/// What comes before the pick for an error to a service's address. A flow of
/// `fullnat` has to have a translation, and stays with its member: gives its
/// index plus one; with `nat` the member is picked as ever: 0.
#[inline(always)]
pub(super) fn follow<A: Family>(target: &Target) -> Result<u32, Reason> {
    enter_handed_over::<A>()?;
    if !features::asked(target, Target::FULLNAT, Features::FULLNAT) {
        return Ok(0);
    }
    let members = u32::from(target.member_count);
    match nat_error_follow(target.service, target.members, members) {
        0 => Err(Reason::ErrorUnmatched),
        known => Ok(known),
    }
}

/// An error to no service's address, about a packet that was sent to a backend
/// in its client's name, or in that of the pool: it goes to the client, the way
/// that replies go. Whoever knows nothing of the flow passes.
#[inline(always)]
pub(crate) fn reply<A: Family>(ctx: &XdpContext) -> Verdict {
    enter_handed_over::<A>()?;
    was_found(ctx, nat_error_reply(ctx.ctx), Reason::NotTcpUdp)?;
    rewrite(ctx)?;
    go_back(ctx, Reason::ErrorForwarded)
}

/// Finds what becomes of the error of the scratch entry.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_error_reply(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(scratch) = scratch() else {
        return NOBODYS;
    };
    match find_reply(&ctx, scratch) {
        Ok(_) => DONE,
        Err(not_found) => not_found,
    }
}

/// Rewrites the error of the scratch entry, once it is known what it becomes.
#[inline(always)]
pub(super) fn rewrite(ctx: &XdpContext) -> Result<(), Reason> {
    match nat_error_rewrite(ctx.ctx) {
        DONE => Ok(()),
        _ => Err(Reason::ErrorUnmatched),
    }
}

#[inline(always)]
fn enter_handed_over<A: Family>() -> Result<(), Reason> {
    let entered = if A::NAT_POOL == NatSettings::V4 as u32 {
        nat_error_enter_v4()
    } else {
        nat_error_enter_v6()
    };
    match entered {
        DONE => Ok(()),
        _ => Err(Reason::BadTable),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_error_enter_v4() -> u32 {
    enter::<[u8; 4]>()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_error_enter_v6() -> u32 {
    enter::<[u8; 16]>()
}

/// Writes the packet that was handed over into the scratch entry.
#[inline(always)]
fn enter<A: Family>() -> u32 {
    // SAFETY: an error of this family was handed over before it was balanced.
    let packet = unsafe { maps::handed_over::<Packet<A>>(maps::PACKET) };
    let (Some(packet), Some(scratch)) = (packet, scratch()) else {
        return NOT_DONE;
    };
    scratch.arrives.source = packet.source.padded();
    scratch.arrives.destination = packet.destination.padded();
    scratch.arrives.ports = packet.ports;
    scratch.arrives.protocol = u32::from(packet.protocol);
    scratch.place(packet);
    // With `nat`, requests keep their source.
    scratch.source = scratch.arrives.source;
    scratch.ports = packet.ports;
    DONE
}

/// `fullnat`: what the flow's requests leave from; gives the index of its
/// member plus one, or 0 if it has no translation.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_error_follow(service: u32, members: u32, member_count: u32) -> u32 {
    let Some(scratch) = scratch() else { return 0 };
    let [a, b, c, d] = scratch.arrives.ports;
    scratch.record.source = scratch.arrives.destination;
    scratch.record.destination = scratch.arrives.source;
    scratch.record.ports = [c, d, a, b];
    scratch.record.kind = NatRecord::REPLY;
    let Some(request) = maps::translation(&scratch.arrives) else {
        return 0;
    };
    if request.kind() != NatRecord::REQUEST || request.service() != service {
        return 0;
    }
    request.write_answer_key(scratch.arrives.protocol, &mut scratch.reply);
    if !maps::translation(&scratch.reply).is_some_and(|reply| reply.is_of(&scratch.record)) {
        return 0;
    }
    let (index, incarnation) = request.seat();
    if pick::incarnation(members, member_count, index) != Some(incarnation) {
        return 0;
    }
    scratch.source = scratch.reply.destination;
    let [_, _, a, b] = scratch.reply.ports;
    [scratch.ports[0], scratch.ports[1]] = [a, b];
    u32::from(index) + 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_error_rewrite(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let (Some(scratch), Some((transport_at, end))) = (scratch(), icmp_error::places()) else {
        return NOT_DONE;
    };
    match super::rewrite::error(&ctx, scratch, transport_at, end) {
        Some(()) => DONE,
        None => NOT_DONE,
    }
}
