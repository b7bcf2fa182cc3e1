//! The load balancer: order of the stages, and verdict to XDP action.
//!
//! The packet logic is in `balancer-common`; the files beside this one are
//! one stage each and hold what needs a map, a helper or a raw pointer. The
//! backend's side is another object, in `decap`.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// The `xdp` attribute makes an undocumented entry point of each program.
#![allow(missing_docs)]

mod count;
mod echo;
mod features;
mod flow;
mod forward;
mod fragment;
mod maps;
mod mss;
mod nat;
mod pick;
mod too_big;
mod trace;
mod unusual;
mod vip;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use balancer_common::verdict::{Disposition, Reason};
use balancer_ebpf::packet;

balancer_ebpf::object!();

/// The load balancer.
#[xdp]
fn balancer(ctx: XdpContext) -> u32 {
    let (action, reason) = match stages(&ctx) {
        Ok(done) => done,
        Err(reason) => match reason.disposition() {
            Disposition::Pass => (XDP_PASS, reason),
            Disposition::Drop | Disposition::Forward | Disposition::Answer => (XDP_DROP, reason),
        },
    };
    count::reason(reason);
    trace::reason(&ctx, reason);
    action
}

#[inline(always)]
fn stages(ctx: &XdpContext) -> Result<(u32, Reason), Reason> {
    trace::begin();
    let frame = ctx_frame(ctx);
    let link = parse::link(frame)?;
    match link.ethertype {
        ETHERTYPE_IPV4 if features::any(Features::IPV4) => {
            let packet = match parse::ipv4(frame, link.len) {
                Ok(packet) => packet,
                Err(Reason::LaterFragment) => unusual::ipv4(ctx, link.len)?,
                Err(Reason::NotTcpUdp) => return echo::v4(ctx, link.len),
                Err(reason) => return Err(reason),
            };
            balance(ctx, packet)
        }
        ETHERTYPE_IPV6 if features::any(Features::IPV6) => {
            let packet = match parse::ipv6(frame, link.len) {
                Ok(packet) => packet,
                Err(Reason::NotTcpUdp) => match echo::v6(ctx, link.len) {
                    Err(Reason::NotTcpUdp) => unusual::ipv6(ctx, link.len)?,
                    answered => return answered,
                },
                Err(reason) => return Err(reason),
            };
            balance(ctx, packet)
        }
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Err(Reason::NoService),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn balance<A: vip::Family + too_big::TooBig>(
    ctx: &XdpContext,
    packet: Packet<A>,
) -> Result<(u32, Reason), Reason> {
    let node = maps::generation().ok_or(Reason::BadTable)?;
    let Some(target) = vip::lookup(&node, &packet) else {
        fragment::remember_foreign(ctx, &node, &packet);
        return nat::reply(ctx, &packet);
    };
    trace::service(target.service);
    let opening = parse::transport(ctx_frame(ctx), &packet)?;
    let kept = nat::follow(ctx, target, &packet)?;
    let picked = pick::member(&node, target, &packet, opening, kept)?;
    trace::flow(&picked);
    fragment::remember(ctx, target, &packet, &picked);
    flow::keep(target, &packet, &picked);
    if !forward::fits(&packet, picked.member)? {
        return too_big::answer(ctx, &packet, picked.member);
    }
    mss::clamp(ctx, target, &packet, opening);
    let action = forward::send(ctx, &node, target, &packet, &picked)?;
    count::member(picked.member.counter, packet.ip_len, picked.is_new);
    Ok((action, Reason::Forwarded))
}

#[inline(always)]
fn ctx_frame(ctx: &XdpContext) -> &packet::XdpFrame {
    packet::XdpFrame::of(ctx)
}
