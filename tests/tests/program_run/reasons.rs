//! One case or more for every reason a packet is not forwarded: it leaves as
//! it came, and the reason's counter is the only one that moves.

use std::net::SocketAddr;

use balancer_common::layout::{Member, Slot};
use balancer_common::verdict::{Disposition, Reason};
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::{MORE_FRAGMENTS, fragment_v6, options, routing};
use balancer_tests::model::build::{READY, ipip_v4, ipip_v6, l2};
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::Action;
use bytemuck::Zeroable;

use crate::fixture::{Fixture, Moved, at, four_services, moved, only, tcp_v4, tcp_v6, udp_v4};

/// Each frame gets this reason, in a program that holds `state`.
fn assert_all(state: &State, reason: Reason, frames: &[Vec<u8>]) {
    let action = match reason.disposition() {
        Disposition::Pass => Action::Pass,
        Disposition::Drop => Action::Drop,
        Disposition::Forward | Disposition::Answer => panic!("it does not leave as it came"),
    };
    let mut fixture = Fixture::new(state);
    for (case, frame) in frames.iter().enumerate() {
        let (outcome, moved) = fixture.run(frame);
        assert_eq!(
            (outcome.action, outcome.reason),
            (action, reason),
            "case {case}"
        );
        assert_eq!(outcome.frame, *frame, "case {case}");
        assert_eq!(moved, Moved::only(reason), "case {case}");
        // Before its service is known a packet passes, later it is dropped.
        assert_eq!(
            outcome.service.is_none(),
            action == Action::Pass,
            "case {case}"
        );
    }
}

/// A valid packet with one change.
fn with(mut packet: Packet, change: impl FnOnce(&mut Packet)) -> Vec<u8> {
    change(&mut packet);
    packet.build()
}

fn cut(packet: &Packet, len: usize) -> Vec<u8> {
    let mut frame = packet.build();
    frame.truncate(len);
    frame
}

#[test]
fn arp_and_frames_with_three_tags_pass() {
    let mut arp = tcp_v4().build();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let three_tags = with(tcp_v4(), |packet| packet.vlans = vec![100, 200, 300]);
    assert_all(&only(l2(7)), Reason::NotIp, &[arp, three_tags]);
}

#[test]
fn frame_that_ends_before_its_ports_do_passes() {
    let (v4, v6) = (tcp_v4(), tcp_v6());
    let with_options = Packet {
        options: vec![1; 4],
        ..tcp_v4()
    };
    let frames = [
        cut(&v4, 14),
        cut(&v4, 33),
        cut(&v4, 34),
        cut(&v4, 37),
        cut(&with_options, 41),
        cut(&v6, 14),
        cut(&v6, 53),
        cut(&v6, 57),
    ];
    assert_all(&only(l2(7)), Reason::Truncated, &frames);
}

#[test]
fn header_that_contradicts_its_ethertype_passes() {
    let frames = [
        with(tcp_v4(), |packet| packet.version = Some(6)),
        with(tcp_v4(), |packet| packet.header_words = Some(4)),
        with(tcp_v6(), |packet| packet.version = Some(4)),
    ];
    assert_all(&only(l2(7)), Reason::BadIpHeader, &frames);
}

#[test]
fn icmp_tunnels_and_unknown_headers_pass() {
    let frames = [
        with(tcp_v4(), |packet| packet.protocol = 1),
        with(tcp_v4(), |packet| packet.protocol = 4),
        with(tcp_v6(), |packet| packet.protocol = 58),
        // Encrypted or authenticated (RFC 4303, RFC 4302); mobility.
        with(tcp_v6(), |packet| packet.extensions = vec![options(50, 1)]),
        with(tcp_v6(), |packet| packet.extensions = vec![options(51, 1)]),
        with(tcp_v6(), |packet| packet.extensions = vec![options(135, 1)]),
        // RFC 8200, 4.1: hop-by-hop options come first or not at all.
        with(tcp_v6(), |packet| {
            packet.extensions = vec![options(60, 1), options(0, 1)];
        }),
        // Fragments of anything else are the stack's, as the whole would be.
        with(tcp_v6(), |packet| {
            packet.protocol = 58;
            packet.extensions = vec![fragment_v6(1, 9)];
        }),
        with(tcp_v6(), |packet| {
            packet.protocol = 58;
            packet.extensions = vec![fragment_v6(185 << 3, 9)];
        }),
        with(tcp_v4(), |packet| {
            packet.protocol = 1;
            packet.fragment = 185;
        }),
    ];
    assert_all(&only(l2(7)), Reason::NotTcpUdp, &frames);
}

#[test]
fn packet_that_has_nodes_to_visit_passes() {
    let frames = [
        with(tcp_v6(), |packet| packet.extensions = vec![routing(1)]),
        with(tcp_v6(), |packet| {
            packet.extensions = vec![options(0, 2), routing(0), routing(255)];
        }),
    ];
    assert_all(&only(l2(7)), Reason::SourceRouted, &frames);
}

