//! The structures that the kernel program and the controller share.
//!
//! Everything is `repr(C)` with fixed-width integers and named padding, its
//! size is asserted below, and [`LAYOUT_VERSION`] is bumped with any change.
//! Host order unless a field says otherwise.
//!
//! ```text
//! NODE[0]                     which generation is in force, and its keys
//!   SERVICES_V4[gen][bucket]  address, port, protocol -> table, members
//!   SERVICES_V6[gen][bucket]
//!   OPTIONS[gen][service]     what only some services ask for
//!   SLOTS[block]              16 slots each; a table is a run of blocks
//!   MEMBERS[gen][index]       where and how a backend gets its packets
//!   COUNTERS[counter]         per CPU, stable across generations
//! ```

use bytemuck::{Pod, Zeroable};

/// Bumped with every change of a structure here.
pub const LAYOUT_VERSION: u32 = 3;
/// Configurations that stand side by side; one is in force.
pub const GENERATIONS: u32 = 2;
/// Slots in one element of `SLOTS`: 64 bytes, a cache line.
pub const SLOTS_PER_BLOCK: u32 = 16;
/// Most members a service can have: a slot names a member in 12 bits.
pub const MAX_MEMBERS: u16 = 4095;
/// Keys of the flow hash: the words of the longest five-tuple.
pub const FLOW_KEYS: usize = 10;
/// Entries of the device map: distinct interfaces packets leave by.
pub const MAX_EGRESS_PORTS: u32 = 64;

/// The one entry of `NODE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Node {
    /// [`LAYOUT_VERSION`] of the writer.
    pub layout_version: u32,
    /// The generation in force, 0 or 1. Writing it is what makes a change.
    pub active: u32,
    /// Heads of both generations.
    pub generations: [GenerationHead; GENERATIONS as usize],
}

/// What a packet needs to know of a generation before it finds its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct GenerationHead {
    /// Seed of the service lookup, chosen so that every service fits.
    pub lookup_seed: u64,
    /// Secret keys of the flow hash.
    pub flow_keys: [u64; FLOW_KEYS],
    /// Buckets of a generation in `SERVICES_V4`, minus one; `SERVICES_V6`
    /// has its own. A power of two minus one.
    pub mask_v4: u32,
    /// As `mask_v4`, for IPv6.
    pub mask_v6: u32,
    /// [`GenerationHead::ANY_PORT`], [`GenerationHead::ANSWER_ECHO`].
    pub flags: u32,
    /// TCP flows are timed whose hash, low half, is below this.
    pub handshake_sample: u32,
}

impl GenerationHead {
    /// Some service takes every port, so a miss is asked again with port 0.
    pub const ANY_PORT: u32 = 1;
    /// Echo requests to a service's address are answered.
    pub const ANSWER_ECHO: u32 = 2;
}

/// What a service key leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Target {
    /// Number of the service, stable across generations; 0 is none.
    pub service: u32,
    /// First block of the table in `SLOTS`.
    pub table: u32,
    /// Slots of the table; 0 means no backend may get traffic.
    pub table_len: u32,
    /// Index of member 0 in `MEMBERS`, generation included. In the bucket of
    /// a server id: index of the member in its service.
    pub members: u32,
    /// Index in `OPTIONS`, generation included.
    pub options: u32,
    /// Members from there on, gaps included.
    pub member_count: u16,
    /// What else has to be looked at: [`Target::AFFINITY_FLOW`] and so on.
    pub flags: u16,
}

impl Target {
    /// `service` of the bucket that marks an address: some service has it.
    /// Its key has port 0 and protocol 0, which no service has.
    pub const ADDRESS: u32 = u32::MAX;
    /// Protocol of the key of a server id (a QUIC service's): the address is
    /// the id, zeros behind it, the port the service's place in `OPTIONS`,
    /// counted within the generation. IANA reserves the number.
    pub const SERVER_ID_PROTOCOL: u8 = 255;

    /// Flag: a client's flows all go by its address.
    pub const AFFINITY_SOURCE: u16 = 1;
    /// Flag: every flow has a record, also of a settled slot (UDP).
    pub const AFFINITY_FLOW: u16 = 2;
    /// Flag: packets with a QUIC connection id go by the server id in it.
    pub const QUIC: u16 = 4;
    /// Flag: the source is looked up in `SOURCES`.
    pub const FILTER: u16 = 8;
    /// Flag: a source that no prefix matches is refused.
    pub const FILTER_ALLOWS: u16 = 16;
    /// Flag: new flows of a source prefix are limited.
    pub const LIMIT: u16 = 32;
    /// Flag: the MSS of a SYN is lowered.
    pub const CLAMP_MSS: u16 = 64;
}

