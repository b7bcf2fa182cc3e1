//! Forwarding by `nat`, there and back: the exact bytes, with checksums summed
//! in full by other code, and what becomes of translations with time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use balancer_common::layout::{Member, NatSettings, Slot};
use balancer_common::verdict::Reason;
use balancer_tests::frames::packet::{ACK, FIN, RST, SYN};
use balancer_tests::frames::{Packet, hex};
use balancer_tests::lab::checksums::judge;
use balancer_tests::model::build::{TCP, UDP, key, nat_v4, nat_v6, service};
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::Action;

use crate::fixture::{CLIENT_V4, CLIENT_V6, Fixture, Moved, SERVICE_V4, SERVICE_V6, at};
use crate::random::with_egress;
use crate::translation::{sent, tcp, translated, udp};

const HOUR_NS: u64 = 3_600_000_000_000;
/// Where member 7 of a test is, with its port rewritten and not.
pub(crate) const BACKEND_V4: &str = "10.1.0.7:8080";
const BACKEND_V6: &str = "[fd00::7]:80";
/// Ethernet addresses of the answer to what a test sends.
const BACK_TO_CLIENT: &str = "02cc00000001 02aa00000001";

/// Both families, TCP and UDP; member 7 has all slots and rewrites IPv4's port.
pub(crate) fn state() -> State {
    let mut state = State::empty();
    state.settings.nat = NatSettings {
        idle_ns: HOUR_NS,
        closed_ns: HOUR_NS,
        ..NatSettings::default()
    };
    let services = [
        ("192.0.2.1", TCP, nat_v4(7, 8080)),
        ("2001:db8::1", TCP, nat_v6(7, 0)),
        ("192.0.2.1", UDP, nat_v4(7, 8080)),
        ("2001:db8::1", UDP, nat_v6(7, 0)),
    ];
    for (number, (address, protocol, member)) in (1..).zip(services) {
        let keys = vec![key(address, 80, protocol)];
        let service = service(keys, vec![member], vec![Slot::settled(0)]);
        state.services.insert(number, service);
    }
    state
}

/// A second service of the same backend.
fn with_neighbour(mut state: State) -> State {
    let keys = vec![key("192.0.2.2", 81, TCP)];
    let service = service(keys, vec![nat_v4(7, 8080)], vec![Slot::settled(0)]);
    state.services.insert(5, service);
    state
}

/// A round trip; `length` is that of the request's IP packet.
fn assert_there_and_back(request: &Packet, reply: &Packet, ethernet: &str, length: u64) {
    let mut fixture = Fixture::new(&state());
    let [client, service] = [request.source, request.destination].map(|end| end.to_string());
    let [backend, _] = [reply.source, reply.destination].map(|end| end.to_string());
    let (there, moved) = sent(&mut fixture, request);
    assert_eq!(there.action, Action::Tx);
    let expected = translated(request, ethernet, &client, &backend);
    assert_eq!(hex(&there.frame), expected);
    let flows = u64::from(request.protocol == TCP && request.flags == SYN);
    assert_eq!(moved, Moved::forwarded(7, length, flows));

    let (back, moved) = sent(&mut fixture, reply);
    assert_eq!(back.action, Action::Tx);
    assert_eq!(back.service, there.service);
    let expected = translated(reply, BACK_TO_CLIENT, &service, &client);
    assert_eq!(hex(&back.frame), expected);
    assert_eq!(moved, Moved::only(Reason::ReplyForwarded));
}

/// The IPv4 member sends from the address that the frame came to.
const TO_V4: &str = "020000000007 02aa00000001";
const TO_V6: &str = "020000000007 02bb00000007";

#[test]
fn tcp_gets_there_and_back_with_right_checksums() {
    let request = tcp(CLIENT_V4, SERVICE_V4, SYN);
    let reply = tcp(BACKEND_V4, CLIENT_V4, SYN | ACK);
    assert_there_and_back(&request, &reply, TO_V4, 40);
    let request = tcp(CLIENT_V6, SERVICE_V6, SYN);
    let reply = tcp(BACKEND_V6, CLIENT_V6, SYN | ACK);
    assert_there_and_back(&request, &reply, TO_V6, 60);
}

#[test]
fn udp_gets_there_and_back_with_right_checksums() {
    // Odd lengths, options and what Ethernet pads with change no sum.
    let request = Packet {
        options: vec![1; 8],
        padding_len: 5,
        ..udp(CLIENT_V4, SERVICE_V4, 33)
    };
    let reply = udp(BACKEND_V4, CLIENT_V4, 1001);
    assert_there_and_back(&request, &reply, TO_V4, 28 + 8 + 33);
    let request = udp(CLIENT_V6, SERVICE_V6, 33);
    let reply = udp(BACKEND_V6, CLIENT_V6, 1001);
    assert_there_and_back(&request, &reply, TO_V6, 48 + 33);
}