#[test]
fn fifth_extension_header_passes() {
    let frames = [
        with(tcp_v6(), |packet| {
            packet.extensions = vec![options(60, 1); 5];
        }),
        with(tcp_v6(), |packet| {
            packet.extensions = vec![options(60, 1); 4];
            packet.extensions.push(fragment_v6(0, 1));
        }),
    ];
    assert_all(&only(l2(7)), Reason::TooManyExtensions, &frames);
}

#[test]
fn later_fragment_to_another_address_passes() {
    let elsewhere = |packet: &mut Packet| {
        packet.destination = match packet.destination {
            SocketAddr::V4(_) => at("192.0.2.2:80"),
            SocketAddr::V6(_) => at("[2001:db8::2]:80"),
        };
    };
    let frames = [
        with(tcp_v4(), |packet| {
            packet.fragment = 1;
            elsewhere(packet);
        }),
        with(udp_v4(), |packet| {
            packet.fragment = MORE_FRAGMENTS | 185;
            elsewhere(packet);
        }),
        with(tcp_v6(), |packet| {
            packet.extensions = vec![fragment_v6(185 << 3, 9)];
            elsewhere(packet);
        }),
        // Whose it is, a header that may precede any protocol does not tell.
        with(tcp_v6(), |packet| {
            packet.extensions = vec![fragment_v6(185 << 3, 9), options(60, 1)];
        }),
    ];
    assert_all(&only(l2(7)), Reason::LaterFragment, &frames);
}

#[test]
fn packet_to_another_address_port_or_protocol_passes() {
    let mut state = only(l2(7));
    state.services.retain(|number, _| *number <= 2); // TCP only
    let frames = [
        udp_v4().build(),
        with(tcp_v4(), |packet| packet.destination = at("192.0.2.1:81")),
        with(tcp_v4(), |packet| packet.destination = at("192.0.2.1:0")),
        with(tcp_v4(), |packet| packet.destination = at("192.0.2.2:80")),
        with(tcp_v6(), |packet| {
            packet.destination = at("[2001:db8::2]:80");
        }),
        // Only its source is a service.
        with(tcp_v4(), |packet| {
            std::mem::swap(&mut packet.source, &mut packet.destination);
        }),
    ];
    assert_all(&state, Reason::NoService, &frames);
    assert_all(
        &State::empty(),
        Reason::NoService,
        &[tcp_v4().build(), tcp_v6().build()],
    );
}

#[test]
fn first_fragment_without_its_whole_transport_header_is_dropped() {
    let first = |packet: &mut Packet| match packet.destination {
        SocketAddr::V4(_) => packet.fragment = MORE_FRAGMENTS,
        SocketAddr::V6(_) => packet.extensions = vec![fragment_v6(1, 9)],
    };
    let frames = [
        // RFC 1858, 3: ports, and the flags in the next fragment.
        with(tcp_v4(), |packet| {
            first(packet);
            packet.ip_len = Some(28);
        }),
        with(tcp_v4(), |packet| {
            first(packet);
            packet.ip_len = Some(39);
        }),
        with(udp_v4(), |packet| {
            first(packet);
            packet.ip_len = Some(27);
        }),
        with(tcp_v6(), |packet| {
            first(packet);
            packet.ip_len = Some(8 + 19);
        }),
        // TCP options in the next fragment.
        with(tcp_v4(), |packet| {
            first(packet);
            packet.data_offset = Some(6);
        }),
    ];
    assert_all(&only(l2(7)), Reason::TinyFragment, &frames);
}

#[test]
fn packet_longer_than_its_frame_or_too_short_for_its_header_is_dropped() {
    let frames = [
        with(tcp_v4(), |packet| packet.ip_len = Some(41)),
        with(tcp_v4(), |packet| packet.ip_len = Some(39)),
        with(tcp_v4(), |packet| packet.ip_len = Some(0)),
        with(tcp_v4(), |packet| packet.ip_len = Some(0xffff)),
        with(udp_v4(), |packet| packet.ip_len = Some(27)),
        with(tcp_v6(), |packet| packet.ip_len = Some(21)),
        with(tcp_v6(), |packet| packet.ip_len = Some(19)),
        // A jumbogram (RFC 2675) announces itself so.
        with(tcp_v6(), |packet| packet.ip_len = Some(0)),
        cut(&tcp_v4(), 38),
        cut(&tcp_v6(), 58),
    ];
    assert_all(&only(l2(7)), Reason::BadLength, &frames);
}

#[test]
fn tcp_data_offset_under_five_or_past_the_packet_is_dropped() {
    let frames = [
        with(tcp_v4(), |packet| packet.data_offset = Some(4)),
        with(tcp_v4(), |packet| packet.data_offset = Some(6)),
        with(tcp_v6(), |packet| packet.data_offset = Some(0)),
        // Padding is no part of the packet.
        with(tcp_v6(), |packet| {
            packet.data_offset = Some(6);
            packet.padding_len = 4;
        }),
    ];
    assert_all(&only(l2(7)), Reason::BadTcpHeader, &frames);
}

