use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const PORT: u16 = gue::PORT;
/// Where the outer header begins.
const AT: usize = 14;

/// An IPv4 packet of 21 bytes with this type of service.
fn inner_v4(tos: u8) -> Vec<u8> {
    let mut ip = vec![0; 21];
    ip[..4].copy_from_slice(&[0x45, tos, 0, 21]);
    ip
}

/// An IPv6 packet of 41 bytes.
fn inner_v6() -> Vec<u8> {
    let mut ip = vec![0; 41];
    ip[0] = 0x60;
    ip[5] = 1;
    ip
}

fn over_v4(protocol: u8, carried: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; AT + IPV4_LEN];
    let len = (IPV4_LEN + carried.len()) as u16;
    frame[AT] = 0x45;
    frame[AT + 2..AT + 4].copy_from_slice(&len.to_be_bytes());
    frame[AT + 9] = protocol;
    frame[AT + 12..AT + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend_from_slice(carried);
    frame
}

fn over_v6(next_header: u8, carried: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; AT + IPV6_LEN];
    frame[AT] = 0x60;
    frame[AT + 4..AT + 6].copy_from_slice(&(carried.len() as u16).to_be_bytes());
    frame[AT + 6] = next_header;
    frame[AT + 8] = 0xfd;
    frame[AT + 24] = 0xfe;
    frame.extend_from_slice(carried);
    frame
}

fn udp(checksum: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0xc0, 1];
    datagram.extend(PORT.to_be_bytes());
    datagram.extend(((UDP_LEN + payload.len()) as u16).to_be_bytes());
    datagram.extend(checksum);
    datagram.extend_from_slice(payload);
    datagram
}

/// Verifies with a full sum.
fn inside<A: Address>(outer: &Outer<A>, frame: &[u8]) -> Result<Inside, Refusal> {
    outer.inside(frame, |udp| {
        let datagram = &frame[udp.at..udp.at + udp.len];
        checksum::fold(udp.pseudo_header + checksum::sum(datagram)) == 0xffff
    })
}

fn inside_v4(frame: &[u8]) -> Option<Result<Inside, Refusal>> {
    outer_v4(frame, AT, PORT).map(|outer| inside(&outer, frame))
}

fn inside_v6(frame: &[u8]) -> Option<Result<Inside, Refusal>> {
    outer_v6(frame, AT, PORT).map(|outer| inside(&outer, frame))
}

#[test]
fn each_form_tells_where_its_packet_begins_and_ends() {
    let (v4, v6) = (inner_v4(0), inner_v6());
    let header = |protocol, inner: &[u8]| [&[1, protocol, 0, 0, 9, 9, 9, 9], inner].concat();
    let behind_v4 = AT + IPV4_LEN;
    let behind_v6 = AT + IPV6_LEN;
    let cases = [
        (over_v4(4, &v4), Form::Ipip4in4, behind_v4, 21),
        (over_v4(41, &v6), Form::Ipip6in4, behind_v4, 41),
        (
            over_v4(17, &udp([0; 2], &v4)),
            Form::Gue4in4,
            behind_v4 + 8,
            21,
        ),
        (
            over_v4(17, &udp([0; 2], &header(41, &v6))),
            Form::Gue6in4,
            behind_v4 + 16,
            41,
        ),
        (over_v6(4, &v4), Form::Ipip4in6, behind_v6, 21),
        (over_v6(41, &v6), Form::Ipip6in6, behind_v6, 41),
        (
            over_v6(17, &udp([0; 2], &header(4, &v4))),
            Form::Gue4in6,
            behind_v6 + 16,
            21,
        ),
        (
            over_v6(17, &udp([0; 2], &v6)),
            Form::Gue6in6,
            behind_v6 + 8,
            41,
        ),
    ];
    for (frame, form, at, len) in cases {
        let is_v4 = frame[AT] >> 4 == 4;
        let found = if is_v4 {
            inside_v4(&frame)
        } else {
            inside_v6(&frame)
        };
        let found = found.unwrap().unwrap();
        assert_eq!((found.form, found.at, found.len), (form, at, len));
        assert_eq!(found.mark, None);
    }
}

#[test]
fn source_is_known_before_anything_inside_is_looked_at() {
    // Nothing in the frame behind the outer header.
    let frame = over_v4(4, &[]);
    let outer = outer_v4(frame.as_slice(), AT, PORT).unwrap();
    assert_eq!(outer.source, [10, 0, 0, 1]);
    assert_eq!(inside(&outer, &frame), Err(Refusal::Truncated));
}

#[test]
fn other_protocols_and_ports_are_no_tunnel() {
    for protocol in [0, 1, 6, 47, 50, 136] {
        assert_eq!(inside_v4(&over_v4(protocol, &inner_v4(0))), None);
        assert_eq!(inside_v6(&over_v6(protocol, &inner_v4(0))), None);
    }
    let mut frame = over_v4(17, &udp([0; 2], &inner_v4(0)));
    frame[AT + IPV4_LEN + 3] ^= 1;
    assert_eq!(inside_v4(&frame), None);
}

