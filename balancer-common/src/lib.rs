//! What the kernel programs and the controller must agree on.
//!
//! [`layout`] holds the structures in shared maps; [`parse`], [`plain`],
//! [`unusual`], [`hash`], [`affinity`], [`encap`], [`decap`] and the rest
//! hold the packet logic as pure functions over bytes, so that the kernel program, unit tests and fuzzers run the same
//! code. Nothing here knows XDP, maps, files or clocks, and nothing allocates.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod affinity;
pub mod bench;
pub mod capture;
pub mod checksum;
pub mod decap;
pub mod encap;
pub mod features;
pub mod generate;
pub mod handshake;
pub mod hash;
pub mod icmp;
pub mod icmp_error;
pub mod layout;
pub mod limit;
pub mod mss;
pub mod parse;
pub mod plain;
pub mod quic;
pub mod too_big;
pub mod unusual;
pub mod verdict;
