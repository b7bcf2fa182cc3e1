//! IP in IP, also as the balancer itself makes it.

use balancer_common::decap::{Form, Refusal};
use balancer_tests::frames::{Packet, Tunnel};
use balancer_tests::model::build::{ipip_v4, ipip_v6, l2};
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::{Action, Trial};

use super::{Backend, ETHERNET, changed, pairs, tunnel};
use crate::fixture::{only, tcp_v4, tcp_v6, udp_v4};

/// What the balancer makes of a packet for its one member.
fn sent(state: &State, packet: &Packet) -> Vec<u8> {
    let outcome = Trial::load(state).unwrap().run(&packet.build()).unwrap();
    assert_eq!(outcome.action, Action::Tx);
    outcome.frame
}

#[test]
fn every_pair_of_families_comes_out_as_the_packet_that_went_into_the_balancer() {
    let mut backend = Backend::open();
    for (member, outer_v4) in [(ipip_v4(7), true), (ipip_v6(7), false)] {
        for (packet, inner_v4) in [(tcp_v4(), true), (tcp_v6(), false), (udp_v4(), true)] {
            let packet = Packet {
                payload_len: 100,
                ..packet
            };
            let frame = sent(&only(member), &packet);
            // The addresses are those the frame came with.
            let expected = [&frame[..12], &packet.build()[12..]].concat();
            let form = match (outer_v4, inner_v4) {
                (true, true) => Form::Ipip4in4,
                (true, false) => Form::Ipip6in4,
                (false, true) => Form::Ipip4in6,
                (false, false) => Form::Ipip6in6,
            };
            backend.assert_unwraps(&frame, &expected, form, expected.len() - ETHERNET);
        }
    }
}

#[test]
fn every_length_comes_out_whole() {
    let mut backend = Backend::open();
    for payload_len in (0..70).chain([511, 512, 513, 1399, 1400]) {
        for (tunnel, form) in pairs(payload_len) {
            backend.assert_opens(&tunnel, form);
        }
    }
}

#[test]
fn vlan_tags_outlive_the_outer_header() {
    let mut backend = Backend::open();
    for vlans in [vec![100], vec![100, 200]] {
        for (tunnel, form) in pairs(3) {
            let vlans = vlans.clone();
            backend.assert_opens(&Tunnel { vlans, ..tunnel }, form);
        }
    }
}

#[test]
fn padding_is_no_byte_of_the_inner_packet() {
    let mut backend = Backend::open();
    for (tunnel, form) in pairs(0) {
        let padding = vec![0xa5; 7];
        backend.assert_opens(&Tunnel { padding, ..tunnel }, form);
    }
}

#[test]
fn outer_options_go_with_the_outer_header() {
    let mut backend = Backend::open();
    for len in (4..=40).step_by(4) {
        let tunnel = Tunnel {
            options: vec![1; len],
            ..tunnel(true, super::inner(&tcp_v4()))
        };
        backend.assert_opens(&tunnel, Form::Ipip4in4);
    }
}

#[test]
fn packets_in_no_tunnel_are_the_stacks() {
    let l2 = only(l2(7));
    let wrapped = tunnel(true, super::inner(&tcp_v4())).build();
    let gre = changed(wrapped.clone(), ETHERNET + 9, &[47]);
    let arp = changed(wrapped, 12, &[0x08, 0x06]);
    let mut backend = Backend::open();
    for frame in [sent(&l2, &tcp_v4()), sent(&l2, &tcp_v6()), gre, arp] {
        backend.assert_ignores(&frame);
    }
}

#[test]
fn inner_packet_of_another_version_is_refused() {
    let mut backend = Backend::open();
    for (tunnel, _) in pairs(0) {
        // What it says it carries is the other family.
        let is_v4 = tunnel.inner[0] >> 4 == 4;
        let protocol = Some(if is_v4 { 41 } else { 4 });
        let other = Tunnel { protocol, ..tunnel };
        backend.assert_refuses(&other.build(), Refusal::BadInnerVersion);
        for version in [0x05, 0x75, 0xf5] {
            let mut broken = other.clone();
            broken.protocol = None;
            broken.inner[0] = version;
            broken.protocol = Some(if is_v4 { 4 } else { 41 });
            backend.assert_refuses(&broken.build(), Refusal::BadInnerVersion);
        }
    }
}

#[test]
fn inner_packet_longer_than_its_tunnel_is_truncated() {
    let mut backend = Backend::open();
    for (tunnel, form) in pairs(5) {
        backend.assert_opens(&tunnel, form);
        // A byte less in the outer packet; the frame still has it.
        let padding = vec![tunnel.inner[tunnel.inner.len() - 1]];
        let mut inner = tunnel.inner.clone();
        inner.pop();
        let short = Tunnel {
            inner,
            padding,
            ..tunnel
        };
        backend.assert_refuses(&short.build(), Refusal::Truncated);
    }
}
