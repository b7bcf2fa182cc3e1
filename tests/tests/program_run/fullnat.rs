//! Forwarding by `fullnat`: exact bytes there and back, ports that run out and
//! that are used again, and flows that stay with their member.

use std::time::{Duration, Instant};

use balancer_common::layout::{Member, NatSettings, Slot};
use balancer_common::verdict::Reason;
use balancer_tests::frames::packet::{ACK, FIN, RST, SYN};
use balancer_tests::frames::{Packet, hex};
use balancer_tests::model::build::{TCP, UDP, full, key, nat_v4, nat_v6, pool, service};
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::{Action, Outcome};

use crate::fixture::{CLIENT_V4, CLIENT_V6, Fixture, Moved, SERVICE_V4, SERVICE_V6, at};
use crate::fragments::fragment;
use crate::random::{on_cpu, on_first_cpu};
use crate::translation::{sent, tcp, translated, udp};

const HOUR_NS: u64 = 3_600_000_000_000;
/// Two other clients.
const SECOND: &str = "203.0.113.2:40000";
const THIRD: &str = "203.0.113.3:40000";

/// Both families, TCP and UDP; member 7 has all slots and rewrites IPv4's port.
pub(crate) fn state(pool: NatSettings) -> State {
    // Ports are a CPU's own: these tests say which.
    on_first_cpu();
    let mut state = State::empty();
    state.settings.nat = NatSettings {
        idle_ns: HOUR_NS,
        closed_ns: HOUR_NS,
        ..pool
    };
    let services = [
        ("192.0.2.1", TCP, nat_v4(7, 8080)),
        ("2001:db8::1", TCP, nat_v6(7, 0)),
        ("192.0.2.1", UDP, nat_v4(7, 8080)),
        ("2001:db8::1", UDP, nat_v6(7, 0)),
    ];
    for (number, (address, protocol, member)) in (1..).zip(services) {
        let keys = vec![key(address, 80, protocol)];
        let service = service(keys, vec![full(member)], vec![Slot::settled(0)]);
        state.services.insert(number, service);
    }
    state
}

/// Where the IPv4 packet came from, as the backend sees it.
fn source_of(outcome: &Outcome) -> String {
    let frame = &outcome.frame;
    let port = u16::from_be_bytes([frame[34], frame[35]]);
    format!(
        "{}.{}.{}.{}:{port}",
        frame[26], frame[27], frame[28], frame[29]
    )
}

/// Sends from the client; gives where the backend saw it come from.
fn forwarded(fixture: &mut Fixture, client: &str, flags: u8) -> String {
    let (outcome, _) = sent(fixture, &tcp(client, SERVICE_V4, flags));
    assert_eq!(outcome.reason, Reason::Forwarded);
    source_of(&outcome)
}

fn assert_exhausted(fixture: &mut Fixture, client: &str) {
    let (outcome, moved) = sent(fixture, &tcp(client, SERVICE_V4, SYN));
    assert_eq!(outcome.action, Action::Drop);
    assert_eq!(moved, Moved::only(Reason::PortsExhausted));
}

