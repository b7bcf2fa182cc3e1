//! The maps of `nat` and `fullnat`, and safe access to them.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray};
use balancer_common::layout::{NatKey, NatRecord, NatSettings};

use super::MMAPABLE;
use crate::nat::{Record, Scratch};

/// What flows are rewritten to that are; written by the program.
#[map]
static NAT: LruHashMap<NatKey, NatRecord> = LruHashMap::with_max_entries(1, 0);
/// One entry a generation; written by the controller.
#[map]
static NAT_SETTINGS: Array<NatSettings> = Array::with_max_entries(2, MMAPABLE);
/// One entry, for the program alone.
#[map]
static NAT_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// One entry: where the search for a port of either family goes on; written by
/// the program. A later program goes on there, too: who began anew would give
/// ports out that backends still hold in TIME-WAIT.
#[map]
static NAT_CURSORS: PerCpuArray<[u32; 2]> = PerCpuArray::with_max_entries(1, 0);

/// The record for packets of this key.
#[inline(always)]
pub(crate) fn translation(key: &NatKey) -> Option<Record> {
    NAT.get_ptr_mut(key).map(Record::new)
}

/// Writes a record. A full table evicts the least recently used; where the
/// insert fails, the next packet tries again.
#[inline(always)]
pub(crate) fn translate(key: &NatKey, record: &NatRecord) {
    let _ = NAT.insert(key, record, 0);
}

/// Removes a record.
#[inline(always)]
pub(crate) fn forget_translation(key: &NatKey) {
    let _ = NAT.remove(key);
}

#[inline(always)]
pub(crate) fn nat_settings(generation: u32) -> Option<&'static NatSettings> {
    NAT_SETTINGS.get(generation)
}

#[inline(always)]
pub(crate) fn nat_cursors() -> Option<*mut [u32; 2]> {
    NAT_CURSORS.get_ptr_mut(0)
}

#[inline(always)]
pub(crate) fn nat_scratch() -> Option<*mut Scratch> {
    NAT_SCRATCH.get_ptr_mut(0)
}
