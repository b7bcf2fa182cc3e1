//! The backend's side: takes the tunnel's headers off.
//!
//! What is a tunnel's packet and what is inside is found in
//! `balancer_common::decap`. A packet that is no tunnel's reaches the stack
//! as it came; one that is gets unwrapped or refused, and is counted as what
//! it was.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// The `xdp` attribute makes an undocumented entry point of each program.
#![allow(missing_docs)]

mod maps;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use balancer_common::checksum;
use balancer_common::decap::{
    self, Address, Family, Fate, Inside, Outer, Refusal, UdpChecksum, gue,
};
use balancer_common::parse::{
    self, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, MAX_VLAN_TAGS, VLAN_LEN,
};
use balancer_ebpf::packet::XdpFrame;

balancer_ebpf::object!();

/// Set by the loader: unwrap whatever the outer source is.
#[unsafe(no_mangle)]
static ANY_SOURCE: u8 = 0;
/// Set by the loader: the UDP port of GUE.
#[unsafe(no_mangle)]
static GUE_PORT: u16 = gue::PORT;

/// The longest Ethernet header with its tags.
type Link = [u8; ETHERNET_LEN + MAX_VLAN_TAGS * VLAN_LEN];

/// The backend's side: undoes the encapsulation.
#[xdp]
fn decap(ctx: XdpContext) -> u32 {
    match run(&ctx) {
        None => XDP_PASS,
        Some(Ok(inside)) => {
            maps::count(inside.form, inside.len);
            XDP_PASS
        }
        Some(Err(refusal)) => {
            maps::count_refusal(refusal);
            match refusal.fate() {
                Fate::Pass => XDP_PASS,
                Fate::Drop => XDP_DROP,
            }
        }
    }
}

#[inline(always)]
fn run(ctx: &XdpContext) -> Option<Result<Inside, Refusal>> {
    let frame = XdpFrame::of(ctx);
    // Before any check behind it: after one the compiler would know that these
    // bytes are there and leave their own check out, which the verifier does
    // not follow. No tunnel packet is shorter.
    let link_bytes: Link = frame.bytes(0)?;
    let link = parse::link(frame).ok()?;
    // SAFETY: reads of our own statics; volatile, as the loader changes them
    // behind the compiler's back.
    let (any, gue_port) = unsafe {
        (
            core::ptr::read_volatile(&raw const ANY_SOURCE) != 0,
            core::ptr::read_volatile(&raw const GUE_PORT),
        )
    };
    match link.ethertype {
        ETHERTYPE_IPV4 => {
            let outer = decap::outer_v4(frame, link.len, gue_port)?;
            let is_trusted = any || maps::trusts_v4(outer.source);
            Some(unwrap(ctx, link.len, link_bytes, &outer, is_trusted))
        }
        ETHERTYPE_IPV6 => {
            let outer = decap::outer_v6(frame, link.len, gue_port)?;
            let is_trusted = any || maps::trusts_v6(outer.source);
            Some(unwrap(ctx, link.len, link_bytes, &outer, is_trusted))
        }
        _ => None,
    }
}

#[inline(always)]
fn unwrap<A: Address>(
    ctx: &XdpContext,
    ip_at: usize,
    link: Link,
    outer: &Outer<A>,
    is_trusted: bool,
) -> Result<Inside, Refusal> {
    if !is_trusted {
        return Err(Refusal::UntrustedSource);
    }
    let frame = XdpFrame::of(ctx);
    let inside = outer.inside(frame, |checksum| is_right(frame, checksum))?;
    // SAFETY: a helper call on the program's own context; every pointer into
    // the packet is made anew after it.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, (inside.at - ip_at) as i32) } != 0 {
        // The one reason the kernel has: not even a link header would be left.
        return Err(Refusal::Truncated);
    }
    restore(frame, ip_at, link, &inside).ok_or(Refusal::LostLinkHeader)?;
    Ok(inside)
}

#[inline(always)]
fn is_right(frame: &XdpFrame, udp: &UdpChecksum) -> bool {
    frame
        .sum(udp.at, udp.len)
        .is_some_and(|sum| checksum::fold(udp.pseudo_header + u32::from(sum)) == 0xffff)
}

/// Puts the link header before the inner packet, and the tunnel's ECN into it.
#[inline(always)]
fn restore(frame: &XdpFrame, ip_at: usize, link: Link, inside: &Inside) -> Option<()> {
    write_link(frame, ip_at, link)?;
    let ethertype = match inside.family {
        Family::V4 => ETHERTYPE_IPV4,
        Family::V6 => ETHERTYPE_IPV6,
    };
    frame.write(ip_at - 2, ethertype)?;
    if let Some(mark) = inside.mark {
        frame.write(ip_at, mark.first.to_be_bytes())?;
        if inside.family == Family::V4 {
            frame.write(ip_at + 10, mark.checksum.to_be_bytes())?;
        }
    }
    Some(())
}

/// Writes the first `ip_at` bytes of the Ethernet header as it was.
#[inline(always)]
fn write_link(frame: &XdpFrame, ip_at: usize, link: Link) -> Option<()> {
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
