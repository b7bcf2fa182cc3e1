//! UDP services that record every flow (`affinity = "flow"`), in the kernel.

use std::thread;
use std::time::{Duration, Instant};

use balancer_common::layout::{Member, ServiceOptions, Slot, Target};
use balancer_common::verdict::Reason;
use balancer_tests::frames::Packet;
use balancer_tests::model::build::{READY, l2};
use balancer_user::dataplane::State;

use crate::fixture::{Fixture, Moved, four_services, tcp_v4, udp_v4};

const HOUR: Duration = Duration::from_secs(3600);

fn recording(members: &[Member], slot: Slot, idle: Duration) -> State {
    let mut state = four_services(members, &[slot]);
    for service in [3, 4] {
        let service = state.services.get_mut(&service).unwrap();
        service.flags = Target::AFFINITY_FLOW;
        service.options = ServiceOptions {
            flow_idle_ns: idle.as_nanos() as u64,
            ..ServiceOptions::default()
        };
    }
    state
}

fn state(slot: Slot) -> State {
    recording(&[l2(0), l2(1), l2(2)], slot, HOUR)
}

fn client(port: u16) -> Vec<u8> {
    let mut packet = udp_v4();
    packet.source.set_port(port);
    packet.build()
}

/// Who gets a datagram of this client, and whether it counted as a new flow.
fn send(fixture: &mut Fixture, port: u16) -> (u16, bool) {
    let (outcome, moved) = fixture.run(&client(port));
    let member = outcome.member.unwrap();
    let is_new = moved.members[&u32::from(member)][2] == 1;
    let flows = u64::from(is_new);
    assert_eq!(moved, Moved::forwarded(u32::from(member), 28, flows));
    (member, is_new)
}

#[test]
fn flow_stays_through_changes_and_counts_once() {
    let mut fixture = Fixture::new(&state(Slot::settled(0)));
    // One that was seen once, one twice, one three times.
    assert_eq!(send(&mut fixture, 1), (0, true));
    for expected in [(0, true), (0, false)] {
        assert_eq!(send(&mut fixture, 2), expected);
    }
    for expected in [(0, true), (0, false), (0, false)] {
        assert_eq!(send(&mut fixture, 3), expected);
    }
    for slot in [
        Slot::settled(1),
        Slot::unsettled(2, 1),
        Slot::settled(2).in_era(1),
    ] {
        fixture.trial.change(&state(slot)).unwrap();
        for port in [1, 2, 3] {
            assert_eq!(send(&mut fixture, port), (0, false), "{slot:?}");
        }
    }
    assert_eq!(send(&mut fixture, 4), (2, true));
}

#[test]
fn flow_of_a_member_that_died_begins_anew_and_does_not_go_back() {
    let both = |dead: bool| {
        let flags = if dead { READY & !Member::ALIVE } else { READY };
        let first = Member { flags, ..l2(0) };
        recording(&[first, l2(1)], Slot::settled(u16::from(dead)), HOUR)
    };
    let mut fixture = Fixture::new(&both(false));
    assert_eq!(send(&mut fixture, 1), (0, true));
    assert_eq!(send(&mut fixture, 1), (0, false));
    fixture.trial.change(&both(true)).unwrap();
    assert_eq!(send(&mut fixture, 1), (1, true));
    fixture.trial.change(&both(false)).unwrap();
    assert_eq!(send(&mut fixture, 1), (1, false));
}

/// A record may outlast the idle time by as much again, where that is less
/// than a second.
#[test]
fn flow_ends_when_it_was_silent_for_the_idle_time() {
    const IDLE: Duration = Duration::from_millis(200);
    let state = |owner| recording(&[l2(0), l2(1)], Slot::settled(owner), IDLE);
    let mut fixture = Fixture::new(&state(0));
    assert_eq!(send(&mut fixture, 1), (0, true));
    fixture.trial.change(&state(1)).unwrap();
    // It lives on as long as it is not silent.
    let began = Instant::now();
    let mut last = began;
    while began.elapsed() < 5 * IDLE {
        let (member, is_new) = send(&mut fixture, 1);
        let silence = std::mem::replace(&mut last, Instant::now()).elapsed();
        assert!(
            (member, is_new) == (0, false) || silence > IDLE,
            "silent for {silence:?}"
        );
    }
    let silent = Instant::now();
    while silent.elapsed() < 2 * IDLE + Duration::from_millis(20) {
        thread::yield_now();
    }
    assert_eq!(send(&mut fixture, 1), (1, true));
}

/// Both tables hold 1,024 records; the flood is twenty times that.
#[test]
fn flood_of_new_flows_evicts_no_live_one() {
    const LIVE: u16 = 500;
    let small = |owner| {
        let mut state = state(Slot::settled(owner));
        state.settings.flow_records = 1024;
        state
    };
    let mut fixture = Fixture::new(&small(0));
    for port in 0..LIVE {
        for is_new in [true, false] {
            assert_eq!(send(&mut fixture, port), (0, is_new));
        }
    }
    let before = fixture.counters();
    for port in 40_000..60_480 {
        fixture.trial.run(&client(port)).unwrap();
    }
    let moved = crate::fixture::moved(&before, &fixture.counters());
    assert_eq!(moved.members[&0], [20_480, 20_480 * 28, 20_480]);
    assert_eq!(moved.reasons, [(Reason::Forwarded, 20_480)]);
    fixture.trial.change(&small(1)).unwrap();
    for port in 0..LIVE {
        assert_eq!(send(&mut fixture, port), (0, false), "port {port}");
    }
}

#[test]
fn tcp_service_beside_it_goes_by_its_own_rules() {
    let mut fixture = Fixture::new(&state(Slot::settled(0)));
    assert_eq!(send(&mut fixture, 40_000), (0, true));
    fixture.trial.change(&state(Slot::settled(1))).unwrap();
    let tcp = Packet {
        flags: balancer_tests::frames::packet::ACK,
        ..tcp_v4()
    };
    let (outcome, moved) = fixture.run(&tcp.build());
    assert_eq!(outcome.member, Some(1));
    assert_eq!(moved, Moved::forwarded(1, 40, 0));
}
