//! What the benchmark's hot loop and its driver share.
//!
//! [`Loop`] is fixed when the loop's program is loaded, [`Cursor`] is its
//! state between two runs. Host order. The driver embeds the very object it
//! was built with, so no version is needed.

use bytemuck::{Pod, Zeroable};

/// Bytes that are restored at a time.
pub const CHUNK_LEN: usize = 16;
/// Most chunks that can be restored: what programs change lies before that.
pub const MAX_CHUNKS: usize = 8;

/// `Cursor::target`: a program that does nothing.
pub const FLOOR: u32 = 0;
/// `Cursor::target`: a program that moves the head by the length of an IPv4
/// header.
pub const FLOOR_MOVE: u32 = 1;
/// `Cursor::target`: what is measured.
pub const SUBJECT: u32 = 2;
/// Entries of `PROGRAMS`.
pub const TARGETS: u32 = 3;

/// How each frame of a loop differs from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Loop {
    /// Bytes of the frame.
    pub frame_len: u32,
    /// Chunks to restore before each run.
    pub chunks: u32,
    /// Distinct flows minus one; a power of two minus one.
    pub flow_mask: u32,
    /// Where three bytes of the flow go: the low ones of an address. 0 is
    /// nowhere.
    pub address_at: u32,
    /// Where a port is whose second byte varies with the flow. 0 is nowhere.
    pub port_at: u32,
    /// Where the service's number goes, as two bytes in network order.
    pub service_at: u32,
    /// Services, numbered from 0; with 1 nothing is written.
    pub services: u32,
    /// Where an IPv4 header's identification is, which has to be 0xffff in
    /// the frame; it makes up for the address, so that the header's checksum
    /// holds. 0 is nowhere, and the checksum is left alone.
    pub identification_at: u32,
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
    assert!(size_of::<Loop>() == 32);
    assert!(size_of::<Cursor>() == 8);
};