#[test]
fn flow_gets_there_from_the_pool_and_back_with_right_checksums() {
    let there = ["020000000007 02aa00000001", "020000000007 02bb00000007"];
    let back = "02cc00000001 02aa00000001";
    let (source_v4, source_v6) = ("10.8.0.1:20000", "[fd08::1]:20000");
    let (backend_v4, backend_v6) = ("10.1.0.7:8080", "[fd00::7]:80");
    let cases = [
        (
            tcp(CLIENT_V4, SERVICE_V4, SYN),
            there[0],
            source_v4,
            backend_v4,
        ),
        (
            tcp(CLIENT_V6, SERVICE_V6, SYN),
            there[1],
            source_v6,
            backend_v6,
        ),
        (
            udp(CLIENT_V4, SERVICE_V4, 33),
            there[0],
            source_v4,
            backend_v4,
        ),
        (
            udp(CLIENT_V6, SERVICE_V6, 33),
            there[1],
            source_v6,
            backend_v6,
        ),
    ];
    for (request, ethernet, source, backend) in cases {
        let mut fixture = Fixture::new(&state(pool([1, 1], 10)));
        let (client, service) = (request.source.to_string(), request.destination.to_string());
        // The second packet of a flow leaves as the first did.
        for _ in 0..2 {
            let (outcome, _) = sent(&mut fixture, &request);
            assert_eq!(outcome.action, Action::Tx);
            let expected = translated(&request, ethernet, source, backend);
            assert_eq!(hex(&outcome.frame), expected);
        }
        let reply = Packet {
            source: request.destination,
            destination: request.source,
            ..request.clone()
        };
        let reply = Packet {
            source: at(backend),
            destination: at(source),
            ..reply
        }
        .with_checksum();
        let (outcome, moved) = sent(&mut fixture, &reply);
        assert_eq!(outcome.action, Action::Tx);
        let expected = translated(&reply, back, &service, &client);
        assert_eq!(hex(&outcome.frame), expected);
        assert_eq!(moved, Moved::only(Reason::ReplyForwarded));
    }
}

#[test]
fn every_address_is_used_before_the_next_port() {
    let mut fixture = Fixture::new(&state(pool([2, 0], 2)));
    let clients = [CLIENT_V4, SECOND, THIRD, "203.0.113.4:40000"];
    let sources = clients.map(|client| forwarded(&mut fixture, client, SYN));
    let expected = [
        "10.8.0.1:20000",
        "10.8.0.2:20000",
        "10.8.0.1:20001",
        "10.8.0.2:20001",
    ];
    assert_eq!(sources, expected);
    assert_exhausted(&mut fixture, "203.0.113.5:40000");
    // The flows that are there go on.
    let again = clients.map(|client| forwarded(&mut fixture, client, ACK));
    assert_eq!(again, expected);
}

/// Each gives up when its part is used up, whatever the others have left.
#[test]
fn no_two_cpus_send_from_the_same_port() {
    let online = std::thread::available_parallelism().unwrap().get();
    assert!(online > 1, "one CPU has no other to keep apart from");
    let each = 40;
    let mut fixture = Fixture::new(&state(pool([1, 0], 40)));
    for cpu in 0..2 {
        on_cpu(cpu);
        let part = 20_000 + cpu * each..20_000 + (cpu + 1) * each;
        for (flow, port) in part.enumerate() {
            let client = format!("203.0.113.{}:{}", 10 + cpu, 1024 + flow);
            let source = forwarded(&mut fixture, &client, SYN);
            assert_eq!(source, format!("10.8.0.1:{port}"));
        }
        assert_exhausted(&mut fixture, &format!("203.0.113.{}:99", 10 + cpu));
    }
    // A flow keeps its port on whichever CPU its packets come.
    on_first_cpu();
    let source = forwarded(&mut fixture, "203.0.113.11:1024", ACK);
    assert_eq!(source, format!("10.8.0.1:{}", 20_000 + each));
}

/// Only the first fragment has ports, all have addresses; and a later one
/// finds the flow's, though another CPU would draw others.
#[test]
fn later_fragments_leave_from_the_first_ones_address_and_replies_come_back() {
    let places = [
        (SERVICE_V4, CLIENT_V4, "10.8.0.2:20000", "10.1.0.7:8080"),
        (SERVICE_V6, CLIENT_V6, "[fd08::2]:20000", "[fd00::7]:80"),
    ];
    for (service, client, source, backend) in places {
        let mut fixture = Fixture::new(&state(pool([2, 2], 10)));
        // Another flow has the first address.
        let other = client.replace("40000", "40001");
        assert_ne!(other, client);
        sent(&mut fixture, &udp(&other, service, 0));
        let ends = [at(client), at(service), at(source), at(backend)];
        let [client, service, source, backend] = ends;
        for (from, to, left, right) in [
            (client, service, source, backend),
            (backend, source, service, client),
        ] {
            for offset in [0, 185, 101] {
                let summed = |packet| match offset {
                    0 => Packet::with_checksum(packet),
                    _ => packet,
                };
                let packet = summed(fragment(Packet::udp(from, to), offset, 7));
                let out = fixture.run(&packet.build()).0.frame;
                let expected = Packet {
                    source: left,
                    destination: right,
                    ttl: packet.ttl - 1,
                    ..packet
                };
                let expected = summed(expected).build();
                assert_eq!(hex(&out[14..]), hex(&expected[14..]), "{from} {offset}");
            }
        }
    }
}

