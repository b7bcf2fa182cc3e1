//! The maps of `decap`, and safe access.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray};
use balancer_common::layout::DecapCounters;

/// Outer sources that are trusted, IPv4 as v4-mapped; written by the command.
#[map]
static DECAP_SOURCES: HashMap<[u8; 16], u8> = HashMap::with_max_entries(256, 0);
/// One entry; written by the program.
#[map]
static DECAP_COUNTERS: PerCpuArray<DecapCounters> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn decap_trusts(source: &[u8; 16]) -> bool {
    DECAP_SOURCES.get_ptr(source).is_some()
}

#[inline(always)]
pub(crate) fn decap_counters() -> Option<*mut DecapCounters> {
    DECAP_COUNTERS.get_ptr_mut(0)
}
