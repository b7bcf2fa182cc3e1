//! Answers a packet that does not fit the way to its member: an ICMP error
//! from the service's address, so that the client sends shorter ones.
//!
//! The frame becomes its own answer: room for the new headers in front, the
//! end cut off, back to where it came from with its tags. An IPv4 packet
//! without DF is answered as well: nothing is fragmented here, and its sender,
//! once told, does. There is no answer to what RFC 1122, 3.2.2, and RFC 4443,
//! 2.4, except from errors, and none above a rate.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_coarse_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
};
use aya_ebpf::programs::XdpContext;
use balancer_common::encap;
use balancer_common::layout::Member;
use balancer_common::parse::{ETHERNET_LEN, Frame, IPV4_LEN, IPV6_LEN, Packet, Part, VLAN_LEN};
use balancer_common::too_big::{self, ICMP_LEN, QUOTE_V4, QUOTE_V6};
use balancer_common::verdict::Reason;

use crate::maps;
use crate::packet::FreshFrame;

const MOST_LINK_LEN: usize = ETHERNET_LEN + 2 * VLAN_LEN;
/// Room before the quoted packet.
const PUSHED_V4: usize = IPV4_LEN + ICMP_LEN;
const PUSHED_V6: usize = IPV6_LEN + ICMP_LEN;

/// A family in which clients can be told.
pub(crate) trait TooBig: Sized {
    /// Turns the frame into the error; 0 if there is no answer.
    fn answer(ctx: *mut xdp_md, ip_at: u32, ip_len: u32, mtu: u32) -> u32;
}

/// Tells the client what fits. What is only part of a packet without ports,
/// and what is too short for a quote, is dropped instead.
#[inline(always)]
pub(crate) fn answer<A: TooBig + balancer_common::hash::Address>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    member: &Member,
) -> Result<(u32, Reason), Reason> {
    let mtu = u32::from(member.mtu).saturating_sub(encap::overhead(member.kind));
    let has_ports = matches!(packet.part, Part::Whole | Part::First(_));
    if has_ports && A::answer(ctx.ctx, packet.ip_at as u32, packet.ip_len, mtu) != 0 {
        return Ok((XDP_TX, Reason::TooBigAnswered));
    }
    Err(Reason::ExceedsMtu)
}

impl TooBig for [u8; 4] {
    #[inline(always)]
    fn answer(ctx: *mut xdp_md, ip_at: u32, ip_len: u32, mtu: u32) -> u32 {
        too_big_v4(ctx, ip_at, ip_len, mtu)
    }
}

impl TooBig for [u8; 16] {
    #[inline(always)]
    fn answer(ctx: *mut xdp_md, ip_at: u32, ip_len: u32, mtu: u32) -> u32 {
        too_big_v6(ctx, ip_at, ip_len, mtu)
    }
}

// Global functions, which the kernel verifies once and not for each way that
// leads here, with nothing but numbers for them: the addresses are read from
// the quote.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn too_big_v4(ctx: *mut xdp_md, ip_at: u32, ip_len: u32, mtu: u32) -> u32 {
    u32::from(answer_v4(&XdpContext::new(ctx), place(ip_at), ip_len, mtu).is_some())
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn too_big_v6(ctx: *mut xdp_md, ip_at: u32, ip_len: u32, mtu: u32) -> u32 {
    u32::from(answer_v6(&XdpContext::new(ctx), place(ip_at), ip_len, mtu).is_some())
}

/// No link header is longer; the verifier has to see that.
#[inline(always)]
fn place(ip_at: u32) -> usize {
    (ip_at & 0x1f) as usize
}

