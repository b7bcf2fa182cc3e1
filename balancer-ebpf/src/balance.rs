//! The way of a packet to its member: the order of the stages, for packets of
//! all kinds.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::programs::XdpContext;
use balancer_common::layout::Target;
use balancer_common::parse::{self, Packet};
use balancer_common::verdict::Reason;

use crate::packet::XdpFrame;
use crate::too_big::TooBig;
use crate::vip::{self, Family};
use crate::{
    Verdict, count, flow, forward, fragment, handshake, icmp_error, maps, mss, nat, pick, quic,
    sources, too_big, trace,
};

/// What only some services ask for. Most ask for nothing, and one look says
/// so for all of it.
const EXTRAS: u16 = !Target::AFFINITY_SOURCE;

/// Any packet that has been handed over.
#[inline(always)]
pub(crate) fn any<A: Family + TooBig>(ctx: &XdpContext, packet: &Packet<A>) -> Verdict {
    balance::<A, false>(ctx, packet).unwrap_or(Err(Reason::BadTable))
}

/// A packet in a plain frame, whose fields are constants or at constant
/// places; `None` is left to [`any`].
#[inline(always)]
pub(crate) fn plain<A: Family + TooBig>(ctx: &XdpContext, packet: &Packet<A>) -> Option<Verdict> {
    balance::<A, true>(ctx, packet)
}

#[inline(always)]
fn balance<A: Family + TooBig, const PLAIN: bool>(
    ctx: &XdpContext,
    packet: &Packet<A>,
) -> Option<Verdict> {
    let Some(node) = maps::generation() else {
        return Some(Err(Reason::BadTable));
    };
    let Some(target) = vip::lookup(&node, packet) else {
        if packet.is_error() {
            // A plain one may be about a tunnel's packet.
            return if PLAIN {
                None
            } else {
                Some(Err(Reason::ErrorUnmatched))
            };
        }
        trace::begin();
        fragment::remember_foreign(ctx, &node, packet);
        return Some(nat::reply(ctx, packet));
    };
    if PLAIN && packet.is_error() && target.flags & (Target::NAT | Target::FULLNAT) != 0 {
        return None;
    }
    Some(forward::<A, PLAIN>(ctx, &node, target, packet))
}

#[inline(always)]
fn forward<A: Family + TooBig, const PLAIN: bool>(
    ctx: &XdpContext,
    node: &maps::Generation,
    target: &Target,
    packet: &Packet<A>,
) -> Verdict {
    let asks = target.flags & EXTRAS != 0;
    // An error is no client's: whoever sent it is not asked, and it opens no
    // flow. One about a flow that is translated is not for the short way.
    let is_client = !packet.is_error();
    trace::service(ctx, target.service);
    let segment = parse::transport(XdpFrame::of(ctx), packet)?;
    let (mut kept, mut named) = (0, quic::UNNAMED);
    if asks {
        if is_client {
            sources::filter(ctx, target, packet)?;
        }
        if is_client || !PLAIN {
            kept = nat::follow(ctx, target, packet)?;
        }
        named = quic::route::<A, PLAIN>(ctx, node, target, packet, kept);
    }
    let mut picked = pick::member(ctx, node, target, packet, segment, (kept, named))?;
    trace::flow(&picked);
    if !is_client {
        if PLAIN {
            picked.leaves_nothing();
        } else if icmp_error::settle(ctx, packet, &mut picked)? {
            return Ok((XDP_TX, Reason::TooBigAnswered));
        }
    }
    if asks && is_client {
        sources::limit(ctx, target, packet, &picked)?;
    }
    fragment::remember(ctx, target, packet, &picked);
    flow::keep(&picked);
    if !forward::fits(packet, picked.member)? {
        return too_big::answer(ctx, packet, picked.member);
    }
    if asks && is_client {
        mss::clamp(ctx, target, packet, segment);
    }
    let action = if asks && nat::is_translated(target, picked.member) {
        forward::send_translated(ctx, node, target, packet, &picked)?
    } else {
        forward::send(ctx, packet, picked.member, picked.hash)?
    };
    count::member(picked.member.counter, packet.ip_len, picked.new, segment);
    if !is_client {
        if !PLAIN {
            icmp_error::name_inner(ctx, packet, picked.member);
        }
        return Ok((action, Reason::ErrorForwarded));
    }
    handshake::see(node.head, packet, &picked, segment);
    Ok((action, quic::reason(named)))
}
