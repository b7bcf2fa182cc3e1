//! Counters: one per-CPU entry a member and one a reason.

use balancer_common::parse::Segment;
use balancer_common::verdict::Reason;

use crate::maps;

#[inline(always)]
pub(crate) fn reason(reason: Reason) {
    if let Some(counter) = maps::reasons(reason as u32) {
        // SAFETY: the entry of this CPU in a live map; nobody else writes it.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn member(counter: u32, bytes: u32, new: u32, segment: Segment) {
    if let Some(counters) = maps::counters(counter) {
        // SAFETY: as in `reason`.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += u64::from(bytes);
        counters.flows += u64::from(new);
        counters.resets += u64::from(segment.resets());
    }
}
