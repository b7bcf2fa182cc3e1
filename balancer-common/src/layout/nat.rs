//! Translations of flows that are rewritten, and what rules them.

use bytemuck::{Pod, Zeroable};

/// Most addresses of a family that `fullnat` sends from.
pub const MAX_NAT_SOURCES: usize = 64;
/// How long a closed connection keeps its translation where these are many:
/// long enough for the answer to a FIN, and for one that is sent again.
pub const CROWDED_CLOSED_NS: u64 = 1_000_000_000;
/// How long after it was looked at, or written, a place of `NAT_QUEUE` is not
/// looked at again, however fast new flows come.
pub const LOOK_AGAIN_NS: u64 = 1_000_000_000;

/// Key of `NAT`: a packet as it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatKey {
    /// Source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address, likewise.
    pub destination: [u8; 16],
    /// Source and destination port, network order.
    pub ports: [u8; 4],
    /// IP protocol number; a word, as the program builds the key on its
    /// stack, where the kernel allows no misaligned store.
    pub protocol: u32,
}

impl NatKey {
    /// The same flow in the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn turned(&self) -> Self {
        let [a, b, c, d] = self.ports;
        Self {
            source: self.destination,
            destination: self.source,
            ports: [c, d, a, b],
            protocol: self.protocol,
        }
    }
}

/// What the packets of a [`NatKey`] are rewritten to, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatRecord {
    /// The new source address, network order; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// The new destination address, likewise.
    pub destination: [u8; 16],
    /// The new source and destination port, network order.
    pub ports: [u8; 4],
    /// [`NatRecord::REPLY`]: the interface that the client's packets come in
    /// on; replies leave by it.
    pub egress: u32,
    /// [`NatRecord::REPLY`]: when a packet of the flow was last seen,
    /// `CLOCK_MONOTONIC_COARSE`, not more than a second late.
    pub seen_ns: u64,
    /// [`NatRecord::REPLY`]: Ethernet destination, then source, of replies.
    pub ethernet: [u8; 12],
    /// Number of the service.
    pub service: u32,
    /// Index of the member in its service.
    pub member: u16,
    /// The member's incarnation.
    pub incarnation: u16,
    /// [`NatRecord::REPLY`]: [`NatRecord::FIN`] and [`NatRecord::RST`], what
    /// the client has sent of them.
    pub client: u8,
    /// As `client`, of the backend.
    pub backend: u8,
    /// [`NatRecord::REPLY`] or [`NatRecord::REQUEST`].
    pub kind: u16,
}

impl NatRecord {
    /// `kind`: the key is a packet of a backend.
    pub const REPLY: u16 = 1;
    /// `kind`: the key is a packet of a client to a `fullnat` service. Its
    /// reply record holds all that changes with time.
    pub const REQUEST: u16 = 2;

    /// This side has said that it sends no more.
    pub const FIN: u8 = 1;
    /// This side has torn the connection down.
    pub const RST: u8 = 2;

    /// Whether the TCP connection is over: both sides have finished, or one
    /// has torn it down.
    #[inline(always)]
    pub const fn is_closed(&self) -> bool {
        self.closed_bits() != 0
    }

    #[inline(always)]
    const fn closed_bits(&self) -> u8 {
        self.client & self.backend & Self::FIN | (self.client | self.backend) & Self::RST
    }

    /// Whether another flow may take the record's place at `now`. A `now` that
    /// another CPU has read a little before `seen_ns` is no age.
    ///
    /// One comparison in the end: the program asks in a loop, and the verifier
    /// walks every branch of every round.
    #[inline(always)]
    pub const fn is_over(&self, now: u64, settings: &NatSettings) -> bool {
        self.is_silent_for(now, settings.idle_ns, settings.closed_ns)
    }

