//! Sends a packet to its member: rewrite or encapsulate, then transmit.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use balancer_common::encap::{self, UDP_LEN};
use balancer_common::features::Features;
use balancer_common::layout::{Member, Target};
use balancer_common::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, IPV4_LEN, IPV6_LEN, PROTOCOL_UDP, Packet,
    VLAN_LEN,
};
use balancer_common::verdict::Reason;

use crate::features;
use crate::maps::{self, Generation};
use crate::nat;
use crate::packet::XdpFrame;
use crate::pick::Picked;
use crate::vip::Family;

/// Where VLAN tags begin: behind the two addresses.
const TAGS_AT: usize = 12;

/// Whether the packet fits the way to its member, if there is one.
#[inline(always)]
pub(crate) fn fits<A: Family>(packet: &Packet<A>, member: &Member) -> Result<bool, Reason> {
    if member.flags & Member::RESOLVED == 0 {
        return Err(Reason::NoNextHop);
    }
    Ok(packet.ip_len + encap::overhead(member.kind) <= u32::from(member.mtu))
}

/// Sends a packet that fits.
#[inline(always)]
pub(crate) fn send<A: Family>(
    ctx: &XdpContext,
    node: &Generation,
    target: &Target,
    packet: &Packet<A>,
    picked: &Picked,
) -> Result<u32, Reason> {
    let member = picked.member;
    let ethernet = Ethernet::towards(ctx, member)?;
    match member.kind {
        Member::L2 if features::any(Features::L2) => ethernet.write(ctx)?,
        Member::IPIP_V4 if features::any(Features::IPIP_V4) => {
            ipip_v4(ctx, packet, picked, ethernet)?;
        }
        Member::IPIP_V6 if features::any(Features::IPIP_V6) => {
            ipip_v6(ctx, packet, picked, ethernet)?;
        }
        Member::GUE_V4 if features::any(Features::GUE_V4) => {
            gue_v4(ctx, packet, picked, ethernet)?;
        }
        Member::GUE_V6 if features::any(Features::GUE_V6) => {
            gue_v6(ctx, packet, picked, ethernet)?;
        }
        _ if nat::is_translated(target, member) => {
            nat::to_backend(ctx, node, target, picked)?;
            ethernet.write(ctx)?;
        }
        _ => return Err(Reason::BadTable),
    }
    transmit(ctx, member)
}

/// The outgoing Ethernet addresses, in numbers of the machine's byte order as
/// they lie in memory: what is kept in bytes is moved byte by byte.
#[derive(Clone, Copy)]
struct Ethernet {
    destination: (u32, u16),
    source: (u16, u32),
}

impl Ethernet {
    /// To a member. The frame's own destination is an address of the
    /// interface it came in on, so it is the right source where it leaves the
    /// same way.
    #[inline(always)]
    fn towards(ctx: &XdpContext, member: &Member) -> Result<Self, Reason> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = member.ethernet;
        let source = if member.flags & Member::SOURCE_FROM_FRAME == 0 {
            (u16::from_ne_bytes([g, h]), u32::from_ne_bytes([i, j, k, l]))
        } else {
            let [a, b, c, d, e, f] = *XdpFrame::of(ctx).view(0).ok_or(Reason::Truncated)?;
            (u16::from_ne_bytes([a, b]), u32::from_ne_bytes([c, d, e, f]))
        };
        Ok(Self {
            destination: (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f])),
            source,
        })
    }

    #[inline(always)]
    fn write(self, ctx: &XdpContext) -> Result<(), Reason> {
        let (to_high, to_low) = self.destination;
        let (from_high, from_low) = self.source;
        XdpFrame::of(ctx)
            .write(0, Packed(to_high, to_low, from_high, from_low))
            .ok_or(Reason::Truncated)
    }
}

/// Values one behind the other in the frame.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Packed<A, B, C, D>(A, B, C, D);

#[inline(always)]
fn ipip_v4<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    picked: &Picked,
    ethernet: Ethernet,
) -> Result<(), Reason> {
    push::<IPV4_LEN>(ctx, packet.ip_at, ethernet, ETHERTYPE_IPV4)?;
    outer_v4(ctx, packet, picked, packet.ip_len, A::TUNNEL_PROTOCOL)
}

#[inline(always)]
fn ipip_v6<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    picked: &Picked,
    ethernet: Ethernet,
) -> Result<(), Reason> {
    push::<IPV6_LEN>(ctx, packet.ip_at, ethernet, ETHERTYPE_IPV6)?;
    outer_v6(ctx, packet, picked, packet.ip_len, A::TUNNEL_PROTOCOL)
}