/// One bucket of `SERVICES_V4`. An empty bucket is all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceV4 {
    /// The VIP, network order.
    pub address: [u8; 4],
    /// Port, network order; 0 is any.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// What it leads to; `service` 0 marks an empty bucket.
    pub target: Target,
}

/// One bucket of `SERVICES_V6`. An empty bucket is all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceV6 {
    /// The VIP, network order.
    pub address: [u8; 16],
    /// Port, network order; 0 is any.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
    /// What it leads to; `service` 0 marks an empty bucket.
    pub target: Target,
    /// Zero.
    pub padding: u32,
}

/// What only some services ask for. The flags of [`Target`] say which fields
/// mean something; all others are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceOptions {
    /// [`Target::AFFINITY_FLOW`]: nanoseconds without a packet after which a
    /// flow is over.
    pub flow_idle_ns: u64,
    /// [`Target::LIMIT`]: nanoseconds between two new flows of a prefix, on
    /// average.
    pub limit_interval_ns: u64,
    /// [`Target::LIMIT`]: how far ahead of that a prefix may be.
    pub limit_burst_ns: u64,
    /// [`Target::LIMIT`]: the bits of a source that are its prefix; IPv4 in
    /// the first four bytes.
    pub limit_mask: [u8; 16],
    /// [`Target::FILTER`]: number of the set of prefixes in `SOURCES`.
    pub sources: u32,
    /// [`Target::CLAMP_MSS`]: the largest MSS that passes.
    pub mss: u16,
    /// [`Target::QUIC`]: where in the connection id the server id begins.
    pub server_id_offset: u8,
    /// [`Target::QUIC`]: bytes of the server id, 1 to 8.
    pub server_id_len: u8,
}

/// Who owns a slot, and who owned it before the change that is still
/// settling, in 32 bits: 12 bits `current`, 12 bits `previous`, 7 bits era,
/// and the mark of a slot in change on top.
///
/// The era is counted up whenever a settled slot comes into change, and flow
/// records carry it: a record of an earlier change says nothing in a later
/// one. After 128 changes of a slot it begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Slot(pub u32);

impl Slot {
    /// Set while flows of the slot may belong to somebody but `current`.
    pub const UNSETTLED: u32 = 1 << 31;
    const INDEX_BITS: u32 = 12;
    const INDEX: u32 = (1 << Self::INDEX_BITS) - 1;
    const ERA_AT: u32 = 24;
    const ERA: u32 = 0x7f;

    const fn of(current: u16, previous: u16, era: u8) -> Self {
        let owners =
            current as u32 & Self::INDEX | (previous as u32 & Self::INDEX) << Self::INDEX_BITS;
        Self(owners | (era as u32 & Self::ERA) << Self::ERA_AT)
    }

    /// A slot that owes nothing to the past, and was never in change.
    pub const fn settled(current: u16) -> Self {
        Self::of(current, current, 0)
    }

    /// A slot in its first change: flows without a record belong to
    /// `previous`.
    pub const fn unsettled(current: u16, previous: u16) -> Self {
        Self(Self::of(current, previous, 0).0 | Self::UNSETTLED)
    }

    /// The slot in that era.
    pub const fn in_era(self, era: u8) -> Self {
        let mark = self.0 & Self::UNSETTLED;
        Self(Self::of(self.current(), self.previous(), era).0 | mark)
    }

    /// The slot once its past is over.
    pub const fn settle(self) -> Self {
        Self::of(self.current(), self.current(), self.era())
    }

    /// The slot with a new owner. The owner it had when it was last settled
    /// stays its `previous`.
    pub const fn change_to(self, current: u16) -> Self {
        if self.is_unsettled() {
            return Self(Self::of(current, self.previous(), self.era()).0 | Self::UNSETTLED);
        }
        if current == self.current() {
            return self;
        }
        let era = self.era().wrapping_add(1);
        Self(Self::of(current, self.current(), era).0 | Self::UNSETTLED)
    }

    /// Index of the member that new flows go to.
    pub const fn current(self) -> u16 {
        (self.0 & Self::INDEX) as u16
    }

    /// Index of the member that had the slot before the change.
    pub const fn previous(self) -> u16 {
        (self.0 >> Self::INDEX_BITS & Self::INDEX) as u16
    }

    /// Number of the change that the slot is in, or was in last.
    pub const fn era(self) -> u8 {
        (self.0 >> Self::ERA_AT & Self::ERA) as u8
    }

    /// Whether flow records have to be asked.
    pub const fn is_unsettled(self) -> bool {
        self.0 & Self::UNSETTLED != 0
    }
}

/// One element of `SLOTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct SlotBlock {
    /// Slots `16 n` to `16 n + 15` of a table.
    pub slots: [Slot; SLOTS_PER_BLOCK as usize],
}

