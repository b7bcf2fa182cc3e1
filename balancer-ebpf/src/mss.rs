//! Lowers the MSS of SYNs of the services that ask for it.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use balancer_common::features::Features;
use balancer_common::layout::Target;
use balancer_common::mss::{self, Lowered};
use balancer_common::parse::{Packet, Segment};

use crate::packet::FreshFrame;
use crate::vip::Family;
use crate::{features, maps};

/// Lowers the MSS of a client's SYN if its service wants that.
#[inline(always)]
pub(crate) fn clamp<A: Family>(
    ctx: &XdpContext,
    target: &Target,
    packet: &Packet<A>,
    segment: Segment,
) {
    if !features::asked(target, Target::CLAMP_MSS, Features::CLAMP_MSS) || segment.syns() == 0 {
        return;
    }
    if let Some(options) = maps::options(target.options) {
        let tcp_at = packet.ip_at as u32 + packet.header_len;
        mss_lower(ctx.ctx, tcp_at, u32::from(options.mss));
    }
}

/// Lowers the MSS in the TCP header at `tcp_at` to `limit`. A header in which
/// it is not found, or not higher, is left as it is. A global function: the
/// kernel verifies it once, and not for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mss_lower(ctx: *mut xdp_md, tcp_at: u32, limit: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let frame = FreshFrame::of(&ctx);
    // No header begins further on, and the verifier has to see that.
    let tcp_at = (tcp_at & 0x7fff) as usize;
    let Some(lowered) = mss::lower(frame, tcp_at, limit as u16) else {
        return 0;
    };
    let written = frame.write(tcp_at + lowered.at, lowered.value);
    // In the fixed header, so it is there where an option is.
    let written =
        written.and_then(|()| frame.write(tcp_at + Lowered::CHECKSUM_AT, lowered.checksum));
    u32::from(written.is_some())
}
