//! ICMP errors: each to the backend of the flow that it is about, and what a
//! client is told of a tunnel.

use std::net::IpAddr;

use balancer_common::layout::Member;
use balancer_common::verdict::Reason;
use balancer_tests::frames::packet::{ACK, MORE_FRAGMENTS, fragment_v6, options};
use balancer_tests::frames::{IcmpError, Packet, hex};
use balancer_tests::model::Model;
use balancer_tests::model::build::{gue_v4, gue_v6, ipip_v4, ipip_v6, l2};
use balancer_tests::model::forward::ones_complement_sum;
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::{Action, Outcome};

use crate::fixture::{Fixture, Moved, only, tcp_v4, tcp_v6, udp_v4};

const ROUTER_V4: &str = "198.51.100.9";
const ROUTER_V6: &str = "2001:db8:f::9";

/// An error from a router to the sender of the IP packet in `quote`.
fn error(kind: [u8; 2], quote: &[u8]) -> IcmpError {
    let (router, told): (_, IpAddr) = if quote[0] / 16 == 4 {
        let octets: [u8; 4] = *quote[12..].first_chunk().unwrap();
        (ROUTER_V4, octets.into())
    } else {
        let octets: [u8; 16] = *quote[8..].first_chunk().unwrap();
        (ROUTER_V6, octets.into())
    };
    IcmpError::new(router.parse().unwrap(), told, kind, quote)
}

/// What a backend answers to a packet, from its IP header on.
fn reply(packet: &Packet) -> Vec<u8> {
    let reply = Packet {
        source: packet.destination,
        destination: packet.source,
        flags: ACK,
        ..packet.clone()
    };
    reply.build()[14..].to_vec()
}

/// Kernel and model agree; gives what they say.
fn run(state: &State, frame: &[u8]) -> (Outcome, Moved) {
    let (outcome, moved) = Fixture::new(state).run(frame);
    assert_eq!(outcome, Model::new(state).run(frame), "{}", hex(frame));
    (outcome, moved)
}

fn assert_reason(state: &State, frame: &[u8], reason: Reason) {
    let outcome = run(state, frame).0;
    assert_eq!(outcome.reason, reason, "{}", hex(frame));
    if matches!(reason, Reason::ErrorUnmatched | Reason::NotTcpUdp) {
        assert_eq!(outcome.action, Action::Pass);
        assert_eq!(hex(&outcome.frame), hex(frame));
    }
}

/// All kinds of errors, of IPv4 and of IPv6.
const KINDS_V4: [[u8; 2]; 5] = [[3, 1], [3, 3], [3, 4], [11, 0], [12, 0]];
const KINDS_V6: [[u8; 2]; 5] = [[1, 4], [2, 0], [3, 0], [3, 1], [4, 2]];

#[test]
fn error_about_a_backends_packet_reaches_it_with_eight_quoted_bytes() {
    for member in [l2(7), ipip_v4(7), ipip_v6(7), gue_v4(7), gue_v6(7)] {
        let state = only(member);
        for kind in KINDS_V4 {
            let frame = error(kind, &reply(&tcp_v4())[..28]).build();
            let (outcome, moved) = run(&state, &frame);
            assert_eq!(outcome.reason, Reason::ErrorForwarded);
            assert_eq!(outcome.frame[outcome.frame.len() - 56..], frame[14..]);
            assert_eq!(moved.members[&7], [1, 56, 0], "no new flow");
        }
        for kind in KINDS_V6 {
            let frame = error(kind, &reply(&tcp_v6())[..48]).build();
            assert_reason(&state, &frame, Reason::ErrorForwarded);
        }
    }
}

#[test]
fn quote_is_read_behind_options_and_extension_headers() {
    let state = only(ipip_v4(7));
    let v4 = Packet {
        options: vec![1; 12],
        ..udp_v4()
    };
    let v6 = Packet {
        extensions: vec![options(0, 1), options(60, 3)],
        ..tcp_v6()
    };
    let first = Packet {
        fragment: MORE_FRAGMENTS,
        ..udp_v4()
    };
    let with_headers = IcmpError {
        options: vec![1; 8],
        vlans: vec![7, 8],
        padding_len: 9,
        ..error([3, 1], &reply(&v4))
    };
    let with_extensions = IcmpError {
        extensions: vec![options(60, 2)],
        ..error([1, 0], &reply(&v6))
    };
    for frame in [
        with_headers.build(),
        with_extensions.build(),
        error([11, 0], &reply(&first)).build(),
    ] {
        assert_reason(&state, &frame, Reason::ErrorForwarded);
    }
}

