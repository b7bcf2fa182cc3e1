//! The MSS of SYNs: lowered where a service asks for it, with a checksum
//! that holds.

use balancer_common::layout::Target;
use balancer_tests::frames::packet::{ACK, SYN};
use balancer_tests::frames::{Packet, hex};
use balancer_tests::model::build::{ipip_v6, l2};
use balancer_tests::model::forward::checksum;
use balancer_user::dataplane::State;

use crate::fixture::{Fixture, only, tcp_v4, tcp_v6};

fn clamping(mut state: State) -> State {
    for service in state.services.values_mut() {
        service.flags |= Target::CLAMP_MSS;
        service.options.mss = 1400;
    }
    state
}

/// A frame whose TCP header has a right checksum, pseudo-header included.
fn with_checksum(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.build();
    let at = frame.len() - 20 - packet.tcp_options.len();
    let check = tcp_checksum(packet, &frame[at..]);
    frame[at + 16..at + 18].copy_from_slice(&check.to_be_bytes());
    frame
}

fn tcp_checksum(packet: &Packet, segment: &[u8]) -> u16 {
    let octets = |address| match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut bytes = octets(packet.source.ip());
    bytes.extend(octets(packet.destination.ip()));
    bytes.extend([0, 6]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    checksum(&bytes)
}

fn syn(packet: Packet, options: &[u8]) -> Packet {
    Packet {
        tcp_options: options.to_vec(),
        ..packet
    }
}

#[test]
fn larger_mss_is_lowered_at_even_and_odd_places() {
    let cases: [(&[u8], &[u8]); 3] = [
        (&[2, 4, 5, 0xb4], &[2, 4, 5, 0x78]),
        (
            &[1, 2, 4, 0xff, 0xff, 4, 2, 0],
            &[1, 2, 4, 5, 0x78, 4, 2, 0],
        ),
        (
            &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 4, 5, 0xb4, 0],
            &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 4, 5, 0x78, 0],
        ),
    ];
    for member in [l2(7), ipip_v6(7)] {
        let mut fixture = Fixture::new(&clamping(only(member)));
        for packet in [tcp_v4(), tcp_v6()] {
            for (before, after) in cases {
                let packet = syn(packet.clone(), before);
                let frame = with_checksum(&packet);
                let out = fixture.run(&frame).0.frame;
                let segment = &out[out.len() - 20 - after.len()..];
                assert_eq!(hex(&segment[20..]), hex(after));
                assert_eq!(tcp_checksum(&packet, segment), 0, "{}", hex(segment));
                let expected = with_checksum(&syn(packet, after));
                assert_eq!(
                    hex(segment),
                    hex(&expected[expected.len() - segment.len()..])
                );
            }
        }
    }
}

#[test]
fn what_is_no_syn_or_has_no_larger_mss_is_left_alone() {
    let mss = [2, 4, 5, 0xb4];
    let with_flags = |flags| Packet {
        flags,
        ..syn(tcp_v4(), &mss)
    };
    let mut fixture = Fixture::new(&clamping(only(l2(7))));
    for packet in [
        syn(tcp_v4(), &[2, 4, 5, 0x78]),
        syn(tcp_v4(), &[0, 0, 0, 0, 2, 4, 5, 0xb4]),
        tcp_v4(),
        with_flags(ACK),
        with_flags(SYN | ACK),
    ] {
        let frame = with_checksum(&packet);
        assert_eq!(hex(&fixture.run(&frame).0.frame[12..]), hex(&frame[12..]));
    }
    // A service that does not ask for it.
    let frame = with_checksum(&syn(tcp_v4(), &mss));
    let out = Fixture::new(&only(l2(7))).run(&frame).0.frame;
    assert_eq!(hex(&out[12..]), hex(&frame[12..]));
}
