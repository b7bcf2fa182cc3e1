//! From a service to the member that gets the packet.

use balancer_common::affinity::{Choice, Keep, Opening};
use balancer_common::features::Features;
use balancer_common::hash;
use balancer_common::layout::{Member, SLOTS_PER_BLOCK, Target};
use balancer_common::parse::{Packet, Part};
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
    /// What [`flow::keep`] has to write once nothing stops the packet.
    pub(crate) keep: Keep,
    /// Of the slot.
    pub(crate) era: u8,
    /// Whether the packet is the first of its flow, as far as can be told.
    pub(crate) is_new: bool,
}

/// `kept` is the index plus one of the member that a translation holds, or 0;
/// `named` is what [`quic::route`] says.
///
/// Writes nothing: whoever only asks for a flow's member does just that.
#[inline(always)]
pub(crate) fn member<A: Family>(
    node: &Generation,
    target: &Target,
    packet: &Packet<A>,
    opening: Opening,
    (kept, named): (u32, u32),
) -> Result<Picked, Reason> {
    let keys = &node.head.flow_keys;
    let (source, destination) = (packet.source, packet.destination);
    let hash = hash::flow(keys, source, destination, packet.ports, packet.protocol);
    if target.table_len == 0 && !quic::is_member(named) {
        return Err(Reason::NoBackend);
    }
    let by_source = features::asked(target, Target::AFFINITY_SOURCE, Features::AFFINITY_SOURCE);
    let slot_hash = if by_source {
        hash::flow(keys, source, destination, [0; 4], 0)
    } else {
        hash
    };
    let slot = hash::slot(slot_hash, target.table_len);
    let block = target.table + slot / SLOTS_PER_BLOCK;
    let slots = maps::slots(block).ok_or(Reason::BadTable)?;
    let owners = slots.slots[(slot % SLOTS_PER_BLOCK) as usize];

    let choice = if kept > 0 {
        Choice::of((kept - 1) as u16)
    } else if quic::is_member(named) {
        Choice::of(named as u16)
    } else if let Part::Later(record) = &packet.part
        && record.service == target.service
        && incarnation(
            target.members,
            u32::from(target.member_count),
            record.member,
        ) == Some(record.incarnation)
    {
        Choice::of(record.member)
    } else if owners.is_unsettled() || flow::has_all(target) {
        let choice = flow::choose(owners, target, packet, opening);
        if choice.member != owners.current() && !flow::has_all(target) {
            maps::mark(block);
        }
        choice
    } else {
        Choice::of(owners.current())
    };
    let member = own(
        target.members,
        u32::from(target.member_count),
        choice.member,
    )
    .ok_or(Reason::BadTable)?;
    if !member.is_alive() {
        return Err(Reason::NoBackend);
    }
    Ok(Picked {
        member,
        index: choice.member,
        slot,
        hash,
        keep: choice.keep,
        era: owners.era(),
        is_new: choice.is_new || matches!(opening, Opening::Syn),
    })
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