#[test]
fn error_to_a_services_address_about_no_flow_passes_by_name() {
    let state = only(l2(7));
    let quote = reply(&tcp_v4());
    let elsewhere = reply(&Packet {
        destination: "192.0.2.2:80".parse().unwrap(),
        ..tcp_v4()
    });
    let other_port = reply(&Packet {
        destination: "192.0.2.1:81".parse().unwrap(),
        ..tcp_v4()
    });
    let later = reply(&Packet {
        fragment: 5,
        ..tcp_v4()
    });
    let later_v6 = reply(&Packet {
        extensions: vec![fragment_v6(8, 1)],
        ..tcp_v6()
    });
    let mut of_icmp = quote.clone();
    of_icmp[9] = 1;
    let stranger = IcmpError {
        destination: "192.0.2.1".parse().unwrap(),
        ..error([3, 1], &elsewhere)
    };
    for frame in [
        error([3, 1], &quote[..27]).build(),
        error([3, 1], &quote[..19]).build(),
        error([3, 1], &other_port).build(),
        error([3, 1], &later).build(),
        error([1, 0], &later_v6).build(),
        error([3, 1], &of_icmp).build(),
        stranger.build(),
    ] {
        assert_reason(&state, &frame, Reason::ErrorUnmatched);
    }
    // No error, and to no service's address.
    for kind in [[4, 0], [5, 1], [13, 0]] {
        assert_reason(&state, &error(kind, &quote).build(), Reason::NotTcpUdp);
    }
    let frame = error([3, 1], &elsewhere).build();
    assert_reason(&state, &frame, Reason::NotTcpUdp);
    for kind in [133, 134, 135, 136, 137, 143] {
        let frame = error([kind, 0], &reply(&tcp_v6())).build();
        assert_reason(&state, &frame, Reason::NotTcpUdp);
    }
}

/// A packet of 1,400 bytes as it leaves for this member, from the outer IP
/// header on.
fn sent(member: Member, packet: &Packet) -> Vec<u8> {
    let packet = Packet {
        flags: ACK,
        payload_len: 1300,
        ..packet.clone()
    };
    let outcome = Fixture::new(&only(member)).run(&packet.build()).0;
    assert_eq!(outcome.reason, Reason::Forwarded);
    outcome.frame[14..].to_vec()
}

fn too_big(quote: &[u8], mtu: u16) -> IcmpError {
    let [high, low] = mtu.to_be_bytes();
    let kind = if quote[0] / 16 == 4 { [3, 4] } else { [2, 0] };
    IcmpError {
        rest: [0, 0, high, low],
        ..error(kind, quote)
    }
}

#[test]
fn client_is_told_what_fits_a_tunnel_that_a_router_calls_too_narrow() {
    for (member, overhead) in [
        (ipip_v4(7), 20),
        (ipip_v6(7), 40),
        (gue_v4(7), 28),
        (gue_v6(7), 48),
    ] {
        for packet in [tcp_v4(), tcp_v6()] {
            let quote = sent(member, &packet);
            let is_v4 = packet.source.is_ipv4();
            let least = overhead + if is_v4 { 28 } else { 48 };
            for quote_len in [least, 528, 1200] {
                let frame = too_big(&quote[..quote_len], 1360).build();
                let (outcome, moved) = run(&only(member), &frame);
                assert_eq!(moved, Moved::only(Reason::TooBigAnswered));
                assert_eq!(outcome.action, Action::Tx);
                let out = outcome.frame;
                let (header_len, mtu_at) = if is_v4 { (20, 40) } else { (40, 60) };
                let inner = &quote[overhead..quote_len];
                assert_eq!(hex(&out[14 + header_len + 8..]), hex(inner));
                let told = u16::from_be_bytes([out[mtu_at], out[mtu_at + 1]]);
                assert_eq!(usize::from(told), 1360 - overhead);
                let mut summed = out[14 + header_len..].to_vec();
                if !is_v4 {
                    summed.extend(&out[22..54]);
                    summed.extend(((quote_len - overhead + 8) as u32).to_be_bytes());
                    summed.extend([0, 0, 0, 58]);
                }
                assert_eq!(ones_complement_sum(&summed), 0xffff);
            }
        }
    }
}

#[test]
fn wrong_checksum_stays_wrong_and_tags_and_padding_are_seen() {
    let quote = sent(ipip_v6(7), &tcp_v4());
    let frame = IcmpError {
        wrong_by: 1,
        vlans: vec![5],
        padding_len: 11,
        ..too_big(&quote[..400], 1360)
    };
    let out = run(&only(ipip_v6(7)), &frame.build()).0.frame;
    assert_ne!(ones_complement_sum(&out[38..]), 0xffff);
    assert_eq!(out.len(), 18 + 28 + 360);
}

#[test]
fn other_errors_about_a_tunnel_go_to_the_flows_backend() {
    for member in [ipip_v4(7), ipip_v6(7), gue_v4(7), gue_v6(7)] {
        for packet in [tcp_v4(), tcp_v6()] {
            let quote = sent(member, &packet);
            let kind = if quote[0] / 16 == 4 { [11, 0] } else { [3, 0] };
            let frame = error(kind, &quote[..120]).build();
            assert_reason(&only(member), &frame, Reason::ErrorForwarded);
        }
    }
}

/// Whoever does not see the tunnel cannot tell what left through it.
#[test]
fn made_up_error_about_a_tunnel_passes() {
    for member in [gue_v4(7), gue_v6(7)] {
        let quote = sent(member, &tcp_v4());
        let is_v4 = quote[0] / 16 == 4;
        let (source, destination, ports) = if is_v4 { (15, 19, 20) } else { (23, 39, 40) };
        for at in [source, destination, ports + 1, ports + 3] {
            let mut quote = quote.clone();
            quote[at] ^= 1;
            let frame = too_big(&quote, 1360).build();
            assert_reason(&only(member), &frame, Reason::ErrorUnmatched);
        }
        let frame = too_big(&quote, 1360).build();
        // A tunnel of the same family, and of another kind.
        let other = if is_v4 { ipip_v4(7) } else { ipip_v6(7) };
        assert_reason(&only(other), &frame, Reason::ErrorUnmatched);
    }
}
