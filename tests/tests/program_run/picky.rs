//! Services that ask for more than a hash: QUIC server ids, lists of sources,
//! limits of new flows, and timed handshakes.

use std::time::Duration;

use balancer_common::layout::{HandshakeCounters, Member, Slot};
use balancer_common::verdict::Reason;
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::{ACK, RST, SYN};
use balancer_tests::lab::wait_for;
use balancer_tests::model::build::{
    READY, TCP, UDP, gue_v4, key, l2, limit, quic, service, sources,
};
use balancer_user::dataplane::trial::Action;
use balancer_user::dataplane::{ServiceState, State};

use crate::fixture::{Fixture, Moved, at, tcp_v4, tcp_v6, udp_v4};

/// One service, number 1.
fn only_service(service: ServiceState) -> State {
    let mut state = State::empty();
    state.services.insert(1, service);
    state
}

/// Port 80 of a VIP; member 0 has the only slot.
fn plain(address: &str, protocol: u8, members: Vec<Member>) -> ServiceState {
    let keys = vec![key(address, 80, protocol)];
    service(keys, members, vec![Slot::settled(0)])
}

fn quic_service() -> ServiceState {
    let members = vec![l2(0), gue_v4(1), l2(2)];
    quic(plain("192.0.2.1", UDP, members), 1, 2)
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    let packet = Packet {
        payload_len: payload.len() + 24,
        payload: payload.to_vec(),
        ..udp_v4()
    };
    packet.build()
}

/// Short header, then a connection id that names member `index`.
fn short_header(index: u8) -> Vec<u8> {
    datagram(&[0x43, 0x99, 0, index + 1, 7, 7, 7, 7])
}

#[test]
fn short_header_goes_to_the_member_its_connection_id_names() {
    let mut fixture = Fixture::new(&only_service(quic_service()));
    for index in 0..3 {
        let (outcome, moved) = fixture.run(&short_header(index));
        assert_eq!(outcome.member, Some(u16::from(index)));
        assert_eq!(outcome.reason, Reason::Forwarded);
        let ip_len = 20 + 8 + 8 + 24;
        assert_eq!(moved, Moved::forwarded(u32::from(index), ip_len, 0));
    }
}

#[test]
fn connection_keeps_its_member_when_the_client_moves() {
    let mut fixture = Fixture::new(&only_service(quic_service()));
    for port in 40_000..40_100 {
        let mut packet = udp_v4();
        packet.source = at(&format!("203.0.113.{}:{port}", port % 200));
        packet.payload = vec![0x40, 0, 0, 3];
        packet.payload_len = 60;
        let (outcome, _) = fixture.run(&packet.build());
        assert_eq!(outcome.member, Some(2), "from port {port}");
    }
}

#[test]
fn initial_goes_by_the_hash_and_handshake_by_its_connection_id() {
    let mut fixture = Fixture::new(&only_service(quic_service()));
    let long = |kind: u8| datagram(&[0xc0 | kind << 4, 0, 0, 0, 1, 8, 9, 0, 3, 0, 0, 0, 0, 0]);
    for (kind, member) in [(0, 0), (1, 0), (2, 2), (3, 0)] {
        let (outcome, _) = fixture.run(&long(kind));
        assert_eq!(outcome.member, Some(member), "packet type {kind}");
        assert_eq!(outcome.reason, Reason::Forwarded);
    }
}

#[test]
fn id_that_nobody_alive_has_goes_by_the_hash_and_is_named() {
    let mut service = quic_service();
    service.members[2].flags = READY & !Member::ALIVE;
    let mut fixture = Fixture::new(&only_service(service));
    for frame in [short_header(2), short_header(9)] {
        let (outcome, moved) = fixture.run(&frame);
        assert_eq!(outcome.action, Action::Tx);
        assert_eq!(outcome.member, Some(0));
        assert_eq!(moved.reasons, [(Reason::UnknownServerId, 1)]);
    }
}

#[test]
fn connections_go_on_where_no_backend_takes_new_ones() {
    let mut service = quic_service();
    service.table = balancer_user::dataplane::Table::new(Vec::new().into());
    let mut fixture = Fixture::new(&only_service(service));
    assert_eq!(fixture.run(&short_header(1)).0.member, Some(1));
    let (outcome, _) = fixture.run(&datagram(&[0xc0, 0, 0, 0, 1, 8]));
    assert_eq!(outcome.reason, Reason::NoBackend);
}

#[test]
fn longest_prefix_says_whether_a_source_is_let_in() {
    let rules = ["-203.0.113.0/24", "+203.0.113.0/28", "-203.0.113.5/32"];
    let state = only_service(sources(plain("192.0.2.1", TCP, vec![l2(0)]), &rules));
    let mut fixture = Fixture::new(&state);
    for (source, reason) in [
        ("203.0.113.4:1000", Reason::Forwarded),
        ("203.0.113.5:1000", Reason::SourceDenied),
        ("203.0.113.99:1000", Reason::SourceDenied),
        ("198.51.100.1:1000", Reason::SourceNotAllowed),
    ] {
        let packet = Packet {
            source: at(source),
            ..tcp_v4()
        };
        let (outcome, moved) = fixture.run(&packet.build());
        assert_eq!(outcome.reason, reason, "{source}");
        assert_eq!(moved.reasons, [(reason, 1)]);
    }
}

