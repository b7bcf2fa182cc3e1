//! The real kernel program, frame by frame: packet in, packet out.
//!
//! Nothing is attached and nothing is sent. The program is loaded with the
//! tables of a state and run over frames (`BPF_PROG_TEST_RUN`); verdict,
//! reason, service, backend, the bytes that come out and the counters that
//! moved are compared, with what a test says or with the reference model.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod affinity;
mod capture;
mod cluster;
mod crowd;
mod decap;
mod echo;
mod extensions;
mod fixture;
mod flip;
mod flows;
mod fragments;
mod fullnat;
mod icmp_errors;
mod lives;
mod modes;
mod mss;
mod nat;
mod picky;
mod random;
mod reasons;
mod recorded;
mod rehearsal;
mod scenario;
mod settling;
mod shadow;
mod source;
mod too_big;
mod translated_errors;
mod translation;
mod variants;
