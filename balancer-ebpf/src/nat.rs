//! Forwarding by rewriting addresses and ports, and the way back.
//!
//! A reply record, found by the backend's packet as it arrives, says what the
//! packet becomes and which way the client's packets came, so that a reply
//! needs no route: it goes back the way the flow came. With `nat` the request
//! needs no record, as its member follows from slots and flow tables as ever;
//! the reply record is looked up for each request all the same, which keeps it
//! from being evicted, and is written where it is missing. What `fullnat` adds
//! is in [`full`], how records of flows that are over go in [`queue`].
//!
//! The packet is routed here, not bridged: its TTL goes down by one, which
//! also ends a circle of balancers that are each other's backends.
//!
//! Here is what differs between the families: they write a packet into
//! [`Scratch`]. The rest knows padded addresses only, in functions that are
//! neither inlined nor local: the kernel verifies such a one once, for itself,
//! and not again with every way that leads to it, and it has a stack frame
//! that the others need not share.

pub(crate) mod error;
mod full;
mod queue;
mod record;
mod rewrite;
mod scratch;

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::layout::{Member, NatRecord, Target};
use balancer_common::parse::{self, Frame, Packet};
use balancer_common::verdict::Reason;

use crate::fragment;
use crate::maps::{self, Generation};
use crate::packet::XdpFrame;
use crate::pick::Picked;
use crate::vip::Family;
use crate::{Verdict, features, trace};

use scratch::{enter, scratch};

pub(crate) use record::Record;
pub(crate) use scratch::Scratch;

const TCP_FIN: u32 = 0x01;
const TCP_SYN: u32 = 0x02;
const TCP_RST: u32 = 0x04;
const TCP_ACK: u32 = 0x10;

/// What the functions here give: it is done, or it is not;
const DONE: u32 = 0;
const NOT_DONE: u32 = 1;
/// [`nat_reply`]: the packet is no reply, or one with a fault: this and a
/// reason's number.
const NOBODYS: u32 = 2;
const FAULT: u32 = 0x100;

/// What comes before the pick for a service whose packets are rewritten. What
/// rewrites routes, so it looks at the TTL; and a flow of `fullnat` that has a
/// translation stays with its member: gives its index plus one, or 0.
#[inline(always)]
pub(crate) fn follow<A: Family>(
    ctx: &XdpContext,
    target: &Target,
    packet: &Packet<A>,
) -> Result<u32, Reason> {
    let rewriting = Features::NAT.with(Features::FULLNAT);
    if !features::asked(target, Target::NAT | Target::FULLNAT, rewriting) {
        return Ok(0);
    }
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    if packet.is_error() {
        return error::follow::<A>(target);
    }
    enter(ctx, packet)?;
    if !features::asked(target, Target::FULLNAT, Features::FULLNAT) {
        return Ok(0);
    }
    let members = u32::from(target.member_count);
    Ok(full::nat_follow(
        ctx.ctx,
        target.service,
        target.members,
        members,
    ))
}

/// Whether the member gets packets that are rewritten, and [`follow`] has
/// seen to it.
#[inline(always)]
pub(crate) fn is_translated(target: &Target, member: &Member) -> bool {
    features::any(Features::NAT) && member.kind == Member::NAT && target.flags & Target::NAT != 0
        || features::any(Features::FULLNAT)
            && member.kind == Member::FULLNAT
            && target.flags & Target::FULLNAT != 0
}

/// Rewrites a client's packet for its member, after [`follow`].
#[inline(always)]
pub(crate) fn to_backend(
    ctx: &XdpContext,
    node: &Generation,
    target: &Target,
    picked: &Picked,
    is_error: bool,
) -> Result<(), Reason> {
    let member = picked.member;
    let scratch = scratch().ok_or(Reason::BadTable)?;
    let [_, _, dialled @ ..] = scratch.arrives.ports;
    let [c, d] = if member.port == [0, 0] {
        dialled
    } else {
        member.port
    };
    scratch.destination = member.outer_destination;
    [_, _, scratch.ports[2], scratch.ports[3]] = [0, 0, c, d];
    if is_error {
        return error::rewrite(ctx);
    }
    let (service, seat) = (target.service, u32::from(picked.index) << 16);
    let seat = seat | u32::from(member.incarnation);
    if member.kind == Member::NAT && features::any(Features::NAT) {
        if nat_keep(ctx.ctx, node.index, service, seat) != DONE {
            return Err(Reason::NatConflict);
        }
    } else if scratch.is_known == 0 && full::nat_lease(node.index, seat) != DONE {
        return Err(Reason::PortsExhausted);
    }
    match nat_rewrite(ctx.ctx) {
        DONE => Ok(()),
        _ => Err(Reason::BadLength),
    }
}

/// A packet of no service: a backend's reply, or nobody's.
#[inline(always)]
pub(crate) fn reply<A: Family>(ctx: &XdpContext, packet: &Packet<A>) -> Verdict {
    if !features::any(Features::NAT.with(Features::FULLNAT)) {
        return Err(Reason::NoService);
    }
    enter(ctx, packet)?;
    was_found(ctx, nat_reply(ctx.ctx), Reason::NoService)?;
    // While the frame is as it came.
    fragment::remember_reply(ctx, packet);
    if nat_rewrite(ctx.ctx) != DONE {
        return Err(Reason::BadLength);
    }
    go_back(ctx, Reason::ReplyForwarded)
}

/// What was found of a reply; `nobodys` is the reason of a packet that is none.
#[inline(always)]
fn was_found(ctx: &XdpContext, found: u32, nobodys: Reason) -> Result<(), Reason> {
    if found == NOBODYS {
        return Err(nobodys);
    }
    let scratch = scratch().ok_or(Reason::BadTable)?;
    trace::service(ctx, scratch.record.service);
    trace::replies(scratch.seat());
    if found != DONE {
        return Err(Reason::from_number(found - FAULT).unwrap_or(Reason::BadLength));
    }
    Ok(())
}

