//! What `trace` sees of a packet. The loader sets [`TRACING`] only in the
//! private copies of the program that `trace` runs; everywhere else the
//! verifier finds a constant 0 and removes all of this.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use balancer_common::layout::TraceRecord;
use balancer_common::verdict::Reason;

use crate::maps;
use crate::pick::Picked;

/// Set by the loader before the program is verified.
#[unsafe(no_mangle)]
static TRACING: u8 = 0;

/// Whether this copy of the program was loaded for `trace`.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    // SAFETY: a read of our own static; volatile, as the loader changes it
    // behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const TRACING) != 0 }
}

#[inline(always)]
fn record() -> Option<&'static mut TraceRecord> {
    if !is_on() {
        return None;
    }
    // SAFETY: the one entry of a map that only test runs of this private
    // copy write, one packet at a time.
    maps::trace().map(|record| unsafe { &mut *record })
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

/// Begins with a service that is known.
#[inline(always)]
pub(crate) fn service(service: u32) {
    if let Some(record) = record() {
        record.service = service;
        record.member = TraceRecord::NO_MEMBER;
        record.slot = 0;
        record.hash = 0;
    }
}

#[inline(always)]
pub(crate) fn flow(picked: &Picked) {
    if let Some(record) = record() {
        record.member = u32::from(picked.index);
        record.slot = picked.slot;
        record.hash = picked.hash;
    }
}

#[inline(always)]
pub(crate) fn reason(ctx: &XdpContext, reason: Reason) {
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
    }
}
