//! The backend's side of `ipip`: takes the outer header off.
//!
//! Only whole packets with an outer source that the command names are
//! unwrapped; all else reaches the stack as it came. Whole means no fragment,
//! and as long as the outer header says: what comes after is padding.

#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// The `xdp` attribute makes an undocumented entry point of each program.
#![allow(missing_docs)]

mod maps;

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use balancer_common::parse::{
    self, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, IPV4_LEN, IPV6_LEN, PROTOCOL_IPIP,
    PROTOCOL_IPV6, VLAN_LEN,
};
use balancer_ebpf::packet::XdpFrame;

balancer_ebpf::object!();

/// Set by the loader: unwrap whatever the outer source is.
#[unsafe(no_mangle)]
static DECAP_ANY_SOURCE: u8 = 0;

/// A tunnel packet's outer header.
struct Outer {
    len: usize,
    /// Bytes of the packet inside, as the outer header says.
    inner_len: usize,
    /// Protocol number of what is inside.
    inner: u8,
    /// IPv4 as v4-mapped.
    source: [u8; 16],
}

/// The backend's side: undoes the encapsulation.
#[xdp]
fn decap(ctx: XdpContext) -> u32 {
    run(&ctx);
    XDP_PASS
}

#[inline(always)]
fn run(ctx: &XdpContext) -> Option<()> {
    let frame = XdpFrame::of(ctx);
    let link = parse::link(frame).ok()?;
    let outer = match link.ethertype {
        ETHERTYPE_IPV4 => outer_v4(frame, link.len)?,
        ETHERTYPE_IPV6 => outer_v6(frame, link.len)?,
        _ => return None,
    };
    let ethertype = match outer.inner {
        PROTOCOL_IPIP => ETHERTYPE_IPV4,
        PROTOCOL_IPV6 => ETHERTYPE_IPV6,
        _ => return None,
    };
    // SAFETY: a read of our own static; volatile, as the loader changes it
    // behind the compiler's back.
    let any = unsafe { core::ptr::read_volatile(&raw const DECAP_ANY_SOURCE) } != 0;
    if !any && !maps::decap_trusts(&outer.source) {
        return None;
    }
    unwrap(ctx, link.len, &outer, ethertype)
}

#[inline(always)]
fn outer_v4(frame: &XdpFrame, ip_at: usize) -> Option<Outer> {
    let ip: [u8; IPV4_LEN] = frame.bytes(ip_at)?;
    let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let len = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || len < 20 || is_fragment {
        return None;
    }
    let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let mut source = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    source[12..].copy_from_slice(&[ip[12], ip[13], ip[14], ip[15]]);
    Some(Outer {
        len,
        inner_len: total_len.checked_sub(len)?,
        inner: ip[9],
        source,
    })
}

#[inline(always)]
fn outer_v6(frame: &XdpFrame, ip_at: usize) -> Option<Outer> {
    let ip: [u8; 8] = frame.bytes(ip_at)?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    Some(Outer {
        len: IPV6_LEN,
        inner_len: usize::from(u16::from_be_bytes([ip[4], ip[5]])),
        inner: ip[6],
        source: frame.bytes(ip_at + 8)?,
    })
}

#[inline(always)]
fn unwrap(ctx: &XdpContext, ip_at: usize, outer: &Outer, ethertype: [u8; 2]) -> Option<()> {
    let frame = XdpFrame::of(ctx);
    // Before the check at a variable offset: after it the compiler would know
    // that these bytes are there and leave their own check out, which the
    // verifier does not follow.
    let link: [u8; ETHERNET_LEN + 2 * VLAN_LEN] = frame.bytes(0)?;
    // The inner header must begin inside the frame before anything moves.
    let _: [u8; IPV4_LEN] = frame.bytes(ip_at + outer.len)?;
    let is_whole = ip_at + outer.len + outer.inner_len <= frame.len();
    if outer.inner_len < IPV4_LEN || !is_whole {
        return None;
    }
    // SAFETY: a helper call on the program's own context; every pointer into
    // the packet is made anew after it.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, outer.len as i32) } != 0 {
        return None;
    }
    write_link(frame, ip_at, link)?;
    frame.write(ip_at - 2, ethertype)?;
    let counters = maps::decap_counters()?;
    // SAFETY: the entry of this CPU in a live map; nobody else writes it.
    let counters = unsafe { &mut *counters };
    counters.packets += 1;
    counters.bytes += outer.inner_len as u64;
    Some(())
}

/// Writes the first `ip_at` bytes of the Ethernet header as it was.
#[inline(always)]
fn write_link(
    frame: &XdpFrame,
    ip_at: usize,
    link: [u8; ETHERNET_LEN + 2 * VLAN_LEN],
) -> Option<()> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, rest @ ..] = link;
    frame.write(0, [a, b, c, d, e, f, g, h, i, j, k, l])?;
    let [m, n, o, p, q, r, s, t, ..] = rest;
    // One case a number of tags: what follows them is the inner packet.
    match ip_at - ETHERNET_LEN {
        0 => Some(()),
        VLAN_LEN => frame.write(12, [m, n, o, p]),
        _ => frame.write(12, [m, n, o, p, q, r, s, t]),
    }
}
