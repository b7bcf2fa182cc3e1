//! Answers echo requests to a service's address, so that people can ping it.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::icmp::{self, HOP_LIMIT_AT, TTL_AT};
use balancer_common::layout::GenerationHead;
use balancer_common::parse::{Frame, IPV4_LEN, IPV6_LEN};
use balancer_common::verdict::Reason;

use crate::packet::XdpFrame;
use crate::vip::{self, Family};
use crate::{features, maps, trace};

/// What is no request for one of our addresses passes.
#[inline(always)]
pub(crate) fn v4(ctx: &XdpContext, ip_at: usize) -> Result<(u32, Reason), Reason> {
    let frame = XdpFrame::of(ctx);
    let echo = icmp::echo_v4(frame, ip_at).ok_or(Reason::NotTcpUdp)?;
    check_ours(echo.destination)?;
    trace::written(ctx);
    let (rest, icmp) = echo.answer();
    frame
        .write(ip_at + TTL_AT, rest)
        .and_then(|()| frame.write(ip_at + IPV4_LEN, icmp))
        .ok_or(Reason::Truncated)?;
    send_back(frame)
}

/// As [`v4`].
#[inline(always)]
pub(crate) fn v6(ctx: &XdpContext, ip_at: usize) -> Result<(u32, Reason), Reason> {
    let frame = XdpFrame::of(ctx);
    let echo = icmp::echo_v6(frame, ip_at).ok_or(Reason::NotTcpUdp)?;
    check_ours(echo.destination)?;
    trace::written(ctx);
    let (hop_limit, source, destination, icmp) = echo.answer();
    frame
        .write(ip_at + HOP_LIMIT_AT, [hop_limit])
        .and_then(|()| frame.write(ip_at + HOP_LIMIT_AT + 1, source))
        .and_then(|()| frame.write(ip_at + HOP_LIMIT_AT + 17, destination))
        .and_then(|()| frame.write(ip_at + IPV6_LEN, icmp))
        .ok_or(Reason::Truncated)?;
    send_back(frame)
}

#[inline(always)]
fn check_ours<A: Family>(address: A) -> Result<(), Reason> {
    if !features::any(Features::ECHO) {
        return Err(Reason::NotTcpUdp);
    }
    let node = maps::generation().ok_or(Reason::BadTable)?;
    let answers = node.head.flags & GenerationHead::ANSWER_ECHO != 0;
    if answers && vip::has_address(&node, address) {
        return Ok(());
    }
    Err(Reason::NotTcpUdp)
}

#[inline(always)]
fn send_back(frame: &XdpFrame) -> Result<(u32, Reason), Reason> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = frame.bytes::<12>(0).ok_or(Reason::Truncated)?;
    frame
        .write(0, [g, h, i, j, k, l, a, b, c, d, e, f])
        .ok_or(Reason::Truncated)?;
    Ok((XDP_TX, Reason::EchoAnswered))
}
