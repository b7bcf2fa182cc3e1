//! ICMP errors about flows that are translated: whoever sent the packet that an
//! error is about gets one about the packet as it was sent.

use std::net::IpAddr;

use balancer_common::verdict::Reason;
use balancer_tests::frames::packet::{ACK, SYN};
use balancer_tests::frames::{IcmpError, Packet, hex};
use balancer_tests::lab::checksums::judge;
use balancer_tests::model::build::pool;
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::Action;

use crate::fixture::{CLIENT_V4, CLIENT_V6, Fixture, Moved, SERVICE_V4, SERVICE_V6, at};
use crate::translation::{between, sent, tcp, udp};
use crate::{fullnat, nat};

/// A flow as its two ends know it.
struct Flow {
    state: State,
    request: Packet,
    /// Where requests come from, as the backend sees them.
    source: &'static str,
    backend: &'static str,
}

impl Flow {
    /// What the client sent, as it left for the backend.
    fn forwarded(&self) -> Packet {
        between(&self.request, self.source, self.backend)
    }

    /// What the backend sent, and as it left for the client.
    fn reply(&self) -> [Packet; 2] {
        let ends = [self.request.destination, self.request.source].map(|end| end.to_string());
        [
            between(&self.request, self.backend, self.source),
            between(&self.request, &ends[0], &ends[1]),
        ]
    }

    /// With the flow's translations in place.
    fn fixture(&self) -> Fixture {
        let mut fixture = Fixture::new(&self.state);
        let (outcome, _) = sent(&mut fixture, &self.request);
        assert_eq!(outcome.reason, Reason::Forwarded);
        fixture
    }
}

/// Both modes and families; `packet` makes a request between two ends.
fn flows(packet: impl Fn(&str, &str) -> Packet) -> Vec<Flow> {
    let flow = |state, is_v4, source| Flow {
        state,
        request: if is_v4 {
            packet(CLIENT_V4, SERVICE_V4)
        } else {
            packet(CLIENT_V6, SERVICE_V6)
        },
        source,
        backend: if is_v4 {
            "10.1.0.7:8080"
        } else {
            "[fd00::7]:80"
        },
    };
    let full = || fullnat::state(pool([1, 1], 10));
    vec![
        flow(nat::state(), true, CLIENT_V4),
        flow(nat::state(), false, CLIENT_V6),
        flow(full(), true, "10.8.0.1:20000"),
        flow(full(), false, "[fd08::1]:20000"),
    ]
}

/// What is quoted of a packet: eight bytes behind its IP header, or all.
fn quotes(packet: &Packet) -> [Vec<u8>; 2] {
    let whole = packet.build()[14..].to_vec();
    let least = if packet.source.is_ipv4() { 28 } else { 48 };
    [whole[..least].to_vec(), whole]
}

fn kinds(is_v4: bool) -> &'static [[u8; 2]] {
    if is_v4 {
        &[[3, 1], [3, 3], [3, 4], [11, 0], [12, 0]]
    } else {
        &[[1, 4], [2, 0], [3, 0], [4, 1]]
    }
}

/// The error that `quoted` is in becomes one that `known` is in, of the same
/// kind, from and to other ends.
fn assert_becomes(
    flow: &Flow,
    (from, to): (IpAddr, IpAddr),
    (quoted, known): (&Packet, &Packet),
    ends: (IpAddr, IpAddr),
) {
    let mut fixture = flow.fixture();
    for kind in kinds(from.is_ipv4()) {
        for (quoted, known) in quotes(quoted).iter().zip(quotes(known)) {
            let frame = IcmpError::new(from, to, *kind, quoted).build();
            judge(&frame).unwrap();
            let (outcome, moved) = fixture.run(&frame);
            assert_eq!(outcome.action, Action::Tx, "{kind:?} {}", hex(&frame));
            let error = IcmpError::new(ends.0, ends.1, *kind, &known);
            let expected = IcmpError { ttl: 59, ..error }.build();
            assert_eq!(hex(&outcome.frame[12..]), hex(&expected[12..]), "{kind:?}");
            judge(&outcome.frame).unwrap();
            assert_eq!(outcome.reason, Reason::ErrorForwarded);
            let opens = moved.members.values().any(|[_, _, flows]| *flows > 0);
            assert!(!opens, "it opens no flow");
        }
    }
}

