//! Times sampled TCP handshakes, from the client's side alone.
//!
//! Under direct return the balancer sees only what clients send: a SYN, and
//! the ACK that ends the handshake. The time between them shows whether a
//! backend answers, and how fast. A sampled flow has one place in a plain
//! array, by its hash: nothing is searched, and a newcomer takes the place of
//! whoever is there. Which flows are sampled follows from the hash too, so
//! that all CPUs, and all balancers of a group, agree.
//!
//! ```text
//! place holds    packet         counted                     place then
//! nobody         SYN            started                     this flow
//! this flow      SYN            repeated                    unchanged
//! another flow   SYN            started, and for the other  this flow
//!                               abandoned or displaced
//! this flow      RST            abandoned                   nobody
//! this flow      any other      finished, its time          nobody
//!                               (abandoned if it took too long)
//! otherwise      not a SYN      nothing                     unchanged
//! ```

use crate::layout::{HANDSHAKE_BUCKETS, HANDSHAKE_SLOTS, Handshake, HandshakeCounters};

/// What a sampled packet means for its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// SYN without ACK or RST.
    Syn,
    /// With RST.
    Reset,
    /// Any other.
    Other,
}

/// Whether a flow is timed; `sample` is the share of all, times 2^32.
#[inline(always)]
pub const fn is_sampled(hash: u64, sample: u32) -> bool {
    (hash as u32) < sample
}

/// Place of a flow in `HANDSHAKES`.
#[inline(always)]
pub const fn place(hash: u64) -> u32 {
    hash as u32 & (HANDSHAKE_SLOTS - 1)
}

/// What tells a flow from others at its place; never 0.
#[inline(always)]
pub const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

/// Bucket of a duration in [`HandshakeCounters::histogram`].
#[inline(always)]
pub const fn bucket(duration_ns: u64) -> usize {
    let micros = duration_ns / 1000;
    let mut bucket = 0;
    // Not `ilog2`, which the BPF target calls a function for: five halvings.
    let mut rest = if micros > u32::MAX as u64 {
        u32::MAX
    } else {
        micros as u32
    };
    let mut width = 16;
    while width > 0 {
        if rest >> width != 0 {
            bucket += width;
            rest >>= width;
        }
        width /= 2;
    }
    if bucket < HANDSHAKE_BUCKETS {
        bucket
    } else {
        HANDSHAKE_BUCKETS - 1
    }
}

/// Whether a handshake begun at `started_ns` counts as failed at `now_ns`.
#[inline(always)]
pub const fn is_overdue(started_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(started_ns) >= HandshakeCounters::PATIENCE_NS
}

/// What came of the packet: whose counter changes how is told by the caller's
/// two closures, one for the flow's member, one for that of the flow that
/// loses its place.
#[inline(always)]
pub fn see(
    place: &mut Handshake,
    tag: u32,
    counter: u32,
    source: [u8; 16],
    packet: Packet,
    now: impl FnOnce() -> u64,
    count: impl Fn(u32, Event),
) {
    let is_here = place.tag == tag;
    match packet {
        Packet::Syn if is_here => count(counter, Event::Repeated),
        Packet::Syn => {
            let now = now();
            if place.tag != 0 {
                let event = if is_overdue(place.started_ns, now) {
                    Event::Abandoned
                } else {
                    Event::Displaced
                };
                count(place.counter, event);
            }
            *place = Handshake {
                started_ns: now,
                tag,
                counter,
                source,
            };
            count(counter, Event::Started);
        }
        Packet::Reset if is_here => {
            place.tag = 0;
            count(counter, Event::Abandoned);
        }
        Packet::Other if is_here => {
            place.tag = 0;
            let now = now();
            let event = if is_overdue(place.started_ns, now) {
                Event::Abandoned
            } else {
                Event::Finished(bucket(now - place.started_ns))
            };
            count(counter, event);
        }
        Packet::Reset | Packet::Other => {}
    }
}

