//! IPv6 with extension headers: forwarded whole, by the ports behind them.

use balancer_tests::frames::packet::{ACK, fragment_v6, options, routing};
use balancer_tests::frames::{Packet, hex};
use balancer_tests::model::build::{ipip_v4, ipip_v6, l2};
use balancer_user::dataplane::trial::Action;

use crate::fixture::{Fixture, Moved, only, tcp_v6};

fn behind(extensions: Vec<(u8, Vec<u8>)>) -> Packet {
    Packet {
        extensions,
        payload_len: 10,
        ..tcp_v6()
    }
}

#[test]
fn packet_with_every_extension_header_goes_to_its_flows_member() {
    let packet = behind(vec![
        options(0, 1),
        routing(0),
        fragment_v6(0, 7), // atomic: RFC 6946
        options(60, 32),
    ]);
    for (member, added) in [(l2(7), 0), (ipip_v4(7), 20), (ipip_v6(7), 40)] {
        let mut fixture = Fixture::new(&only(member));
        let plain = fixture.run(&tcp_v6().build()).0;
        let frame = packet.build();
        let (outcome, moved) = fixture.run(&frame);
        assert_eq!(outcome.action, Action::Tx);
        assert_eq!((outcome.slot, outcome.hash), (plain.slot, plain.hash));
        assert_eq!(outcome.frame.len(), frame.len() + added);
        // From the IPv6 header on it is the packet that came in.
        assert_eq!(hex(&outcome.frame[14 + added..]), hex(&frame[14..]));
        let ip_len = frame.len() as u64 - 14;
        assert_eq!(moved, Moved::forwarded(7, ip_len, 1));
    }
}

#[test]
fn transport_is_checked_behind_the_headers() {
    let mut fixture = Fixture::new(&only(l2(7)));
    let long = behind(vec![options(60, 60), options(60, 90)]);
    let syn = fixture.run(&long.build()).1;
    assert_eq!(syn.members[&7][2], 1, "a new flow");
    let ack = Packet { flags: ACK, ..long };
    assert_eq!(fixture.run(&ack.build()).1.members[&7][2], 0);
    let bad = Packet {
        data_offset: Some(4),
        ..ack
    };
    assert_eq!(fixture.run(&bad.build()).0.action, Action::Drop);
}
