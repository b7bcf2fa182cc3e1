//! Corrects the outer header of an error that was sent through a tunnel: the
//! stages before took it for a packet of the flow's family.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use balancer_common::checksum::Delta;
use balancer_common::layout::Member;
use balancer_common::parse::{Frame, PROTOCOL_IPIP, PROTOCOL_IPV6, Packet};

use super::told;
use crate::packet::FreshFrame;
use crate::vip::Family;

/// Says in the outer header what the tunnel carries: the error's family need
/// not be that of the flow.
#[inline(always)]
pub(crate) fn name_inner<A: Family>(ctx: &XdpContext, packet: &Packet<A>, member: &Member) {
    icmp_error_name_inner(ctx.ctx, packet.ip_at as u32, u32::from(member.kind));
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_error_name_inner(ctx: *mut xdp_md, ip_at: u32, kind: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let frame = FreshFrame::of(&ctx);
    let ip_at = (ip_at & 0x1f) as usize;
    let Some(told) = told() else {
        return 0;
    };
    let protocol = match told.form as u8 {
        Member::IPIP_V4 => PROTOCOL_IPIP,
        Member::IPIP_V6 => PROTOCOL_IPV6,
        // A backend's packet is of the flow's family, and GUE names none.
        _ => return 0,
    };
    let written = if kind == u32::from(Member::IPIP_V4) {
        frame
            .bytes(ip_at + 8)
            .and_then(|[ttl, old, check @ ..]: [u8; 4]| {
                let delta = Delta::of(&[ttl, old], &[ttl, protocol]);
                let [high, low] = delta.apply(check);
                frame.write(ip_at + 8, [ttl, protocol, high, low])
            })
    } else {
        frame
            .bytes(ip_at + 6)
            .and_then(|[_, hops]: [u8; 2]| frame.write(ip_at + 6, [protocol, hops]))
    };
    u32::from(written.is_some())
}