#[test]
fn checksum_is_asked_for_where_there_is_one_and_before_what_it_covers() {
    // A broken GUE header, so that the order shows.
    let payload = [&[0x20, 4, 0, 0], inner_v4(0).as_slice()].concat();
    let mut datagram = udp([0; 2], &payload);
    let pseudo_header = 0x0a00 + 1 + 0x0a00 + 2 + 17 + datagram.len() as u32;
    let right = checksum::finish(pseudo_header + checksum::sum(&datagram));
    datagram[6..8].copy_from_slice(&right.to_be_bytes());
    let mut frame = over_v4(17, &datagram);
    assert_eq!(inside_v4(&frame), Some(Err(Refusal::UnsupportedGue)));
    frame[AT + IPV4_LEN + 7] ^= 1;
    assert_eq!(inside_v4(&frame), Some(Err(Refusal::BadUdpChecksum)));
    frame[AT + IPV4_LEN + 6..AT + IPV4_LEN + 8].fill(0);
    assert_eq!(inside_v4(&frame), Some(Err(Refusal::UnsupportedGue)));
}

#[test]
fn options_are_stepped_over_only_if_each_may_be_skipped() {
    for (options, may) in [
        ([4, 0, 4, 1, 4, 1, 1, 0], true),
        ([4, 0, 1, 4, 0, 0, 0, 0], true),
        ([4, 0, 0, 0, 0, 0, 0, 0], true),
        ([4, 0, 4, 1, 4, 1, 2, 0], false),
        ([4, 0, 4, 1, 4, 0, 0, 4], false),
        ([4, 0, 0x44, 1, 4, 1, 1, 0], false),
        ([4, 1, 4, 1, 4, 1, 1, 0], false),
    ] {
        assert_eq!(skippable(&options), may.then_some(4), "{options:?}");
        let frame = over_v6(60, &[&options[..], &inner_v4(0)].concat());
        let found = inside_v6(&frame).map(|inside| inside.map(|inside| inside.at));
        assert_eq!(found, may.then_some(Ok(AT + IPV6_LEN + 8)), "{options:?}");
    }
}

#[test]
fn outer_congestion_goes_in_or_drops() {
    let marked = |tos| {
        let mut frame = over_v4(4, &inner_v4(tos));
        frame[AT + 1] = ecn::CE;
        inside_v4(&frame).unwrap().map(|inside| inside.mark)
    };
    assert_eq!(marked(ecn::NOT_ECT), Err(Refusal::EcnDrop));
    assert_eq!(marked(ecn::CE), Ok(None));
    let mark = marked(0xb8 | ecn::ECT_0).unwrap().unwrap();
    assert_eq!(mark.first, 0x45b8 | u16::from(ecn::CE));
}

proptest! {
    #[test]
    fn what_is_found_inside_lies_in_the_frame(
        mut frame in prop::collection::vec(any::<u8>(), AT..200),
        is_v4: bool,
        protocol in prop::sample::select(&[4u8, 41, 17, 60, 44][..]),
    ) {
        if let Some(first) = frame.get_mut(AT) {
            *first = if is_v4 { 0x45 } else { 0x60 };
        }
        let (len_at, protocol_at) = if is_v4 { (2, 9) } else { (4, 6) };
        let len = (frame.len() - AT - if is_v4 { 0 } else { IPV6_LEN.min(frame.len() - AT) }) as u16;
        if frame.len() > AT + 10 {
            frame[AT + protocol_at] = protocol;
            frame[AT + len_at..AT + len_at + 2].copy_from_slice(&len.to_be_bytes());
            if is_v4 {
                frame[AT + 6..AT + 8].fill(0);
            }
        }
        let port_at = AT + if is_v4 { IPV4_LEN } else { IPV6_LEN } + 2;
        if let Some(port) = frame.get_mut(port_at..port_at + 2) {
            port.copy_from_slice(&PORT.to_be_bytes());
        }
        let found = if is_v4 { inside_v4(&frame) } else { inside_v6(&frame) };
        if let Some(Ok(inside)) = found {
            prop_assert!(inside.at + inside.len <= frame.len());
            prop_assert!(inside.len >= IPV4_LEN);
            let version = if inside.family == Family::V4 { 4 } else { 6 };
            prop_assert_eq!(frame[inside.at] >> 4, version);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_fault(
        frame in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..40
    ) {
        if let Some(outer) = outer_v4(frame.as_slice(), at, PORT) {
            let _ = inside(&outer, &frame);
        }
        if let Some(outer) = outer_v6(frame.as_slice(), at, PORT) {
            let _ = inside(&outer, &frame);
        }
    }
}
