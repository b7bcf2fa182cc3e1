//! What `trace` and `capture` see of a packet. The loader sets [`TRACING`]
//! only in the private copies of the program that `trace` runs and in those
//! that are attached for a capture; everywhere else the verifier finds a
//! constant 0 and removes all of this.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use balancer_common::capture::mode;
use balancer_common::layout::TraceRecord;
use balancer_common::verdict::Reason;

use crate::pick::Picked;
use crate::{capture, maps};

/// One of [`mode`]; set by the loader before the program is verified.
#[unsafe(no_mangle)]
static TRACING: u8 = mode::OFF;

#[inline(always)]
fn tracing() -> u8 {
    // SAFETY: a read of our own static; volatile, as the loader changes it
    // behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const TRACING) }
}

/// Whether this copy of the program was loaded for a capture.
#[inline(always)]
pub(crate) fn is_capturing() -> bool {
    tracing() == mode::CAPTURE
}

#[inline(always)]
fn record() -> Option<&'static mut TraceRecord> {
    if tracing() != mode::TRACE {
        return None;
    }
    // SAFETY: the one entry of a map that only test runs of this private
    // copy write, one packet at a time.
    maps::trace().map(|record| unsafe { &mut *record })
}

/// A packet comes in.
#[inline(always)]
pub(crate) fn enter() {
    if is_capturing() {
        capture::capture_begin();
    }
}

#[inline(always)]
pub(crate) fn begin() {
    if let Some(record) = record() {
        record.service = 0;
        record.member = TraceRecord::NO_MEMBER;
        record.slot = 0;
        record.hash = 0;
    }
}

/// Begins with a service that is known. Nothing has been written to the frame.
#[inline(always)]
pub(crate) fn service(ctx: &XdpContext, service: u32) {
    if let Some(record) = record() {
        record.service = service;
        record.member = TraceRecord::NO_MEMBER;
        record.slot = 0;
        record.hash = 0;
    } else if is_capturing() {
        capture::capture_service(ctx.ctx, service);
    }
}

/// A packet of no service is about to be written to.
#[inline(always)]
pub(crate) fn written(ctx: &XdpContext) {
    if is_capturing() {
        capture::capture_service(ctx.ctx, 0);
    }
}

/// A reply is of this member: index, and incarnation in the low half.
#[inline(always)]
pub(crate) fn replies(seat: u32) {
    if is_capturing() {
        capture::capture_seat(seat);
    }
}

/// It leaves by the interface with this number, which is not its member's.
#[inline(always)]
pub(crate) fn leaves(egress: u32) {
    if is_capturing() {
        capture::capture_egress(egress);
    }
}

#[inline(always)]
pub(crate) fn flow(picked: &Picked) {
    if let Some(record) = record() {
        record.member = u32::from(picked.index);
        record.slot = picked.slot;
        record.hash = picked.hash;
    } else if is_capturing() {
        let seat = u32::from(picked.index) << 16 | u32::from(picked.member.incarnation);
        capture::capture_flow(seat, picked.slot, picked.hash);
    }
}

/// The packet leaves the program.
#[inline(always)]
pub(crate) fn reason(ctx: &XdpContext, action: u32, reason: Reason) {
    if let Some(record) = record() {
        record.reason = reason as u32;
        debug!(
            ctx,
            "reason {} service {} member {} slot {}",
            record.reason,
            record.service,
            record.member,
            record.slot
        );
    } else if is_capturing() {
        capture::capture_end(ctx.ctx, action, reason as u32);
    }
}
