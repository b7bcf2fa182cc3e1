//! Packets that are not read at once: IPv6 with extension headers, and
//! fragments. What they stand for is handed over in a map, so that the one way
//! from there on is verified once and the stack holds nothing of this.

use aya_ebpf::programs::XdpContext;
use balancer_common::parse::{Packet, Part};
use balancer_common::unusual::{self, Unusual};
use balancer_common::verdict::Reason;

use crate::fragment;
use crate::maps;
use crate::packet::FreshFrame;
use crate::vip::Family;

/// Number for a packet that was read.
const READ: u32 = 0;
/// Number for a later fragment, whose ports are still to be found: its `part`
/// holds the identification.
const LATER: u32 = 1;
/// Added to the numbers of reasons.
const REASONS: u32 = 2;

/// Hands over the packet of a flow that an IPv4 packet stands for.
#[inline(always)]
pub(crate) fn ipv4(ctx: &XdpContext, ip_at: usize) -> Result<(), Reason> {
    let read = match read_v4(ctx, ip_at) {
        LATER => claim_v4(),
        read => read,
    };
    was_read(read)
}

/// Hands over the packet of a flow that an IPv6 packet stands for.
#[inline(always)]
pub(crate) fn ipv6(ctx: &XdpContext, ip_at: usize) -> Result<(), Reason> {
    let read = match read_v6(ctx, ip_at) {
        LATER => claim_v6(),
        read => read,
    };
    was_read(read)
}

// Functions of their own: what is rare shall not take the stack from what is
// not.

#[inline(never)]
fn read_v4(ctx: &XdpContext, ip_at: usize) -> u32 {
    handed_over(unusual::ipv4(FreshFrame::of(ctx), ip_at))
}

#[inline(never)]
fn read_v6(ctx: &XdpContext, ip_at: usize) -> u32 {
    handed_over(unusual::ipv6(FreshFrame::of(ctx), ip_at))
}

#[inline(never)]
fn claim_v4() -> u32 {
    claimed::<[u8; 4]>()
}

#[inline(never)]
fn claim_v6() -> u32 {
    claimed::<[u8; 16]>()
}

#[inline(always)]
fn handed_over<A: Family>(read: Result<Unusual<A>, Reason>) -> u32 {
    match read {
        Ok(Unusual::Packet(packet)) => {
            maps::hand_over(maps::PACKET, packet);
            READ
        }
        Ok(Unusual::Later(packet, identification)) => {
            maps::hand_over(
                maps::PACKET,
                Packet {
                    part: Part::First(identification),
                    ..packet
                },
            );
            LATER
        }
        Ok(Unusual::Icmp(_)) => Reason::NotTcpUdp as u32 + REASONS,
        Err(reason) => reason as u32 + REASONS,
    }
}

#[inline(always)]
fn claimed<A: Family>() -> u32 {
    // SAFETY: a reader of this family has just handed it over.
    let packet = unsafe { maps::handed_over::<Packet<A>>(maps::PACKET) };
    let claimed = match packet.copied() {
        Some(packet) => match packet.part {
            Part::First(identification) => fragment::claim(packet, identification),
            _ => Err(Reason::BadTable),
        },
        None => Err(Reason::BadTable),
    };
    match claimed {
        Ok(packet) => {
            maps::hand_over(maps::PACKET, packet);
            READ
        }
        Err(reason) => reason as u32 + REASONS,
    }
}

#[inline(always)]
fn was_read(read: u32) -> Result<(), Reason> {
    if read != READ {
        return Err(Reason::from_number(read - REASONS).unwrap_or(Reason::BadTable));
    }
    Ok(())
}

/// The packet that a reader has handed over.
#[inline(always)]
pub(crate) fn taken<A: Family>() -> Result<&'static Packet<A>, Reason> {
    // SAFETY: a reader of this family has handed it over, and nothing else is
    // in its place while the packet is at work.
    unsafe { maps::handed_over::<Packet<A>>(maps::PACKET) }.ok_or(Reason::BadTable)
}
