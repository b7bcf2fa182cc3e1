//! The flow tables: asked for slots in change and for services in which
//! every flow has a record, written once a packet is known to leave.
//!
//! What counts and what is written is decided in
//! [`balancer_common::affinity`]. Two CPUs that see packets of one new flow
//! at once may both write; the later record stays.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use balancer_common::affinity::{self, Choice, Keep, Opening};
use balancer_common::features::Features;
use balancer_common::layout::{FlowKey, FlowRecord, Slot, Target};
use balancer_common::parse::Packet;

use crate::pick::{self, Picked};
use crate::vip::Family;
use crate::{features, maps};

#[inline(always)]
fn key<A: Family>(target: &Target, packet: &Packet<A>) -> FlowKey {
    FlowKey {
        source: packet.source.padded(),
        service: target.service,
        ports: packet.ports,
    }
}

/// Whether the service has a record of every flow.
#[inline(always)]
pub(crate) fn has_all(target: &Target) -> bool {
    features::any(Features::AFFINITY_FLOW) && target.flags & Target::AFFINITY_FLOW != 0
}

/// The member for a packet of a slot in change.
#[inline(always)]
pub(crate) fn in_change<A: Family>(
    slot: Slot,
    target: &Target,
    packet: &Packet<A>,
    opening: Opening,
) -> Choice {
    let key = key(target, packet);
    affinity::in_change(
        slot,
        opening,
        || maps::flow(&key),
        || maps::probation(&key),
        |index| pick::incarnation(target, index),
    )
}

/// The member for a packet of a service that has a record of every flow.
#[inline(always)]
pub(crate) fn recorded<A: Family>(slot: Slot, target: &Target, packet: &Packet<A>) -> Choice {
    let Some(options) = maps::options(target.options) else {
        return Choice::of(slot.current());
    };
    let key = key(target, packet);
    affinity::recorded(
        slot,
        || maps::flow(&key),
        || maps::probation(&key),
        |index| pick::incarnation(target, index),
        now_ns(),
        options.flow_idle_ns,
    )
}

/// Writes what the choice asks for.
#[inline(always)]
pub(crate) fn keep<A: Family>(target: &Target, packet: &Packet<A>, picked: &Picked) {
    if matches!(picked.keep, Keep::Nothing) {
        return;
    }
    let key = key(target, packet);
    let seen_ns = if has_all(target) { now_ns() } else { 0 };
    if matches!(picked.keep, Keep::Time) {
        maps::touch_flow(&key, seen_ns);
        return;
    }
    let record = FlowRecord {
        seen_ns,
        member: picked.index,
        incarnation: picked.member.incarnation,
        era: u32::from(picked.era),
    };
    match picked.keep {
        Keep::Flows => maps::record_flow(&key, &record),
        _ => maps::record_probation(&key, &record),
    }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
