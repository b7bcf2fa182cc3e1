//! Every map: what it holds, who writes it, and safe access.
//!
//! Sizes here are the smallest the kernel takes; the loader sets the real
//! ones from the configuration. Tables are `BPF_F_MMAPABLE` arrays: the
//! controller writes them through a mapping, never element by element. Those
//! of a capture alone are in [`capture`], those of translations in [`nat`].

pub(crate) mod capture;
mod nat;

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, DevMap, LruHashMap, PerCpuArray};
use balancer_common::hash::Address;
use balancer_common::layout::{
    FlowKey, FlowRecord, FragmentKey, FragmentRecord, GenerationHead, HANDSHAKE_SLOTS, Handshake,
    HandshakeCounters, LimitKey, MARKS_PER_ELEMENT, MAX_EGRESS_PORTS, Marks, Member,
    MemberCounters, Node, ServiceOptions, ServiceV4, ServiceV6, SlotBlock, SourceKey, TraceRecord,
};
use balancer_common::parse::Packet;
use balancer_common::verdict::Reason;

pub(crate) use self::nat::{
    forget_translation, nat_cursors, nat_queued, nat_scratch, nat_settings, translate, translation,
};
use crate::icmp_error::Told;

/// `BPF_F_MMAPABLE` of `linux/bpf.h`.
const MMAPABLE: u32 = 1 << 10;

/// One entry; written by the controller.
#[map]
static NODE: Array<Node> = Array::with_max_entries(1, MMAPABLE);
/// Two generations of buckets; written by the controller.
#[map]
static SERVICES_V4: Array<ServiceV4> = Array::with_max_entries(2, MMAPABLE);
/// As `SERVICES_V4`.
#[map]
static SERVICES_V6: Array<ServiceV6> = Array::with_max_entries(2, MMAPABLE);
/// Two generations of options; written by the controller.
#[map]
static OPTIONS: Array<ServiceOptions> = Array::with_max_entries(2, MMAPABLE);
/// Tables, in regions of blocks; written by the controller.
#[map]
static SLOTS: Array<SlotBlock> = Array::with_max_entries(1, MMAPABLE);
/// A mark for each block of `SLOTS`; set by the program, cleared by the
/// controller.
#[map]
static TOUCHED: Array<Marks> = Array::with_max_entries(1, MMAPABLE);
/// Two generations of members; written by the controller.
#[map]
static MEMBERS: Array<Member> = Array::with_max_entries(2, MMAPABLE);
/// Interfaces packets leave by; written by the controller.
#[map]
static EGRESS: DevMap = DevMap::with_max_entries(MAX_EGRESS_PORTS, 0);
/// Who owns a flow that has shown to be one; written by the program.
#[map]
static FLOWS: LruHashMap<FlowKey, FlowRecord> = LruHashMap::with_max_entries(1, 0);
/// Who owns a flow of which only the first packet was seen; written by the
/// program. A flood fills this table, and not `FLOWS`.
#[map]
static PROBATION: LruHashMap<FlowKey, FlowRecord> = LruHashMap::with_max_entries(1, 0);
/// Where the first fragments of packets went; written by the program.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentRecord> = LruHashMap::with_max_entries(1, 0);
/// One entry: when this CPU's next ICMP error is due; written by the program.
#[map]
static ERRORS_DUE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// One entry: what an ICMP error tells beside its flow.
#[map]
static TOLD: PerCpuArray<Told> = PerCpuArray::with_max_entries(1, 0);
/// Prefixes that services allow or deny, by number of the set; written by
/// the controller.
#[map]
static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::with_max_entries(1, 0);
/// When the bucket of a source prefix is full again; written by the program.
#[map]
static LIMITS: LruHashMap<LimitKey, u64> = LruHashMap::with_max_entries(1, 0);
/// Sampled handshakes under way; written by the program.
#[map]
static HANDSHAKES: Array<Handshake> = Array::with_max_entries(HANDSHAKE_SLOTS, MMAPABLE);
/// One entry a member; written by the program.
#[map]
static HANDSHAKE_COUNTERS: PerCpuArray<HandshakeCounters> = PerCpuArray::with_max_entries(1, 0);
/// One entry a member; written by the program.
#[map]
static COUNTERS: PerCpuArray<MemberCounters> = PerCpuArray::with_max_entries(1, 0);
/// One entry a reason; written by the program.
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT as u32, 0);
/// What one stage hands over to another: [`PACKET`], [`QUESTION`] and
/// [`ERROR`].
#[map]
static HANDED_OVER: PerCpuArray<[u64; HANDED_OVER_WORDS]> = PerCpuArray::with_max_entries(3, 0);
/// One entry, of a program loaded for `trace`; written by the program.
#[map]
static TRACE: Array<TraceRecord> = Array::with_max_entries(1, MMAPABLE);