/// Sends what has been rewritten the way that the client's packets came.
#[inline(always)]
fn go_back(ctx: &XdpContext, reason: Reason) -> Verdict {
    let scratch = scratch().ok_or(Reason::BadTable)?;
    XdpFrame::of(ctx)
        .write(0, scratch.record.ethernet)
        .ok_or(Reason::BadLength)?;
    Ok((leave(ctx, scratch.record.egress), reason))
}

/// Out of an interface by its number.
#[inline(always)]
fn leave(ctx: &XdpContext, egress: u32) -> u32 {
    if egress == ctx.ingress_ifindex() as u32 {
        return XDP_TX;
    }
    trace::leaves(egress);
    // SAFETY: a helper call with two integers.
    unsafe { bpf_redirect(egress, 0) as u32 }
}

/// Rewrites the packet of the scratch entry, once its records are found or written.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_rewrite(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(scratch) = scratch() else {
        return NOT_DONE;
    };
    match rewrite::headers(&ctx, scratch) {
        Some(()) => DONE,
        None => NOT_DONE,
    }
}

/// `nat`: refreshes the flow's reply record, or writes it where there is none.
/// A record of another service, with the same client, ports and backend, is in
/// the way as long as it lives. `seat` is the member's index and incarnation,
/// the scratch entry's `destination` its address and `ports[2..]` its port.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_keep(ctx: *mut xdp_md, generation: u32, service: u32, seat: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(scratch) = scratch() else {
        return NOT_DONE;
    };
    let [a, b, ..] = scratch.arrives.ports;
    let [_, _, c, d] = scratch.ports;
    scratch.source = scratch.arrives.source;
    scratch.ports = [a, b, c, d];
    // Field by field, here and below: whole, it would be built on the stack.
    scratch.reply.source = scratch.destination;
    scratch.reply.destination = scratch.arrives.source;
    scratch.reply.ports = [c, d, a, b];
    scratch.reply.protocol = scratch.arrives.protocol;
    if !begin(&ctx, scratch, service) {
        return NOT_DONE;
    }
    take_seat(scratch, seat);
    if let Some(record) = maps::translation(&scratch.reply) {
        if record.is_of(&scratch.record) {
            record.note_request(&scratch.record, is_syn(scratch.flags));
            return DONE;
        }
        let Some(settings) = maps::nat_settings(generation) else {
            return NOT_DONE;
        };
        if !record.is_over(scratch.record.seen_ns, settings) {
            return NOT_DONE;
        }
        // In the queue as it is.
        maps::translate(&scratch.reply, &scratch.record);
        return DONE;
    }
    maps::translate(&scratch.reply, &scratch.record);
    queue::nat_queue(generation);
    DONE
}

/// The reply record of the flow that the packet is of, without its member.
#[inline(always)]
fn begin(ctx: &XdpContext, scratch: &mut Scratch, service: u32) -> bool {
    let [a, b, c, d] = scratch.arrives.ports;
    let Some(from) = XdpFrame::of(ctx).bytes::<12>(0) else {
        return false;
    };
    let record = &mut scratch.record;
    record.source = scratch.arrives.destination;
    record.destination = scratch.arrives.source;
    record.ports = [c, d, a, b];
    record.egress = ctx.ingress_ifindex() as u32;
    record.seen_ns = now();
    // Back where the packet came from.
    record.ethernet[..6].copy_from_slice(&from[6..]);
    record.ethernet[6..].copy_from_slice(&from[..6]);
    record.service = service;
    record.client = closing(scratch.flags);
    record.backend = 0;
    record.kind = NatRecord::REPLY;
    true
}

#[inline(always)]
fn take_seat(scratch: &mut Scratch, seat: u32) {
    scratch.record.member = (seat >> 16) as u16;
    scratch.record.incarnation = seat as u16;
}

/// Finds what becomes of the packet of the scratch entry if it is a reply, and
/// notes it in its record. Only a reply's faults have their names.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_reply(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(scratch) = scratch() else {
        return NOBODYS;
    };
    let record = match find_reply(&ctx, scratch) {
        Ok(record) => record,
        Err(not_found) => return not_found,
    };
    if record.note_reply(closing(scratch.flags), now()) && features::any(Features::FULLNAT) {
        full::keep_request(scratch, &record);
    }
    DONE
}

/// The record of the reply, or of the error in its place, in the scratch
/// entry, and there what becomes of it; or the number of why not.
#[inline(always)]
fn find_reply(ctx: &XdpContext, scratch: &mut Scratch) -> Result<Record, u32> {
    let record = maps::translation(&scratch.arrives).ok_or(NOBODYS)?;
    if !record.write_reply(scratch) {
        return Err(NOBODYS);
    }
    let packet = scratch.packet();
    if let Err(reason) = parse::transport(XdpFrame::of(ctx), &packet) {
        return Err(FAULT + reason as u32);
    }
    if packet.ttl <= 1 {
        return Err(FAULT + Reason::TtlExpired as u32);
    }
    Ok(record)
}

#[inline(always)]
fn is_syn(flags: u32) -> bool {
    flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// What a record keeps of a packet's flags.
#[inline(always)]
fn closing(flags: u32) -> u8 {
    let fin = if flags & TCP_FIN != 0 {
        NatRecord::FIN
    } else {
        0
    };
    let rst = if flags & TCP_RST != 0 {
        NatRecord::RST
    } else {
        0
    };
    fin | rst
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
