//! Times the handshakes of sampled flows.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use balancer_common::features::Features;
use balancer_common::handshake::{self, Event};
use balancer_common::layout::GenerationHead;
use balancer_common::parse::{PROTOCOL_TCP, Packet, Segment};

use crate::features;
use crate::maps;
use crate::pick::Picked;
use crate::vip::Family;

/// Looks at a packet that was sent to its member. For flows that are not
/// sampled this is one compare.
#[inline(always)]
pub(crate) fn see<A: Family>(
    head: &GenerationHead,
    packet: &Packet<A>,
    picked: &Picked,
    segment: Segment,
) {
    if packet.protocol != PROTOCOL_TCP
        || !handshake::is_sampled(picked.hash, head.handshake_sample)
        || !features::any(Features::HANDSHAKES)
    {
        return;
    }
    let (syn, reset) = (segment.syns() * SYN, segment.resets() * RESET);
    let source = u128::from_ne_bytes(packet.source.padded());
    handshake_seen(
        picked.hash,
        picked.member.counter,
        syn | reset,
        source as u64,
        (source >> 64) as u64,
    );
}

/// Bits of a packet's kind.
const SYN: u32 = 1;
const RESET: u32 = 2;

/// A function of its own, that the kernel verifies once; the client's address
/// comes in two halves, as it lies in memory. Gives nothing: the number is what
/// such a function has to return.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn handshake_seen(hash: u64, counter: u32, kind: u32, low: u64, high: u64) -> u32 {
    let kind = if kind & RESET != 0 {
        handshake::Packet::Reset
    } else if kind & SYN != 0 {
        handshake::Packet::Syn
    } else {
        handshake::Packet::Other
    };
    let Some(place) = maps::handshake(handshake::place(hash)) else {
        return 0;
    };
    // SAFETY: a live map value. Another CPU may write it at the same time,
    // if a flow's packets come by two of them: a sample is then lost or
    // counted at a wrong time, and no more.
    let place = unsafe { &mut *place };
    handshake::see(
        place,
        handshake::tag(hash),
        counter,
        (u128::from(high) << 64 | u128::from(low)).to_ne_bytes(),
        kind,
        // SAFETY: a helper without arguments.
        || unsafe { bpf_ktime_get_ns() },
        count,
    );
    0
}

#[inline(always)]
fn count(counter: u32, event: Event) {
    if let Some(counters) = maps::handshake_counters(counter) {
        // SAFETY: the entry of this CPU in a live map; nobody else writes it.
        event.count(unsafe { &mut *counters });
    }
}
