//! Packets in fragments: all of one packet reach one backend.

use balancer_common::layout::{Member, Slot};
use balancer_common::verdict::Reason;
use balancer_tests::frames::packet::{MORE_FRAGMENTS, fragment_v6, options};
use balancer_tests::frames::{Packet, hex};
use balancer_tests::model::build::{READY, ipip_v4, ipip_v6, l2, nat_v4};
use balancer_tests::model::forward::ones_complement_sum;
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::{Action, Trial};

use crate::fixture::{
    CLIENT_V4, CLIENT_V6, Fixture, Moved, SERVICE_V6, at, four_services, only, tcp_v4, udp_v4,
};

fn udp_v6() -> Packet {
    Packet::udp(at(CLIENT_V6), at(SERVICE_V6))
}

/// Fragments of a datagram of 1,600 bytes: offset in eight bytes, payload.
pub(crate) fn fragment(packet: Packet, offset: u16, identification: u16) -> Packet {
    let (more, is_later) = (offset < 185, offset != 0);
    let place = if packet.destination.is_ipv4() {
        let more = if more { MORE_FRAGMENTS } else { 0 };
        (offset | more, Vec::new())
    } else {
        let place = offset << 3 | u16::from(more);
        (0, vec![fragment_v6(place, u32::from(identification))])
    };
    Packet {
        fragment: place.0,
        extensions: place.1,
        identification,
        headless: is_later,
        payload_len: if is_later { 128 } else { 800 },
        // The length of the whole datagram.
        udp_len: Some(1600),
        ..packet
    }
}

fn members() -> [Member; 3] {
    [l2(0), l2(1), l2(2)]
}

fn slot(owner: u16) -> State {
    four_services(&members(), &[Slot::settled(owner)])
}

fn run(trial: &mut Trial, packet: &Packet) -> (Action, Reason, Option<u16>) {
    let outcome = trial.run(&packet.build()).unwrap();
    (outcome.action, outcome.reason, outcome.member)
}

#[test]
fn fragments_go_the_way_of_the_first_one_byte_for_byte() {
    for (member, added) in [(l2(7), 0), (ipip_v4(7), 20), (ipip_v6(7), 40)] {
        for whole in [udp_v4(), udp_v6(), tcp_v4()] {
            let mut fixture = Fixture::new(&only(member));
            // The last one overtakes the one in the middle.
            for offset in [0, 185, 101] {
                let frame = fragment(whole.clone(), offset, 7).build();
                let (outcome, moved) = fixture.run(&frame);
                assert_eq!(outcome.action, Action::Tx, "offset {offset}");
                assert_eq!(hex(&outcome.frame[14 + added..]), hex(&frame[14..]));
                let is_new = u64::from(whole.protocol == 6 && offset == 0);
                let ip_len = frame.len() as u64 - 14;
                assert_eq!(moved, Moved::forwarded(7, ip_len, is_new));
            }
        }
    }
}

#[test]
fn later_fragment_without_a_first_one_is_dropped_by_name() {
    let mut fixture = Fixture::new(&only(l2(7)));
    fixture.run(&fragment(udp_v4(), 0, 7).build());
    let mut other_source = fragment(udp_v4(), 101, 7);
    other_source.source = at("203.0.113.2:40000");
    for packet in [
        fragment(udp_v4(), 101, 8),
        fragment(tcp_v4(), 101, 7), // IPv4: the protocol counts
        fragment(udp_v6(), 101, 7),
        other_source,
    ] {
        let frame = packet.build();
        let (outcome, moved) = fixture.run(&frame);
        assert_eq!((outcome.action, outcome.service), (Action::Drop, None));
        assert_eq!(outcome.frame, frame);
        assert_eq!(moved, Moved::only(Reason::FragmentUnknown));
    }
}

#[test]
fn later_fragment_stays_with_the_first_ones_member_through_a_change() {
    for whole in [udp_v4(), udp_v6(), tcp_v4()] {
        let mut trial = Trial::load_all(&slot(0)).unwrap();
        assert_eq!(run(&mut trial, &fragment(whole.clone(), 0, 7)).2, Some(0));
        trial.change(&slot(1)).unwrap();
        assert_eq!(run(&mut trial, &fragment(whole.clone(), 101, 7)).2, Some(0));
        // A new datagram goes by the new table.
        assert_eq!(run(&mut trial, &fragment(whole.clone(), 0, 8)).2, Some(1));
        assert_eq!(run(&mut trial, &fragment(whole, 101, 8)).2, Some(1));
    }
}