#[inline(always)]
fn answer_v4(ctx: &XdpContext, ip_at: usize, ip_len: u32, mtu: u32) -> Option<()> {
    let frame = FreshFrame::of(ctx);
    if ip_len <= QUOTE_V4 as u32 || !too_big::is_host_v4(frame.bytes(ip_at + 12)?) {
        return None;
    }
    turn::<PUSHED_V4, QUOTE_V4>(ctx, ip_at)?;
    let quote_at = ip_at + PUSHED_V4;
    let sum = frame.add::<512>(quote_at, 0)?;
    let sum = folded(frame.add::<{ QUOTE_V4 - 512 }>(quote_at + 512, sum)?);
    let id = frame.bytes(quote_at + 4)?;
    let client = frame.bytes(quote_at + 12)?;
    let service = frame.bytes(quote_at + 16)?;
    let headers = too_big::v4(service, client, mtu, id, QUOTE_V4 as u32, sum);
    frame.write_words(ip_at, headers)
}

#[inline(always)]
fn answer_v6(ctx: &XdpContext, ip_at: usize, ip_len: u32, mtu: u32) -> Option<()> {
    let frame = FreshFrame::of(ctx);
    if ip_len <= QUOTE_V6 as u32 || !too_big::is_host_v6(frame.bytes(ip_at + 8)?) {
        return None;
    }
    turn::<PUSHED_V6, QUOTE_V6>(ctx, ip_at)?;
    let quote_at = ip_at + PUSHED_V6;
    let sum = frame.add::<512>(quote_at, 0)?;
    let sum = frame.add::<512>(quote_at + 512, sum)?;
    let sum = folded(frame.add::<{ QUOTE_V6 - 1024 }>(quote_at + 1024, sum)?);
    let client = frame.bytes(quote_at + 8)?;
    let service = frame.bytes(quote_at + 24)?;
    let (ip, icmp) = too_big::v6(service, client, mtu, QUOTE_V6 as u32, sum);
    frame.write_words(ip_at, ip)?;
    frame.write(ip_at + 8, service)?;
    frame.write(ip_at + 24, client)?;
    frame.write_words(ip_at + IPV6_LEN, icmp)
}

/// Makes room for `PUSHED` bytes of headers, cuts off what is behind the
/// first `QUOTED` bytes of the packet, and turns the Ethernet header round.
/// The packet has more than those, and its length was held against the frame.
#[inline(always)]
fn turn<const PUSHED: usize, const QUOTED: usize>(ctx: &XdpContext, ip_at: usize) -> Option<()> {
    let frame = FreshFrame::of(ctx);
    // SAFETY: a helper call on the program's own context. The difference of
    // the frame's bounds might be left on the stack in halves of 32 bits.
    let len = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
    let surplus = len as i64 - (ip_at + QUOTED) as i64;
    // Two bytes, as the check for one alone tells the verifier nothing.
    let [first, _] = frame.bytes(0)?;
    // What came to a group of hosts is answered by none of them.
    if first & 1 != 0 || !may_send() {
        return None;
    }
    // SAFETY: helper calls on the program's own context; every pointer into
    // the packet is made anew after them.
    unsafe {
        if bpf_xdp_adjust_head(ctx.ctx, -(PUSHED as i32)) != 0
            || bpf_xdp_adjust_tail(ctx.ctx, -(surplus as i32)) != 0
        {
            return None;
        }
    }
    // The old header lies where the new ones will be.
    let to: [u8; 6] = frame.bytes(PUSHED)?;
    let from: [u8; 6] = frame.bytes(PUSHED + 6)?;
    // Tags and EtherType, and more that the new headers overwrite.
    let rest: [u8; MOST_LINK_LEN - 12] = frame.bytes(PUSHED + 12)?;
    frame.write(0, from)?;
    frame.write(6, to)?;
    frame.write(12, rest)
}

/// Whether this CPU may send one more error now; if so, it is counted as sent.
#[inline(always)]
pub(crate) fn may_send() -> bool {
    let Some(due) = maps::errors_due() else {
        return false;
    };
    // SAFETY: a helper call without arguments; the entry of this CPU in a live
    // map, which nobody else writes.
    unsafe {
        let Some(next) = too_big::spend(*due, bpf_ktime_get_coarse_ns()) else {
            return false;
        };
        *due = next;
    }
    true
}

/// The kernel sums words as they lie in memory.
#[inline(always)]
pub(crate) fn folded(sum: u32) -> u16 {
    u16::from_be(balancer_common::checksum::fold(sum))
}
