//! Every forwarding mode in both families: the exact bytes that leave and
//! the exact counters that move. What an outer header holds was worked out
//! by hand and with another program, so nothing here comes from the model.

use balancer_common::layout::{Member, Slot};
use balancer_tests::frames::packet::{ACK, SYN};
use balancer_tests::frames::{Packet, hex};
use balancer_tests::model::build::{ipip_v4, ipip_v6, l2};
use balancer_user::dataplane::trial::Action;

use crate::fixture::{Fixture, Moved, four_services, only, tcp_v4, tcp_v6, udp_v4};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// DSCP 46 (expedited forwarding) with ECN 1: both are copied outside.
const EXPEDITED: u8 = 0xb9;

/// One frame to a member that has all slots. `head` is what leaves before
/// the packet itself.
fn assert_sent(member: Member, packet: &Packet, head: &str, expected: &Moved) {
    let frame = packet.build();
    let (outcome, moved) = Fixture::new(&only(member)).run(&frame);
    let head: String = head.split_whitespace().collect();
    assert_eq!(outcome.action, Action::Tx);
    assert_eq!(hex(&outcome.frame), head + &hex(&frame[ETHERNET..]));
    assert_eq!(moved, *expected);
}

fn expedited(packet: Packet) -> Packet {
    Packet {
        traffic_class: EXPEDITED,
        ..packet
    }
}

#[test]
fn l2_rewrites_both_addresses_and_nothing_else() {
    let head = "020000000007 02bb00000007 0800";
    assert_sent(l2(7), &tcp_v4(), head, &Moved::forwarded(7, 40, 1));
    let head = "020000000007 02bb00000007 86dd";
    assert_sent(l2(7), &tcp_v6(), head, &Moved::forwarded(7, 60, 1));
}

#[test]
fn l2_can_send_from_the_address_the_frame_came_to() {
    let member = Member {
        flags: l2(7).flags | Member::SOURCE_FROM_FRAME,
        ..l2(7)
    };
    let head = "020000000007 02aa00000001 0800";
    assert_sent(member, &tcp_v4(), head, &Moved::forwarded(7, 40, 1));
}

#[test]
fn ipv4_goes_into_ipv4() {
    let head = "020000000007 02aa00000001 0800
                45b9003c 00004000 40041cec 0a090909 0a010007";
    assert_sent(
        ipip_v4(7),
        &expedited(tcp_v4()),
        head,
        &Moved::forwarded(7, 40, 1),
    );
}

#[test]
fn ipv6_goes_into_ipv4() {
    let head = "020000000007 02aa00000001 0800
                45b90050 00004000 40291cb3 0a090909 0a010007";
    assert_sent(
        ipip_v4(7),
        &expedited(tcp_v6()),
        head,
        &Moved::forwarded(7, 60, 1),
    );
}

/// The keys of the flow hash are zero, so the hash is that of the products
/// of neighbouring words; its last 20 bits are the label.
#[test]
fn ipv4_goes_into_ipv6_with_the_flow_hash_as_label() {
    let head = "020000000007 02bb00000007 86dd
                6b909622 00280440
                fd990000000000000000000000000009
                fd000000000000000000000000000007";
    assert_sent(
        ipip_v6(7),
        &expedited(tcp_v4()),
        head,
        &Moved::forwarded(7, 40, 1),
    );
}

#[test]
fn ipv6_goes_into_ipv6_with_the_flow_hash_as_label() {
    let head = "020000000007 02bb00000007 86dd
                6b90b49d 003c2940
                fd990000000000000000000000000009
                fd000000000000000000000000000007";
    assert_sent(
        ipip_v6(7),
        &expedited(tcp_v6()),
        head,
        &Moved::forwarded(7, 60, 1),
    );
}

