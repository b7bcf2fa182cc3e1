//! Translations of flows that are over go, and those of silent ones stay.
//!
//! `NAT` evicts the least recently used record when it is full. Left to that
//! alone it would always be full, mostly of closed connections, and evict who
//! said nothing for a while: an open connection would not outlive as many new
//! ones as the table has room for, however short those were. So each CPU keeps
//! the keys of what it wrote in a ring, and with each new record it looks at a
//! few that it did not look at for longest: what is over is removed, what is
//! not has just been used and goes back to the end. Nothing waits for it, and
//! no daemon is needed. What was looked at within the last second is left
//! alone, so that a flood of new flows pays for one look at each place a
//! second, and not for several with each flow.
//!
//! Where a CPU has nearly its share of the table, it looks at more, and closed
//! connections have to be closed for a second only. A flow that finds no place
//! in the ring has the table's least-recently-used order alone.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use balancer_common::features::Features;
use balancer_common::layout::{NatKey, NatSettings};

use super::{DONE, NOT_DONE, Scratch, scratch};
use crate::{features, maps};

/// Records that are looked at for a new one; more than one, so that those
/// which are over become fewer,
const LOOKS: u32 = 2;
/// and this where they are many: a quarter has to be over, not a half.
const LOOKS_IN_A_CROWD: u32 = 4;

/// After the reply record of the scratch entry was written: sees to some
/// others, and puts it in the queue.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn nat_queue(generation: u32) -> u32 {
    let (Some(scratch), Some(settings)) = (scratch(), maps::nat_settings(generation)) else {
        return NOT_DONE;
    };
    let Some(cursors) = maps::nat_cursors() else {
        return NOT_DONE;
    };
    let queue = &mut cursors.queue;
    let room = features::nat_room();
    // SAFETY: a helper call without arguments.
    let part = unsafe { bpf_get_smp_processor_id() }.wrapping_mul(room);
    let is_crowded = queue.is_crowded(room);
    // As it was read for this packet, and is in its record.
    let now = scratch.record.seen_ns;
    for look in 0..LOOKS_IN_A_CROWD {
        if look >= LOOKS && !is_crowded {
            break;
        }
        let Some(place) = queue.first(room) else {
            break;
        };
        let Some(first) = maps::nat_queued(part.wrapping_add(place)) else {
            break;
        };
        if !first.is_due(now) {
            break;
        }
        copy(&first.key, &mut scratch.queued);
        queue.take(room);
        if stays(scratch, settings, is_crowded)
            && let Some(place) = queue.add(room)
            && let Some(last) = maps::nat_queued(part.wrapping_add(place))
        {
            copy(&scratch.queued, &mut last.key);
            last.looked_ns = now;
        }
    }
    if let Some(place) = queue.add(room)
        && let Some(last) = maps::nat_queued(part.wrapping_add(place))
    {
        copy(&scratch.reply, &mut last.key);
        last.looked_ns = now;
    }
    DONE
}

/// Field by field: whole, it would be a loop over its bytes.
#[inline(always)]
fn copy(from: &NatKey, to: &mut NatKey) {
    to.source = from.source;
    to.destination = from.destination;
    to.ports = from.ports;
    to.protocol = from.protocol;
}

/// Whether the flow that the queue gave is still there; if it is over, its
/// record goes. The record of a `fullnat` flow's requests does not: removed by
/// its key, it could be the one that another CPU has just written for the
/// client's next connection. It leads nowhere now and nobody uses it, so it is
/// evicted before those of open flows, which have been looked up here.
#[inline(always)]
fn stays(scratch: &mut Scratch, settings: &NatSettings, is_crowded: bool) -> bool {
    let Some(reply) = maps::translation(&scratch.queued) else {
        return false;
    };
    let now = scratch.record.seen_ns;
    let is_over = if is_crowded {
        reply.is_over_in_a_crowd(now, settings)
    } else {
        reply.is_over(now, settings)
    };
    if is_over {
        maps::forget_translation(&scratch.queued);
    } else if features::any(Features::FULLNAT) {
        reply.write_answer_key(scratch.queued.protocol, &mut scratch.other);
        let _ = maps::translation(&scratch.other);
    }
    !is_over
}
