//! A packet in a line, as people read it.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use etherparse::{LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice};

use crate::api::capture::{CapturedFrame, CapturedPacket};

/// `08:30:00.123456 eth0 tx forwarded web/web-1 198.51.100.7:40000 >
/// 192.0.2.1:80 tcp S, 74 bytes => …`, the last part as it left.
pub(super) fn of(packet: &CapturedPacket) -> String {
    let time = UNIX_EPOCH + Duration::new(packet.seconds, packet.nanos);
    let time = humantime::format_rfc3339_micros(time).to_string();
    let time = time.split('T').next_back().unwrap_or_default();
    let of = match (&packet.service, &packet.backend) {
        (Some(service), Some(backend)) => format!("{service}/{backend}"),
        (Some(service), None) => service.clone(),
        (None, _) => "-".to_owned(),
    };
    let mut line = format!(
        "{} {} {} {} {of} {}",
        time.trim_end_matches('Z'),
        packet.interface,
        packet.verdict,
        packet.reason,
        described(&packet.frame)
    );
    if let Some(out) = &packet.out {
        line.push_str(" => ");
        match packet.out_interface.as_deref() {
            Some(interface) if interface != packet.interface => {
                line.push_str(interface);
                line.push(' ');
            }
            _ => {}
        }
        line.push_str(&left(&packet.frame, out));
    }
    line.push('\n');
    line
}

fn bytes(frame: &CapturedFrame) -> Vec<u8> {
    STANDARD.decode(&frame.bytes).unwrap_or_default()
}

fn described(frame: &CapturedFrame) -> String {
    format!("{}, {} bytes", headers(&bytes(frame)), frame.len)
}

/// How the frame left: its headers where they are others, and who gets it.
fn left(before: &CapturedFrame, after: &CapturedFrame) -> String {
    let (before, out) = (bytes(before), bytes(after));
    let station = match out.first_chunk::<6>() {
        Some([a, b, c, d, e, f]) => format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        None => "?".to_owned(),
    };
    let headers = match headers(&out) {
        same if same == self::headers(&before) => String::new(),
        others => format!("{others}, {} bytes, ", after.len),
    };
    format!("{headers}to {station}")
}

fn headers(bytes: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else {
        return "a cut frame".to_owned();
    };
    let (source, destination, number): (IpAddr, IpAddr, _) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.payload_ip_number(),
        ),
        Some(LaxNetSlice::Ipv6(ip)) => (
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
            ip.payload().ip_number,
        ),
        Some(LaxNetSlice::Arp(_)) => return "arp".to_owned(),
        None => {
            let kind = bytes.get(12..14).unwrap_or_default();
            let kind: String = kind.iter().map(|byte| format!("{byte:02x}")).collect();
            return format!("ethertype {kind}");
        }
    };
    let ends = |source_port, destination_port| {
        let source = std::net::SocketAddr::new(source, source_port);
        let destination = std::net::SocketAddr::new(destination, destination_port);
        format!("{source} > {destination}")
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => format!(
            "{} tcp {}",
            ends(tcp.source_port(), tcp.destination_port()),
            flags(tcp)
        ),
        Some(TransportSlice::Udp(udp)) => {
            format!("{} udp", ends(udp.source_port(), udp.destination_port()))
        }
        _ => {
            let keyword = number.keyword_str().map(str::to_lowercase);
            let keyword = keyword.unwrap_or_else(|| format!("protocol {}", number.0));
            format!("{source} > {destination} {keyword}")
        }
    }
}

/// As tcpdump has them.
fn flags(tcp: &TcpSlice<'_>) -> String {
    let flags = [
        (tcp.fin(), 'F'),
        (tcp.syn(), 'S'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
        (tcp.ack(), '.'),
    ];
    let set: String = flags.iter().filter(|it| it.0).map(|it| it.1).collect();
    match set.as_str() {
        "" => "none".to_owned(),
        _ => set,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::super::pcapng::tests::packet;
    use super::*;

    fn frame(bytes: &[u8]) -> CapturedFrame {
        CapturedFrame {
            len: bytes.len() as u32,
            bytes: STANDARD.encode(bytes),
        }
    }

    fn syn(to: [u8; 6]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], to)
            .ipv4([198, 51, 100, 7], [192, 0, 2, 1], 64)
            .tcp(40_000, 80, 1, 1000)
            .syn()
            .write(&mut bytes, &[])
            .unwrap();
        bytes
    }

    #[test]
    fn packet_to_another_station_is_told_with_that() {
        let told = of(&CapturedPacket {
            frame: frame(&syn([2, 0, 0, 0, 0, 2])),
            out: Some(frame(&syn([2, 0, 0, 0, 0, 0x1f]))),
            ..packet()
        });
        assert_eq!(
            told,
            "08:30:00.123456 eth0 tx forwarded web/web-1 198.51.100.7:40000 > 192.0.2.1:80 tcp S, \
             54 bytes => to 02:00:00:00:00:1f\n"
        );
    }

    #[test]
    fn packet_in_a_tunnel_is_told_with_its_outer_header_and_a_dropped_one_without() {
        let mut tunnel = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 3])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 11], 64)
            .write(&mut tunnel, 4.into(), &syn([0; 6])[14..])
            .unwrap();
        let told = of(&CapturedPacket {
            verdict: "redirect".to_owned(),
            frame: frame(&syn([2, 0, 0, 0, 0, 2])),
            out_interface: Some("eth1".to_owned()),
            out: Some(frame(&tunnel)),
            ..packet()
        });
        let end = "=> eth1 10.0.0.1 > 10.0.0.11 ipv4, 74 bytes, to 02:00:00:00:00:03\n";
        assert!(told.ends_with(end), "{told}");
        let told = of(&CapturedPacket {
            verdict: "drop".to_owned(),
            reason: "no_backend".to_owned(),
            backend: None,
            frame: frame(&syn([2, 0, 0, 0, 0, 2])),
            out: None,
            ..packet()
        });
        assert!(
            told.contains(" drop no_backend web 198.51.100.7:40000 > "),
            "{told}"
        );
        assert!(told.ends_with("tcp S, 54 bytes\n"), "{told}");
    }

    #[test]
    fn what_is_no_ip_or_cut_is_said_to_be() {
        assert_eq!(headers(&[0; 5]), "a cut frame");
        let mut other = [0; 20];
        other[12..14].copy_from_slice(&[0x88, 0xcc]);
        assert_eq!(headers(&other), "ethertype 88cc");
        let cut = headers(&syn([0; 6])[..40]);
        assert_eq!(cut, "198.51.100.7 > 192.0.2.1 tcp");
    }
}
