//! From a service to the member that gets the packet.

use aya_ebpf::programs::XdpContext;
use balancer_common::affinity::Keep;
use balancer_common::features::Features;
use balancer_common::hash;
use balancer_common::layout::{GenerationHead, Member, SLOTS_PER_BLOCK, Target};
use balancer_common::parse::{PROTOCOL_TCP, Packet, Part, Segment};
use balancer_common::verdict::Reason;

use crate::maps::{self, Generation};
use crate::vip::Family;
use crate::{features, flow, quic};

/// The member, and what led to it.
pub(crate) struct Picked {
    pub(crate) member: &'static Member,
    /// Its index in the service.
    pub(crate) index: u16,
    pub(crate) slot: u32,
    /// Of the flow, also where the slot goes by the source alone.
    pub(crate) hash: u64,
    /// What [`flow::keep`] has to write once nothing stops the packet: a
    /// [`Keep`] as a number.
    pub(crate) keep: u32,
    /// Of the slot.
    pub(crate) era: u8,
    /// 1 if the packet is the first of its flow, as far as can be told, else 0.
    pub(crate) new: u32,
}

impl Picked {
    /// The packet is none of a client: it is no new flow and leaves no record.
    #[inline(always)]
    pub(crate) fn leaves_nothing(&mut self) {
        self.keep = Keep::Nothing as u32;
        self.new = 0;
    }
}

/// `kept` is the index plus one of the member that a translation holds, or 0;
/// `named` is what [`quic::route`] says.
///
/// Writes nothing: whoever only asks for a flow's member does just that.
#[inline(always)]
pub(crate) fn member<A: Family>(
    ctx: &XdpContext,
    node: &Generation,
    target: &Target,
    packet: &Packet<A>,
    segment: Segment,
    (kept, named): (u32, u32),
) -> Result<Picked, Reason> {
    let (hash, slot) = slot(node.head, target, packet);
    let (choice, era) = if quic::is_member(named) {
        (named, 0)
    } else {
        of_slot(ctx, target, packet, segment, slot, kept)?
    };
    let index = choice as u16;
    let member =
        own(target.members, u32::from(target.member_count), index).ok_or(Reason::BadTable)?;
    if !member.is_alive() {
        return Err(Reason::NoBackend);
    }
    Ok(Picked {
        member,
        index,
        slot,
        hash,
        keep: choice >> 16 & 0xff,
        era,
        new: choice >> 24 | segment.syns(),
    })
}

/// The member's index and what is kept, as [`Choice::number`] has it, and the
/// slot's era.
///
/// [`Choice::number`]: balancer_common::affinity::Choice::number
#[inline(always)]
fn of_slot<A: Family>(
    ctx: &XdpContext,
    target: &Target,
    packet: &Packet<A>,
    segment: Segment,
    slot: u32,
    kept: u32,
) -> Result<(u32, u8), Reason> {
    if target.table_len == 0 {
        return Err(Reason::NoBackend);
    }
    let block = target.table + slot / SLOTS_PER_BLOCK;
    let slots = maps::slots(block).ok_or(Reason::BadTable)?;
    let owners = slots.slots[(slot % SLOTS_PER_BLOCK) as usize];
    let choice = if kept > 0 {
        kept - 1
    } else if let Part::Later(record) = &packet.part
        && record.service == target.service
        && incarnation(
            target.members,
            u32::from(target.member_count),
            record.member,
        ) == Some(record.incarnation)
    {
        u32::from(record.member)
    } else if owners.is_unsettled() && packet.protocol == PROTOCOL_TCP || flow::has_all(target) {
        let choice = flow::choose(ctx, owners, target, packet, segment);
        if choice as u16 != owners.current() && !flow::has_all(target) {
            maps::mark(block);
        }
        choice
    } else {
        u32::from(owners.current())
    };
    Ok((choice, owners.era()))
}

/// The hash of a packet's flow, and the slot it falls into.
#[inline(always)]
pub(crate) fn slot<A: Family>(
    head: &GenerationHead,
    target: &Target,
    packet: &Packet<A>,
) -> (u64, u32) {
    let keys = &head.flow_keys;
    let (source, destination) = (packet.source, packet.destination);
    let hash = hash::flow(keys, source, destination, packet.ports, packet.protocol);
    let by_source = features::asked(target, Target::AFFINITY_SOURCE, Features::AFFINITY_SOURCE);
    let slot_hash = if by_source {
        hash::flow(keys, source, destination, [0; 4], 0)
    } else {
        hash
    };
    (hash, hash::slot(slot_hash, target.table_len))
}

/// The incarnation of a member that is alive.
#[inline(always)]
pub(crate) fn incarnation(members: u32, member_count: u32, index: u16) -> Option<u16> {
    own(members, member_count, index)
        .filter(|member| member.is_alive())
        .map(|member| member.incarnation)
}

/// A member of a service: an index past its last one names nobody, or it
/// would name a member of the next service.
#[inline(always)]
pub(crate) fn own(members: u32, member_count: u32, index: u16) -> Option<&'static Member> {
    if u32::from(index) >= member_count {
        return None;
    }
    maps::member(members.wrapping_add(u32::from(index)))
        .filter(|member| member.kind != Member::NONE)
}
