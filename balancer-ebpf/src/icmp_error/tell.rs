//! Makes an error about a tunnel's packet one about the packet inside, for the
//! client: what was quoted of that stays where it is, with new headers before
//! it. The sum of its bytes follows from the checksum that the error came with,
//! so the new one is right if and only if that was.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
};
use aya_ebpf::programs::XdpContext;
use balancer_common::checksum;
use balancer_common::encap::UDP_LEN;
use balancer_common::icmp::PROTOCOL_ICMPV6;
use balancer_common::icmp_error::ICMP_LEN;
use balancer_common::layout::Member;
use balancer_common::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, IPV4_LEN, IPV6_LEN};
use balancer_common::too_big::{self, QUOTE_V6};

use super::{Told, before, place, told};
use crate::packet::FreshFrame;
use crate::too_big::{folded, may_send};

#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn icmp_error_tell_v4(ctx: *mut xdp_md, ip_at: u32, mtu: u32) -> u32 {
    u32::from(tell_v4(&XdpContext::new(ctx), (ip_at & 0x1f) as usize, mtu).is_some())
}

#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn icmp_error_tell_v6(ctx: *mut xdp_md, ip_at: u32, mtu: u32) -> u32 {
    u32::from(tell_v6(&XdpContext::new(ctx), (ip_at & 0x1f) as usize, mtu).is_some())
}

#[inline(always)]
fn tell_v4(ctx: &XdpContext, ip_at: usize, mtu: u32) -> Option<()> {
    const PUSHED: usize = IPV4_LEN + ICMP_LEN;
    let frame = FreshFrame::of(ctx);
    let told = told()?;
    let (at, len) = quote(told)?;
    let sum = quoted_sum(frame, told, ip_at, at)?;
    let id = frame.bytes(at + 4)?;
    let client = frame.bytes(at + 12)?;
    let service = frame.bytes(at + 16)?;
    if !too_big::is_host_v4(client) {
        return None;
    }
    let head = turn(frame, ip_at, before(at, PUSHED), ETHERTYPE_IPV4)?;
    let headers = too_big::v4(service, client, mtu, id, len, sum);
    frame.write_words(before(place(&told.inner_at), PUSHED), headers)?;
    cut(ctx, head, told.end)
}

#[inline(always)]
fn tell_v6(ctx: &XdpContext, ip_at: usize, mtu: u32) -> Option<()> {
    const PUSHED: usize = IPV6_LEN + ICMP_LEN;
    let frame = FreshFrame::of(ctx);
    let told = told()?;
    let (at, len) = quote(told)?;
    let sum = quoted_sum(frame, told, ip_at, at)?;
    let client: [u8; 16] = frame.bytes(at + 8)?;
    let service: [u8; 16] = frame.bytes(at + 24)?;
    if !too_big::is_host_v6(client) {
        return None;
    }
    let head = turn(frame, ip_at, before(at, PUSHED), ETHERTYPE_IPV6)?;
    let (ip, icmp) = too_big::v6(service, client, mtu, len, sum);
    let new_at = before(place(&told.inner_at), PUSHED);
    frame.write_words(new_at, ip)?;
    frame.write(new_at + 8, service)?;
    frame.write(new_at + 24, client)?;
    frame.write_words(new_at + IPV6_LEN, icmp)?;
    cut(ctx, head, told.end)
}

/// Where the inner packet begins, and how much of it is quoted: no more than
/// fits the shortest IPv6 MTU with new headers.
#[inline(always)]
fn quote(told: &Told) -> Option<(usize, u32)> {
    let at = place(&told.inner_at);
    let len = told.end.wrapping_sub(at as u32);
    (len <= QUOTE_V6 as u32).then_some((at, len))
}

/// Sum of the quoted bytes of the inner packet: what the error's checksum
/// covers beside its header and those of the tunnel.
#[inline(always)]
fn quoted_sum(frame: &FreshFrame, told: &Told, ip_at: usize, inner_at: usize) -> Option<u16> {
    let is_gue = matches!(told.form as u8, Member::GUE_V4 | Member::GUE_V6);
    let (at, sum) = if is_gue {
        let udp_at = before(inner_at, UDP_LEN);
        (udp_at, frame.add::<UDP_LEN>(udp_at, 0)?)
    } else {
        (inner_at, 0)
    };
    if matches!(told.form as u8, Member::IPIP_V4 | Member::GUE_V4) {
        const HEADERS: usize = ICMP_LEN + IPV4_LEN;
        return Some(!folded(frame.add::<HEADERS>(before(at, HEADERS), sum)?));
    }
    const HEADERS: usize = ICMP_LEN + IPV6_LEN;
    let icmp_at = before(at, HEADERS);
    let sum = frame.add::<HEADERS>(icmp_at, sum)?;
    // RFC 8200, 8.1: the pseudo-header.
    let sum = frame.add::<32>(ip_at + 8, sum)?;
    let len = told.end.wrapping_sub(icmp_at as u32) & 0xffff;
    let sum = u32::from(folded(sum)) + len + u32::from(PROTOCOL_ICMPV6);
    Some(checksum::finish(sum))
}

/// Writes the Ethernet header, turned round, before the new IP header that
/// will begin at `new_at`; gives where the frame will begin.
#[inline(always)]
fn turn(frame: &FreshFrame, ip_at: usize, new_at: usize, ethertype: [u8; 2]) -> Option<u32> {
    let to: [u8; 6] = frame.bytes(0)?;
    let from: [u8; 6] = frame.bytes(6)?;
    // Two tags or less, and more that the new headers overwrite.
    let rest: [u8; 8] = frame.bytes(12)?;
    if to[0] & 1 != 0 || !may_send() {
        return None;
    }
    let head = before(new_at, ip_at);
    frame.write(head, from)?;
    frame.write(head + 6, to)?;
    frame.write(head + 12, rest)?;
    frame.write(before(new_at, 2), ethertype)?;
    Some(head as u32)
}

/// Cuts off what is before the new Ethernet header and behind the error.
#[inline(always)]
fn cut(ctx: &XdpContext, head: u32, end: u32) -> Option<()> {
    // SAFETY: helper calls on the program's own context; no pointer into the
    // packet is used after them.
    unsafe {
        let padding = bpf_xdp_get_buff_len(ctx.ctx) as i64 - i64::from(end);
        let is_cut = bpf_xdp_adjust_head(ctx.ctx, head as i32) == 0
            && bpf_xdp_adjust_tail(ctx.ctx, -(padding as i32)) == 0;
        is_cut.then_some(())
    }
}
