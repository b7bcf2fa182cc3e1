//! Any frame through every reader of the packet path.
//!
//! Readers are asked in the order of the kernel program: the quick one, then
//! the one for extension headers and fragments.
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
use balancer_common::icmp_error::Quoted;
use balancer_common::layout::FragmentRecord;
use balancer_common::parse::{self, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet, Part};
use balancer_common::unusual::{self, Unusual};
use balancer_common::verdict::Reason;
use balancer_common::{checksum, icmp, icmp_error, plain};
use balancer_fuzz::model::parse as model;

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
            packet(frame, link.len, |frame| read_v4(frame, link.len));
            echo_v4(frame, link.len);
        }
        ETHERTYPE_IPV6 => {
            packet(frame, link.len, |frame| read_v6(frame, link.len));
            echo_v6(frame, link.len);
        }
        _ => assert_eq!(model::flow(frame), Err(Reason::NotIp)),
    }
}

fn read_v4(frame: &[u8], ip_at: usize) -> Result<Unusual<[u8; 4]>, Reason> {
    let read = unusual::ipv4(frame, ip_at);
    let mut packet = Packet::EMPTY;
    if ip_at == ETHERNET_LEN && plain::ipv4(frame, &mut packet).is_some() {
        assert_eq!(read, Ok(Unusual::Packet(packet)));
    }
    let (mut packet, mut error) = (Packet::EMPTY, Packet::EMPTY);
    if ip_at == ETHERNET_LEN && plain::error_v4(frame, &mut packet).is_some() {
        icmp_error::v4_into(frame, ip_at, &mut error).expect("it was read as an error");
        let (at, end) = quoted(&error);
        let quoted = icmp_error::quoted_v4(frame, at, end).expect("it was read as one of a flow");
        assert_eq!(packet, answering(&error, &quoted));
    }
    read
}

fn read_v6(frame: &[u8], ip_at: usize) -> Result<Unusual<[u8; 16]>, Reason> {
    let read = unusual::ipv6(frame, ip_at);
    let mut packet = Packet::EMPTY;
    if ip_at == ETHERNET_LEN && plain::ipv6(frame, &mut packet).is_some() {
        assert_eq!(read, Ok(Unusual::Packet(packet)));
    }
    let (mut packet, mut error) = (Packet::EMPTY, Packet::EMPTY);
    if ip_at == ETHERNET_LEN && plain::error_v6(frame, &mut packet).is_some() {
        icmp_error::v6_into(frame, ip_at, &mut error).expect("it was read as an error");
        let (at, end) = quoted(&error);
        let quoted = icmp_error::quoted_v6(frame, at, end).expect("it was read as one of a flow");
        assert_eq!(packet, answering(&error, &quoted));
    }
    read
}

/// The error as a packet that answers what it quotes.
fn answering<A: Address>(error: &Packet<A>, quoted: &Quoted<A>) -> Packet<A> {
    Packet {
        source: quoted.destination,
        destination: quoted.source,
        ports: icmp_error::reversed(quoted.ports),
        protocol: quoted.protocol,
        ..*error
    }
}

/// Where the packet that an error quotes begins, and where the error ends.
fn quoted<A>(error: &Packet<A>) -> (usize, usize) {
    let at = error.ip_at + error.header_len as usize + icmp_error::ICMP_LEN;
    (at, error.ip_at + error.ip_len as usize)
}

