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
mod handshake;
mod icmp_error;
mod maps;
mod mss;
mod nat;
mod pick;
mod quic;
mod sources;
mod too_big;
mod trace;
mod unusual;
mod vip;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use balancer_common::verdict::{Disposition, Reason};
use balancer_ebpf::packet;

use icmp_error::Flow;

balancer_ebpf::object!();

const IPV4: u16 = u16::from_ne_bytes(ETHERTYPE_IPV4);
const IPV6: u16 = u16::from_ne_bytes(ETHERTYPE_IPV6);

/// The load balancer.
#[xdp]
// A call costs several nanoseconds where returns are guarded.
#[inline(always)]
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
    let (mut v4, mut v6) = (Packet::EMPTY, Packet::EMPTY);
    // What is not read at once is handed over, and taken at one place for
    // each family. An ICMP error may be about a flow of the other one.
    'v6: {
        'take_v6: {
            'v4: {
                // A number: of bytes, each would be compared for itself.
                match u16::from_ne_bytes(link.ethertype) {
                    IPV4 if features::any(Features::IPV4) => {
                        match parse::ipv4_into(frame, link.len, &mut v4) {
                            Ok(()) => break 'v4,
                            Err(Reason::LaterFragment) => unusual::ipv4(ctx, link.len)?,
                            Err(Reason::NotTcpUdp) => match echo::v4(ctx, link.len) {
                                Err(Reason::NotTcpUdp) => match icmp_error::v4(ctx, link.len)? {
                                    Flow::V6 if features::any(Features::IPV6) => break 'take_v6,
                                    _ => {}
                                },
                                answered => return answered,
                            },
                            Err(reason) => return Err(reason),
                        }
                    }
                    IPV6 if features::any(Features::IPV6) => {
                        match parse::ipv6_into(frame, link.len, &mut v6) {
                            Ok(()) => break 'v6,
                            Err(Reason::NotTcpUdp) => match echo::v6(ctx, link.len) {
                                Err(Reason::NotTcpUdp) => match icmp_error::v6(ctx, link.len) {
                                    Ok(Flow::V4) if features::any(Features::IPV4) => {}
                                    Ok(_) => break 'take_v6,
                                    Err(Reason::NotTcpUdp) => {
                                        unusual::ipv6(ctx, link.len)?;
                                        break 'take_v6;
                                    }
                                    Err(reason) => return Err(reason),
                                },
                                answered => return answered,
                            },
                            Err(reason) => return Err(reason),
                        }
                    }
                    // Services are of one family, tunnels may be of the other.
                    IPV4 if icmp_error::is_other(Features::IPV6, icmp_error::TUNNELS_V4) => {
                        match icmp_error::v4(ctx, link.len) {
                            Ok(Flow::V6) => break 'take_v6,
                            _ => return Err(Reason::NoService),
                        }
                    }
                    IPV6 if icmp_error::is_other(Features::IPV4, icmp_error::TUNNELS_V6) => {
                        match icmp_error::v6(ctx, link.len) {
                            Ok(Flow::V4) => {}
                            _ => return Err(Reason::NoService),
                        }
                    }
                    IPV4 | IPV6 => return Err(Reason::NoService),
                    _ => return Err(Reason::NotIp),
                }
                unusual::take(&mut v4)?;
            }
            return balance(ctx, &v4);
        }
        unusual::take(&mut v6)?;
    }
    balance(ctx, &v6)
}

#[inline(always)]
fn balance<A: vip::Family + too_big::TooBig>(
    ctx: &XdpContext,
    packet: &Packet<A>,
) -> Result<(u32, Reason), Reason> {
    let node = maps::generation().ok_or(Reason::BadTable)?;
    let Some(target) = vip::lookup(&node, packet) else {
        if packet.is_error() {
            return Err(Reason::ErrorUnmatched);
        }
        fragment::remember_foreign(ctx, &node, packet);
        return nat::reply(ctx, packet);
    };
    trace::service(target.service);
    let segment = parse::transport(ctx_frame(ctx), packet)?;
    sources::filter(ctx, target, packet)?;
    let kept = nat::follow(ctx, target, packet)?;
    let named = quic::route(ctx, &node, target, packet, kept);
    let mut picked = pick::member(&node, target, packet, segment.opening, (kept, named))?;
    trace::flow(&picked);
    if packet.is_error() && icmp_error::settle(ctx, packet, &mut picked)? {
        return Ok((XDP_TX, Reason::TooBigAnswered));
    }
    sources::limit(ctx, target, packet, &picked)?;
    fragment::remember(ctx, target, packet, &picked);
    flow::keep(&picked);
    if !forward::fits(packet, picked.member)? {
        return too_big::answer(ctx, packet, picked.member);
    }
    mss::clamp(ctx, target, packet, segment.opening);
    let action = forward::send(ctx, &node, target, packet, &picked)?;
    count::member(picked.member.counter, packet.ip_len, picked.is_new, segment);
    if packet.is_error() {
        icmp_error::name_inner(ctx, packet, picked.member);
        return Ok((action, Reason::ErrorForwarded));
    }
    handshake::see(node.head, packet, &picked, segment);
    Ok((action, quic::reason(named)))
}

#[inline(always)]
fn ctx_frame(ctx: &XdpContext) -> &packet::XdpFrame {
    packet::XdpFrame::of(ctx)
}