/// What to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A first SYN.
    Started,
    /// A further one.
    Repeated,
    /// The client's ACK, and the bucket of the time it took.
    Finished(usize),
    /// It will never be finished.
    Abandoned,
    /// Another flow took its place before anybody could tell.
    Displaced,
}

impl Event {
    /// Counts it.
    #[inline(always)]
    pub fn count(self, counters: &mut HandshakeCounters) {
        match self {
            Self::Started => counters.started += 1,
            Self::Repeated => counters.repeated += 1,
            Self::Abandoned => counters.abandoned += 1,
            Self::Displaced => counters.displaced += 1,
            Self::Finished(bucket) => {
                counters.finished += 1;
                if let Some(count) = counters.histogram.get_mut(bucket) {
                    *count += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::vec;
    use std::vec::Vec;

    fn run(
        place: &mut Handshake,
        tag: u32,
        counter: u32,
        packet: Packet,
        now: u64,
    ) -> Vec<(u32, Event)> {
        let events = RefCell::new(Vec::new());
        see(
            place,
            tag,
            counter,
            [tag as u8; 16],
            packet,
            || now,
            |counter, event| {
                events.borrow_mut().push((counter, event));
            },
        );
        events.into_inner()
    }

    #[test]
    fn handshake_is_counted_from_its_syn_to_its_ack() {
        let mut place = Handshake::default();
        assert_eq!(run(&mut place, 5, 1, Packet::Other, 0), vec![]);
        assert_eq!(
            run(&mut place, 5, 1, Packet::Syn, 1000),
            vec![(1, Event::Started)]
        );
        assert_eq!(
            run(&mut place, 5, 1, Packet::Syn, 2000),
            vec![(1, Event::Repeated)]
        );
        let finished = run(&mut place, 5, 1, Packet::Other, 9_001_000);
        assert_eq!(finished, vec![(1, Event::Finished(bucket(9_000_000)))]);
        assert_eq!(run(&mut place, 5, 1, Packet::Other, 9_002_000), vec![]);
    }

    #[test]
    fn newcomer_takes_the_place_and_the_other_counts_by_its_age() {
        let patience = HandshakeCounters::PATIENCE_NS;
        for (age, event) in [
            (patience, Event::Abandoned),
            (patience - 1, Event::Displaced),
        ] {
            let mut place = Handshake::default();
            run(&mut place, 5, 1, Packet::Syn, 7);
            let events = run(&mut place, 9, 2, Packet::Syn, 7 + age);
            assert_eq!(events, vec![(1, event), (2, Event::Started)]);
            assert_eq!((place.tag, place.counter, place.source), (9, 2, [9; 16]));
        }
    }

    #[test]
    fn end_that_comes_too_late_is_none() {
        let mut place = Handshake::default();
        run(&mut place, 5, 1, Packet::Syn, 7);
        let late = 7 + HandshakeCounters::PATIENCE_NS;
        let events = run(&mut place, 5, 1, Packet::Other, late);
        assert_eq!(events, vec![(1, Event::Abandoned)]);
        assert_eq!(place.tag, 0);
    }

    #[test]
    fn reset_ends_a_handshake_unfinished() {
        let mut place = Handshake::default();
        run(&mut place, 5, 1, Packet::Syn, 7);
        assert_eq!(
            run(&mut place, 5, 1, Packet::Reset, 8),
            vec![(1, Event::Abandoned)]
        );
        assert_eq!(place.tag, 0);
    }

    #[test]
    fn buckets_double_and_the_ends_hold_the_rest() {
        for (micros, expected) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 1),
            (4, 2),
            (1023, 9),
            (1024, 10),
        ] {
            assert_eq!(bucket(micros * 1000), expected, "{micros}");
        }
        assert_eq!(bucket(u64::MAX), HANDSHAKE_BUCKETS - 1);
        assert_eq!(bucket(1000 << 23), 23);
        assert_eq!(bucket(1000 << 24), HANDSHAKE_BUCKETS - 1);
    }
}
