//! Packets that do not fit the way to their backend: the client is told what
//! does, from the service's address.

use balancer_common::layout::Member;
use balancer_common::verdict::Reason;
use balancer_tests::frames::packet::{ACK, MORE_FRAGMENTS};
use balancer_tests::frames::{Packet, hex};
use balancer_tests::model::build::{gue_v4, gue_v6, ipip_v4, ipip_v6, l2};
use balancer_tests::model::forward::ones_complement_sum;
use balancer_user::dataplane::trial::Action;

use crate::fixture::{Fixture, Moved, only, tcp_v4, tcp_v6};

fn of_len(packet: Packet, len: usize) -> Packet {
    let header_len = if packet.source.is_ipv4() { 40 } else { 60 };
    Packet {
        flags: ACK,
        payload_len: len - header_len,
        ..packet
    }
}

#[test]
fn ipv4_client_is_told_the_mtu_less_what_is_put_before_a_packet() {
    for (member, fits) in [
        (l2(7), 1500),
        (ipip_v4(7), 1480),
        (ipip_v6(7), 1460),
        (gue_v4(7), 1472),
        (gue_v6(7), 1452),
    ] {
        let mut fixture = Fixture::new(&only(member));
        let frame = of_len(tcp_v4(), fits + 1).build();
        let (outcome, moved) = fixture.run(&frame);
        assert_eq!(outcome.action, Action::Tx);
        assert_eq!(moved, Moved::only(Reason::TooBigAnswered));
        let out = outcome.frame;
        assert_eq!(out.len(), 14 + 576);
        // Back to where it came from: ICMP type 3, code 4, and the MTU.
        let head = "02cc00000001 02aa00000001 0800 45c002405eed00004001".replace(' ', "");
        assert_eq!(hex(&out[..24]), head);
        assert_eq!(hex(&out[26..34]), "c0000201cb007101");
        assert_eq!(ones_complement_sum(&out[14..34]), 0xffff);
        assert_eq!(hex(&out[34..36]), "0304");
        assert_eq!(hex(&out[38..40]), "0000");
        assert_eq!(out[40..42], (fits as u16).to_be_bytes());
        assert_eq!(ones_complement_sum(&out[34..]), 0xffff);
        assert_eq!(hex(&out[42..]), hex(&frame[14..14 + 548]));
        // One byte less, and it goes its way.
        let fitting = of_len(tcp_v4(), fits).build();
        assert_eq!(fixture.run(&fitting).1, Moved::forwarded(7, fits as u64, 0));
    }
}

#[test]
fn ipv6_client_is_told_the_mtu_less_what_is_put_before_a_packet() {
    for (member, fits) in [(l2(7), 1500), (ipip_v4(7), 1480), (gue_v6(7), 1452)] {
        let mut fixture = Fixture::new(&only(member));
        let frame = of_len(tcp_v6(), fits + 1).build();
        let (outcome, moved) = fixture.run(&frame);
        assert_eq!(outcome.action, Action::Tx);
        assert_eq!(moved, Moved::only(Reason::TooBigAnswered));
        let out = outcome.frame;
        assert_eq!(out.len(), 14 + 1280);
        let head = "02cc00000001 02aa00000001 86dd 6000000004d83a40".replace(' ', "");
        assert_eq!(hex(&out[..22]), head);
        assert_eq!(out[22..38], frame[38..54]);
        assert_eq!(out[38..54], frame[22..38]);
        assert_eq!(hex(&out[54..56]), "0200");
        assert_eq!(out[58..62], (fits as u32).to_be_bytes());
        let pseudo = [&out[22..54], &[0, 0, 0x04, 0xd8, 0, 0, 0, 58]].concat();
        let whole = [&pseudo, &out[54..]].concat();
        assert_eq!(ones_complement_sum(&whole), 0xffff);
        assert_eq!(hex(&out[62..]), hex(&frame[14..14 + 1232]));
    }
}

#[test]
fn no_mtu_is_told_below_what_ipv6_asks_of_links() {
    let narrow = Member {
        mtu: 900,
        ..ipip_v4(7)
    };
    let out = Fixture::new(&only(narrow))
        .run(&of_len(tcp_v6(), 1400).build())
        .0
        .frame;
    assert_eq!(out[58..62], 1280u32.to_be_bytes());
    let out = Fixture::new(&only(narrow))
        .run(&of_len(tcp_v4(), 1400).build())
        .0
        .frame;
    assert_eq!(out[40..42], 880u16.to_be_bytes());
}

#[test]
fn tags_options_and_fragments_are_quoted_as_they_came() {
    let mut fixture = Fixture::new(&only(ipip_v4(7)));
    for vlans in [vec![100], vec![100, 200]] {
        let link_len = 14 + 4 * vlans.len();
        let packet = Packet {
            vlans,
            options: vec![1; 8],
            fragment: MORE_FRAGMENTS,
            padding_len: 5,
            ..of_len(tcp_v4(), 1490)
        };
        let frame = packet.build();
        let (outcome, moved) = fixture.run(&frame);
        assert_eq!(moved, Moved::only(Reason::TooBigAnswered));
        let out = outcome.frame;
        assert_eq!(out.len(), link_len + 576);
        assert_eq!(hex(&out[12..link_len]), hex(&frame[12..link_len]));
        assert_eq!(out[link_len + 28..], frame[link_len..link_len + 548]);
    }
}

/// Not for ever as fast as packets come (RFC 4443, 2.4 (f)): a flood is
/// dropped, once a CPU has sent what it may.
#[test]
fn flood_of_packets_is_answered_only_so_often() {
    let mut fixture = Fixture::new(&only(ipip_v4(7)));
    let frame = of_len(tcp_v4(), 1481).build();
    let answered = (0..1_000_000)
        .map(|_| fixture.trial.run(&frame).unwrap().reason)
        .take_while(|reason| *reason == Reason::TooBigAnswered)
        .count();
    assert!((900..1_000_000).contains(&answered), "{answered}");
}
