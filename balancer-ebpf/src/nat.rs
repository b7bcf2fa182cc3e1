//! Forwarding by rewriting addresses and ports, and the way back.
//!
//! A reply record, found by the backend's packet as it arrives, says what the
//! packet becomes and which way the client's packets came, so that a reply
//! needs no route: it goes back the way the flow came. With `nat` the request
//! needs no record, as its member follows from slots and flow tables as ever;
//! the reply record is looked up for each request all the same, which keeps it
//! from being evicted, and is written where it is missing.
//!
//! The packet is routed here, not bridged: its TTL goes down by one, which
//! also ends a circle of balancers that are each other's backends.

mod record;
mod rewrite;

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::layout::{NatKey, NatRecord, Target};
use balancer_common::parse::{self, Frame, PROTOCOL_TCP, Packet};
use balancer_common::verdict::Reason;

use crate::features;
use crate::fragment;
use crate::maps::{self, Generation};
use crate::packet::XdpFrame;
use crate::pick::Picked;
use crate::trace;
use rewrite::Addresses;

pub(crate) use record::Record;
pub(crate) use rewrite::Translated;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// `nat`: rewrites a client's packet for its member.
#[inline(always)]
pub(crate) fn to_backend<A: Translated>(
    ctx: &XdpContext,
    node: &Generation,
    target: &Target,
    packet: &Packet<A>,
    picked: &Picked,
) -> Result<(), Reason> {
    check_ttl(packet)?;
    let member = picked.member;
    let [a, b, c, d] = packet.ports;
    let [e, f] = match member.port {
        [0, 0] => [c, d],
        port => port,
    };
    let scratch = scratch()?;
    scratch.key = NatKey {
        source: member.outer_destination,
        destination: packet.source.padded(),
        ports: [e, f, a, b],
        protocol: u32::from(packet.protocol),
    };
    let flags = tcp_flags(ctx, packet)?;
    scratch.record = NatRecord {
        source: packet.destination.padded(),
        destination: packet.source.padded(),
        ports: [c, d, a, b],
        egress: ctx.ingress_ifindex() as u32,
        seen_ns: now(),
        ethernet: way_back(ctx)?,
        service: target.service,
        member: picked.index,
        incarnation: member.incarnation,
        client: closing(flags),
        backend: 0,
        kind: NatRecord::REPLY,
    };
    keep_way_back(node, scratch, flags)?;
    let new = Addresses {
        source: &scratch.record.destination,
        destination: &member.outer_destination,
    };
    rewrite::headers(ctx, packet, &new, [a, b, e, f])
}

/// A packet of no service: a backend's reply, or nobody's.
#[inline(always)]
pub(crate) fn reply<A: Translated>(
    ctx: &XdpContext,
    packet: &Packet<A>,
) -> Result<(u32, Reason), Reason> {
    if !features::any(Features::NAT.with(Features::FULLNAT)) {
        return Err(Reason::NoService);
    }
    let scratch = scratch()?;
    scratch.key = NatKey {
        source: packet.source.padded(),
        destination: packet.destination.padded(),
        ports: packet.ports,
        protocol: u32::from(packet.protocol),
    };
    let record = maps::translation(&scratch.key).ok_or(Reason::NoService)?;
    if record.kind() != NatRecord::REPLY {
        return Err(Reason::NoService);
    }
    let (new, ports) = record.rewritten();
    trace::service(record.service());
    parse::transport(XdpFrame::of(ctx), packet)?;
    check_ttl(packet)?;
    let flags = tcp_flags(ctx, packet)?;
    record.note_reply(closing(flags), now());
    fragment::remember_reply(ctx, packet);
    rewrite::headers(ctx, packet, &new, ports)?;
    let (egress, ethernet) = record.way();
    XdpFrame::of(ctx)
        .write(0, *ethernet)
        .ok_or(Reason::Truncated)?;
    Ok((leave(ctx, egress), Reason::ReplyForwarded))
}

/// Out of an interface by its number.
#[inline(always)]
fn leave(ctx: &XdpContext, egress: u32) -> u32 {
    if egress == ctx.ingress_ifindex() as u32 {
        return XDP_TX;
    }
    // SAFETY: a helper call with two integers.
    unsafe { bpf_redirect(egress, 0) as u32 }
}

/// Refreshes the reply record of `scratch.key`, or writes `scratch.record`
/// where there is none. A record of another service, with the same client,
/// ports and backend, is in the way as long as it lives.
#[inline(always)]
fn keep_way_back(node: &Generation, scratch: &Scratch, flags: u8) -> Result<(), Reason> {
    if let Some(record) = maps::translation(&scratch.key) {
        if record.is_of(&scratch.record) {
            record.note_request(&scratch.record, is_syn(flags));
            return Ok(());
        }
        let settings = maps::nat_settings(node).ok_or(Reason::BadTable)?;
        if !record.is_over(scratch.record.seen_ns, settings) {
            return Err(Reason::NatConflict);
        }
    }
    maps::translate(&scratch.key, &scratch.record);
    Ok(())
}

/// A router forwards no packet that has no hop left (RFC 1812, 5.3.1).
#[inline(always)]
fn check_ttl<A: Translated>(packet: &Packet<A>) -> Result<(), Reason> {
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    Ok(())
}

/// Where keys and records are put together: this CPU's, as the stack has no
/// room for them.
pub(crate) struct Scratch {
    key: NatKey,
    record: NatRecord,
}

#[inline(always)]
fn scratch() -> Result<&'static mut Scratch, Reason> {
    let scratch = maps::nat_scratch().ok_or(Reason::BadTable)?;
    // SAFETY: the entry of this CPU in a live map. Programs do not interrupt
    // each other, and each packet asks once.
    Ok(unsafe { &mut *scratch })
}

/// Ethernet destination, then source, of packets that go back where this one
/// came from.
#[inline(always)]
fn way_back(ctx: &XdpContext) -> Result<[u8; 12], Reason> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] =
        XdpFrame::of(ctx).bytes(0).ok_or(Reason::Truncated)?;
    Ok([g, h, i, j, k, l, a, b, c, d, e, f])
}

/// 0 for UDP, and for later fragments.
#[inline(always)]
fn tcp_flags<A: Translated>(ctx: &XdpContext, packet: &Packet<A>) -> Result<u8, Reason> {
    if packet.protocol != PROTOCOL_TCP || packet.is_later() {
        return Ok(0);
    }
    let at = rewrite::transport_at(packet);
    let [flags] = XdpFrame::of(ctx).bytes(at + 13).ok_or(Reason::BadLength)?;
    Ok(flags)
}

#[inline(always)]
fn is_syn(flags: u8) -> bool {
    flags & (TCP_SYN | TCP_ACK) == TCP_SYN
}

/// What a record keeps of a packet's flags.
#[inline(always)]
fn closing(flags: u8) -> u8 {
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