#[inline(always)]
fn gue_v4<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    picked: &Picked,
    ethernet: Ethernet,
) -> Result<(), Reason> {
    push::<{ IPV4_LEN + UDP_LEN }>(ctx, packet.ip_at, ethernet, ETHERTYPE_IPV4)?;
    let udp = encap::gue(picked.member, packet.ip_len, picked.hash);
    XdpFrame::of(ctx)
        .write(packet.ip_at + IPV4_LEN, udp)
        .ok_or(Reason::NoHeadroom)?;
    let inner_len = packet.ip_len + UDP_LEN as u32;
    outer_v4(ctx, packet, picked, inner_len, PROTOCOL_UDP)
}

#[inline(always)]
fn gue_v6<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    picked: &Picked,
    ethernet: Ethernet,
) -> Result<(), Reason> {
    push::<{ IPV6_LEN + UDP_LEN }>(ctx, packet.ip_at, ethernet, ETHERTYPE_IPV6)?;
    let udp = encap::gue(picked.member, packet.ip_len, picked.hash);
    XdpFrame::of(ctx)
        .write(packet.ip_at + IPV6_LEN, udp)
        .ok_or(Reason::NoHeadroom)?;
    let inner_len = packet.ip_len + UDP_LEN as u32;
    outer_v6(ctx, packet, picked, inner_len, PROTOCOL_UDP)
}

#[inline(always)]
fn outer_v4<A>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    picked: &Picked,
    inner_len: u32,
    protocol: u8,
) -> Result<(), Reason> {
    let outer = encap::outer_ipv4(
        picked.member,
        packet.traffic_class,
        inner_len,
        protocol,
        picked.hash,
    );
    XdpFrame::of(ctx)
        .write(packet.ip_at, outer)
        .ok_or(Reason::NoHeadroom)
}

#[inline(always)]
fn outer_v6<A>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    picked: &Picked,
    inner_len: u32,
    protocol: u8,
) -> Result<(), Reason> {
    let outer = encap::outer_ipv6(packet.traffic_class, inner_len, protocol, picked.hash);
    let source = encap::outer_source_v6(picked.member, picked.hash);
    let frame = XdpFrame::of(ctx);
    frame
        .write(packet.ip_at, outer)
        .and_then(|()| frame.write(packet.ip_at + 8, source))
        .and_then(|()| frame.write(packet.ip_at + 24, picked.member.outer_destination))
        .ok_or(Reason::NoHeadroom)
}

/// Makes room for an outer header of `N` bytes at `ip_at` and writes the
/// Ethernet header before it. The tags move with it; the rest of the old
/// header lies in that room and is overwritten.
#[inline(always)]
fn push<const N: usize>(
    ctx: &XdpContext,
    ip_at: usize,
    ethernet: Ethernet,
    ethertype: [u8; 2],
) -> Result<(), Reason> {
    // SAFETY: a helper call on the program's own context; every pointer into
    // the packet is made anew after it.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(N as i32)) } != 0 {
        return Err(Reason::NoHeadroom);
    }
    let frame = XdpFrame::of(ctx);
    // Each EtherType at a place of its own: of an unusual packet the verifier
    // only knows that `ip_at` is one of three, and refuses to go back from it.
    if ip_at == ETHERNET_LEN {
        ethernet.write(ctx)?;
        return frame.write(TAGS_AT, ethertype).ok_or(Reason::NoHeadroom);
    }
    // A single tag drags the old EtherType and more along, all of which the
    // outer header overwrites.
    let tags: [u8; 2 * VLAN_LEN] = frame.bytes(N + TAGS_AT).ok_or(Reason::Truncated)?;
    ethernet.write(ctx)?;
    let written = frame.write(TAGS_AT, tags);
    let ethertype_at = if ip_at == ETHERNET_LEN + VLAN_LEN {
        TAGS_AT + VLAN_LEN
    } else {
        TAGS_AT + 2 * VLAN_LEN
    };
    written
        .and_then(|()| frame.write(ethertype_at, ethertype))
        .ok_or(Reason::NoHeadroom)
}

#[inline(always)]
fn transmit(ctx: &XdpContext, member: &Member) -> Result<u32, Reason> {
    if member.egress == 0 || member.egress == ctx.ingress_ifindex() as u32 {
        return Ok(XDP_TX);
    }
    maps::redirect(u32::from(member.egress_port)).ok_or(Reason::BadTable)
}
