//! ECN and DSCP at the tunnel's end: RFC 6040, figure 4.

use balancer_common::decap::Refusal;
use balancer_tests::frames::{Gue, Packet, Tunnel};
use balancer_tests::model::forward::ones_complement_sum;
use balancer_user::dataplane::trial::Action;

use super::{Backend, inner, tunnel};
use crate::fixture::{tcp_v4, tcp_v6};

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// Inner and outer code point, and what the inner packet has afterwards.
const FIGURE_4: [(u8, u8, Option<u8>); 16] = [
    (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
    (NOT_ECT, ECT_0, Some(NOT_ECT)),
    (NOT_ECT, ECT_1, Some(NOT_ECT)),
    (NOT_ECT, CE, None),
    (ECT_0, NOT_ECT, Some(ECT_0)),
    (ECT_0, ECT_0, Some(ECT_0)),
    (ECT_0, ECT_1, Some(ECT_1)),
    (ECT_0, CE, Some(CE)),
    (ECT_1, NOT_ECT, Some(ECT_1)),
    (ECT_1, ECT_0, Some(ECT_1)),
    (ECT_1, ECT_1, Some(ECT_1)),
    (ECT_1, CE, Some(CE)),
    (CE, NOT_ECT, Some(CE)),
    (CE, ECT_0, Some(CE)),
    (CE, ECT_1, Some(CE)),
    (CE, CE, Some(CE)),
];

/// An inner packet with this traffic class; built anew, so with a checksum
/// that is summed in full.
fn classed(is_v4: bool, traffic_class: u8) -> Vec<u8> {
    let packet = if is_v4 { tcp_v4() } else { tcp_v6() };
    inner(&Packet {
        traffic_class,
        payload_len: 5,
        ..packet
    })
}

#[test]
fn all_sixteen_combinations_of_every_form() {
    let mut backend = Backend::open();
    // DSCP of both sides, to see that it stays: EF inside, CS1 outside.
    let (inner_dscp, outer_dscp) = (46 << 2, 8 << 2);
    for (outer_v4, inner_v4) in [(true, true), (true, false), (false, true), (false, false)] {
        for gue in [None, Some(Gue::direct())] {
            for (inner, outer, after) in FIGURE_4 {
                let tunnel = Tunnel {
                    traffic_class: outer_dscp | outer,
                    gue: gue.clone(),
                    vlans: vec![5],
                    ..tunnel(outer_v4, classed(inner_v4, inner_dscp | inner))
                };
                let frame = tunnel.build();
                let (action, out, counted) = backend.run(&frame);
                let Some(after) = after else {
                    assert_eq!(counted, Some(Err(Refusal::EcnDrop)));
                    assert_eq!((action, out), (Action::Drop, frame));
                    continue;
                };
                let expected = Tunnel {
                    inner: classed(inner_v4, inner_dscp | after),
                    ..tunnel
                };
                assert_eq!(action, Action::Pass);
                assert_eq!(out, expected.unwrapped(), "{inner:02b} {outer:02b}");
                assert!(matches!(counted, Some(Ok((_, 45 | 65)))), "{counted:?}");
            }
        }
    }
}

#[test]
fn checksum_of_inner_options_is_updated_and_a_wrong_one_stays_wrong() {
    let mut backend = Backend::open();
    let packet = inner(&Packet {
        traffic_class: ECT_0,
        options: vec![1, 1, 1, 0],
        ..tcp_v4()
    });
    let marked = |inner| Tunnel {
        traffic_class: CE,
        ..tunnel(true, inner)
    };
    let (_, out, _) = backend.run(&marked(packet.clone()).build());
    assert_eq!(out[15], CE);
    assert_eq!(ones_complement_sum(&out[14..38]), 0xffff);
    let mut wrong = packet;
    wrong[11] ^= 1;
    let (_, out, _) = backend.run(&marked(wrong.clone()).build());
    assert_eq!(out[15], CE);
    assert_ne!(ones_complement_sum(&out[14..38]), 0xffff);
    assert_eq!(
        ones_complement_sum(&out[14..38]),
        ones_complement_sum(&wrong[..24])
    );
}

#[test]
fn packet_of_a_stranger_is_not_dropped_for_its_ecn() {
    let sources = balancer_user::dataplane::decap::Sources::In(vec!["10.0.0.0/8".parse().unwrap()]);
    let mut backend = Backend::trusting(sources);
    for (is_v4, refused) in [(true, Refusal::EcnDrop), (false, Refusal::UntrustedSource)] {
        let tunnel = Tunnel {
            traffic_class: CE,
            ..tunnel(is_v4, classed(true, NOT_ECT))
        };
        let (action, _, counted) = backend.run(&tunnel.build());
        assert_eq!(counted, Some(Err(refused)));
        let is_dropped = refused == Refusal::EcnDrop;
        assert_eq!(action == Action::Drop, is_dropped);
    }
}
