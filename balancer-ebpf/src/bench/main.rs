//! The body of the benchmark's hot loop.
//!
//! The kernel runs `step` over one frame a great many times and does not
//! restore it in between. So `step` undoes what the program before it did
//! (it moves the head back and writes the first bytes anew), turns the frame
//! into the next one of its flows, and tail-calls what is measured: the load
//! balancer, or one of the floors, whose figure is the cost of this loop
//! itself. It does the same work for all of them, so that subtracting is fair.
//!
//! `generate` makes the packets of a load test of the same parts: the template
//! anew, as the kernel does not restore a frame that comes back from the wire,
//! and the source of the next flow with checksums to match.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
// The `xdp` attribute makes an undocumented entry point of each program.
#![allow(missing_docs)]

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::programs::XdpContext;
use balancer_common::bench::{Cursor, Loop, MAX_WORDS, TARGETS, word_at};
use balancer_common::generate::Generate;
use balancer_common::parse::Frame;
use balancer_ebpf::packet::XdpFrame;

balancer_ebpf::object!();

/// `BPF_F_MMAPABLE` of `linux/bpf.h`.
const MMAPABLE: u32 = 1 << 10;

/// More than any program moves the head.
const MOST_MOVED: i64 = 256;

/// What the loop does; set by the loader, so constants to the verifier.
#[unsafe(no_mangle)]
static LOOP: Loop = Loop {
    frame_len: 0,
    words: 0,
    flow_mask: 0,
    services: 0,
    address_at: 0,
    ports_at: 0,
    service_at: 0,
    identification_at: 0,
    address: 0,
    service: 0,
    ports: 0,
    is_second_port: 0,
    is_v6: 0,
    padding: 0,
};
/// What the generator makes; likewise.
#[unsafe(no_mangle)]
static GENERATE: Generate = Generate {
    words: 0,
    flows: 0,
    sources: 0,
    address: 0,
    address_at: 0,
    port_at: 0,
    ip_checksum_at: 0,
    checksum_at: 0,
    ip_sum: 0,
    sum: 0,
    is_udp: 0,
    padding: 0,
};
/// The frame's first bytes; written by the driver.
#[map]
static TEMPLATE: Array<[u64; MAX_WORDS]> = Array::with_max_entries(1, MMAPABLE);
/// One entry; written by the driver, by `step` and by `generate`.
#[map]
static CURSOR: Array<Cursor> = Array::with_max_entries(1, MMAPABLE);
/// The floors and what is measured; written by the benchmark.
#[map]
static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(TARGETS, 0);
/// One entry; written by `sink`.
#[map]
static RECEIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One turn of the loop.
#[xdp]
fn step(ctx: XdpContext) -> u32 {
    if let Some(target) = prepare(&ctx) {
        // SAFETY: nothing of this program is needed after the call.
        unsafe { PROGRAMS.tail_call(&ctx, target) };
    }
    XDP_ABORTED
}

/// The floor: a program that does nothing.
#[xdp]
fn floor(_ctx: XdpContext) -> u32 {
    XDP_TX
}

/// A floor that only moves the head, as encapsulation does.
#[xdp]
fn floor_move(ctx: XdpContext) -> u32 {
    // SAFETY: a helper call on the program's own context.
    match unsafe { bpf_xdp_adjust_head(ctx.ctx, -20) } {
        0 => XDP_TX,
        _ => XDP_ABORTED,
    }
}

/// Where frames sent over a wire end: counted and dropped.
#[xdp]
fn sink(_ctx: XdpContext) -> u32 {
    if let Some(received) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: the entry of this CPU in a live map; nobody else writes it.
        unsafe { *received += 1 };
    }
    XDP_DROP
}

/// A packet of a load test, sent out of the interface that the context names.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    match make(XdpFrame::of(&ctx)) {
        Some(()) => XDP_TX,
        None => XDP_ABORTED,
    }
}