/// Words of an entry of [`HANDED_OVER`]: the longest [`Packet`].
const HANDED_OVER_WORDS: usize = 12;
/// Index in [`HANDED_OVER`] of what a packet was read as.
pub(crate) const PACKET: u32 = 0;
/// Index in [`HANDED_OVER`] of what the flow tables are asked.
pub(crate) const QUESTION: u32 = 1;
/// Index in [`HANDED_OVER`] of an ICMP error that is being read.
const ERROR: u32 = 2;

/// The generation in force and its head.
pub(crate) struct Generation {
    /// 0 or 1.
    pub(crate) index: u32,
    /// Its keys, seeds and masks.
    pub(crate) head: &'static GenerationHead,
}

/// Reads which generation is in force: once a packet, so that all its
/// look-ups see the same configuration.
#[inline(always)]
pub(crate) fn generation() -> Option<Generation> {
    let node = NODE.get(0)?;
    // SAFETY: `node` is a live map value. Volatile, as the controller may
    // store to it at any time: the value must be read once and kept.
    let index = unsafe { core::ptr::read_volatile(&raw const node.active) } & 1;
    Some(Generation {
        index,
        head: &node.generations[index as usize],
    })
}

/// The generation with this index, which was in force for this packet.
#[inline(always)]
pub(crate) fn generation_at(index: u32) -> Option<Generation> {
    let node = NODE.get(0)?;
    let index = index & 1;
    Some(Generation {
        index,
        head: &node.generations[index as usize],
    })
}

impl Generation {
    #[inline(always)]
    pub(crate) fn bucket_v4(&self, bucket: u32) -> Option<&'static ServiceV4> {
        SERVICES_V4.get(self.index * (self.head.mask_v4 + 1) + bucket)
    }

    #[inline(always)]
    pub(crate) fn bucket_v6(&self, bucket: u32) -> Option<&'static ServiceV6> {
        SERVICES_V6.get(self.index * (self.head.mask_v6 + 1) + bucket)
    }
}

/// A member by its index in `MEMBERS`, generation included.
#[inline(always)]
pub(crate) fn member(index: u32) -> Option<&'static Member> {
    MEMBERS.get(index)
}

/// By the index in `OPTIONS`, generation included.
#[inline(always)]
pub(crate) fn options(index: u32) -> Option<&'static ServiceOptions> {
    OPTIONS.get(index)
}

#[inline(always)]
pub(crate) fn slots(block: u32) -> Option<&'static SlotBlock> {
    SLOTS.get(block)
}

/// Marks a block of which a slot in change sent a packet to an earlier owner.
#[inline(always)]
pub(crate) fn mark(block: u32) {
    let Some(marks) = TOUCHED.get_ptr_mut(block / MARKS_PER_ELEMENT) else {
        return;
    };
    // SAFETY: a byte of a live map value, the place in it below its length.
    // Volatile, as other CPUs and the controller store to it: each store is
    // whole, and whoever only sets it to 1 cannot undo another's.
    unsafe {
        let mark = (&raw mut (*marks).blocks)
            .cast::<u8>()
            .add((block % MARKS_PER_ELEMENT) as usize);
        // All CPUs share the line: it stays clean while nothing changes.
        if core::ptr::read_volatile(mark) == 0 {
            core::ptr::write_volatile(mark, 1);
        }
    }
}

/// A flow's record.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<FlowRecord> {
    // SAFETY: the record is copied at once; an entry that is reused in
    // between gives another record, which its incarnation and era tell.
    unsafe { FLOWS.get(key) }.copied()
}

/// As `flow`, of one on probation.
#[inline(always)]
pub(crate) fn probation(key: &FlowKey) -> Option<FlowRecord> {
    // SAFETY: as in `flow`.
    unsafe { PROBATION.get(key) }.copied()
}

/// Records a flow's owner. A full table evicts the least recently used; an
/// insert that fails leaves the flow to the slot's owners, as before.
#[inline(always)]
pub(crate) fn record_flow(key: &FlowKey, record: &FlowRecord) {
    let _ = FLOWS.insert(key, record, 0);
}

/// As `record_flow`, on probation.
#[inline(always)]
pub(crate) fn record_probation(key: &FlowKey, record: &FlowRecord) {
    let _ = PROBATION.insert(key, record, 0);
}

/// Notes that a recorded flow is in use.
#[inline(always)]
pub(crate) fn touch_flow(key: &FlowKey, seen_ns: u64) {
    if let Some(record) = FLOWS.get_ptr_mut(key) {
        // SAFETY: one aligned store into a live map's memory. Were the entry
        // evicted and reused just now, another flow would live a little
        // longer than its idle time.
        unsafe { core::ptr::write_volatile(&raw mut (*record).stamp, seen_ns) };
    }
}

