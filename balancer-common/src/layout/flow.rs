//! Keys and records of the tables that the program itself writes: owners of
//! flows, fragments and sources.

use bytemuck::{Pod, Zeroable};

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
    /// For services with [`Target::AFFINITY_FLOW`](super::Target::AFFINITY_FLOW)
    /// when the flow was last seen, nanoseconds of `CLOCK_MONOTONIC_COARSE`; for
    /// others the sequence number of the SYN that opened it, host order.
    pub stamp: u64,
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
    /// IPv4: IP protocol number of what is in fragments. IPv6, where
    /// fragments may differ in it: 44, of the fragment header. A word, see
    /// [`FlowRecord::era`].
    pub protocol: u32,
}

/// What the first fragment of a packet said. Aligned for the program's stack,
/// as it is moved by eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct FragmentRecord {
    /// Source and destination port, network order.
    pub ports: [u8; 4],
    /// IP protocol number of what is in fragments.
    pub protocol: u32,
    /// Number of the service; 0 where the packet is for none, though it is
    /// for a service's address.
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
    /// Number of the set of prefixes, [`ServiceOptions::sources`](super::ServiceOptions::sources).
    pub set: u32,
    /// Source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
}

impl SourceKey {
    /// Bits of a whole key.
    pub const BITS: u32 = 8 * size_of::<Self>() as u32;
    /// Bits of the set's number, before those of the prefix.
    pub const SET_BITS: u32 = 32;
    /// Value in `SOURCES`: the prefix is denied.
    pub const DENY: u32 = 0;
    /// Value in `SOURCES`: the prefix is allowed.
    pub const ALLOW: u32 = 1;
}

/// Key of `LIMITS`; aligned for the program's stack, where the kernel allows
/// no misaligned store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct LimitKey {
    /// The source's prefix, network order, zeros behind it.
    pub prefix: [u8; 16],
    /// Number of the service.
    pub service: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<FlowKey>() == 24);
    assert!(size_of::<FlowRecord>() == 16);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentRecord>() == 16);
    assert!(size_of::<SourceKey>() == 20);
    assert!(size_of::<LimitKey>() == 24);
};