#[test]
fn vlan_tags_stay_on_the_frame() {
    let tagged = |packet: Packet| Packet {
        vlans: vec![100, 200],
        ..packet
    };
    let request = tagged(tcp(CLIENT_V6, SERVICE_V6, SYN));
    let reply = tagged(tcp(BACKEND_V6, CLIENT_V6, SYN | ACK));
    assert_there_and_back(&request, &reply, TO_V6, 60);
}

/// RFC 768: a datagram without a checksum has none on the way either.
#[test]
fn udp_without_a_checksum_gets_none() {
    for (source, destination) in [(CLIENT_V4, SERVICE_V4), (CLIENT_V6, SERVICE_V6)] {
        let mut fixture = Fixture::new(&state());
        let packet = Packet {
            transport_checksum: 0,
            ..udp(source, destination, 4)
        };
        let (outcome, _) = fixture.run(&packet.build());
        let checksum_at = outcome.frame.len() - 4 - 2;
        assert_eq!(outcome.frame[checksum_at..][..2], [0, 0]);
    }
}

/// Of 65,536 clients' ports, some give each checksum there is.
#[test]
fn udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    let mut fixture = Fixture::new(&state());
    for port in 1024..=u16::MAX {
        let client = SocketAddr::new(at(CLIENT_V4).ip(), port).to_string();
        let packet = udp(&client, SERVICE_V4, 0);
        let outcome = fixture.trial.run(&packet.build()).unwrap();
        judge(&outcome.frame).unwrap();
        let checksum = &outcome.frame[14 + 20 + 6..][..2];
        assert_ne!(checksum, [0, 0], "port {port}");
        if checksum == [0xff, 0xff] {
            return;
        }
    }
    panic!("no port gave it");
}

#[test]
fn last_hop_is_not_used_up() {
    let mut fixture = Fixture::new(&state());
    let last = |packet| Packet { ttl: 1, ..packet };
    for (request, reply, counter) in [
        (
            tcp(CLIENT_V4, SERVICE_V4, SYN),
            tcp(BACKEND_V4, CLIENT_V4, ACK),
            1,
        ),
        (
            tcp(CLIENT_V6, SERVICE_V6, SYN),
            tcp(BACKEND_V6, CLIENT_V6, ACK),
            2,
        ),
    ] {
        let (outcome, moved) = sent(&mut fixture, &last(request.clone()));
        assert_eq!(outcome.action, Action::Drop);
        assert_eq!(moved, Moved::only(Reason::TtlExpired));
        sent(&mut fixture, &request);
        let (outcome, moved) = sent(&mut fixture, &last(reply));
        assert_eq!(
            (outcome.action, outcome.service),
            (Action::Drop, Some(counter))
        );
        assert_eq!(moved, Moved::only(Reason::TtlExpired));
    }
}

/// What backends have to do with others, probes of this host among it.
#[test]
fn packets_of_a_backend_that_answer_nobody_pass() {
    let mut fixture = Fixture::new(&state());
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
    for packet in [
        tcp(BACKEND_V4, "203.0.113.1:40001", ACK),
        tcp(BACKEND_V4, "203.0.113.2:40000", ACK),
        tcp("10.1.0.7:80", CLIENT_V4, ACK),
        tcp("10.1.0.8:8080", CLIENT_V4, ACK),
        udp(BACKEND_V4, CLIENT_V4, 0),
    ] {
        let (outcome, moved) = sent(&mut fixture, &packet);
        assert_eq!(outcome.action, Action::Pass);
        assert_eq!(outcome.frame, packet.build());
        assert_eq!(moved, Moved::only(Reason::NoService));
    }
}

/// Faults of a reply are named as those of a request.
#[test]
fn broken_reply_is_dropped_by_name() {
    let mut fixture = Fixture::new(&state());
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
    let broken = Packet {
        data_offset: Some(4),
        ..tcp(BACKEND_V4, CLIENT_V4, ACK)
    };
    let (outcome, moved) = fixture.run(&broken.build());
    assert_eq!((outcome.action, outcome.service), (Action::Drop, Some(1)));
    assert_eq!(moved, Moved::only(Reason::BadTcpHeader));
}

#[test]
fn reply_leaves_by_the_interface_that_its_client_is_behind() {
    with_egress("nat-way-back", |interface| {
        let mut fixture = Fixture::new(&state());
        let request = tcp(CLIENT_V4, SERVICE_V4, SYN).build();
        let reply = tcp(BACKEND_V4, CLIENT_V4, SYN | ACK).build();
        let there = fixture.trial.run_from(interface, &request).unwrap();
        assert_eq!(there.action, Action::Tx);
        let back = fixture.trial.run(&reply).unwrap();
        assert_eq!(back.action, Action::Redirect);
        assert_eq!(back.reason, Reason::ReplyForwarded);
        let back = fixture.trial.run_from(interface, &reply).unwrap();
        assert_eq!(back.action, Action::Tx);
        // The flow now comes in elsewhere, and replies follow it.
        fixture.trial.run(&request).unwrap();
        let back = fixture.trial.run(&reply).unwrap();
        assert_eq!(back.action, Action::Tx);
    });
}