#[test]
fn lists_change_with_the_state_and_leave_nothing_behind() {
    let with =
        |rules: &[&str]| only_service(sources(plain("2001:db8::1", TCP, vec![l2(0)]), rules));
    let states = [with(&["-2001:db8:c::/48"]), with(&["+2001:db8:c::/48"])];
    let mut trial = balancer_user::dataplane::trial::Trial::load_all(&states[0]).unwrap();
    for round in 0..6 {
        let expected = [Reason::SourceDenied, Reason::Forwarded][round % 2];
        let outcome = trial.run(&tcp_v6().build()).unwrap();
        assert_eq!(outcome.reason, expected, "round {round}");
        assert_eq!(trial.read_state(), states[round % 2]);
        trial.change(&states[(round + 1) % 2]).unwrap();
        trial.settle().unwrap();
    }
}

#[test]
fn source_prefix_opens_its_burst_of_flows_and_keeps_the_open_ones() {
    let mut mask = [0; 16];
    mask[..3].fill(255);
    let state = only_service(limit(plain("192.0.2.1", TCP, vec![l2(0)]), 5, mask));
    let mut fixture = Fixture::new(&state);
    let mut send = |source: &str, flags| {
        let packet = Packet {
            source: at(source),
            flags,
            ..tcp_v4()
        };
        fixture.run(&packet.build()).0.reason
    };
    for number in 1..=5 {
        assert_eq!(
            send(&format!("203.0.113.{number}:9"), SYN),
            Reason::Forwarded
        );
    }
    assert_eq!(send("203.0.113.77:9", SYN), Reason::SourceLimited);
    assert_eq!(send("203.0.113.77:9", ACK), Reason::Forwarded);
    assert_eq!(send("203.0.114.77:9", SYN), Reason::Forwarded);
}

#[test]
fn limit_gives_a_token_back_with_time() {
    let mut service = limit(plain("192.0.2.1", TCP, vec![l2(0)]), 1, [255; 16]);
    service.options.limit_interval_ns = 50_000_000;
    let mut fixture = Fixture::new(&only_service(service));
    let frame = tcp_v4().build();
    assert_eq!(fixture.run(&frame).0.reason, Reason::Forwarded);
    assert_eq!(fixture.run(&frame).0.reason, Reason::SourceLimited);
    wait_for("a token", Duration::from_secs(5), || {
        (fixture.run(&frame).0.reason == Reason::Forwarded).then_some(())
    })
    .unwrap();
}

fn timed(service: ServiceState) -> Fixture {
    let mut state = only_service(service);
    state.settings.handshake_sample = u32::MAX;
    Fixture::new(&state)
}

fn with_flags(flags: u8) -> Vec<u8> {
    Packet { flags, ..tcp_v4() }.build()
}

fn handshakes(fixture: &mut Fixture) -> HandshakeCounters {
    fixture.counters().handshakes[&0]
}

#[test]
fn handshake_is_timed_from_the_first_syn_to_the_ack() {
    let mut fixture = timed(plain("192.0.2.1", TCP, vec![l2(0)]));
    for flags in [SYN, SYN, ACK, ACK, RST | ACK] {
        fixture.run(&with_flags(flags));
    }
    let counted = handshakes(&mut fixture);
    let told = (counted.started, counted.repeated, counted.finished);
    assert_eq!(told, (1, 1, 1));
    assert_eq!((counted.abandoned, counted.displaced), (0, 0));
    assert_eq!(counted.histogram.iter().sum::<u64>(), 1);
    assert_eq!(fixture.counters().members[&0].resets, 1);
}

#[test]
fn handshake_that_nobody_ends_is_abandoned_after_three_seconds() {
    let mut fixture = timed(plain("192.0.2.1", TCP, vec![l2(0)]));
    fixture.run(&with_flags(SYN));
    assert_eq!(handshakes(&mut fixture).abandoned, 0);
    wait_for("the end of patience", Duration::from_secs(10), || {
        (handshakes(&mut fixture).abandoned == 1).then_some(())
    })
    .unwrap();
    fixture.run(&with_flags(ACK));
    assert_eq!(handshakes(&mut fixture).finished, 0);
}

#[test]
fn only_the_share_of_flows_asked_for_is_timed() {
    let mut state = only_service(plain("2001:db8::1", TCP, vec![l2(0)]));
    state.flow_keys = balancer_tests::model::build::flow_keys(3);
    state.settings.handshake_sample = u32::MAX / 8;
    let mut fixture = Fixture::new(&state);
    for port in 10_000..14_000 {
        let mut packet = tcp_v6();
        packet.source.set_port(port);
        fixture.run(&packet.build());
    }
    let started = handshakes(&mut fixture).started;
    assert!((400..600).contains(&started), "{started} of 4000");
}

#[test]
fn udp_has_no_handshake() {
    let mut fixture = timed(plain("192.0.2.1", UDP, vec![l2(0)]));
    fixture.run(&udp_v4().build());
    assert_eq!(handshakes(&mut fixture), HandshakeCounters::default());
}