/// On the interface that packets leave by: drivers send frames of programs
/// only while they have one.
#[xdp]
fn pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Writes the packet of the next flow.
#[inline(always)]
fn make(frame: &XdpFrame) -> Option<()> {
    // SAFETY: as in `prepare`.
    let parameters = unsafe { core::ptr::read_volatile(&raw const GENERATE) };
    restore(frame, parameters.words)?;
    let cursor = CURSOR.get_ptr_mut(0)?;
    // SAFETY: the one entry of a live map; the driver sends from one thread and
    // looks at it in between.
    let cursor = unsafe { &mut *cursor };
    let source = parameters.source(cursor.next);
    cursor.next = parameters.after(cursor.next);
    frame.write(parameters.address_at as usize, source.address.to_be())?;
    frame.write(parameters.port_at as usize, source.port.to_be())?;
    if parameters.ip_checksum_at != 0 {
        let at = parameters.ip_checksum_at as usize;
        frame.write(at, source.ip_checksum.to_be())?;
    }
    frame.write(parameters.checksum_at as usize, source.checksum.to_be())
}

/// Makes the next frame and says whom to call.
#[inline(always)]
fn prepare(ctx: &XdpContext) -> Option<u32> {
    // SAFETY: a read of our own static; volatile, as the loader changes it
    // behind the compiler's back.
    let parameters = unsafe { core::ptr::read_volatile(&raw const LOOP) };
    let frame = XdpFrame::of(ctx);
    // The tail never moves, so the length says how far the head did. It is
    // moved back in any case, by nothing too: all pay the same.
    let moved = frame.len() as i64 - i64::from(parameters.frame_len);
    // Never; it keeps the difference of pointers in 64 bits, as the verifier
    // wants it.
    if !(-MOST_MOVED..=MOST_MOVED).contains(&moved) {
        return None;
    }
    // SAFETY: a helper call on the program's own context; every pointer into
    // the packet is made anew after it.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, moved as i32) } != 0 {
        return None;
    }
    restore(frame, parameters.words)?;
    let cursor = CURSOR.get_ptr_mut(0)?;
    // SAFETY: the one entry of a live map; the benchmark runs one loop at a
    // time and looks at it in between.
    let cursor = unsafe { &mut *cursor };
    vary(frame, &parameters, cursor.next)?;
    cursor.next = cursor.next.wrapping_add(1);
    Some(cursor.target)
}

#[inline(always)]
fn restore(frame: &XdpFrame, words: u32) -> Option<()> {
    let template = TEMPLATE.get(0)?;
    macro_rules! words {
        ($($index:literal)*) => {
            $(if words > $index {
                frame.write(word_at($index), template[$index])?;
            })*
        };
    }
    words!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    Some(())
}

/// Writes the source of the `number`th packet, and its service.
///
/// Flow numbers walk through all residues in steps of an odd constant: each
/// comes exactly once a round. An invertible mixer (the 32-bit finaliser of
/// MurmurHash3) makes 32 bits of each that differ between flows and have no
/// order; they go into address and port.
#[inline(always)]
fn vary(frame: &XdpFrame, parameters: &Loop, number: u32) -> Option<()> {
    let flow = number.wrapping_mul(0x9e37_79b1) & parameters.flow_mask;
    let mixed = (flow ^ flow >> 16).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
    let mixed = mixed ^ mixed >> 16;
    let (high, low) = (mixed >> 8, mixed & 0xff);
    if parameters.address_at != 0 {
        let at = parameters.address_at as usize;
        end_word(frame, parameters, at, parameters.address, high)?;
    }
    if parameters.identification_at != 0 {
        // What the address adds to the header's sum is taken off its
        // identification, which is zero otherwise: the checksum holds.
        let added = (high >> 16) + (high & 0xffff);
        let added = (added & 0xffff) + (added >> 16);
        let identification = !(added as u16);
        frame.write(
            parameters.identification_at as usize,
            identification.to_be(),
        )?;
    }
    if parameters.ports_at != 0 {
        // The second byte of a port; its first one stays as it is.
        let flow = if parameters.is_second_port != 0 {
            low
        } else {
            low << 16
        };
        frame.write(
            parameters.ports_at as usize,
            parameters.ports | flow.to_be(),
        )?;
    }
    if parameters.services > 1 {
        let service = (u64::from(mixed) * u64::from(parameters.services)) >> 32;
        let at = parameters.service_at as usize;
        end_word(frame, parameters, at, parameters.service, service as u32)?;
    }
    Some(())
}

/// Writes a word of an address with a number in its last bytes.
#[inline(always)]
fn end_word(frame: &XdpFrame, parameters: &Loop, at: usize, word: u64, number: u32) -> Option<()> {
    if parameters.is_v6 != 0 {
        return frame.write(at, word | u64::from(number).to_be());
    }
    frame.write(at, word as u32 | number.to_be())
}
