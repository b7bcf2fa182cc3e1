//! What the benchmark's hot loop and its driver share.
//!
//! [`Loop`] is fixed when the loop's program is loaded, [`Cursor`] is its
//! state between two runs. Host order. The driver embeds the very object it
//! was built with, so no version is needed.

use bytemuck::{Pod, Zeroable};

/// Bytes of a word of the template.
pub const WORD_LEN: usize = 8;
/// Most words that can be restored: what programs change lies in those.
pub const MAX_WORDS: usize = 17;

/// Where a word of the template goes: from the second one on they begin as
/// the fields of an IP header behind an Ethernet header do. A load that
/// straddles two stores of just now would wait for both, which no frame from
/// a wire makes it do.
#[inline(always)]
pub const fn word_at(index: usize) -> usize {
    match index {
        0 => 0,
        index => index * WORD_LEN - 2,
    }
}

/// `Cursor::target`: a program that does nothing.
pub const FLOOR: u32 = 0;
/// `Cursor::target`: a program that moves the head by the length of an IPv4
/// header.
pub const FLOOR_MOVE: u32 = 1;
/// `Cursor::target`: what is measured.
pub const SUBJECT: u32 = 2;
/// Entries of `PROGRAMS`.
pub const TARGETS: u32 = 3;

/// How each frame of a loop differs from the one before. What varies is
/// written in words as they are read, for the reason that [`word_at`] gives:
/// 4 bytes of an IPv4 address or of two ports, 8 bytes of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Loop {
    /// Bytes of the frame.
    pub frame_len: u32,
    /// Words to restore before each run.
    pub words: u32,
    /// Distinct flows minus one; a power of two minus one.
    pub flow_mask: u32,
    /// Services, numbered from 0; with 1 nothing is written.
    pub services: u32,
    /// Where the word goes whose last three bytes are the flow's: the end of
    /// an address. 0 is nowhere.
    pub address_at: u32,
    /// Where the two ports are, one of whose second bytes is the flow's. 0 is
    /// nowhere.
    pub ports_at: u32,
    /// Where the word goes whose last two bytes are the service's number, in
    /// network order.
    pub service_at: u32,
    /// Where an IPv4 header's identification is, which has to be 0xffff in
    /// the frame; it makes up for the address, so that the header's checksum
    /// holds. 0 is nowhere, and the checksum is left alone.
    pub identification_at: u32,
    /// The address's word, in memory order, zeros where the flow goes.
    pub address: u64,
    /// Likewise of the service.
    pub service: u64,
    /// The two ports in memory order, a zero where the flow goes.
    pub ports: u32,
    /// 1: of the second port.
    pub is_second_port: u32,
    /// 1: addresses are IPv6.
    pub is_v6: u32,
    /// Zero.
    pub padding: u32,
}

/// The loop's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cursor {
    /// Number of the next packet; wraps.
    pub next: u32,
    /// Whom to call: [`FLOOR`], [`FLOOR_MOVE`] or [`SUBJECT`].
    pub target: u32,
}

const _: () = {
    assert!(size_of::<Loop>() == 64);
    assert!(size_of::<Cursor>() == 8);
};
