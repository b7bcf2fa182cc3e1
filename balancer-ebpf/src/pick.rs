//! From a service to the member that gets the packet.

use balancer_common::affinity::{self, Opening};
use balancer_common::hash;
use balancer_common::layout::{FlowKey, FlowRecord, Member, SLOTS_PER_BLOCK, Target};
use balancer_common::parse::Packet;
use balancer_common::verdict::Reason;

use crate::maps::{self, Generation};
use crate::vip::Family;

/// The member, and what led to it.
pub(crate) struct Picked {
    pub(crate) member: &'static Member,
    /// Its index in the service.
    pub(crate) index: u16,
    pub(crate) slot: u32,
    pub(crate) hash: u64,
}

#[inline(always)]
pub(crate) fn member<A: Family>(
    node: &Generation,
    target: &Target,
    packet: &Packet<A>,
    opening: Opening,
) -> Result<Picked, Reason> {
    if target.table_len == 0 {
        return Err(Reason::NoBackend);
    }
    let hash = hash::flow(
        &node.head.flow_keys,
        packet.source,
        packet.destination,
        packet.ports,
        packet.protocol,
    );
    let slot = hash::slot(hash, target.table_len);
    let block = maps::slots(target.table + slot / SLOTS_PER_BLOCK).ok_or(Reason::BadTable)?;
    let owners = block.slots[(slot % SLOTS_PER_BLOCK) as usize];

    let index = if owners.is_unsettled() {
        in_change(owners, target, packet, opening)
    } else {
        owners.current()
    };
    let member = own(target, index).ok_or(Reason::BadTable)?;
    Ok(Picked {
        member,
        index,
        slot,
        hash,
    })
}

/// The slow path of a slot in change: asks and keeps flow records.
#[inline(always)]
fn in_change<A: Family>(
    owners: balancer_common::layout::Slot,
    target: &Target,
    packet: &Packet<A>,
    opening: Opening,
) -> u16 {
    let key = FlowKey {
        source: packet.source.padded(),
        service: target.service,
        ports: packet.ports,
    };
    let incarnation = |index| {
        own(target, index)
            .filter(|member| member.is_alive())
            .map(|member| member.incarnation)
    };
    let choice = affinity::choose(owners, opening, || maps::flow(&key), incarnation);
    if choice.record
        && let Some(incarnation) = incarnation(choice.member)
    {
        let record = FlowRecord {
            member: choice.member,
            incarnation,
            ..FlowRecord::default()
        };
        maps::record_flow(&key, &record);
    }
    choice.member
}

/// A member of this service: an index past its last one names nobody, or it
/// would name a member of the next service.
#[inline(always)]
fn own(target: &Target, index: u16) -> Option<&'static Member> {
    if index >= target.member_count {
        return None;
    }
    maps::member(target.members + u32::from(index)).filter(|member| member.kind != Member::NONE)
}