#[test]
fn later_fragment_goes_by_its_ports_once_the_first_ones_member_is_gone() {
    let gone: [fn(&mut Member); 3] = [
        |member| member.flags = READY & !Member::ALIVE,
        |member| member.incarnation = 1,
        |member| member.kind = Member::NONE,
    ];
    for leave in gone {
        let mut trial = Trial::load_all(&slot(0)).unwrap();
        assert_eq!(run(&mut trial, &fragment(udp_v4(), 0, 7)).2, Some(0));
        let mut members = members();
        leave(&mut members[0]);
        let after = four_services(&members, &[Slot::settled(2)]);
        trial.change(&after).unwrap();
        assert_eq!(run(&mut trial, &fragment(udp_v4(), 101, 7)).2, Some(2));
    }
}

#[test]
fn fragments_for_no_service_pass_also_at_a_services_address() {
    let mut fixture = Fixture::new(&only(l2(7)));
    let elsewhere = |mut packet: Packet| {
        packet.destination.set_port(81);
        packet
    };
    for whole in [elsewhere(udp_v4()), elsewhere(udp_v6())] {
        for offset in [0, 101, 185] {
            let frame = fragment(whole.clone(), offset, 7).build();
            let (outcome, moved) = fixture.run(&frame);
            assert_eq!((outcome.action, outcome.frame), (Action::Pass, frame));
            assert_eq!(moved, Moved::only(Reason::NoService));
        }
    }
}

/// RFC 8200, 4.5: only the first fragment's next header counts.
#[test]
fn next_header_of_later_ipv6_fragments_may_differ() {
    let mut fixture = Fixture::new(&only(l2(7)));
    let mut first = fragment(udp_v6(), 0, 7);
    first.extensions.push(options(60, 1));
    assert_eq!(fixture.run(&first.build()).0.member, Some(0));
    for claimed in [6, 17, 60, 43] {
        let mut later = fragment(udp_v6(), 101, 7);
        later.protocol = claimed;
        let outcome = fixture.run(&later.build()).0;
        assert_eq!((outcome.action, outcome.member), (Action::Tx, Some(0)));
    }
}

#[test]
fn later_fragment_past_its_frame_or_empty_or_of_ttl_0_is_dropped() {
    let mut fixture = Fixture::new(&only(l2(7)));
    fixture.run(&fragment(udp_v4(), 0, 7).build());
    let later = fragment(udp_v4(), 101, 7);
    type Change = fn(&mut Packet);
    let changes: [(Change, Reason); 3] = [
        (|packet| packet.ip_len = Some(149), Reason::BadLength),
        (|packet| packet.payload_len = 0, Reason::BadLength),
        (|packet| packet.ttl = 0, Reason::TtlExpired),
    ];
    for (change, reason) in changes {
        let mut packet = later.clone();
        change(&mut packet);
        let (outcome, moved) = fixture.run(&packet.build());
        assert_eq!(outcome.action, Action::Drop);
        assert_eq!(moved, Moved::only(reason));
    }
}

/// Addresses of all fragments are rewritten, ports of the first one only.
#[test]
fn fragments_are_translated_there_and_back() {
    let mut fixture = Fixture::new(&only(nat_v4(7, 8080)));
    for offset in [0, 185, 101] {
        let frame = fragment(udp_v4(), offset, 7).build();
        let out = fixture.run(&frame).0.frame;
        // From the client itself to 10.1.0.7, one hop later.
        assert_eq!(hex(&out[26..34]), "cb0071010a010007", "offset {offset}");
        assert_eq!(out[22], frame[22] - 1);
        assert_eq!(ones_complement_sum(&out[14..34]), 0xffff);
        let payload = if offset == 0 { 34 + 8 } else { 34 };
        assert_eq!(hex(&out[payload..]), hex(&frame[payload..]));
        let port = if offset == 0 { "1f90" } else { "" };
        assert_eq!(hex(&out[36..36 + port.len() / 2]), port);
    }
    let reply = Packet::udp(at("10.1.0.7:8080"), at(CLIENT_V4));
    for offset in [0, 185, 101] {
        let frame = fragment(reply.clone(), offset, 9).build();
        let (outcome, moved) = fixture.run(&frame);
        assert_eq!(
            moved,
            Moved::only(Reason::ReplyForwarded),
            "offset {offset}"
        );
        let out = outcome.frame;
        assert_eq!(hex(&out[26..34]), "c0000201cb007101");
        assert_eq!(ones_complement_sum(&out[14..34]), 0xffff);
        let payload = if offset == 0 { 34 + 8 } else { 34 };
        assert_eq!(hex(&out[payload..]), hex(&frame[payload..]));
    }
    // A later fragment alone is the stack's: nobody knows that it is a reply.
    let alone = fragment(reply, 101, 10).build();
    assert_eq!(fixture.run(&alone).1, Moved::only(Reason::LaterFragment));
}
