//! The maps of `nat` and `fullnat`, and safe access to them.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuArray};
use balancer_common::layout::{NatCursors, NatKey, NatQueued, NatRecord, NatSettings};

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
/// One entry: what a CPU sees to; written by the program. A later program goes
/// on there, too: who began anew would give ports out that backends still hold
/// in TIME-WAIT.
#[map]
static NAT_CURSORS: PerCpuArray<NatCursors> = PerCpuArray::with_max_entries(1, 0);
/// What each CPU looks after, in a part of its own; written by the program.
#[map]
static NAT_QUEUE: Array<NatQueued> = Array::with_max_entries(1, 0);

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
pub(crate) fn nat_cursors() -> Option<&'static mut NatCursors> {
    // SAFETY: the entry of this CPU in a live map. Programs do not interrupt
    // each other on one, and no function keeps it while it calls another.
    NAT_CURSORS.get_ptr_mut(0).map(|it| unsafe { &mut *it })
}

/// A place of the queue, which only its CPU reads and writes.
#[inline(always)]
pub(crate) fn nat_queued(place: u32) -> Option<&'static mut NatQueued> {
    // SAFETY: as in `nat_cursors`.
    NAT_QUEUE.get_ptr_mut(place).map(|it| unsafe { &mut *it })
}

#[inline(always)]
pub(crate) fn nat_scratch() -> Option<*mut Scratch> {
    NAT_SCRATCH.get_ptr_mut(0)
}