    /// [`NatRecord::is_over`] where records are many for their table: a closed
    /// connection waits [`CROWDED_CLOSED_NS`] at most.
    #[inline(always)]
    pub const fn is_over_in_a_crowd(&self, now: u64, settings: &NatSettings) -> bool {
        let is_shorter = settings.closed_ns < CROWDED_CLOSED_NS;
        let closed_ns = if is_shorter {
            settings.closed_ns
        } else {
            CROWDED_CLOSED_NS
        };
        self.is_silent_for(now, settings.idle_ns, closed_ns)
    }

    #[inline(always)]
    const fn is_silent_for(&self, now: u64, idle_ns: u64, closed_ns: u64) -> bool {
        let bits = self.closed_bits() as u64;
        let is_closed = (bits | bits >> 1) & 1;
        let only_closed = (idle_ns ^ closed_ns) & is_closed.wrapping_neg();
        let patience = idle_ns ^ only_closed;
        now.wrapping_sub(self.seen_ns) as i64 >= patience as i64
    }
}

/// One of the two entries of `NAT_SETTINGS`, one a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatSettings {
    /// Nanoseconds of silence after which a translation is over; at most
    /// `i64::MAX`, as the other.
    pub idle_ns: u64,
    /// The same for a TCP connection that is closed.
    pub closed_ns: u64,
    /// `fullnat`: the first port that is sent from.
    pub first_port: u32,
    /// `fullnat`: how many there are. Every CPU has an equal part, one behind
    /// the other; what does not divide is left over.
    pub port_count: u32,
    /// `fullnat`: addresses in each half of `sources`, at most
    /// [`MAX_NAT_SOURCES`].
    pub source_counts: [u32; 2],
    /// `fullnat`: what is sent from to IPv4 backends, then to IPv6 ones;
    /// network order, IPv4 in the first four bytes.
    pub sources: [[[u8; 16]; MAX_NAT_SOURCES]; 2],
}

impl NatSettings {
    /// Half of `sources` for IPv4.
    pub const V4: usize = 0;
    /// Half of `sources` for IPv6.
    pub const V6: usize = 1;

    /// Where a CPU's `cursor` stands in its part of the ports of a family:
    /// the index of an address and a port. All addresses come before the next
    /// port. `None` if there is nothing to send from.
    #[inline(always)]
    pub const fn candidate(
        &self,
        family: usize,
        (cpu, cpus): (u32, u32),
        cursor: u32,
    ) -> Option<Candidate> {
        if cpus == 0 || family > Self::V6 {
            return None;
        }
        let (count, per_cpu) = (self.source_counts[family], self.port_count / cpus);
        let all = count.wrapping_mul(per_cpu);
        // The last two mean the first; the compiler wants to see them, as the
        // program may hold no division that could panic.
        if all == 0 || count == 0 || per_cpu == 0 {
            return None;
        }
        let at = cursor % all;
        Some(Candidate {
            source: at % count,
            port: (self.first_port + cpu * per_cpu + at / count) as u16,
            next: at + 1,
        })
    }
}

/// An address and a port that a flow may be sent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Index of the address in its half of [`NatSettings::sources`].
    pub source: u32,
    /// The port, host order.
    pub port: u16,
    /// The cursor behind it.
    pub next: u32,
}

/// One entry of `NAT_CURSORS` for each CPU: what translations it sees to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatCursors {
    /// Where its search for a port of either family goes on.
    pub ports: [u32; 2],
    /// Its part of `NAT_QUEUE`.
    pub queue: NatQueue,
}

/// A place of `NAT_QUEUE`: a translation that its CPU looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatQueued {
    /// Of its reply record.
    pub key: NatKey,
    /// When it was looked at or written, as [`NatRecord::seen_ns`].
    pub looked_ns: u64,
}

impl NatQueued {
    /// Whether it may be looked at again at `now`; a `now` that is a little
    /// before the last look is none.
    #[inline(always)]
    pub const fn is_due(&self, now: u64) -> bool {
        now.wrapping_sub(self.looked_ns) as i64 >= LOOK_AGAIN_NS as i64
    }
}

