//! Probes byte by byte, and answers of all kinds.

use bytemuck::Zeroable;
use proptest::prelude::*;

use super::*;

fn tcp(source: &str, destination: &str) -> Probe {
    Probe {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        mark: Mark::Tcp {
            source_port: 0xc123,
            destination_port: 443,
            sequence: 0x0102_0304,
        },
    }
}

fn echo(source: &str, destination: &str) -> Probe {
    Probe {
        mark: Mark::Echo {
            identifier: 7,
            sequence: 9,
        },
        ..tcp(source, destination)
    }
}

/// The packet with which the other side answers: ends exchanged, and what
/// `change` does to the payload.
fn answered(probe: &Probe, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut packet = probe.request();
    let (addresses, payload) = match probe.source {
        IpAddr::V4(_) => (12..20, 20),
        IpAddr::V6(_) => (8..40, 40),
    };
    let len = addresses.len() / 2;
    packet[addresses].rotate_left(len);
    change(&mut packet[payload..]);
    packet
}

fn take(segment: &mut [u8]) {
    segment.swap(0, 2);
    segment.swap(1, 3);
    segment[8..12].copy_from_slice(&[1, 2, 3, 5]);
    segment[13] = SYN | ACK;
}

#[test]
fn syn_is_a_whole_packet() {
    // Zeros where the two checksums stand.
    #[rustfmt::skip]
    let expected = [
        0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 192, 0, 2, 9,
        0xc1, 0x23, 1, 187, 1, 2, 3, 4, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0,
        2, 4, 5, 180,
    ];
    let mut packet = tcp("10.0.0.1", "192.0.2.9").request();
    assert!(sums_are_right(&packet));
    for at in [10, 11, 36, 37] {
        packet[at] = 0;
    }
    assert_eq!(packet, expected);
}

/// Whether the checksums of an IPv4 or IPv6 packet are right, reckoned from
/// its bytes alone.
fn sums_are_right(packet: &[u8]) -> bool {
    let (addresses, protocol, payload) = match packet[0] >> 4 {
        4 if checksum::fold(checksum::sum(&packet[..20])) != 0xffff => return false,
        4 => (&packet[12..20], packet[9], &packet[20..]),
        _ => (&packet[8..40], packet[6], &packet[40..]),
    };
    let mut sum = checksum::sum(payload);
    if protocol != PROTOCOL_ICMP {
        sum += checksum::sum(addresses) + u32::from(protocol) + payload.len() as u32;
    }
    checksum::fold(sum) == 0xffff
}

#[test]
fn every_probe_has_right_checksums() {
    for probe in [
        tcp("10.0.0.1", "192.0.2.9"),
        tcp("2001:db8::1", "2001:db8::9"),
        echo("10.0.0.1", "192.0.2.9"),
        echo("2001:db8::1", "2001:db8::9"),
    ] {
        assert!(sums_are_right(&probe.request()), "{probe:?}");
        let reset = probe.reset();
        assert_eq!(reset.is_some(), matches!(probe.mark, Mark::Tcp { .. }));
        assert!(reset.is_none_or(|it| sums_are_right(&it)), "{probe:?}");
    }
    let own = Mac([2, 0, 0, 0, 0, 1]);
    let frame = solicitation(
        own,
        "fe80::1".parse().unwrap(),
        "2001:db8::a:b".parse().unwrap(),
    );
    assert!(sums_are_right(&frame[14..]));
    // To the group of the address, and only from the link.
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x0a, 0x00, 0x0b]);
    assert_eq!(frame[14 + 7], 255);
}

