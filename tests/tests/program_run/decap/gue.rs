//! GUE: both variants, its port, its lengths and UDP's checksum.

use balancer_common::decap::{Form, Refusal};
use balancer_tests::frames::{Checksum, Gue, Tunnel};
use balancer_user::dataplane::decap::Sources;

use super::{Backend, pairs};

/// A GUE tunnel for each pair of families.
fn gue_pairs(payload_len: usize, gue: &Gue) -> Vec<(Tunnel, Form)> {
    pairs(payload_len)
        .into_iter()
        .map(|(tunnel, form)| {
            let gue = Some(gue.clone());
            (Tunnel { gue, ..tunnel }, as_gue(form))
        })
        .collect()
}

fn as_gue(form: Form) -> Form {
    match form {
        Form::Ipip4in4 => Form::Gue4in4,
        Form::Ipip6in4 => Form::Gue6in4,
        Form::Ipip4in6 => Form::Gue4in6,
        _ => Form::Gue6in6,
    }
}

/// Variant 0 for what the tunnel carries, with this many words behind it.
fn header(tunnel: &Tunnel, words: u8) -> Vec<u8> {
    let protocol = if tunnel.inner[0] >> 4 == 4 { 4 } else { 41 };
    let mut header = vec![words, protocol, 0, 0];
    header.extend((0..words * 4).map(|byte| byte ^ 0x5a));
    header
}

#[test]
fn variant_1_comes_out_whole_at_every_length() {
    let mut backend = Backend::open();
    for payload_len in (0..70).chain([511, 512, 513, 1399, 1400]) {
        for (tunnel, form) in gue_pairs(payload_len, &Gue::direct()) {
            backend.assert_opens(&tunnel, form);
        }
    }
}

#[test]
fn variant_0_comes_out_whole_behind_every_number_of_words() {
    let mut backend = Backend::open();
    for words in 0..32 {
        for (mut tunnel, form) in gue_pairs(11, &Gue::direct()) {
            tunnel.gue = Some(Gue::with_header(&header(&tunnel, words)));
            backend.assert_opens(&tunnel, form);
        }
    }
}

#[test]
fn vlan_tags_and_padding_stay_around_the_inner_packet() {
    let mut backend = Backend::open();
    for vlans in [vec![], vec![7], vec![7, 8]] {
        for (mut tunnel, form) in gue_pairs(1, &Gue::direct()) {
            tunnel.vlans.clone_from(&vlans);
            tunnel.padding = vec![0x77; 9];
            backend.assert_opens(&tunnel, form);
            tunnel.gue = Some(Gue::with_header(&header(&tunnel, 1)));
            backend.assert_opens(&tunnel, form);
        }
    }
}

#[test]
fn right_checksums_are_taken_and_wrong_ones_refused() {
    let mut backend = Backend::open();
    let by_length = (0..40).chain([255, 256, 512, 1023, 1024, 1400, 3000]);
    for payload_len in by_length {
        for (mut tunnel, form) in gue_pairs(payload_len, &Gue::direct()) {
            let mut gue = Gue::direct();
            gue.checksum = Checksum::Right;
            tunnel.gue = Some(gue.clone());
            backend.assert_opens(&tunnel, form);
            // Bytes after the datagram are none of it.
            tunnel.padding = vec![0xff; 3];
            backend.assert_opens(&tunnel, form);
            for by in [1, 0x0100, 0x8000, 0xfffe] {
                gue.checksum = Checksum::WrongBy(by);
                tunnel.gue = Some(gue.clone());
                backend.assert_refuses(&tunnel.build(), Refusal::BadUdpChecksum);
            }
        }
    }
}