fn packet<A>(frame: &[u8], ip_at: usize, read: impl Fn(&[u8]) -> Result<Unusual<A>, Reason>)
where
    A: Address + Copy + Debug + PartialEq + Into<IpAddr>,
{
    let unusual = read(frame);
    assert_eq!(unusual, read(frame));
    let (packet, flow) = match (taken(unusual), model::flow(frame)) {
        (Ok(packet), Ok(flow)) => (packet, flow),
        (Err(reason), Err(wanted)) => return assert_eq!(reason, wanted),
        (packet, flow) => panic!("{packet:?}, the model says {flow:?}"),
    };
    let header_len = packet.header_len as usize;
    assert_eq!(packet.ip_at, ip_at);
    // A later fragment has no ports, and may end with its headers.
    assert!(packet.is_later() || ip_at + header_len + packet.ports.len() <= frame.len());
    assert_eq!(packet.ip_at(), packet.ip_at);
    assert_eq!(packet.header_len(), packet.header_len);
    assert_eq!(packet.source.into(), flow.source);
    assert_eq!(packet.destination.into(), flow.destination);
    let [a, b, c, d] = packet.ports;
    assert_eq!(
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])],
        flow.ports
    );
    assert_eq!(
        (packet.protocol, packet.traffic_class, packet.ttl),
        (flow.protocol, flow.traffic_class, flow.ttl)
    );
    assert_eq!(part_of(unusual), Some(flow.part));
    assert_eq!(
        (header_len, packet.ip_len as usize),
        (flow.header_len, flow.ip_len)
    );

    let segment = parse::transport(frame, &packet);
    let mut flow = flow;
    let opening = model::transport(frame, &mut flow).map(opening_of);
    let expected = opening.map(|opening| (opening as u32, u32::from(flow.is_reset)));
    assert_eq!(
        segment.map(|segment| (segment.opening(), segment.resets())),
        expected
    );
    if segment.is_ok() {
        let end = ip_at + packet.ip_len as usize;
        let least = if packet.is_later() { 1 } else { 8 };
        assert!(header_len + least <= packet.ip_len as usize && end <= frame.len());
        let padded = [&frame[..end], &[0xa5; 7]].concat();
        assert_eq!(read(&padded), unusual);
        assert_eq!(parse::transport(padded.as_slice(), &packet), segment);
    }
}

/// The packet of a flow; of a later fragment, as if its first one had been of
/// the protocol that it claims.
fn taken<A>(read: Result<Unusual<A>, Reason>) -> Result<Packet<A>, Reason> {
    match read? {
        Unusual::Packet(packet) => Ok(packet),
        Unusual::Icmp(_) => Err(Reason::NotTcpUdp),
        Unusual::Later(packet, _) => {
            let first = FragmentRecord {
                ports: packet.ports,
                protocol: u32::from(packet.protocol),
                service: 0,
                member: 0,
                incarnation: 0,
            };
            let part = Part::Later(first);
            Ok(Packet { part, ..packet })
        }
    }
}

/// In the model's words; it has identifications in host order.
fn part_of<A>(read: Result<Unusual<A>, Reason>) -> Option<model::Part> {
    let host = |identification: u32| match (size_of::<A>(), identification.to_ne_bytes()) {
        (4, [high, low, ..]) => u32::from(u16::from_be_bytes([high, low])),
        (_, bytes) => u32::from_be_bytes(bytes),
    };
    match read.ok()? {
        Unusual::Icmp(_) => None,
        Unusual::Later(_, identification) => Some(model::Part::Later(host(identification))),
        Unusual::Packet(packet) => match packet.part {
            Part::Whole => Some(model::Part::Whole),
            Part::First(identification) => Some(model::Part::First(host(identification))),
            // Not of a reader of packets, but of those of errors.
            Part::Later(_) | Part::Error => None,
        },
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
    let (rest, message) = echo.answer();
    let ip = [&request[..icmp::TTL_AT], &rest].concat();
    let len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    assert!((28..=request.len()).contains(&len));
    assert_eq!(
        (&ip[12..16], &ip[16..20]),
        (&request[16..20], &request[12..16])
    );
    assert_eq!(echo.destination, request[16..20]);
    assert_eq!(is_right(&[&request[..20]]), is_right(&[&ip]));
    let message = [&message, &request[24..len]];
    assert_eq!(is_right(&[&request[20..len]]), is_right(&message));
}

fn echo_v6(frame: &[u8], ip_at: usize) {
    let echo = icmp::echo_v6(frame, ip_at);
    assert_eq!(echo, icmp::echo_v6(frame, ip_at));
    let Some(echo) = echo else { return };
    let request = &frame[ip_at..];
    let (hop_limit, source, destination, message) = echo.answer();
    let before = &request[..icmp::HOP_LIMIT_AT];
    let ip = [before, &[hop_limit], &source, &destination].concat();
    let end = 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    assert!((48..=request.len()).contains(&end));
    assert_eq!(
        (&ip[8..24], &ip[24..40]),
        (&request[24..40], &request[8..24])
    );
    assert_eq!(echo.destination, request[24..40]);
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
