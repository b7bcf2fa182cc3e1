//! The backend's program: takes the outer header off what the balancer sent,
//! and lets all else through as it came.

use std::net::IpAddr;

use balancer_common::layout::DecapCounters;
use balancer_tests::frames::Packet;
use balancer_tests::model::build::{ipip_v4, ipip_v6, l2};
use balancer_user::dataplane::State;
use balancer_user::dataplane::decap::DecapTrial;
use balancer_user::dataplane::trial::{Action, Trial};

use crate::fixture::{only, tcp_v4, tcp_v6, udp_v4};

const ETHERNET: usize = 14;

/// What the balancer makes of a packet for its one member.
fn sent(state: &State, packet: &Packet) -> Vec<u8> {
    let outcome = Trial::load(state).unwrap().run(&packet.build()).unwrap();
    assert_eq!(outcome.action, Action::Tx);
    outcome.frame
}

/// A packet that went through an IPv4 tunnel.
fn wrapped_v4() -> Vec<u8> {
    sent(&only(ipip_v4(7)), &tcp_v4())
}

/// A packet that went through an IPv6 tunnel.
fn wrapped_v6() -> Vec<u8> {
    sent(&only(ipip_v6(7)), &tcp_v4())
}

fn source(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// Each frame reaches the stack as it came.
fn assert_untouched(sources: &[IpAddr], frames: &[Vec<u8>]) {
    let mut decap = DecapTrial::load(sources).unwrap();
    for (case, frame) in frames.iter().enumerate() {
        let (action, out) = decap.run(frame).unwrap();
        assert_eq!(action, Action::Pass, "case {case}");
        assert_eq!(out, *frame, "case {case}");
    }
    assert_eq!(decap.counters().unwrap(), DecapCounters::default());
}

fn changed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn every_pair_of_families_comes_out_as_the_packet_that_went_in() {
    let mut decap = DecapTrial::load(&[]).unwrap();
    let mut expected = DecapCounters::default();
    for member in [ipip_v4(7), ipip_v6(7)] {
        for packet in [tcp_v4(), tcp_v6(), udp_v4()] {
            let packet = Packet {
                payload_len: 100,
                ..packet
            };
            let frame = sent(&only(member), &packet);
            let (action, out) = decap.run(&frame).unwrap();
            assert_eq!(action, Action::Pass);
            // The addresses are those the frame came with.
            assert_eq!(out[..12], frame[..12]);
            assert_eq!(out[12..], packet.build()[12..]);
            expected.packets += 1;
            expected.bytes += (packet.build().len() - ETHERNET) as u64;
            assert_eq!(decap.counters().unwrap(), expected);
        }
    }
}

#[test]
fn vlan_tags_outlive_the_outer_header() {
    let mut decap = DecapTrial::load(&[]).unwrap();
    for member in [ipip_v4(7), ipip_v6(7)] {
        for vlans in [vec![100], vec![100, 200]] {
            let packet = Packet { vlans, ..tcp_v6() };
            let frame = sent(&only(member), &packet);
            let (action, out) = decap.run(&frame).unwrap();
            assert_eq!(action, Action::Pass);
            assert_eq!(out[..12], frame[..12]);
            assert_eq!(out[12..], packet.build()[12..]);
        }
    }
}

#[test]
fn padding_is_no_byte_of_the_inner_packet() {
    let packet = Packet {
        padding_len: 6,
        ..tcp_v4()
    };
    for member in [ipip_v4(7), ipip_v6(7)] {
        let mut decap = DecapTrial::load(&[]).unwrap();
        let (_, out) = decap.run(&sent(&only(member), &packet)).unwrap();
        assert_eq!(out[12..], packet.build()[12..]);
        let counters = decap.counters().unwrap();
        assert_eq!((counters.packets, counters.bytes), (1, 40));
    }
}

#[test]
fn outer_options_go_with_the_outer_header() {
    let mut frame = wrapped_v4();
    frame[ETHERNET] = 0x46;
    frame[ETHERNET + 3] += 4;
    frame.splice(ETHERNET + 20..ETHERNET + 20, [1; 4]);
    let (_, out) = DecapTrial::load(&[]).unwrap().run(&frame).unwrap();
    assert_eq!(out[12..], tcp_v4().build()[12..]);
}

#[test]
fn named_sources_are_trusted_and_no_others() {
    let (v4, v6) = (wrapped_v4(), wrapped_v6());
    let trusted = [source("10.9.9.9"), source("fd99::9")];
    let mut decap = DecapTrial::load(&trusted).unwrap();
    for frame in [&v4, &v6] {
        let (_, out) = decap.run(frame).unwrap();
        assert_eq!(out[12..], tcp_v4().build()[12..]);
    }
    let others = [source("10.9.9.8"), source("fd99::8")];
    assert_untouched(&others, &[v4.clone(), v6.clone()]);
    // One family says nothing about the other.
    assert_untouched(&trusted[1..], &[v4]);
    assert_untouched(&trusted[..1], &[v6]);
}

#[test]
fn packets_in_no_tunnel_are_untouched() {
    let l2 = only(l2(7));
    let gre = changed(wrapped_v4(), ETHERNET + 9, &[47]);
    let mut arp = wrapped_v4();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let frames = [sent(&l2, &tcp_v4()), sent(&l2, &tcp_v6()), gre, arp];
    assert_untouched(&[], &frames);
}

#[test]
fn fragments_of_tunnel_packets_are_untouched() {
    let frames = [[0x20, 0x00], [0x00, 0x01], [0x3f, 0xff]]
        .map(|fragment| changed(wrapped_v4(), ETHERNET + 6, &fragment));
    assert_untouched(&[], &frames);
}

#[test]
fn malformed_outer_headers_are_untouched() {
    let frames = [
        changed(wrapped_v4(), ETHERNET, &[0x44]),
        changed(wrapped_v4(), ETHERNET, &[0x65]),
        changed(wrapped_v6(), ETHERNET, &[0x40]),
    ];
    assert_untouched(&[], &frames);
}

#[test]
fn frames_that_end_inside_their_headers_are_untouched() {
    let mut frames = Vec::new();
    for (wrapped, headers) in [(wrapped_v4(), 40), (wrapped_v6(), 60)] {
        for len in ETHERNET..ETHERNET + headers {
            frames.push(wrapped[..len].to_vec());
        }
    }
    assert_untouched(&[], &frames);
}

#[test]
fn packets_that_are_not_whole_are_untouched() {
    let mut frames = Vec::new();
    for mut wrapped in [wrapped_v4(), wrapped_v6()] {
        wrapped.pop();
        frames.push(wrapped);
    }
    // Lengths that leave no room for an inner header.
    frames.push(changed(wrapped_v4(), ETHERNET + 2, &[0, 20]));
    frames.push(changed(wrapped_v4(), ETHERNET + 2, &[0, 39]));
    frames.push(changed(wrapped_v4(), ETHERNET + 2, &[0, 0]));
    frames.push(changed(wrapped_v6(), ETHERNET + 4, &[0, 0]));
    frames.push(changed(wrapped_v6(), ETHERNET + 4, &[0, 19]));
    assert_untouched(&[], &frames);
}
