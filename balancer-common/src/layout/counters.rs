//! What the program counts for each member.

use bytemuck::{Pod, Zeroable};

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
    /// The client's address, network order; IPv4 in the first four bytes. It
    /// stays when the place is left.
    pub source: [u8; 16],
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
    /// Handshakes that ended with a reset, or not within
    /// [`HandshakeCounters::PATIENCE_NS`].
    pub abandoned: u64,
    /// Those that lost their place sooner: nobody knows what became of them.
    pub displaced: u64,
    /// Time from the first SYN to the client's ACK: bucket `n` counts those
    /// of at least `2^n` and under `2^(n + 1)` microseconds; the first has
    /// the shorter ones too, the last the longer ones.
    pub histogram: [u64; HANDSHAKE_BUCKETS],
}

impl core::ops::AddAssign<&Self> for HandshakeCounters {
    fn add_assign(&mut self, other: &Self) {
        self.started += other.started;
        self.repeated += other.repeated;
        self.finished += other.finished;
        self.abandoned += other.abandoned;
        self.displaced += other.displaced;
        for (sum, more) in self.histogram.iter_mut().zip(other.histogram) {
            *sum += more;
        }
    }
}

impl HandshakeCounters {
    /// A handshake that takes longer has failed, in nanoseconds.
    pub const PATIENCE_NS: u64 = 3_000_000_000;
}

const _: () = {
    assert!(size_of::<MemberCounters>() == 32);
    assert!(size_of::<Handshake>() == 32);
    assert!(size_of::<HandshakeCounters>() == 40 + 8 * HANDSHAKE_BUCKETS);
};
