//! Outer headers: fragments, lengths, versions, and what may stand between
//! them and the inner packet.

use balancer_common::decap::{Form, Refusal};
use balancer_tests::frames::{Gue, Tunnel};

use super::{Backend, ETHERNET, changed, inner, pairs, tunnel};
use crate::fixture::{tcp_v4, tcp_v6};

/// A tunnel encapsulation limit of 4 and its padding (RFC 2473, 4.1.1).
const ENCAPSULATION_LIMIT: [u8; 7] = [0, 4, 1, 4, 1, 1, 0];

fn with_options(options: &[u8], gue: Option<Gue>) -> Tunnel {
    Tunnel {
        destination_options: options.to_vec(),
        gue,
        ..tunnel(false, inner(&tcp_v4()))
    }
}

#[test]
fn tunnel_encapsulation_limit_is_stepped_over() {
    let mut backend = Backend::open();
    let padding: [&[u8]; 5] = [
        &ENCAPSULATION_LIMIT,
        &[0, 1, 4, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 4, 1, 7, 1, 0],
        &[0, 1, 0, 4, 1, 7, 0],
    ];
    for options in padding {
        backend.assert_opens(&with_options(options, None), Form::Ipip4in6);
        let gue = with_options(options, Some(Gue::direct()));
        backend.assert_opens(&gue, Form::Gue4in6);
    }
    let six = Tunnel {
        destination_options: ENCAPSULATION_LIMIT.to_vec(),
        vlans: vec![1, 2],
        ..tunnel(false, inner(&tcp_v6()))
    };
    backend.assert_opens(&six, Form::Ipip6in6);
}

#[test]
fn destination_options_that_may_not_be_skipped_are_the_stacks() {
    let mut backend = Backend::open();
    let options: [&[u8]; 7] = [
        // Types whose unknowing receiver discards the packet.
        &[0, 0x44, 1, 4, 1, 1, 0],
        &[0, 0x84, 1, 4, 1, 1, 0],
        &[0, 4, 1, 4, 0xc1, 1, 0],
        // Options that go past their header.
        &[0, 4, 5, 4, 1, 1, 0],
        &[0, 4, 1, 4, 1, 2, 0],
        &[0, 4, 1, 4, 0, 0, 1],
        // Longer than a tunnel's.
        &[1, 4, 1, 4, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for options in options {
        backend.assert_ignores(&with_options(options, None).build());
    }
    // Routing and hop-by-hop headers, twice the options.
    for header in [0, 43, 60] {
        let frame = with_options(&ENCAPSULATION_LIMIT, None).build();
        let at = if header == 60 {
            ETHERNET + 40
        } else {
            ETHERNET + 6
        };
        backend.assert_ignores(&changed(frame, at, &[header]));
    }
}

#[test]
fn fragments_of_tunnel_packets_are_refused() {
    let mut backend = Backend::open();
    for (packet, form) in pairs(0) {
        // First, middle, last; IPv6 has the flag in another place.
        let is_v4 = packet.source.is_ipv4();
        let fragments = if is_v4 {
            [0x2000, 0x2001, 0x0001]
        } else {
            [0x0001, 0x0009, 0x0008]
        };
        for fragment in fragments {
            let tunnel = Tunnel {
                fragment: Some(fragment),
                ..packet.clone()
            };
            backend.assert_refuses(&tunnel.build(), Refusal::FragmentedOuter);
        }
        // The first one has the port that tells GUE, later ones have none.
        let gue = |fragment| Tunnel {
            fragment: Some(fragment),
            gue: Some(Gue::direct()),
            ..packet.clone()
        };
        backend.assert_refuses(&gue(fragments[0]).build(), Refusal::FragmentedOuter);
        backend.assert_ignores(&gue(fragments[1]).build());
        backend.assert_ignores(&gue(fragments[2]).build());
        // "Do not fragment" is none.
        if is_v4 {
            let fragment = Some(0x4000);
            backend.assert_opens(&Tunnel { fragment, ..packet }, form);
        }
    }
}

#[test]
fn malformed_outer_headers_are_the_stacks() {
    let v4 = tunnel(true, inner(&tcp_v4())).build();
    let v6 = tunnel(false, inner(&tcp_v4())).build();
    let mut backend = Backend::open();
    for frame in [
        changed(v4.clone(), ETHERNET, &[0x44]),
        changed(v4, ETHERNET, &[0x65]),
        changed(v6, ETHERNET, &[0x40]),
    ] {
        backend.assert_ignores(&frame);
    }
}

#[test]
fn frames_that_end_early_reach_the_stack_by_their_last_whole_header() {
    let mut backend = Backend::open();
    for (packet, _) in pairs(0) {
        let outer_len = if packet.source.is_ipv4() { 20 } else { 40 };
        let frame = packet.build();
        for len in ETHERNET..frame.len() {
            let frame = &frame[..len];
            if len < ETHERNET + outer_len {
                backend.assert_ignores(frame);
            } else {
                backend.assert_refuses(frame, Refusal::Truncated);
            }
        }
        let gue = Tunnel {
            gue: Some(Gue::with_header(&[0, packet_protocol(&packet), 0, 0])),
            ..packet
        };
        let frame = gue.build();
        for len in ETHERNET..frame.len() {
            let frame = &frame[..len];
            if len < ETHERNET + outer_len + 4 {
                backend.assert_ignores(frame);
            } else {
                backend.assert_refuses(frame, Refusal::Truncated);
            }
        }
    }
}

fn packet_protocol(tunnel: &Tunnel) -> u8 {
    if tunnel.inner[0] >> 4 == 4 { 4 } else { 41 }
}

#[test]
fn outer_lengths_that_leave_no_room_are_truncated() {
    let mut backend = Backend::open();
    for (packet, _) in pairs(0) {
        let outer_len = if packet.source.is_ipv4() { 20 } else { 0 };
        for room in [0, 1, 19, packet.inner.len() as u16 - 1] {
            let ip_len = Some(outer_len + room);
            let tunnel = Tunnel {
                ip_len,
                ..packet.clone()
            };
            backend.assert_refuses(&tunnel.build(), Refusal::Truncated);
        }
        if packet.source.is_ipv4() {
            for ip_len in [0, 19] {
                let ip_len = Some(ip_len);
                let tunnel = Tunnel {
                    ip_len,
                    ..packet.clone()
                };
                backend.assert_refuses(&tunnel.build(), Refusal::Truncated);
            }
        }
    }
    // Shorter than the options that follow the header.
    let tunnel = Tunnel {
        ip_len: Some(7),
        ..with_options(&ENCAPSULATION_LIMIT, None)
    };
    backend.assert_refuses(&tunnel.build(), Refusal::Truncated);
}
