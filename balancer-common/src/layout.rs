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
//!   SLOTS[block]              16 slots each; a table is a run of blocks
//!   MEMBERS[gen][index]       where and how a backend gets its packets
//!   COUNTERS[counter]         per CPU, stable across generations
//! ```

use bytemuck::{Pod, Zeroable};

/// Bumped with every change of a structure here.
pub const LAYOUT_VERSION: u32 = 2;
/// Configurations that stand side by side; one is in force.
pub const GENERATIONS: u32 = 2;
/// Slots in one element of `SLOTS`: 64 bytes, a cache line.
pub const SLOTS_PER_BLOCK: u32 = 16;
/// Most members a service can have: a slot names a member in 15 bits, and
/// 4095 keeps every index clear of [`Slot::UNSETTLED`].
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
    /// Zero.
    pub reserved: u32,
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
    /// Index of member 0 in this generation's half of `MEMBERS`.
    pub members: u32,
    /// Members from there on, gaps included.
    pub member_count: u32,
}

impl Target {
    /// `service` of the bucket that marks an address: some service has it.
    /// Its key has port 0 and protocol 0, which no service has.
    pub const ADDRESS: u32 = u32::MAX;
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
    /// Zero.
    pub padding: u32,
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
}

/// Two member indexes in 32 bits: who owns the slot, and who owned it before
/// the change that is still settling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Slot(pub u32);

impl Slot {
    /// Set while flows of the slot may belong to somebody but `current`.
    pub const UNSETTLED: u32 = 1 << 31;

    /// A slot that owes nothing to the past.
    pub const fn settled(current: u16) -> Self {
        Self(current as u32 | (current as u32) << 16)
    }

    /// A slot in change: flows without a record belong to `previous`.
    pub const fn unsettled(current: u16, previous: u16) -> Self {
        Self(current as u32 | (previous as u32) << 16 | Self::UNSETTLED)
    }

    /// Index of the member that new flows go to.
    pub const fn current(self) -> u16 {
        self.0 as u16
    }

    /// Index of the member that had the slot before the change.
    pub const fn previous(self) -> u16 {
        (self.0 >> 16) as u16 & 0x7fff
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
    pub egress_port: u16,
    /// Ethernet destination, then source, of outgoing frames.
    pub ethernet: [u8; 12],
    /// Ones' complement sum of the outer IPv4 header's constant fields,
    /// big-endian words, not inverted; see [`crate::encap`].
    pub outer_sum: u16,
    /// Zero.
    pub reserved: u16,
    /// Outer source address, network order; IPv4 in the first four bytes.
    pub outer_source: [u8; 16],
    /// Outer destination address, likewise.
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
    /// TCP connections opened (SYN without ACK); UDP has no such sign.
    pub flows: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowRecord {
    /// Index of the member in its service.
    pub member: u16,
    /// The member's incarnation when the record was written.
    pub incarnation: u16,
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
    assert!(size_of::<Target>() == 20);
    assert!(size_of::<ServiceV4>() == 32);
    assert!(size_of::<ServiceV6>() == 40);
    assert!(size_of::<Slot>() == 4);
    assert!(size_of::<SlotBlock>() == 64);
    assert!(size_of::<Member>() == 64);
    assert!(size_of::<MemberCounters>() == 24);
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<FlowRecord>() == 4);
    assert!(size_of::<TraceRecord>() == 24);
    assert!(core::mem::offset_of!(Member, ethernet) == 16);
    assert!(core::mem::offset_of!(Member, outer_source) == 32);
    assert!(core::mem::offset_of!(Node, active) == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_keeps_both_owners_and_the_mark() {
        let slot = Slot::unsettled(4095, 17);
        assert_eq!(
            (slot.current(), slot.previous(), slot.is_unsettled()),
            (4095, 17, true)
        );
        let slot = Slot::settled(4094);
        assert_eq!(
            (slot.current(), slot.previous(), slot.is_unsettled()),
            (4094, 4094, false)
        );
    }
}