#[inline(always)]
pub(crate) fn fragment(key: &FragmentKey) -> Option<FragmentRecord> {
    // SAFETY: as in `flow`; what a reused entry says is another packet's, as
    // rare as two packets of one identification.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// Records where a first fragment went. If the insert fails, its later ones
/// are dropped by name.
#[inline(always)]
pub(crate) fn record_fragment(key: &FragmentKey, record: &FragmentRecord) {
    let _ = FRAGMENTS.insert(key, record, 0);
}

#[inline(always)]
pub(crate) fn told() -> Option<*mut Told> {
    TOLD.get_ptr_mut(0)
}

#[inline(always)]
pub(crate) fn errors_due() -> Option<*mut u64> {
    ERRORS_DUE.get_ptr_mut(0)
}

/// Puts a value where [`handed_over`] finds it.
#[inline(always)]
pub(crate) fn hand_over<T: Copy>(index: u32, value: T) {
    const {
        assert!(size_of::<T>() <= size_of::<[u64; HANDED_OVER_WORDS]>());
        assert!(align_of::<T>() <= align_of::<u64>());
    }
    if let Some(entry) = HANDED_OVER.get_ptr_mut(index) {
        // SAFETY: the entry of this CPU in a live map, long and aligned enough
        // for a `T`, as asserted; nobody else uses it while this packet is at
        // work.
        unsafe { entry.cast::<T>().write(value) };
    }
}

/// The value that was handed over. The verifier knows nothing of it.
///
/// # Safety
/// A `T` has been handed over for this packet, and nothing is handed over
/// while the reference lives.
#[inline(always)]
pub(crate) unsafe fn handed_over<'a, T: Copy>(index: u32) -> Option<&'a T> {
    let entry = HANDED_OVER.get_ptr(index)?.cast::<T>();
    // SAFETY: as in `hand_over`; it holds a `T`, as the caller says.
    Some(unsafe { &*entry })
}

/// Room for an ICMP error beside the packet that is handed over.
#[inline(always)]
pub(crate) fn empty_packet<'a, A: Address>() -> Option<&'a mut Packet<A>> {
    hand_over(ERROR, Packet::<A>::EMPTY);
    let entry = HANDED_OVER.get_ptr_mut(ERROR)?.cast::<Packet<A>>();
    // SAFETY: it has just been written; nothing else uses this index.
    Some(unsafe { &mut *entry })
}

/// A whole `Key<SourceKey>`, which is packed, as words: on its stack the
/// kernel allows no misaligned store.
#[repr(C)]
struct SourceWords {
    prefix_len: u32,
    set: u32,
    source: [u64; 2],
}

const _: () = assert!(size_of::<SourceWords>() == size_of::<Key<SourceKey>>());

/// What the longest prefix of the set says of a source, if one matches.
#[inline(always)]
pub(crate) fn source_rule(set: u32, source: [u8; 16]) -> Option<u32> {
    let source = u128::from_ne_bytes(source);
    let key = SourceWords {
        prefix_len: SourceKey::BITS,
        set,
        // Each put together in a register, not byte by byte on the stack.
        source: [
            core::hint::black_box(source as u64),
            core::hint::black_box((source >> 64) as u64),
        ],
    };
    // SAFETY: of the same length and fields, and more than aligned enough.
    let key = unsafe { &*(&raw const key).cast::<Key<SourceKey>>() };
    SOURCES.get(key).copied()
}

#[inline(always)]
pub(crate) fn limit(key: &LimitKey) -> Option<*mut u64> {
    LIMITS.get_ptr_mut(key)
}

#[inline(always)]
pub(crate) fn begin_limit(key: &LimitKey, full_ns: u64) {
    // A prefix that finds no place is not limited: nobody is refused for a
    // table's fault.
    let _ = LIMITS.insert(key, full_ns, 0);
}

#[inline(always)]
pub(crate) fn handshake(place: u32) -> Option<*mut Handshake> {
    HANDSHAKES.get_ptr_mut(place)
}

#[inline(always)]
pub(crate) fn handshake_counters(index: u32) -> Option<*mut HandshakeCounters> {
    HANDSHAKE_COUNTERS.get_ptr_mut(index)
}

/// Sends the frame out of the interface in `port`, or gives its XDP action
/// for failure.
#[inline(always)]
pub(crate) fn redirect(port: u32) -> Option<u32> {
    EGRESS.redirect(port, 0).ok()
}

#[inline(always)]
pub(crate) fn counters(index: u32) -> Option<*mut MemberCounters> {
    COUNTERS.get_ptr_mut(index)
}

#[inline(always)]
pub(crate) fn reasons(index: u32) -> Option<*mut u64> {
    REASONS.get_ptr_mut(index)
}

#[inline(always)]
pub(crate) fn trace() -> Option<*mut TraceRecord> {
    TRACE.get_ptr_mut(0)
}