/// A ring in a CPU's part of `NAT_QUEUE`: the translations that it looks
/// after, the one that was not looked at for longest first. `room` is the size
/// of the part; what was noted with another room counts as nothing where it
/// cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct NatQueue {
    /// Place of the first.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

impl NatQueue {
    /// The place of the first.
    #[inline(always)]
    pub const fn first(&mut self, room: u32) -> Option<u32> {
        if self.first >= room || self.count == 0 || self.count > room {
            *self = Self { first: 0, count: 0 };
            return None;
        }
        Some(self.first)
    }

    /// Takes [`NatQueue::first`], where there is one, away.
    #[inline(always)]
    pub const fn take(&mut self, room: u32) {
        let next = self.first + 1;
        self.first = if next >= room { 0 } else { next };
        self.count = self.count.saturating_sub(1);
    }

    /// Adds one behind the last; gives its place. `None` if there is no room:
    /// then it is not looked after.
    #[inline(always)]
    pub const fn add(&mut self, room: u32) -> Option<u32> {
        if self.first >= room || self.count >= room {
            return None;
        }
        let to_end = room - self.first;
        let place = if self.count < to_end {
            self.first + self.count
        } else {
            self.count - to_end
        };
        self.count += 1;
        Some(place)
    }

    /// Whether the CPU has seven eighths of its equal share of the flows that
    /// the table has room for; `room` is twice that share.
    #[inline(always)]
    pub const fn is_crowded(&self, room: u32) -> bool {
        self.count >= room / 16 * 7
    }
}

impl Default for NatSettings {
    /// Nothing to send from, and nothing kept.
    fn default() -> Self {
        Self::zeroed()
    }
}

