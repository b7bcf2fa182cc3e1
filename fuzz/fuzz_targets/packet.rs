//! Any frame through every reader of the packet path.
//!
//! What must hold: nothing panics; what is accepted lies inside the frame;
//! reading twice gives the same, and padding behind the packet changes
//! nothing; service, flow and every fault are what the reference model says,
//! which is written from the RFCs; an answer to an echo request has the
//! checksums of its request brought up to date.
#![cfg_attr(fuzzing, no_main)]

use std::fmt::Debug;
use std::net::IpAddr;

use balancer_common::affinity::Opening;
use balancer_common::hash::Address;
use balancer_common::parse::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, Part};
use balancer_common::verdict::Reason;
use balancer_common::{checksum, icmp};

// The one file of the model that is needed: the crate around it holds the lab,
// which takes a minute to build with coverage counters in it.
#[allow(unreachable_pub, reason = "the model's own crate makes it public")]
#[path = "../../tests/src/model/parse.rs"]
mod model;

fn check(frame: &[u8]) {
    let link = parse::link(frame);
    assert_eq!(link, parse::link(frame));
    let Ok(link) = link else {
        assert_eq!(model::flow(frame), Err(Reason::Truncated));
        return;
    };
    assert!(link.len <= frame.len());
    match link.ethertype {
        ETHERTYPE_IPV4 => {
            packet(frame, link.len, |frame| parse::ipv4(frame, link.len));
            echo_v4(frame, link.len);
        }
        ETHERTYPE_IPV6 => {
            packet(frame, link.len, |frame| parse::ipv6(frame, link.len));
            echo_v6(frame, link.len);
        }
        _ => assert_eq!(model::flow(frame), Err(Reason::NotIp)),
    }
}

fn packet<A>(frame: &[u8], ip_at: usize, read: impl Fn(&[u8]) -> Result<Packet<A>, Reason>)
where
    A: Address + Copy + Debug + PartialEq + Into<IpAddr>,
{
    let packet = read(frame);
    assert_eq!(packet, read(frame));
    let (packet, flow) = match (packet, model::flow(frame)) {
        (Ok(packet), Ok(flow)) => (packet, flow),
        // Left to `unusual`: fragments, extension headers and ICMP, which the
        // program-run tests compare with the model.
        (Err(Reason::LaterFragment | Reason::NotTcpUdp), _) => return,
        (Err(reason), Err(wanted)) => return assert_eq!(reason, wanted),
        (packet, flow) => panic!("{packet:?}, the model says {flow:?}"),
    };
    let header_len = packet.header_len as usize;
    assert_eq!(packet.ip_at, ip_at);
    assert!(ip_at + header_len + packet.ports.len() <= frame.len());
    assert_eq!(packet.source.into(), flow.source);
    assert_eq!(packet.destination.into(), flow.destination);
    let [a, b, c, d] = packet.ports;
    assert_eq!(
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])],
        flow.ports
    );
    assert_eq!(
        (
            packet.protocol,
            packet.traffic_class,
            packet.ttl,
            packet.part
        ),
        (flow.protocol, flow.traffic_class, flow.ttl, Part::Whole)
    );
    assert_eq!(
        (header_len, packet.ip_len as usize),
        (flow.header_len, flow.ip_len)
    );

    let opening = parse::transport(frame, &packet);
    assert_eq!(opening, model::transport(frame, &flow).map(opening_of));
    if opening.is_ok() {
        let end = ip_at + packet.ip_len as usize;
        assert!(header_len + 8 <= packet.ip_len as usize && end <= frame.len());
        let padded = [&frame[..end], &[0xa5; 7]].concat();
        assert_eq!(read(&padded), Ok(packet));
        assert_eq!(parse::transport(padded.as_slice(), &packet), opening);
    }
}

fn opening_of(opening: model::Opening) -> Opening {
    match opening {
        model::Opening::None => Opening::None,
        model::Opening::Syn => Opening::Syn,
        model::Opening::Established => Opening::Established,
    }
}

fn echo_v4(frame: &[u8], ip_at: usize) {
    let echo = icmp::echo_v4(frame, ip_at);
    assert_eq!(echo, icmp::echo_v4(frame, ip_at));
    let Some(echo) = echo else { return };
    let request = &frame[ip_at..];
    let (ip, message) = echo.answer();
    let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    assert!((28..=request.len()).contains(&len));
    assert_eq!(
        (&ip[12..16], &ip[16..20]),
        (&request[16..20], &request[12..16])
    );
    assert_eq!(echo.destination(), request[16..20]);
    assert_eq!(is_right(&[&request[..20]]), is_right(&[&ip]));
    let message = [&message, &request[24..len]];
    assert_eq!(is_right(&[&request[20..len]]), is_right(&message));
}

fn echo_v6(frame: &[u8], ip_at: usize) {
    let echo = icmp::echo_v6(frame, ip_at);
    assert_eq!(echo, icmp::echo_v6(frame, ip_at));
    let Some(echo) = echo else { return };
    let request = &frame[ip_at..];
    let (ip, message) = echo.answer();
    let end = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    assert!((48..=request.len()).contains(&end));
    assert_eq!(
        (&ip[8..24], &ip[24..40]),
        (&request[24..40], &request[8..24])
    );
    assert_eq!(echo.destination(), request[24..40]);
    // RFC 8200, 8.1: addresses, length and protocol are summed as well.
    let pseudo = |ip: &[u8]| [&ip[8..40], &ip[4..6], &[0, icmp::PROTOCOL_ICMPV6]].concat();
    let asked = is_right(&[&pseudo(request), &request[40..end]]);
    assert_eq!(
        asked,
        is_right(&[&pseudo(&ip), &message, &request[44..end]])
    );
}

/// Whether parts of even length, but for the last, sum to a right checksum.
fn is_right(parts: &[&[u8]]) -> bool {
    let sum: u32 = parts.iter().map(|part| checksum::sum(part)).sum();
    checksum::fold(sum) == 0xffff
}

balancer_fuzz::target!("packet", check);

#[cfg(test)]
mod tests {
    #[test]
    fn kept_frames_of_the_program_run_hold() {
        let frames = include_str!("../../tests/data/frames.txt");
        for line in frames.lines().filter(|line| !line.starts_with('#')) {
            let hex = line.rsplit_once(':').map_or(line, |(_, hex)| hex).trim();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
            let frame: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            super::check(&frame);
        }
    }
}