#[test]
fn answers_bring_back_the_mark_of_their_probe() {
    for probe in [
        tcp("10.0.0.1", "192.0.2.9"),
        tcp("2001:db8::1", "2001:db8::9"),
    ] {
        let taken = Answer {
            source: probe.destination,
            mark: probe.mark,
            kind: AnswerKind::Taken { mss: Some(1460) },
        };
        assert_eq!(answer(&answered(&probe, take)), Some(taken));
        let refused = answered(&probe, |segment| {
            take(segment);
            segment[13] = RST | ACK;
        });
        let kind = AnswerKind::Refused;
        assert_eq!(answer(&refused), Some(Answer { kind, ..taken }));
        // Its own request, as another host's probe would look.
        assert_eq!(answer(&probe.request()), None);
        // The number of another connection is another mark.
        let other = answered(&probe, |segment| {
            take(segment);
            segment[11] = 9;
        });
        assert_ne!(answer(&other).unwrap().mark, probe.mark);
    }
    for (probe, reply) in [
        (echo("10.0.0.1", "192.0.2.9"), ECHO_REPLY),
        (echo("2001:db8::1", "2001:db8::9"), ECHO_REPLY_V6),
    ] {
        let packet = answered(&probe, |icmp| icmp[0] = reply);
        let taken = Answer {
            source: probe.destination,
            mark: probe.mark,
            kind: AnswerKind::Taken { mss: None },
        };
        assert_eq!(answer(&packet), Some(taken));
        assert_eq!(answer(&probe.request()), None);
    }
}

#[test]
fn segment_size_is_found_behind_other_options() {
    let segment = |options: &[u8]| {
        let mut segment = vec![0; 20];
        segment[12] = (5 + options.len() as u8 / 4) << 4;
        segment.extend(options);
        segment
    };
    assert_eq!(mss(&segment(&[1, 1, 4, 2, 2, 4, 5, 0x78])), Some(1400));
    assert_eq!(mss(&segment(&[1, 3, 3, 7])), None);
    assert_eq!(mss(&segment(&[])), None);
    // A length of 0 would go round in a circle.
    assert_eq!(mss(&segment(&[8, 0, 2, 4])), None);
}

#[test]
fn arp_probe_asks_without_an_address_and_claims_are_read() {
    let own = Mac([2, 0, 0, 0, 0, 1]);
    let frame = arp_probe(own, Ipv4Addr::new(192, 0, 2, 9));
    #[rustfmt::skip]
    assert_eq!(frame, [
        255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6,
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9,
    ]);
    let mut reply = frame[14..].to_vec();
    reply[8..18].copy_from_slice(&[2, 0, 0, 0, 0, 7, 192, 0, 2, 9]);
    let claimed: IpAddr = "192.0.2.9".parse().unwrap();
    assert_eq!(arp_claim(&reply), Some((claimed, Mac([2, 0, 0, 0, 0, 7]))));
    reply[4] = 8;
    assert_eq!(arp_claim(&reply), None);
}

#[test]
fn advertisement_counts_from_the_link_only() {
    let probe = echo("fe80::7", "fe80::1");
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0];
    let target: Ipv6Addr = "2001:db8::9".parse().unwrap();
    icmp.extend(target.octets());
    // A nonce (RFC 3971) before the address.
    icmp.extend([14, 1, 1, 2, 3, 4, 5, 6]);
    icmp.extend([TARGET_OPTION, 1, 2, 0, 0, 0, 0, 7]);
    let packet = probe.packet(PROTOCOL_ICMPV6, LINK_TTL, icmp.clone(), 2);
    let claim = (target.into(), Mac([2, 0, 0, 0, 0, 7]));
    assert_eq!(advertised(&packet), Some(claim));
    let routed = probe.packet(PROTOCOL_ICMPV6, 254, icmp, 2);
    assert_eq!(advertised(&routed), None);
}

#[test]
fn l2_member_gets_the_packet_as_it_is() {
    let mut member = Member::zeroed();
    member.kind = Member::L2;
    member.ethernet = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    for (probe, ethertype) in [
        (tcp("10.0.0.1", "192.0.2.9"), ETHERTYPE_IPV4),
        (tcp("2001:db8::1", "2001:db8::9"), ETHERTYPE_IPV6),
    ] {
        let packet = probe.request();
        let frame = to_member(&member, &packet, 0);
        assert_eq!(frame[..12], member.ethernet);
        assert_eq!(frame[12..14], ethertype);
        assert_eq!(frame[14..], packet);
    }
}

proptest! {
    #[test]
    fn no_bytes_break_the_readers(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = (answer(&bytes), arp_claim(&bytes), advertised(&bytes));
    }
}