const _: () = {
    assert!(size_of::<NatKey>() == 40);
    assert!(size_of::<NatRecord>() == 72);
    assert!(core::mem::offset_of!(NatRecord, seen_ns) == 40);
    assert!(core::mem::offset_of!(NatRecord, service) == 60);
    assert!(size_of::<NatSettings>() == 32 + 2 * 16 * MAX_NAT_SOURCES);
    assert!(size_of::<NatCursors>() == 16);
    assert!(size_of::<NatQueued>() == 48);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn connection_is_over_when_both_sides_finished_or_one_tore_it_down() {
        const FIN: u8 = NatRecord::FIN;
        const RST: u8 = NatRecord::RST;
        let cases = [
            (0, 0, false),
            (FIN, 0, false),
            (0, FIN, false),
            (FIN, FIN, true),
            (RST, 0, true),
            (0, RST, true),
            (FIN | RST, 0, true),
        ];
        for (client, backend, closed) in cases {
            let record = NatRecord {
                client,
                backend,
                ..NatRecord::zeroed()
            };
            assert_eq!(record.is_closed(), closed, "{client} {backend}");
        }
    }

    #[test]
    fn cpus_share_the_ports_and_use_every_address_before_the_next_port() {
        let settings = NatSettings {
            first_port: 1000,
            port_count: 7,
            source_counts: [2, 0],
            ..NatSettings::zeroed()
        };
        let drawn = |cpu| {
            let mut cursor = 0;
            [(); 7].map(|()| {
                let found = settings.candidate(NatSettings::V4, (cpu, 3), cursor);
                let Candidate { source, port, next } = found.unwrap();
                cursor = next;
                (source, port)
            })
        };
        let first = [(0, 1000), (1, 1000), (0, 1001), (1, 1001)];
        assert_eq!(drawn(0)[..4], first);
        assert_eq!(drawn(0)[4..], first[..3]);
        assert_eq!(drawn(2)[..2], [(0, 1004), (1, 1004)]);
        assert_eq!(settings.candidate(NatSettings::V6, (0, 3), 0), None);
        assert_eq!(settings.candidate(NatSettings::V4, (0, 8), 0), None);
    }

    #[test]
    fn no_two_cpus_draw_the_same_port_and_none_draws_one_outside_the_range() {
        for (first_port, port_count, cpus) in [
            (1024_u32, 1024, 1),
            (32_768, 28_232, 2),
            (40_000, 1027, 64),
            (65_535 - 1023, 1024, 7),
        ] {
            let settings = NatSettings {
                first_port,
                port_count,
                source_counts: [0, 3],
                ..NatSettings::zeroed()
            };
            let mut drawn = std::collections::BTreeSet::new();
            for cpu in 0..cpus {
                let all = 3 * (port_count / cpus);
                let mut cursor = 0;
                for _ in 0..all {
                    let found = settings.candidate(NatSettings::V6, (cpu, cpus), cursor);
                    let Candidate { source, port, next } = found.unwrap();
                    assert!((first_port..first_port + port_count).contains(&port.into()));
                    assert!(drawn.insert((source, port)), "{source} {port} twice");
                    cursor = next;
                }
            }
        }
    }

    #[test]
    fn closed_connection_is_given_up_sooner_than_a_silent_one() {
        let settings = NatSettings {
            idle_ns: 100,
            closed_ns: 10,
            ..NatSettings::zeroed()
        };
        let open = NatRecord {
            seen_ns: 1000,
            ..NatRecord::zeroed()
        };
        let closed = NatRecord {
            client: NatRecord::RST,
            ..open
        };
        // A clock that another CPU has read a little later is no age.
        for (now, open_is_over, closed_is_over) in [
            (990, false, false),
            (1009, false, false),
            (1010, false, true),
            (1099, false, true),
            (1100, true, true),
        ] {
            assert_eq!(open.is_over(now, &settings), open_is_over, "{now}");
            assert_eq!(closed.is_over(now, &settings), closed_is_over, "{now}");
        }
    }

    #[test]
    fn closed_connection_waits_a_second_at_most_where_records_are_many() {
        let record = |client| NatRecord {
            seen_ns: 1000,
            client,
            ..NatRecord::zeroed()
        };
        let (open, closed) = (record(0), record(NatRecord::RST));
        for (closed_ns, waits) in [(30 * CROWDED_CLOSED_NS, CROWDED_CLOSED_NS), (10, 10)] {
            let settings = NatSettings {
                idle_ns: 100 * CROWDED_CLOSED_NS,
                closed_ns,
                ..NatSettings::zeroed()
            };
            let over = |record: &NatRecord, age| record.is_over_in_a_crowd(1000 + age, &settings);
            assert!(!over(&closed, waits - 1) && over(&closed, waits));
            assert!(!over(&open, settings.idle_ns - 1) && over(&open, settings.idle_ns));
        }
    }

    #[test]
    fn place_is_due_a_second_after_the_last_look() {
        let place = NatQueued {
            looked_ns: 1000,
            ..NatQueued::zeroed()
        };
        assert!(place.is_due(1000 + LOOK_AGAIN_NS));
        assert!(!place.is_due(999 + LOOK_AGAIN_NS) && !place.is_due(990));
    }

    proptest! {
        /// Whatever was there before, such as of another room.
        #[test]
        fn queue_gives_first_what_was_added_first_and_no_place_twice(
            room in 0_u32..20,
            before in any::<[u32; 2]>(),
            adds in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut queue = NatQueue { first: before[0] % 40, count: before[1] % 40 };
            while queue.first(room).is_some() {
                queue.take(room);
            }
            let mut model = std::collections::VecDeque::new();
            for is_added in adds {
                if is_added {
                    let place = queue.add(room);
                    prop_assert_eq!(place.is_some(), model.len() < room as usize);
                    if let Some(place) = place {
                        prop_assert!(place < room && !model.contains(&place));
                        model.push_back(place);
                    }
                } else {
                    let first = queue.first(room);
                    prop_assert_eq!(first, model.pop_front());
                    if first.is_some() {
                        queue.take(room);
                    }
                }
                prop_assert_eq!(queue.count as usize, model.len());
            }
        }
    }
}
