//! `fullnat`: requests leave from an address and port of a pool.
//!
//! A flow has two records. That of the request says where it leaves from and
//! to; that of the reply, which is keyed by the backend, the address and the
//! port, is the lease of that port, and holds all that changes. A request's
//! record counts only while the reply's is there and leads back to it, or a
//! flow whose lease has gone could send into another one's.
//!
//! Every CPU has ports of its own, so no two ever look for the same one and
//! nothing is locked. The same port may be leased once for each backend.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::programs::XdpContext;
use balancer_common::layout::{MAX_NAT_SOURCES, NatRecord, NatSettings};

use super::queue::nat_queue;
use super::{DONE, NOT_DONE, Record, Scratch, begin, is_syn, scratch, take_seat};
use crate::{features, maps};

/// Ports that are looked at for a flow.
const TRIES: u32 = 16;

/// Looks up the translation of the packet of the scratch entry; gives the
/// index of its member plus one, or 0 if there is none that holds. A SYN on a
/// closed connection is a new flow.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn nat_follow(
    ctx: *mut xdp_md,
    service: u32,
    members: u32,
    member_count: u32,
) -> u32 {
    let ctx = XdpContext::new(ctx);
    let Some(scratch) = scratch() else { return 0 };
    if !begin(&ctx, scratch, service) {
        return 0;
    }
    let Some(request) = maps::translation(&scratch.arrives) else {
        return 0;
    };
    if request.kind() != NatRecord::REQUEST || request.service() != service {
        return 0;
    }
    request.write_answer_key(scratch.arrives.protocol, &mut scratch.reply);
    let Some(reply) = maps::translation(&scratch.reply) else {
        return 0;
    };
    let is_syn = is_syn(scratch.flags);
    if !reply.is_of(&scratch.record) || is_syn && reply.is_closed() {
        return 0;
    }
    let (index, incarnation) = request.seat();
    if u32::from(index) >= member_count {
        return 0;
    }
    let Some(member) = maps::member(members.wrapping_add(u32::from(index))) else {
        return 0;
    };
    if !member.is_alive() || member.incarnation != incarnation {
        return 0;
    }
    reply.note_request(&scratch.record, is_syn);
    scratch.source = scratch.reply.destination;
    let [_, _, a, b] = scratch.reply.ports;
    [scratch.ports[0], scratch.ports[1]] = [a, b];
    scratch.is_known = 1;
    u32::from(index) + 1
}

/// Finds a port for the flow of the scratch entry, after [`nat_follow`], and
/// writes both records. `seat` is the member's index and incarnation.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn nat_lease(generation: u32, seat: u32) -> u32 {
    let (Some(scratch), Some(settings)) = (scratch(), maps::nat_settings(generation)) else {
        return NOT_DONE;
    };
    let [_, _, c, d] = scratch.ports;
    scratch.reply.source = scratch.destination;
    scratch.reply.ports = [c, d, 0, 0];
    scratch.reply.protocol = scratch.arrives.protocol;
    let Some(lease) = find(scratch, settings) else {
        return NOT_DONE;
    };
    take_seat(scratch, seat);
    maps::translate(&scratch.reply, &scratch.record);
    scratch.record.source = scratch.source;
    scratch.record.destination = scratch.destination;
    scratch.record.ports = scratch.ports;
    scratch.record.kind = NatRecord::REQUEST;
    maps::translate(&scratch.arrives, &scratch.record);
    // One that is there is in the queue, and goes on in it.
    if lease == Lease::New {
        nat_queue(generation);
    }
    DONE
}

/// How a port was found for a flow.
#[derive(PartialEq)]
enum Lease {
    /// Nobody has it.
    New,
    /// It has a record, of a flow that is over.
    Again,
}

/// Looks for a port that nobody has, or whose flow is over.
#[inline(always)]
fn find(scratch: &mut Scratch, settings: &NatSettings) -> Option<Lease> {
    for _ in 0..TRIES {
        if !draw(scratch, settings) {
            return None;
        }
        let Some(record) = maps::translation(&scratch.reply) else {
            return Some(Lease::New);
        };
        if record.is_over(scratch.record.seen_ns, settings) {
            return Some(Lease::Again);
        }
    }
    None
}

/// Puts this CPU's next address and port into the scratch entry, if it has
/// any.
#[inline(always)]
fn draw(scratch: &mut Scratch, settings: &NatSettings) -> bool {
    // SAFETY: a helper call without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let pool = scratch.pool as usize & 1;
    let Some(cursors) = maps::nat_cursors() else {
        return false;
    };
    let cursor = cursors.ports[pool];
    let Some(found) = settings.candidate(pool, (cpu, features::cpus()), cursor) else {
        return false;
    };
    cursors.ports[pool] = found.next;
    scratch.source = settings.sources[pool][found.source as usize & (MAX_NAT_SOURCES - 1)];
    scratch.reply.destination = scratch.source;
    let [a, b] = found.port.to_be_bytes();
    [scratch.ports[0], scratch.ports[1]] = [a, b];
    [scratch.reply.ports[2], scratch.reply.ports[3]] = [a, b];
    true
}

/// A reply of a flow whose client says little: looking up its request's
/// record keeps that from being evicted.
#[inline(always)]
pub(super) fn keep_request(scratch: &mut Scratch, reply: &Record) {
    reply.write_answer_key(scratch.arrives.protocol, &mut scratch.other);
    let _ = maps::translation(&scratch.other);
}