#[test]
fn family_without_an_address_has_no_port() {
    let mut fixture = Fixture::new(&state(pool([1, 0], 10)));
    let (outcome, moved) = sent(&mut fixture, &tcp(CLIENT_V6, SERVICE_V6, SYN));
    assert_eq!(outcome.action, Action::Drop);
    assert_eq!(moved, Moved::only(Reason::PortsExhausted));
}

/// The same port serves one flow of each protocol, and of each backend.
#[test]
fn port_is_one_flow_s_only_towards_its_backend() {
    let mut state = state(pool([1, 0], 1));
    let keys = vec![key("192.0.2.2", 80, TCP)];
    let other = service(keys, vec![full(nat_v4(8, 0))], vec![Slot::settled(0)]);
    state.services.insert(5, other);
    let mut fixture = Fixture::new(&state);
    for packet in [
        tcp(CLIENT_V4, SERVICE_V4, SYN),
        udp(CLIENT_V4, SERVICE_V4, 0),
        tcp(SECOND, "192.0.2.2:80", SYN),
    ] {
        let (outcome, _) = sent(&mut fixture, &packet);
        assert_eq!(source_of(&outcome), "10.8.0.1:20000");
    }
    assert_exhausted(&mut fixture, SECOND);
}

/// Sends until the flow has a port; gives how long it took.
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
fn port_of_a_closed_flow_is_used_again_and_no_packet_of_the_old_one_gets_there() {
    let endings: [&[(bool, u8)]; 3] = [
        &[(true, FIN | ACK), (false, FIN | ACK)],
        &[(true, RST)],
        &[(false, RST)],
    ];
    for ending in endings {
        let mut state = state(pool([1, 0], 1));
        state.settings.nat.closed_ns = 300_000_000;
        let mut fixture = Fixture::new(&state);
        let source = forwarded(&mut fixture, CLIENT_V4, SYN);
        for (from_client, flags) in ending {
            let packet = if *from_client {
                tcp(CLIENT_V4, SERVICE_V4, *flags)
            } else {
                tcp("10.1.0.7:8080", &source, *flags)
            };
            let (outcome, _) = sent(&mut fixture, &packet);
            assert_eq!(outcome.action, Action::Tx);
        }
        let waited = until_forwarded(&mut fixture, &tcp(SECOND, SERVICE_V4, SYN));
        // The kernel's coarse clock is up to a tick behind.
        assert!(waited > Duration::from_millis(250), "{waited:?}");
        let (reply, _) = sent(&mut fixture, &tcp("10.1.0.7:8080", &source, ACK));
        assert_eq!(reply.frame[30..34], [203, 0, 113, 2]);
        let (late, moved) = sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, ACK));
        assert_eq!(late.action, Action::Drop);
        assert_eq!(moved, Moved::only(Reason::PortsExhausted));
    }
}

#[test]
fn port_of_a_silent_flow_is_used_again() {
    let mut state = state(pool([1, 0], 1));
    state.settings.nat.idle_ns = 300_000_000;
    let mut fixture = Fixture::new(&state);
    forwarded(&mut fixture, CLIENT_V4, ACK);
    assert_exhausted(&mut fixture, SECOND);
    let waited = until_forwarded(&mut fixture, &tcp(SECOND, SERVICE_V4, SYN));
    assert!(waited > Duration::from_millis(200), "{waited:?}");
}