fn router(flow: &Flow) -> IpAddr {
    let router = if flow.request.source.is_ipv4() {
        "198.51.100.9"
    } else {
        "2001:db8:f::9"
    };
    router.parse().unwrap()
}

fn every_flow() -> Vec<Flow> {
    let tcp = flows(|client, service| tcp(client, service, SYN));
    let udp = flows(|client, service| udp(client, service, 33));
    tcp.into_iter().chain(udp).collect()
}

#[test]
fn error_about_what_a_backend_sent_reaches_it_as_one_about_that() {
    for flow in every_flow() {
        let [known, quoted] = flow.reply();
        let (service, backend) = (quoted.source.ip(), known.source.ip());
        let router = router(&flow);
        let packets = (&quoted, &known);
        assert_becomes(&flow, (router, service), packets, (router, backend));
        // Port unreachable, say: the client itself, whom the backend knows by
        // another address.
        let client = (quoted.destination.ip(), known.destination.ip());
        assert_becomes(&flow, (client.0, service), packets, (client.1, backend));
    }
}

#[test]
fn error_about_what_was_sent_in_a_clients_name_reaches_the_client() {
    for flow in every_flow() {
        let (quoted, known) = (flow.forwarded(), &flow.request);
        let (told, client) = (quoted.source.ip(), known.source.ip());
        let router = router(&flow);
        assert_becomes(&flow, (router, told), (&quoted, known), (router, client));
        // The backend itself, whom the client knows by the service's address.
        let backend = (quoted.destination.ip(), known.destination.ip());
        assert_becomes(
            &flow,
            (backend.0, told),
            (&quoted, known),
            (backend.1, client),
        );
    }
}

#[test]
fn error_about_no_translated_flow_passes_untouched() {
    for flow in flows(|client, service| tcp(client, service, ACK)) {
        let other = match flow.request.source.ip() {
            IpAddr::V4(_) => "203.0.113.77:40000",
            IpAddr::V6(_) => "[2001:db8:77::1]:40000",
        };
        let [_, mut reply] = flow.reply();
        reply.destination = at(other);
        let mut forwarded = flow.forwarded();
        forwarded.source = at(other);
        let is_full = flow.source != flow.request.source.to_string();
        let cases = [
            (reply, Reason::ErrorUnmatched),
            (forwarded, Reason::NotTcpUdp),
        ];
        for (quoted, reason) in cases {
            // With `nat` every client has a member: there is nothing to know.
            if reason == Reason::ErrorUnmatched && !is_full {
                continue;
            }
            let quote = &quotes(&quoted)[1];
            let kind = kinds(quoted.source.is_ipv4())[0];
            let frame = IcmpError::new(router(&flow), quoted.source.ip(), kind, quote).build();
            let (outcome, moved) = flow.fixture().run(&frame);
            assert_eq!(hex(&outcome.frame), hex(&frame));
            assert_eq!(outcome.action, Action::Pass);
            assert_eq!(moved, Moved::only(reason));
        }
    }
}

#[test]
fn error_with_no_hop_left_is_dropped() {
    for flow in flows(|client, service| tcp(client, service, SYN)) {
        let [_, reply] = flow.reply();
        for quoted in [reply, flow.forwarded()] {
            let quote = &quotes(&quoted)[0];
            let kind = kinds(quoted.source.is_ipv4())[0];
            let error = IcmpError::new(router(&flow), quoted.source.ip(), kind, quote);
            let frame = IcmpError { ttl: 1, ..error }.build();
            let (outcome, moved) = flow.fixture().run(&frame);
            assert_eq!(outcome.action, Action::Drop);
            assert_eq!(moved, Moved::only(Reason::TtlExpired));
        }
    }
}
