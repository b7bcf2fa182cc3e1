//! What `capture` sees of a packet: the frame as it came, as it left, and why.
//!
//! Only in the copies that are loaded for a capture; everywhere else the
//! verifier finds a constant and removes all of this. The frame is copied when
//! its service is known and wanted, before anything is written to it: whatever
//! writes to a frame has told [`trace::service`](crate::trace::service) before.
//! A frame of which nothing was told until the end is as it came.
//!
//! The functions are global ones: the kernel verifies each once, and they have
//! a stack frame that the stages need not share.

use aya_ebpf::bindings::xdp_action::{XDP_REDIRECT, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use balancer_common::capture::{Control, Header, MAX_SNAPLEN, Work, wanted_member, wanted_service};

use crate::maps::capture as maps;
use crate::trace::is_capturing;

/// Begins with a packet.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn capture_begin() -> u32 {
    let Some((control, work)) = here() else {
        return 0;
    };
    work.phase = Work::SKIPPED;
    let sample = read(&control.sample);
    // SAFETY: a helper call without arguments.
    if sample == u32::MAX || unsafe { bpf_get_prandom_u32() } <= sample {
        work.phase = Work::LOOKED;
        work.looked += 1;
    }
    work.header.service = 0;
    work.header.member = Header::NO_MEMBER;
    work.header.incarnation = 0;
    work.header.slot = Header::NO_SLOT;
    work.header.hash = 0;
    work.header.egress = 0;
    0
}

/// The packet is of this service, 0 of none, and is as it came.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn capture_service(ctx: *mut xdp_md, service: u32) -> u32 {
    let Some((control, work)) = here() else {
        return 0;
    };
    work.header.service = service;
    if work.phase != Work::LOOKED {
        return 0;
    }
    if read(&control.by) != Control::ALL && !maps::is_wanted(wanted_service(service)) {
        work.phase = Work::SKIPPED;
        return 0;
    }
    keep(ctx, control, work);
    0
}

/// Its member: index, and incarnation in the low half.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn capture_seat(seat: u32) -> u32 {
    if let Some((_, work)) = here() {
        work.header.member = seat >> 16;
        work.header.incarnation = seat & 0xffff;
    }
    0
}

/// As [`capture_seat`], with the slot that led there.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn capture_flow(seat: u32, slot: u32, hash: u64) -> u32 {
    if let Some((_, work)) = here() {
        work.header.member = seat >> 16;
        work.header.incarnation = seat & 0xffff;
        work.header.slot = slot;
        work.header.hash = hash;
    }
    0
}

/// It leaves by the interface with this number.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn capture_egress(egress: u32) -> u32 {
    if let Some((_, work)) = here() {
        work.header.egress = egress;
    }
    0
}

/// Tells of the packet, if it is wanted.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn capture_end(ctx: *mut xdp_md, action: u32, reason: u32) -> u32 {
    let Some((control, work)) = here() else {
        return 0;
    };
    if work.phase == Work::SKIPPED || !is_wanted(control, work, action, reason) {
        return 0;
    }
    if work.phase == Work::LOOKED {
        keep(ctx, control, work);
    }
    if work.phase != Work::KEPT {
        work.limited += 1;
        return 0;
    }
    maps::count_taken();
    work.taken += 1;
    // SAFETY: a helper call without arguments, and fields of the kernel's
    // context, which outlives the program.
    unsafe {
        work.header.time_ns = bpf_ktime_get_ns();
        work.header.interface = (*ctx).ingress_ifindex;
        work.header.queue = (*ctx).rx_queue_index;
    }
    work.header.action = action;
    work.header.reason = reason;
    work.header.after_len = 0;
    work.header.after_kept = 0;
    let before = work.header.before_kept as usize;
    let mut after = 0;
    if action == XDP_TX || action == XDP_REDIRECT {
        let (len, kept) = copy(ctx, control, work, before);
        work.header.after_len = len;
        work.header.after_kept = kept;
        after = kept as usize;
    }
    if !maps::tell(work, before + after) {
        work.lost += 1;
    }
    0
}

#[inline(always)]
fn is_wanted(control: &Control, work: &Work, action: u32, reason: u32) -> bool {
    if read(&control.actions) >> (action & 31) & 1 == 0
        || read(&control.reasons) >> (reason & 63) & 1 == 0
    {
        return false;
    }
    let header = &work.header;
    match read(&control.by) {
        Control::ALL => true,
        // Of none that is known, or it would be kept.
        _ if work.phase == Work::LOOKED => false,
        Control::BY_SERVICE => true,
        _ if header.member == Header::NO_MEMBER => false,
        _ => {
            let (index, incarnation) = (header.member as u16, header.incarnation as u16);
            maps::is_wanted(wanted_member(header.service, index, incarnation))
        }
    }
}

/// Keeps the frame as it came, if one more is granted.
#[inline(always)]
fn keep(ctx: *mut xdp_md, control: &Control, work: &mut Work) {
    if read(&control.taken) >= read(&control.granted) {
        work.phase = Work::LIMITED;
        return;
    }
    let (len, kept) = copy(ctx, control, work, 0);
    work.header.before_len = len;
    work.header.before_kept = kept;
    work.phase = Work::KEPT;
}

/// Copies the frame behind what is kept already; gives its length, and how
/// much of it was copied.
#[inline(always)]
fn copy(ctx: *mut xdp_md, control: &Control, work: &mut Work, at: usize) -> (u32, u32) {
    // SAFETY: a helper call on the program's own context.
    let len = unsafe { bpf_xdp_get_buff_len(ctx) } as u32;
    let wanted = len.min(read(&control.snaplen));
    // One register each, which the verifier sees a limit of.
    let (at, wanted) = (core::hint::black_box(at), core::hint::black_box(wanted));
    if at > MAX_SNAPLEN || wanted == 0 || wanted as usize > MAX_SNAPLEN {
        return (len, 0);
    }
    // SAFETY: `at` and `wanted` are `MAX_SNAPLEN` at most, of which the array
    // has two.
    let failed = unsafe {
        let to = work.frames.as_mut_ptr().add(at);
        bpf_xdp_load_bytes(ctx, 0, to.cast(), wanted)
    };
    if failed != 0 {
        return (len, 0);
    }
    (len, wanted)
}

/// What is wanted, and this CPU's entry; nothing in a program that is not
/// loaded for this.
#[inline(always)]
fn here() -> Option<(&'static Control, &'static mut Work)> {
    if !is_capturing() {
        return None;
    }
    // SAFETY: a live map value; what the controller writes to it is read by
    // `read`.
    let control = unsafe { &*maps::control()? };
    // SAFETY: the entry of this CPU, as programs do not interrupt each other.
    // Whoever reads its counters elsewhere writes nothing.
    let work = unsafe { &mut *maps::work()? };
    Some((control, work))
}

/// A field that the controller may write at any time.
#[inline(always)]
fn read<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is readable.
    unsafe { core::ptr::read_volatile(field) }
}