#[test]
fn options_payload_and_padding_go_along_and_padding_is_not_counted() {
    let packet = Packet {
        options: vec![1; 4],
        payload_len: 10,
        padding_len: 3,
        ..udp_v4()
    };
    let head = "020000000007 02aa00000001 0800
                4500003e 00004000 40041da3 0a090909 0a010007";
    // 24 of IP, 8 of UDP, 10 of payload.
    assert_sent(ipip_v4(7), &packet, head, &Moved::forwarded(7, 42, 0));
}

#[test]
fn only_a_syn_without_ack_counts_as_a_new_flow() {
    for (flags, flows) in [(SYN, 1), (SYN | 0xc0, 1), (SYN | ACK, 0), (ACK, 0), (0, 0)] {
        let packet = Packet { flags, ..tcp_v4() };
        let (_, moved) = Fixture::new(&only(l2(7))).run(&packet.build());
        assert_eq!(moved, Moved::forwarded(7, 40, flows), "flags {flags:02x}");
    }
}

/// A device map takes any interface that exists; number 1 is where test
/// runs say that frames come from.
#[test]
fn member_on_the_way_in_is_sent_back_there() {
    let member = Member { egress: 1, ..l2(7) };
    let (outcome, _) = Fixture::new(&only(member)).run(&tcp_v4().build());
    assert_eq!(outcome.action, Action::Tx);
}

#[test]
fn member_behind_another_interface_is_redirected() {
    crate::random::with_egress("redirect", |egress| {
        let member = Member { egress, ..l2(7) };
        let (outcome, moved) = Fixture::new(&only(member)).run(&tcp_v4().build());
        assert_eq!(outcome.action, Action::Redirect);
        assert_eq!(moved, Moved::forwarded(7, 40, 1));
    });
}

#[test]
fn trace_tells_service_member_slot_and_hash() {
    let slots: Vec<Slot> = (0..256).map(|slot| Slot::settled(slot % 2)).collect();
    let mut fixture = Fixture::new(&four_services(&[l2(7), l2(8)], &slots));
    let (outcome, moved) = fixture.run(&tcp_v4().build());
    // The hash's first byte is the slot of a table of 256.
    assert_eq!(outcome.hash, Some(0x6fa0_695b_a9a0_9622));
    assert_eq!(outcome.slot, Some(0x6f));
    assert_eq!((outcome.service, outcome.member), (Some(1), Some(1)));
    assert_eq!(moved, Moved::forwarded(8, 40, 1));
    let (outcome, _) = fixture.run(&tcp_v6().build());
    assert_eq!(outcome.hash, Some(0x8647_5492_48c0_b49d));
    assert_eq!((outcome.service, outcome.member), (Some(2), Some(0)));
}

/// Tags stand between the addresses and the EtherType, before and after.
#[test]
fn vlan_tags_stay_on_the_frame_in_every_mode() {
    let tagged = |packet: Packet, vlans: &[u16]| Packet {
        vlans: vlans.to_vec(),
        ..packet
    };
    let cases = [
        (
            l2(7),
            tcp_v4(),
            vec![100],
            "020000000007 02bb00000007 81000064 0800",
        ),
        (
            l2(7),
            tcp_v6(),
            vec![100, 200],
            "020000000007 02bb00000007 88a80064 810000c8 86dd",
        ),
        (
            ipip_v4(7),
            expedited(tcp_v4()),
            vec![100],
            "020000000007 02aa00000001 81000064 0800
             45b9003c 00004000 40041cec 0a090909 0a010007",
        ),
        (
            ipip_v4(7),
            expedited(tcp_v6()),
            vec![100, 200],
            "020000000007 02aa00000001 88a80064 810000c8 0800
             45b90050 00004000 40291cb3 0a090909 0a010007",
        ),
    ];
    for (member, packet, vlans, head) in cases {
        let frame = tagged(packet.clone(), &vlans).build();
        let (outcome, _) = Fixture::new(&only(member)).run(&frame);
        let head: String = head.split_whitespace().collect();
        assert_eq!(outcome.action, Action::Tx);
        let ip_at = ETHERNET + 4 * vlans.len();
        assert_eq!(hex(&outcome.frame), head + &hex(&frame[ip_at..]));
    }
}