#[test]
fn replies_follow_the_client_to_another_router() {
    let mut fixture = Fixture::new(&state());
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
    let mut elsewhere = tcp(CLIENT_V4, SERVICE_V4, ACK);
    elsewhere.ethernet[6..].copy_from_slice(&[2, 0xcc, 0, 0, 0, 2]);
    sent(&mut fixture, &elsewhere);
    let (back, _) = sent(&mut fixture, &tcp(BACKEND_V4, CLIENT_V4, ACK));
    assert_eq!(hex(&back.frame[..12]), "02cc0000000202aa00000001");
}

/// To the backend, two flows of a client's port are the same one.
#[test]
fn second_flow_of_a_client_and_backend_does_not_take_the_first_ones_place() {
    let mut fixture = Fixture::new(&with_neighbour(state()));
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
    let other = tcp(CLIENT_V4, "192.0.2.2:81", SYN);
    let (outcome, moved) = sent(&mut fixture, &other);
    assert_eq!((outcome.action, outcome.service), (Action::Drop, Some(5)));
    assert_eq!(moved, Moved::only(Reason::NatConflict));
    let (back, _) = sent(&mut fixture, &tcp(BACKEND_V4, CLIENT_V4, ACK));
    assert_eq!(back.service, Some(1));
    // One finished side is not the end.
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, FIN | ACK));
    let (_, moved) = sent(&mut fixture, &other);
    assert_eq!(moved, Moved::only(Reason::NatConflict));
}

/// Sends the packet until its flow has taken over; gives how long it took.
fn until_forwarded(fixture: &mut Fixture, packet: &Packet) -> Duration {
    let begin = Instant::now();
    let frame = packet.build();
    while fixture.trial.run(&frame).unwrap().reason != Reason::Forwarded {
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::yield_now();
    }
    begin.elapsed()
}

#[test]
fn closed_flow_is_replaced_once_its_time_is_over() {
    let endings: [&[(bool, u8)]; 4] = [
        &[(true, FIN | ACK), (false, FIN | ACK)],
        &[(false, FIN | ACK), (true, FIN | ACK)],
        &[(true, RST)],
        &[(false, RST | ACK)],
    ];
    for ending in endings {
        let mut state = with_neighbour(state());
        state.settings.nat.closed_ns = 300_000_000;
        let mut fixture = Fixture::new(&state);
        sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
        for (from_client, flags) in ending {
            let packet = if *from_client {
                tcp(CLIENT_V4, SERVICE_V4, *flags)
            } else {
                tcp(BACKEND_V4, CLIENT_V4, *flags)
            };
            let (outcome, _) = sent(&mut fixture, &packet);
            assert_eq!(outcome.action, Action::Tx);
        }
        let other = tcp(CLIENT_V4, "192.0.2.2:81", SYN);
        let waited = until_forwarded(&mut fixture, &other);
        // The kernel's coarse clock is up to a tick behind.
        assert!(waited > Duration::from_millis(250), "{waited:?}");
        let (back, _) = sent(&mut fixture, &tcp(BACKEND_V4, CLIENT_V4, SYN | ACK));
        assert_eq!(back.service, Some(5));
        let (_, moved) = sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, ACK));
        assert_eq!(moved, Moved::only(Reason::NatConflict));
    }
}

#[test]
fn silent_flow_is_replaced_once_its_time_is_over() {
    let mut state = with_neighbour(state());
    state.settings.nat.idle_ns = 300_000_000;
    let mut fixture = Fixture::new(&state);
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, ACK));
    let waited = until_forwarded(&mut fixture, &tcp(CLIENT_V4, "192.0.2.2:81", SYN));
    assert!(waited > Duration::from_millis(250), "{waited:?}");
}

/// A SYN on a closed flow opens it again.
#[test]
fn client_that_uses_its_port_again_is_no_closed_flow() {
    let mut state = with_neighbour(state());
    state.settings.nat.closed_ns = 1;
    let mut fixture = Fixture::new(&state);
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, RST));
    sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
    let (_, moved) = sent(&mut fixture, &tcp(CLIENT_V4, "192.0.2.2:81", SYN));
    assert_eq!(moved, Moved::only(Reason::NatConflict));
}

#[test]
fn member_on_another_interface_is_redirected_to() {
    with_egress("nat-redirect", |egress| {
        let mut state = state();
        let member = Member {
            egress,
            ..nat_v4(7, 8080)
        };
        let keys = vec![key("192.0.2.1", 80, TCP)];
        let service = service(keys, vec![member], vec![Slot::settled(0)]);
        state.services.insert(1, service);
        let mut fixture = Fixture::new(&state);
        let (outcome, moved) = sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
        assert_eq!(outcome.action, Action::Redirect);
        assert_eq!(moved, Moved::forwarded(7, 40, 1));
    });
}
