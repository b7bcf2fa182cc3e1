//! What a capturing program is told, and what it tells.
//!
//! These structures lie in maps of the capturing program alone, which no other
//! program goes on with: they are no part of
//! [`LAYOUT_VERSION`](crate::layout::LAYOUT_VERSION).

use bytemuck::{Pod, Zeroable};

use crate::verdict::Reason;

/// Most bytes of a frame that are kept: a page, which no frame of an XDP
/// program without fragments fills.
pub const MAX_SNAPLEN: usize = 4096;

/// Values of the constant that says what a copy of the program is loaded for.
pub mod mode {
    /// To forward, and nothing else.
    pub const OFF: u8 = 0;
    /// To be asked by test runs.
    pub const TRACE: u8 = 1;
    /// To forward, and to tell of packets.
    pub const CAPTURE: u8 = 2;
}

/// Which packets are told of: the one entry of `CAPTURE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Control {
    /// How many packets may have been taken in all. The controller adds to it
    /// as time goes by; without it the program soon takes none.
    pub granted: u64,
    /// How many were, or a few less: CPUs that count at the same time may
    /// count one packet only. [`Work::taken`] is exact.
    pub taken: u64,
    /// Bit `n`: those with [`Reason`] number `n`.
    pub reasons: u64,
    /// Bit `n`: those with XDP action `n`.
    pub actions: u32,
    /// [`Control::ALL`], [`Control::BY_SERVICE`] or [`Control::BY_MEMBER`].
    pub by: u32,
    /// Bytes of a frame that are kept, at most [`MAX_SNAPLEN`].
    pub snaplen: u32,
    /// Those that draw a number no higher than this, of 32 random bits.
    pub sample: u32,
}

impl Control {
    /// `by`: those of any service, and of none.
    pub const ALL: u32 = 0;
    /// `by`: those whose [`wanted_service`] is in `CAPTURE_WANTED`.
    pub const BY_SERVICE: u32 = 1;
    /// `by`: those whose [`wanted_member`] is there; then [`wanted_service`]
    /// has to be as well.
    pub const BY_MEMBER: u32 = 2;
}

/// Key of `CAPTURE_WANTED` for a service. No member has its index.
#[inline(always)]
pub const fn wanted_service(service: u32) -> u64 {
    (service as u64) << 32 | 0xffff_ffff
}

/// Key of `CAPTURE_WANTED` for one owner of a member's index.
#[inline(always)]
pub const fn wanted_member(service: u32, index: u16, incarnation: u16) -> u64 {
    (service as u64) << 32 | (index as u64) << 16 | incarnation as u64
}

/// A packet, as it is told of: behind this lie `before_kept` bytes of the
/// frame as it came and `after_kept` bytes of it as it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The flow's hash, where a member was picked.
    pub hash: u64,
    /// Number of the interface it came in on.
    pub interface: u32,
    /// The receive queue there.
    pub queue: u32,
    /// XDP action.
    pub action: u32,
    /// [`Reason`] as a number.
    pub reason: u32,
    /// Number of the service; 0 is none.
    pub service: u32,
    /// Index of the member in its service; [`Header::NO_MEMBER`] is none.
    pub member: u32,
    /// The member's incarnation.
    pub incarnation: u32,
    /// Slot of the table the flow falls into; [`Header::NO_SLOT`] where none
    /// was looked up.
    pub slot: u32,
    /// Bytes of the frame as it came, and how many of them are kept.
    pub before_len: u32,
    /// See `before_len`.
    pub before_kept: u32,
    /// Bytes of the frame as it left, and how many of them are kept; 0 where
    /// it did not leave.
    pub after_len: u32,
    /// See `after_len`.
    pub after_kept: u32,
    /// Number of the interface that a reply left by; 0 where none was named,
    /// as a member's packets leave by the member's.
    pub egress: u32,
    /// Zero.
    pub reserved: u32,
}

impl Header {
    /// `member` where no member was picked.
    pub const NO_MEMBER: u32 = u32::MAX;
    /// `slot` where none was looked up.
    pub const NO_SLOT: u32 = u32::MAX;
}

/// A packet under way, and what was counted of others: an entry of
/// `CAPTURE_WORK` for each CPU.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Work {
    /// Packets that were looked at.
    pub looked: u64,
    /// Packets that were taken.
    pub taken: u64,
    /// Packets among these for which the ring had no room.
    pub lost: u64,
    /// Packets that were wanted when no more were granted.
    pub limited: u64,
    /// [`Work::SKIPPED`] and so on.
    pub phase: u32,
    /// Zero.
    pub reserved: u32,
    /// What is told, with the frames behind it.
    pub header: Header,
    /// The kept bytes, without a gap between the two frames.
    pub frames: [u8; 2 * MAX_SNAPLEN],
}

impl Work {
    /// `phase`: the packet is not wanted.
    pub const SKIPPED: u32 = 0;
    /// `phase`: it may be, and is as it came.
    pub const LOOKED: u32 = 1;
    /// `phase`: it may be, and is kept as it came.
    pub const KEPT: u32 = 2;
    /// `phase`: it may be, and is not kept, as no more are granted.
    pub const LIMITED: u32 = 3;
}

const _: () = {
    assert!(Reason::COUNT <= u64::BITS as usize);
    assert!(size_of::<Control>() == 40);
    assert!(size_of::<Header>() == 72);
    assert!(size_of::<Work>() == 40 + 72 + 2 * MAX_SNAPLEN);
    // What is told is one piece of memory.
    assert!(core::mem::offset_of!(Work, frames) == core::mem::offset_of!(Work, header) + 72);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_member_has_the_key_of_its_service() {
        let last = crate::layout::MAX_MEMBERS;
        assert_ne!(wanted_member(7, last, u16::MAX), wanted_service(7));
        assert_ne!(wanted_member(7, 1, 2), wanted_member(7, 2, 1));
        assert_ne!(wanted_service(7), wanted_service(8));
    }
}
