//! A packet on its way through translation, where every function finds it.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use balancer_common::hash::Address;
use balancer_common::layout::{FragmentRecord, NatKey, NatRecord, NatSettings};
use balancer_common::parse::{Frame, PROTOCOL_TCP, Packet, Part};
use balancer_common::verdict::Reason;

use super::{DONE, NOT_DONE};
use crate::maps;
use crate::packet::XdpFrame;
use crate::vip::Family;

/// Where the flags stand in a TCP header.
const TCP_FLAGS: usize = 13;
/// More than the headers before a transport header take: a mask, so that the
/// verifier sees a limit.
pub(super) const MOST_HEADERS: usize = 0x3fff;

/// Parts of a packet, as [`Part`] has them.
const WHOLE: u32 = 0;
const FIRST: u32 = 1;
const LATER: u32 = 2;
const ERROR: u32 = 3;

/// A packet, and what is made of it: this CPU's, as the stack has no room.
#[repr(C)]
pub(crate) struct Scratch {
    /// The packet as it arrives.
    pub(super) arrives: NatKey,
    /// How the flow's replies come in.
    pub(super) reply: NatKey,
    /// Their record, as it would be written.
    pub(super) record: NatRecord,
    /// How requests of another flow come in.
    pub(super) other: NatKey,
    /// How replies of the flow come in that the queue gave.
    pub(super) queued: NatKey,
    /// What the packet becomes.
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    pub(super) ports: [u8; 4],
    /// Half of [`NatSettings::sources`] that is the family's.
    pub(super) pool: u32,
    /// Where its IP header begins, and how long that is.
    pub(super) ip_at: u32,
    header_len: u32,
    /// Its whole length, then a byte its TTL, then one which part of a packet
    /// it is: [`WHOLE`], [`FIRST`], [`LATER`] or [`ERROR`].
    size: u32,
    /// TCP: its flags.
    pub(super) flags: u32,
    /// `fullnat`: what requests leave from is known.
    pub(super) is_known: u32,
}

impl Scratch {
    /// Where the transport header begins. Masked and behind a barrier: the
    /// verifier wants to see a limit, and each access checked for itself.
    #[inline(always)]
    pub(super) fn transport_at(&self) -> usize {
        let at = self.ip_at.wrapping_add(self.header_len);
        core::hint::black_box(at as usize & MOST_HEADERS)
    }

    /// Whether it is a later fragment, which has no transport header.
    #[inline(always)]
    pub(super) fn is_later(&self) -> bool {
        self.size >> 24 == LATER
    }

    /// The member that its record names: index, and incarnation in the low half.
    #[inline(always)]
    pub(super) fn seat(&self) -> u32 {
        u32::from(self.record.member) << 16 | u32::from(self.record.incarnation)
    }

    /// Notes an error's headers.
    #[inline(always)]
    pub(super) fn place<A: Family>(&mut self, packet: &Packet<A>) {
        self.ip_at = packet.ip_at as u32;
        self.header_len = packet.header_len;
        self.pool = A::NAT_POOL;
        self.size = packet.ip_len | u32::from(packet.ttl) << 16 | ERROR << 24;
    }

    /// The packet, but for its ends and what tells fragments apart.
    #[inline(always)]
    pub(super) fn packet(&self) -> Packet<[u8; 4]> {
        let part = match self.size >> 24 {
            FIRST => Part::First(0),
            ERROR => Part::Error,
            LATER => Part::Later(FragmentRecord {
                ports: [0; 4],
                protocol: 0,
                service: 0,
                member: 0,
                incarnation: 0,
            }),
            _ => Part::Whole,
        };
        Packet {
            source: [0; 4],
            destination: [0; 4],
            ports: self.arrives.ports,
            protocol: self.arrives.protocol as u8,
            traffic_class: 0,
            ttl: (self.size >> 16) as u8,
            part,
            ip_at: self.ip_at as usize & MOST_HEADERS,
            header_len: self.header_len & MOST_HEADERS as u32,
            ip_len: self.size & 0xffff,
        }
    }
}

#[inline(always)]
pub(super) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the entry of this CPU in a live map. Programs do not interrupt
    // each other, and no function keeps it while it calls another.
    maps::nat_scratch().map(|scratch| unsafe { &mut *scratch })
}

/// Hands the packet to [`nat_enter`].
#[inline(always)]
pub(super) fn enter<A: Family>(ctx: &XdpContext, packet: &Packet<A>) -> Result<(), Reason> {
    let header_len = packet.header_len & MOST_HEADERS as u32;
    let part = match packet.part {
        Part::Whole | Part::Error => WHOLE,
        Part::First(_) => FIRST,
        Part::Later(_) => LATER,
    };
    let done = nat_enter(
        ctx.ctx,
        packet.ip_at as u32 | header_len << 16,
        packet.ip_len | u32::from(packet.ttl) << 16 | part << 24,
        u32::from(packet.protocol) | A::NAT_POOL << 8,
        u32::from_ne_bytes(packet.ports),
    );
    match done {
        DONE => Ok(()),
        _ => Err(Reason::BadTable),
    }
}

/// Writes a packet into the scratch entry, from what its headers have said
/// and from the frame.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_enter(ctx: *mut xdp_md, place: u32, size: u32, kind: u32, ports: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(scratch) = scratch() else {
        return NOT_DONE;
    };
    scratch.ip_at = place & 0xffff;
    scratch.header_len = place >> 16;
    scratch.size = size;
    scratch.arrives.ports = ports.to_ne_bytes();
    scratch.arrives.protocol = kind & 0xff;
    scratch.pool = kind >> 8;
    scratch.is_known = 0;
    scratch.flags = 0;
    let frame = XdpFrame::of(&ctx);
    let at = scratch.ip_at as usize & MOST_HEADERS;
    let is_read = if scratch.pool == NatSettings::V4 as u32 {
        read_v4(frame, at + 12, &mut scratch.arrives)
    } else {
        read_v6(frame, at + 8, &mut scratch.arrives)
    };
    if !scratch.is_later()
        && scratch.arrives.protocol == u32::from(PROTOCOL_TCP)
        && let Some([_, flags]) = frame.bytes(scratch.transport_at() + TCP_FLAGS - 1)
    {
        scratch.flags = u32::from(flags);
    }
    match is_read {
        Some(()) => DONE,
        None => NOT_DONE,
    }
}

#[inline(always)]
fn read_v4(frame: &XdpFrame, at: usize, key: &mut NatKey) -> Option<()> {
    let source: [u8; 4] = frame.bytes(at)?;
    let destination: [u8; 4] = frame.bytes(at + 4)?;
    key.source = source.padded();
    key.destination = destination.padded();
    Some(())
}

#[inline(always)]
fn read_v6(frame: &XdpFrame, at: usize, key: &mut NatKey) -> Option<()> {
    key.source = frame.bytes(at)?;
    key.destination = frame.bytes(at + 16)?;
    Some(())
}