#[test]
fn udp_length_under_eight_or_past_the_packet_is_dropped() {
    let frames = [
        with(udp_v4(), |packet| packet.udp_len = Some(7)),
        with(udp_v4(), |packet| packet.udp_len = Some(0)),
        with(udp_v4(), |packet| packet.udp_len = Some(9)),
    ];
    assert_all(&only(l2(7)), Reason::BadUdpLength, &frames);
}

#[test]
fn packet_whose_ttl_is_used_up_is_dropped() {
    let frames = [
        with(tcp_v4(), |packet| packet.ttl = 0),
        with(tcp_v6(), |packet| packet.ttl = 0),
    ];
    assert_all(&only(l2(7)), Reason::TtlExpired, &frames);
}

#[test]
fn service_without_slots_drops_its_packets() {
    let state = four_services(&[l2(7)], &[]);
    let frames = [tcp_v4().build(), tcp_v6().build(), udp_v4().build()];
    assert_all(&state, Reason::NoBackend, &frames);
}

#[test]
fn member_without_a_next_hop_drops_its_packets() {
    let lost = Member {
        flags: READY & !Member::RESOLVED,
        ..ipip_v4(7)
    };
    assert_all(
        &only(lost),
        Reason::NoNextHop,
        &[tcp_v4().build(), tcp_v6().build()],
    );
}

/// Later fragments have no answer, and short packets no quote.
#[test]
fn packet_that_does_not_fit_and_is_not_answered_is_dropped() {
    let narrow = |mtu| Member { mtu, ..ipip_v4(7) };
    let of_len = |len: usize| with(tcp_v4(), |packet| packet.payload_len = len - 40);
    assert_all(
        &only(narrow(560)),
        Reason::ExceedsMtu,
        &[of_len(548), of_len(541)],
    );
    let of_len = |len: usize| with(tcp_v6(), |packet| packet.payload_len = len - 60);
    assert_all(
        &only(narrow(1200)),
        Reason::ExceedsMtu,
        &[of_len(1232), of_len(1181)],
    );
    let long = |packet, from: &str| {
        with(packet, |packet: &mut Packet| {
            packet.source = at(from);
            packet.payload_len = 1300;
        })
    };
    let from = [
        "0.1.2.3:9",
        "127.0.0.1:9",
        "224.0.0.1:9",
        "255.255.255.255:9",
    ];
    let mut frames: Vec<_> = from.map(|from| long(tcp_v4(), from)).into();
    frames.extend(["[::]:9", "[::1]:9", "[ff02::1]:9"].map(|from| long(tcp_v6(), from)));
    let mut to_a_group = long(tcp_v4(), "203.0.113.1:9");
    to_a_group[0] |= 1;
    frames.push(to_a_group);
    assert_all(&only(narrow(1200)), Reason::ExceedsMtu, &frames);
    let mut fixture = Fixture::new(&only(narrow(1200)));
    let fragment = |place, payload_len| {
        with(udp_v4(), |packet| {
            packet.fragment = place;
            packet.payload_len = payload_len;
        })
    };
    fixture.run(&fragment(MORE_FRAGMENTS, 800));
    let later = fragment(101, 1300);
    let (outcome, moved) = fixture.run(&later);
    assert_eq!((outcome.action, outcome.frame), (Action::Drop, later));
    assert_eq!(moved, Moved::only(Reason::ExceedsMtu));
}

/// Metadata that a driver puts before the frame takes the outer header's
/// room. 256 bytes there are, 40 of them the kernel's own.
#[test]
fn packet_without_room_for_the_outer_header_is_dropped() {
    let frame = tcp_v4().build();
    for (member, most_metadata) in [(ipip_v4(7), 196), (ipip_v6(7), 176)] {
        let mut fixture = Fixture::new(&only(member));
        let mut out = Vec::new();
        for (metadata, action, expected) in [
            (most_metadata, Action::Tx, Moved::forwarded(7, 40, 1)),
            (
                most_metadata + 4,
                Action::Drop,
                Moved::only(Reason::NoHeadroom),
            ),
        ] {
            let before = fixture.counters();
            let (runner, _) = fixture.trial.split().unwrap();
            let got = runner
                .run_behind_metadata(metadata, &frame, &mut out)
                .unwrap();
            assert_eq!(got, action, "{metadata} bytes");
            assert_eq!(moved(&before, &fixture.counters()), expected);
            assert_eq!(out == frame, action == Action::Drop);
        }
    }
}

#[test]
fn table_that_names_nobody_drops_its_packets() {
    let frames = [tcp_v4().build(), tcp_v6().build()];
    let unknown = Member { kind: 9, ..l2(7) };
    for state in [
        four_services(&[l2(7)], &[Slot::settled(1)]),
        four_services(&[Member::zeroed()], &[Slot::settled(0)]),
        // An index past the last, though the array goes on with the next
        // service's members.
        four_services(&[l2(7), l2(8)], &[Slot::settled(2)]),
        only(unknown),
    ] {
        assert_all(&state, Reason::BadTable, &frames);
    }
}