#[test]
fn every_byte_counts_in_the_checksum() {
    let mut backend = Backend::open();
    for (tunnel, _) in gue_pairs(523, &Gue::direct()) {
        let mut gue = Gue::direct();
        gue.checksum = Checksum::Right;
        let tunnel = Tunnel {
            gue: Some(gue),
            ..tunnel
        };
        let frame = tunnel.build();
        let payload_at = frame.len() - tunnel.inner.len();
        for at in payload_at..frame.len() {
            let mut frame = frame.clone();
            frame[at] ^= 0x10;
            backend.assert_refuses(&frame, Refusal::BadUdpChecksum);
        }
        // Source and destination, by way of the pseudo-header.
        for at in payload_at - 16..payload_at - 8 {
            let mut frame = frame.clone();
            frame[at] ^= 0x10;
            backend.assert_refuses(&frame, Refusal::BadUdpChecksum);
        }
    }
}

#[test]
fn what_is_not_understood_is_unsupported() {
    let mut backend = Backend::open();
    for (mut tunnel, _) in gue_pairs(0, &Gue::direct()) {
        let [_, protocol, ..] = header(&tunnel, 0)[..] else {
            unreachable!("a header has four bytes")
        };
        for header in [
            // A control message, two unknown variants.
            [0x20, protocol, 0, 0],
            [0x80, protocol, 0, 0],
            [0xc0, protocol, 0, 0],
            // Each flag, first and last.
            [0, protocol, 0x80, 0],
            [0, protocol, 0, 0x01],
            // TCP, nothing, and "no next header".
            [0, 6, 0, 0],
            [0, 0, 0, 0],
            [0, 59, 0, 0],
        ] {
            tunnel.gue = Some(Gue::with_header(&header));
            backend.assert_refuses(&tunnel.build(), Refusal::UnsupportedGue);
        }
    }
}

#[test]
fn inner_packet_of_another_version_is_refused() {
    let mut backend = Backend::open();
    for (mut tunnel, _) in gue_pairs(0, &Gue::direct()) {
        let other = if tunnel.inner[0] >> 4 == 4 { 41 } else { 4 };
        tunnel.gue = Some(Gue::with_header(&[0, other, 0, 0]));
        backend.assert_refuses(&tunnel.build(), Refusal::BadInnerVersion);
        // Variant 1 with a version that is none.
        tunnel.gue = Some(Gue::direct());
        for first in [0x55, 0x75] {
            tunnel.inner[0] = first;
            backend.assert_refuses(&tunnel.build(), Refusal::BadInnerVersion);
        }
    }
}

#[test]
fn udp_lengths_that_do_not_fit_are_truncated() {
    let mut backend = Backend::open();
    for (tunnel, _) in gue_pairs(0, &Gue::direct()) {
        let right = 8 + tunnel.inner.len() as u16;
        for udp_len in [0, 7, 8, 27, right - 1, right + 1, 0xffff] {
            let gue = Gue {
                udp_len: Some(udp_len),
                ..Gue::direct()
            };
            let tunnel = Tunnel {
                gue: Some(gue),
                padding: vec![0; 8],
                ..tunnel.clone()
            };
            backend.assert_refuses(&tunnel.build(), Refusal::Truncated);
        }
        // Words that reach past the datagram.
        let mut header = header(&tunnel, 0);
        header[0] = 31;
        let tunnel = Tunnel {
            gue: Some(Gue::with_header(&header)),
            padding: vec![0; 200],
            ..tunnel
        };
        backend.assert_refuses(&tunnel.build(), Refusal::Truncated);
    }
}

#[test]
fn only_the_port_that_is_set_is_gue() {
    for port in [6080, 19_523, 1, 0xffff] {
        let mut backend = Backend::with(Sources::Any, port);
        for other in [6080, 6081, 0x17, 0xc017, 19_523, 1, 0xffff] {
            let gue = Gue {
                port: other,
                ..Gue::direct()
            };
            for (tunnel, form) in gue_pairs(2, &gue) {
                if other == port {
                    backend.assert_opens(&tunnel, form);
                } else {
                    backend.assert_ignores(&tunnel.build());
                }
            }
        }
    }
}
