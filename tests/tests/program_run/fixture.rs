//! A trial whose counters are read around each frame.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use balancer_common::layout::{Member, Slot};
use balancer_common::verdict::Reason;
use balancer_tests::frames::Packet;
use balancer_tests::model::build::{TCP, UDP, key, service};
use balancer_user::dataplane::trial::{Outcome, Trial};
use balancer_user::dataplane::{Counters, State};

/// Where named tests' clients are.
pub(crate) const CLIENT_V4: &str = "203.0.113.1:40000";
/// As `CLIENT_V4`.
pub(crate) const CLIENT_V6: &str = "[2001:db8:c::1]:40000";
/// The service of named tests, for TCP and UDP.
pub(crate) const SERVICE_V4: &str = "192.0.2.1:80";
/// As `SERVICE_V4`.
pub(crate) const SERVICE_V6: &str = "[2001:db8::1]:80";

/// A socket address in a test's words.
pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// A SYN to the service.
pub(crate) fn tcp_v4() -> Packet {
    Packet::tcp(at(CLIENT_V4), at(SERVICE_V4))
}

/// As `tcp_v4`.
pub(crate) fn tcp_v6() -> Packet {
    Packet::tcp(at(CLIENT_V6), at(SERVICE_V6))
}

/// A datagram to the service.
pub(crate) fn udp_v4() -> Packet {
    Packet::udp(at(CLIENT_V4), at(SERVICE_V4))
}

/// Four services, one a family and protocol, with the same members and slots:
/// 1 and 2 are TCP over IPv4 and IPv6, 3 and 4 UDP.
pub(crate) fn four_services(members: &[Member], slots: &[Slot]) -> State {
    let mut state = State::empty();
    let ways_in = [
        ("192.0.2.1", TCP),
        ("2001:db8::1", TCP),
        ("192.0.2.1", UDP),
        ("2001:db8::1", UDP),
    ];
    for (number, (address, protocol)) in (1..).zip(ways_in) {
        let keys = vec![key(address, 80, protocol)];
        let service = service(keys, members.to_vec(), slots.to_vec());
        state.services.insert(number, service);
    }
    state
}

/// The four services with one member that has every slot.
pub(crate) fn only(member: Member) -> State {
    four_services(&[member], &[Slot::settled(0)])
}

/// What counters moved, and by how much; those that did not are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Packets, bytes and flows by counter.
    pub(crate) members: BTreeMap<u32, [u64; 3]>,
    pub(crate) reasons: Vec<(Reason, u64)>,
}

impl Moved {
    /// One packet with this reason, and nobody got it.
    pub(crate) fn only(reason: Reason) -> Self {
        Self {
            members: BTreeMap::new(),
            reasons: vec![(reason, 1)],
        }
    }

    /// One packet to the member with that counter.
    pub(crate) fn forwarded(counter: u32, bytes: u64, flows: u64) -> Self {
        Self {
            members: BTreeMap::from([(counter, [1, bytes, flows])]),
            reasons: vec![(Reason::Forwarded, 1)],
        }
    }
}

/// A loaded copy of the program.
pub(crate) struct Fixture {
    pub(crate) trial: Trial,
}

impl Fixture {
    pub(crate) fn new(state: &State) -> Self {
        Self {
            trial: Trial::load(state).unwrap(),
        }
    }

    /// Runs one frame; all counters are looked at, whoever they belong to.
    pub(crate) fn run(&mut self, frame: &[u8]) -> (Outcome, Moved) {
        let before = self.counters();
        let outcome = self.trial.run(frame).unwrap();
        (outcome, moved(&before, &self.counters()))
    }

    pub(crate) fn counters(&mut self) -> Counters {
        let all: Vec<u32> = (0..256).collect();
        self.trial.counters(&all).unwrap()
    }
}

/// The difference of two readings.
pub(crate) fn moved(before: &Counters, after: &Counters) -> Moved {
    let mut members = BTreeMap::new();
    for (counter, new) in &after.members {
        let old = before.members[counter];
        let by = [
            new.packets - old.packets,
            new.bytes - old.bytes,
            new.flows - old.flows,
        ];
        if by != [0; 3] {
            members.insert(*counter, by);
        }
    }
    let reasons = before.reasons.iter().zip(&after.reasons);
    let reasons = reasons
        .map(|((reason, old), (_, new))| (*reason, new - old))
        .filter(|(_, by)| *by > 0)
        .collect();
    Moved { members, reasons }
}