/// A backend as the packet path sees it: one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Member {
    /// How packets reach it: [`Member::NONE`], [`Member::L2`] and so on.
    pub kind: u8,
    /// [`Member::ALIVE`], [`Member::RESOLVED`], [`Member::SOURCE_FROM_FRAME`].
    pub flags: u8,
    /// Tells the present owner of this index from earlier ones.
    pub incarnation: u16,
    /// Index in `COUNTERS`.
    pub counter: u32,
    /// Interface packets leave by; 0 is the one they came in on.
    pub egress: u32,
    /// Longest IP packet that fits the way there, in bytes.
    pub mtu: u16,
    /// Index of `egress` in the device map.
    pub egress_port: u8,
    /// Low bits of `outer_source` that the flow's hash fills, 0 to 32.
    pub spread_bits: u8,
    /// Ethernet destination, then source, of outgoing frames.
    pub ethernet: [u8; 12],
    /// Ones' complement sum of the outer IPv4 header's constant fields,
    /// big-endian words, not inverted; see [`crate::encap`].
    pub outer_sum: u16,
    /// Network order. GUE: the outer destination port. NAT: the backend's
    /// port, 0 to keep the one dialled.
    pub port: [u8; 2],
    /// Outer source address, network order; IPv4 in the first four bytes.
    /// Its spread bits are zero.
    pub outer_source: [u8; 16],
    /// Outer destination address, likewise. NAT: the backend's address.
    pub outer_destination: [u8; 16],
}

impl Member {
    /// `kind` of an index that nobody owns.
    pub const NONE: u8 = 0;
    /// `kind`: rewrite the Ethernet addresses.
    pub const L2: u8 = 1;
    /// `kind`: IP in IPv4.
    pub const IPIP_V4: u8 = 2;
    /// `kind`: IP in IPv6.
    pub const IPIP_V6: u8 = 3;
    /// `kind`: IP in UDP in IPv4 (GUE, variant 1).
    pub const GUE_V4: u8 = 4;
    /// `kind`: IP in UDP in IPv6.
    pub const GUE_V6: u8 = 5;
    /// `kind`: rewrite the destination; replies come back this way.
    pub const NAT: u8 = 6;
    /// `kind`: rewrite source and destination.
    pub const FULLNAT: u8 = 7;

    /// Flag: may get packets of flows that are its own.
    pub const ALIVE: u8 = 1;
    /// Flag: the Ethernet and outer addresses are known.
    pub const RESOLVED: u8 = 2;
    /// Flag: the Ethernet source is the destination the frame came with.
    pub const SOURCE_FROM_FRAME: u8 = 4;

    /// Whether flows may be sent there.
    pub const fn is_alive(&self) -> bool {
        self.kind != Self::NONE && self.flags & Self::ALIVE != 0
    }
}

/// One entry of `COUNTERS` on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct MemberCounters {
    /// Packets sent to the member.
    pub packets: u64,
    /// Bytes of those packets from the IP header on, as they came in.
    pub bytes: u64,
    /// New flows: SYN without ACK, or a UDP flow's first record.
    pub flows: u64,
    /// TCP packets of clients with RST.
    pub resets: u64,
}

/// Buckets of [`HandshakeCounters::histogram`].
pub const HANDSHAKE_BUCKETS: usize = 24;
/// Entries of `HANDSHAKES`; a power of two.
pub const HANDSHAKE_SLOTS: u32 = 1 << 14;

/// One entry of `HANDSHAKES`: a sampled flow between its SYN and the end of
/// its handshake. The place follows from the flow's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Handshake {
    /// When the first SYN came, `CLOCK_MONOTONIC`.
    pub started_ns: u64,
    /// High half of the flow's hash with its lowest bit set; 0 is empty.
    pub tag: u32,
    /// Index of the member's counters.
    pub counter: u32,
}

/// One entry of `HANDSHAKE_COUNTERS` on one CPU: a member's sampled flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct HandshakeCounters {
    /// First SYNs.
    pub started: u64,
    /// Further SYNs of a flow whose handshake was not over.
    pub repeated: u64,
    /// Handshakes that the client finished.
    pub finished: u64,
    /// Handshakes that lost their place to another after
    /// [`HandshakeCounters::PATIENCE_NS`] and count as never finished.
    pub abandoned: u64,
    /// Those that lost it sooner: nobody knows what became of them.
    pub displaced: u64,
    /// Time from the first SYN to the client's ACK: bucket `n` counts those
    /// of at least `2^n` and under `2^(n + 1)` microseconds; the first has
    /// the shorter ones too, the last the longer ones.
    pub histogram: [u64; HANDSHAKE_BUCKETS],
}

impl HandshakeCounters {
    /// A handshake that takes longer has failed, in nanoseconds.
    pub const PATIENCE_NS: u64 = 3_000_000_000;
}

