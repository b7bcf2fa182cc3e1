//! Sends a packet to its member: rewrite or encapsulate, then transmit.

use aya_ebpf::bindings::xdp_action::XDP_TX;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use balancer_common::encap::{self, UDP_LEN};
use balancer_common::features::Features;
use balancer_common::layout::{Member, Target};
use balancer_common::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, IPV4_LEN, PROTOCOL_UDP, Packet, VLAN_LEN,
};
use balancer_common::verdict::Reason;
use bytemuck::NoUninit;

use crate::features;
use crate::maps::{self, Generation};
use crate::nat;
use crate::packet::{Packed, XdpFrame, halves, words};
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

/// Sends a packet that fits with other ends.
#[inline(always)]
pub(crate) fn send_translated<A: Family>(
    ctx: &XdpContext,
    node: &Generation,
    target: &Target,
    packet: &Packet<A>,
    picked: &Picked,
) -> Result<u32, Reason> {
    nat::to_backend(ctx, node, target, picked, packet.is_error())?;
    station(ctx, picked.member)?;
    transmit(ctx, picked.member)
}

/// Sends a packet that fits as it is: to another station, or in a tunnel.
#[inline(always)]
pub(crate) fn send<A: Family>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    member: &Member,
    hash: u64,
) -> Result<u32, Reason> {
    let protocol = A::TUNNEL_PROTOCOL;
    match member.kind {
        Member::L2 if features::any(Features::L2) => station(ctx, member)?,
        Member::IPIP_V4 if features::any(Features::IPIP_V4) => {
            push(ctx, packet, member, ETHERTYPE_IPV4, || {
                outer_v4(packet, member, hash, 0, protocol)
            })?;
        }
        Member::IPIP_V6 if features::any(Features::IPIP_V6) => {
            push(ctx, packet, member, ETHERTYPE_IPV6, || {
                outer_v6(packet, member, hash, 0, protocol)
            })?;
        }
        Member::GUE_V4 if features::any(Features::GUE_V4) => {
            push(ctx, packet, member, ETHERTYPE_IPV4, || {
                let udp = encap::gue(member, packet.ip_len, hash);
                let outer = outer_v4(packet, member, hash, UDP_LEN, PROTOCOL_UDP);
                Packed(outer, udp)
            })?;
        }
        Member::GUE_V6 if features::any(Features::GUE_V6) => {
            push(ctx, packet, member, ETHERTYPE_IPV6, || {
                let udp = encap::gue(member, packet.ip_len, hash);
                let outer = outer_v6(packet, member, hash, UDP_LEN, PROTOCOL_UDP);
                Packed(outer, udp)
            })?;
        }
        _ => return Err(Reason::BadTable),
    }
    transmit(ctx, member)
}

type OuterV4 = [[u8; 4]; IPV4_LEN / 4];

/// The outer header before the packet and `more` bytes of headers.
#[inline(always)]
fn outer_v4<A: Family>(
    packet: &Packet<A>,
    member: &Member,
    hash: u64,
    more: usize,
    protocol: u8,
) -> OuterV4 {
    let inner_len = packet.ip_len + more as u32;
    encap::outer_ipv4(member, packet.traffic_class, inner_len, protocol, hash)
}

type OuterV6 = Packed<[u8; 8], Packed<[u64; 2], [u64; 2]>>;

/// Likewise.
#[inline(always)]
fn outer_v6<A: Family>(
    packet: &Packet<A>,
    member: &Member,
    hash: u64,
    more: usize,
    protocol: u8,
) -> OuterV6 {
    let inner_len = packet.ip_len + more as u32;
    let first = encap::outer_ipv6(packet.traffic_class, inner_len, protocol, hash);
    let source = encap::outer_source_v6(member, hash);
    Packed(first, Packed(source, halves(&member.outer_destination)))
}

/// Sends the packet to another station: only the Ethernet addresses change.
#[inline(always)]
fn station(ctx: &XdpContext, member: &Member) -> Result<(), Reason> {
    let frame = XdpFrame::of(ctx);
    ethernet(frame, member, 0)
        .and_then(|addresses| frame.write(0, addresses))
        .ok_or(Reason::Truncated)
}

/// The outgoing Ethernet addresses, destination and source, in words in memory
/// order. `at` is where the frame's old header begins: its own destination is
/// an address of the interface it came in on, so it is the right source where
/// it leaves the same way.
#[inline(always)]
fn ethernet(frame: &XdpFrame, member: &Member, at: usize) -> Option<[u32; 3]> {
    let [first, second, third] = words(&member.ethernet);
    if member.flags & Member::SOURCE_FROM_FRAME == 0 {
        return Some([first, second, third]);
    }
    let high: [u8; 2] = *frame.view(at)?;
    let low: [u8; 4] = *frame.view(at + 2)?;
    let second = u32::from_le(second) & 0xffff | u32::from(u16::from_le_bytes(high)) << 16;
    Some([first, second.to_le(), u32::from_ne_bytes(low)])
}

/// Puts an Ethernet header and these headers before the packet. Tags stay
/// before the packet's EtherType; the rest of the old Ethernet header is
/// overwritten.
#[inline(always)]
fn push<A: Family, T: NoUninit>(
    ctx: &XdpContext,
    packet: &Packet<A>,
    member: &Member,
    ethertype: [u8; 2],
    headers: impl FnOnce() -> T,
) -> Result<(), Reason> {
    let room = size_of::<T>();
    // SAFETY: a helper call on the program's own context; every pointer into
    // the packet is made anew after it.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(room as i32)) } != 0 {
        return Err(Reason::NoHeadroom);
    }
    let frame = XdpFrame::of(ctx);
    let addresses = ethernet(frame, member, room).ok_or(Reason::NoHeadroom)?;
    let headers = headers();
    // Each EtherType at a place of its own: of an unusual packet the verifier
    // only knows that it begins at one of three, and refuses to go back from
    // that.
    if packet.ip_at() == ETHERNET_LEN {
        return frame
            .write(0, Packed(addresses, Packed(ethertype, headers)))
            .ok_or(Reason::NoHeadroom);
    }
    // A single tag drags the old EtherType and more along, all of which the
    // outer header overwrites.
    let tags: [u8; 2 * VLAN_LEN] = frame.bytes(room + TAGS_AT).ok_or(Reason::Truncated)?;
    let ethertype_at = if packet.ip_at() == ETHERNET_LEN + VLAN_LEN {
        TAGS_AT + VLAN_LEN
    } else {
        TAGS_AT + 2 * VLAN_LEN
    };
    frame
        .write(0, Packed(addresses, tags))
        .and_then(|()| frame.write(ethertype_at, ethertype))
        .and_then(|()| frame.write(packet.ip_at(), headers))
        .ok_or(Reason::NoHeadroom)
}

#[inline(always)]
fn transmit(ctx: &XdpContext, member: &Member) -> Result<u32, Reason> {
    if member.egress == 0 || member.egress == ctx.ingress_ifindex() as u32 {
        return Ok(XDP_TX);
    }
    maps::redirect(u32::from(member.egress_port)).ok_or(Reason::BadTable)
}
