//! The flow tables: asked for slots in change and for services in which
//! every flow has a record, written once a packet is known to leave.
//!
//! What counts and what is written is decided in
//! [`balancer_common::affinity`]. Two CPUs that see packets of one new flow
//! at once may both write; the later record stays.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use balancer_common::affinity::{self, Choice, Keep, Opening};
use balancer_common::features::Features;
use balancer_common::layout::{FlowKey, FlowRecord, Slot, Target};
use balancer_common::parse::{self, Packet, Segment};

use crate::packet::XdpFrame;
use crate::pick::{self, Picked};
use crate::vip::Family;
use crate::{features, maps};

/// Whether the service has a record of every flow.
#[inline(always)]
pub(crate) fn has_all(target: &Target) -> bool {
    features::asked(target, Target::AFFINITY_FLOW, Features::AFFINITY_FLOW)
}

/// What the flow tables are asked. It is handed over in a map, and stays there
/// until [`keep`], as the stack of the way through the program has no room.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Question {
    key: FlowKey,
    slot: u32,
    opening: u32,
    sequence: u32,
    /// Of the service: where its members are, and what it asks for.
    members: u32,
    member_count: u32,
    options: u32,
    has_all: u32,
}

/// The member for a packet of a slot in change, and for any packet of a
/// service that has a record of every flow: [`Choice::number`].
#[inline(always)]
pub(crate) fn choose<A: Family>(
    ctx: &XdpContext,
    slot: Slot,
    target: &Target,
    packet: &Packet<A>,
    segment: Segment,
) -> u32 {
    maps::hand_over(
        maps::QUESTION,
        Question {
            key: FlowKey {
                source: packet.source.padded(),
                service: target.service,
                ports: packet.ports,
            },
            slot: slot.0,
            opening: segment.opening(),
            sequence: parse::opened_with(XdpFrame::of(ctx), packet, segment),
            members: target.members,
            member_count: u32::from(target.member_count),
            options: target.options,
            has_all: u32::from(has_all(target)),
        },
    );
    flow_choose()
}

/// The choice for the flow that was handed over, as a number. A global
/// function: the kernel verifies it once, and it has a stack of its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_choose() -> u32 {
    // SAFETY: `choose` has just handed it over.
    let Some(asked) = (unsafe { maps::handed_over::<Question>(maps::QUESTION) }) else {
        return 0;
    };
    let key = asked.key;
    let slot = Slot(asked.slot);
    let incarnation = |index| pick::incarnation(asked.members, asked.member_count, index);
    let choice = if asked.has_all == 0 {
        affinity::in_change(
            slot,
            Opening::from_number(asked.opening),
            asked.sequence,
            || maps::flow(&key),
            || maps::probation(&key),
            incarnation,
        )
    } else if let Some(options) = maps::options(asked.options) {
        affinity::recorded(
            slot,
            || maps::flow(&key),
            || maps::probation(&key),
            incarnation,
            now_ns(),
            options.flow_idle_ns,
        )
    } else {
        Choice::of(slot.current())
    };
    choice.number()
}

/// Writes what the choice asks for.
#[inline(always)]
pub(crate) fn keep(picked: &Picked) {
    if picked.keep != Keep::Nothing as u32 {
        let owner = u32::from(picked.index) | u32::from(picked.member.incarnation) << 16;
        flow_keep(owner, u32::from(picked.era), picked.keep);
    }
}

/// Writes the record of the flow that was handed over: its member's index and
/// incarnation, the slot's era, and [`Keep`] as a number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_keep(owner: u32, era: u32, keep: u32) -> u32 {
    // SAFETY: a packet with something to keep has asked `choose`, and nothing
    // was handed over since.
    let Some(asked) = (unsafe { maps::handed_over::<Question>(maps::QUESTION) }) else {
        return 0;
    };
    let key = asked.key;
    let stamp = if asked.has_all != 0 {
        now_ns()
    } else {
        u64::from(asked.sequence)
    };
    if keep == Keep::Time as u32 {
        maps::touch_flow(&key, stamp);
        return 0;
    }
    let record = FlowRecord {
        stamp,
        member: owner as u16,
        incarnation: (owner >> 16) as u16,
        era,
    };
    if keep == Keep::Flows as u32 {
        maps::record_flow(&key, &record);
    } else {
        maps::record_probation(&key, &record);
    }
    0
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: a helper call without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
