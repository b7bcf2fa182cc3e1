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
//!   TOUCHED[block]            whether old flows of a block are still about
//!   MEMBERS[gen][index]       where and how a backend gets its packets
//!   NAT_SETTINGS[gen]         what rules translations
//!   COUNTERS[counter]         per CPU, stable across generations
//! ```

use bytemuck::{Pod, Zeroable};

use crate::parse::field;

mod counters;
mod flow;
mod nat;
mod slot;

pub use counters::{
    HANDSHAKE_BUCKETS, HANDSHAKE_SLOTS, Handshake, HandshakeCounters, MemberCounters,
};
pub use flow::{FlowKey, FlowRecord, FragmentKey, FragmentRecord, LimitKey, SourceKey};
pub use nat::{
    CROWDED_CLOSED_NS, Candidate, LOOK_AGAIN_NS, MAX_NAT_SOURCES, NatCursors, NatKey, NatQueue,
    NatQueued, NatRecord, NatSettings,
};
pub use slot::Slot;

/// Bumped with every change of a structure here.
pub const LAYOUT_VERSION: u32 = 10;
/// Configurations that stand side by side; one is in force.
pub const GENERATIONS: u32 = 2;
/// Slots in one element of `SLOTS`: 64 bytes, a cache line.
pub const SLOTS_PER_BLOCK: u32 = 16;
/// Blocks whose marks stand in one element of `TOUCHED`.
pub const MARKS_PER_ELEMENT: u32 = 64;
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
    /// Flag: all members are [`Member::NAT`].
    pub const NAT: u16 = 128;
    /// Flag: all members are [`Member::FULLNAT`].
    pub const FULLNAT: u16 = 256;
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

impl ServiceV4 {
    /// Address, port and protocol as one word, in memory order.
    #[inline(always)]
    pub fn key(&self) -> u64 {
        u64::from_ne_bytes(field(bytemuck::bytes_of(self), 0))
    }
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

/// One element of `SLOTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct SlotBlock {
    /// Slots `16 n` to `16 n + 15` of a table.
    pub slots: [Slot; SLOTS_PER_BLOCK as usize],
}

/// One element of `TOUCHED`: a byte for each of as many blocks of `SLOTS`.
/// The program sets it to 1 when a slot in change of the block sends a packet
/// to somebody else than its current owner; the controller sets it to 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Marks {
    /// Of blocks `64 n` to `64 n + 63`.
    pub blocks: [u8; MARKS_PER_ELEMENT as usize],
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

const _: () = {
    assert!(size_of::<GenerationHead>() == 104);
    assert!(size_of::<Node>() == 8 + 2 * 104);
    assert!(size_of::<Target>() == 24);
    assert!(size_of::<ServiceV4>() == 32);
    assert!(size_of::<ServiceV6>() == 48);
    assert!(size_of::<ServiceOptions>() == 48);
    assert!(size_of::<SlotBlock>() == 64);
    assert!(size_of::<Marks>() == 64);
    assert!(size_of::<Member>() == 64);
    assert!(size_of::<TraceRecord>() == 24);
    assert!(core::mem::offset_of!(Member, ethernet) == 16);
    assert!(core::mem::offset_of!(Member, outer_source) == 32);
    assert!(core::mem::offset_of!(Node, active) == 4);
};