/// Key of the flow table. The service number stands for VIP and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowKey {
    /// Client address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Number of the service.
    pub service: u32,
    /// Client and service port, network order.
    pub ports: [u8; 4],
}

/// Who owns a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct FlowRecord {
    /// When the flow was last seen, `CLOCK_MONOTONIC_COARSE`; only kept for
    /// services with [`Target::AFFINITY_FLOW`].
    pub seen_ns: u64,
    /// Index of the member in its service.
    pub member: u16,
    /// The member's incarnation when the record was written.
    pub incarnation: u16,
    /// Era of the slot then. A word, as the program builds the record on its
    /// stack, where the kernel allows no misaligned store.
    pub era: u32,
}

/// Key of `FRAGMENTS`: what the fragments of one packet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Identification as in the packet; IPv4's in the first two bytes.
    pub identification: [u8; 4],
    /// IP protocol number of what is in fragments; a word, see
    /// [`FlowRecord::era`].
    pub protocol: u32,
}

/// What the first fragment of a packet said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentRecord {
    /// Source and destination port, network order.
    pub ports: [u8; 4],
    /// Number of the service.
    pub service: u32,
    /// Index of the member it went to, in its service.
    pub member: u16,
    /// The member's incarnation.
    pub incarnation: u16,
}

/// Key of `SOURCES`, a trie: `prefix_len` bits count from `set` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SourceKey {
    /// Number of the set of prefixes, [`ServiceOptions::sources`].
    pub set: u32,
    /// Source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
}

/// Key of `LIMITS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct LimitKey {
    /// Number of the service.
    pub service: u32,
    /// The source's prefix, network order, zeros behind it.
    pub prefix: [u8; 16],
}

/// What a program loaded for `trace` says of the last packet it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TraceRecord {
    /// [`crate::verdict::Reason`] as a number.
    pub reason: u32,
    /// Number of the service; 0 is none.
    pub service: u32,
    /// Index of the member in its service; [`TraceRecord::NO_MEMBER`] is none.
    pub member: u32,
    /// Slot of the table the flow falls into.
    pub slot: u32,
    /// The flow's hash.
    pub hash: u64,
}

impl TraceRecord {
    /// `member` where no member was picked.
    pub const NO_MEMBER: u32 = u32::MAX;
}

/// One entry of the decapsulation counters on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DecapCounters {
    /// Packets unwrapped.
    pub packets: u64,
    /// Bytes of the inner packets.
    pub bytes: u64,
}

const _: () = {
    assert!(size_of::<GenerationHead>() == 104);
    assert!(size_of::<Node>() == 8 + 2 * 104);
    assert!(size_of::<Target>() == 24);
    assert!(size_of::<ServiceV4>() == 32);
    assert!(size_of::<ServiceV6>() == 48);
    assert!(size_of::<ServiceOptions>() == 48);
    assert!(size_of::<Slot>() == 4);
    assert!(size_of::<SlotBlock>() == 64);
    assert!(size_of::<Member>() == 64);
    assert!(size_of::<MemberCounters>() == 32);
    assert!(size_of::<Handshake>() == 16);
    assert!(size_of::<HandshakeCounters>() == 40 + 8 * HANDSHAKE_BUCKETS);
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<FlowRecord>() == 16);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentRecord>() == 12);
    assert!(size_of::<SourceKey>() == 20);
    assert!(size_of::<LimitKey>() == 20);
    assert!(size_of::<TraceRecord>() == 24);
    assert!(core::mem::offset_of!(Member, ethernet) == 16);
    assert!(core::mem::offset_of!(Member, outer_source) == 32);
    assert!(core::mem::offset_of!(Node, active) == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_keeps_both_owners_the_era_and_the_mark() {
        let slot = Slot::unsettled(4095, 17).in_era(127);
        let parts = (slot.current(), slot.previous(), slot.era());
        assert_eq!(parts, (4095, 17, 127));
        assert!(slot.is_unsettled());
        let slot = slot.settle();
        let parts = (slot.current(), slot.previous(), slot.era());
        assert_eq!(parts, (4095, 4095, 127));
        assert!(!slot.is_unsettled());
    }

    #[test]
    fn slot_remembers_who_had_it_when_it_was_last_settled() {
        let first = Slot::settled(1).change_to(2);
        assert_eq!(first, Slot::unsettled(2, 1).in_era(1));
        assert_eq!(first.change_to(3), Slot::unsettled(3, 1).in_era(1));
        assert_eq!(first.change_to(1), Slot::unsettled(1, 1).in_era(1));
        let again = first.settle().change_to(5);
        assert_eq!(again, Slot::unsettled(5, 2).in_era(2));
        assert_eq!(again.settle().change_to(5), again.settle());
    }
}