/// The backend may still have the old connection (TIME-WAIT).
#[test]
fn syn_on_a_closed_flow_gets_another_port() {
    let mut fixture = Fixture::new(&state(pool([1, 0], 10)));
    assert_eq!(forwarded(&mut fixture, CLIENT_V4, SYN), "10.8.0.1:20000");
    // Sent again, and closed by one side only.
    assert_eq!(forwarded(&mut fixture, CLIENT_V4, SYN), "10.8.0.1:20000");
    assert_eq!(forwarded(&mut fixture, CLIENT_V4, FIN), "10.8.0.1:20000");
    assert_eq!(forwarded(&mut fixture, CLIENT_V4, RST), "10.8.0.1:20000");
    assert_eq!(forwarded(&mut fixture, CLIENT_V4, ACK), "10.8.0.1:20000");
    assert_eq!(forwarded(&mut fixture, CLIENT_V4, SYN), "10.8.0.1:20001");
    assert_eq!(forwarded(&mut fixture, CLIENT_V4, ACK), "10.8.0.1:20001");
}

/// Two members; the slot is the first one's, or after a change the second's.
fn two_members(state: &mut State, owner: u16, first: Member) {
    let members = vec![full(first), full(nat_v4(8, 0))];
    let keys = vec![key("192.0.2.1", 80, TCP)];
    let service = service(keys, members, vec![Slot::settled(owner)]);
    state.services.insert(1, service);
}

#[test]
fn flow_stays_with_its_member_while_that_lives() {
    let mut state = state(pool([1, 0], 10));
    two_members(&mut state, 0, nat_v4(7, 0));
    let mut fixture = Fixture::new(&state);
    let (outcome, _) = sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, SYN));
    assert_eq!(outcome.member, Some(0));
    two_members(&mut state, 1, nat_v4(7, 0));
    fixture.trial.change(&state).unwrap();
    let (outcome, moved) = sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, ACK));
    assert_eq!(outcome.member, Some(0));
    assert_eq!(moved, Moved::forwarded(7, 40, 0));
    let (outcome, _) = sent(&mut fixture, &tcp(SECOND, SERVICE_V4, SYN));
    assert_eq!(outcome.member, Some(1));

    let dead = Member {
        flags: Member::RESOLVED | Member::SOURCE_FROM_FRAME,
        ..nat_v4(7, 0)
    };
    let another = Member {
        incarnation: 1,
        ..nat_v4(7, 0)
    };
    for gone in [dead, another] {
        let mut state = state.clone();
        two_members(&mut state, 0, nat_v4(7, 0));
        let mut fixture = Fixture::new(&state);
        forwarded(&mut fixture, CLIENT_V4, SYN);
        two_members(&mut state, 1, gone);
        fixture.trial.change(&state).unwrap();
        let (outcome, _) = sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, ACK));
        assert_eq!(outcome.member, Some(1));
        assert_eq!(source_of(&outcome), "10.8.0.1:20001");
    }
}

/// A name that leads nowhere any more: the service is gone, the flow is not.
#[test]
fn request_to_a_service_that_is_gone_passes() {
    let mut state = state(pool([1, 0], 10));
    let mut fixture = Fixture::new(&state);
    let source = forwarded(&mut fixture, CLIENT_V4, SYN);
    state.services.remove(&1);
    fixture.trial.change(&state).unwrap();
    let (outcome, moved) = sent(&mut fixture, &tcp(CLIENT_V4, SERVICE_V4, ACK));
    assert_eq!(outcome.action, Action::Pass);
    assert_eq!(moved, Moved::only(Reason::NoService));
    let (outcome, _) = sent(&mut fixture, &tcp("10.1.0.7:8080", &source, ACK));
    assert_eq!(outcome.reason, Reason::ReplyForwarded);
}
