//! What must leave for a packet that goes to a backend.
//!
//! Made from the file and the next hops alone, by full sums, and not from the
//! member that was written into the kernel: whatever goes wrong between the
//! two is seen. What `fullnat` sends from is the program's to choose; that it
//! is of the pool is looked at, and then it is taken over.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::checksum;
use balancer_common::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_IPIP, PROTOCOL_IPV6, PROTOCOL_UDP,
};

use super::packet::{self, Kind};
use crate::config::model::{Backend, Forward, Mac, Node, Service, TunnelSource};
use crate::member::Hop;

const OUTER_TTL: u8 = 64;
/// GUE is sent from these ports on; the hash fills the other 14 bits.
const GUE_PORTS: u16 = 0xc000;
const UDP_LEN: u16 = 8;
const FLOW_LABEL: u32 = 0x000f_ffff;

/// A way to a backend that is whole.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    node: &'a Node,
    service: &'a Service,
    backend: &'a Backend,
    hop: &'a Hop,
    destination: Mac,
    source: Outer,
}

/// What tunnel packets are sent from.
#[derive(Clone, Copy)]
enum Outer {
    None,
    V4(TunnelSource<Ipv4Addr>),
    V6(TunnelSource<Ipv6Addr>),
}

/// Where the bytes that left are not those that should have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) seen: String,
}

impl<'a> Way<'a> {
    /// The way to a backend; none if something of it is not known.
    pub(super) fn to(
        node: &'a Node,
        service: &'a Service,
        backend: &'a Backend,
        hop: Option<&'a Hop>,
    ) -> Option<Self> {
        let hop = hop?;
        let destination = backend.mac.or(hop.destination)?;
        if service.forward == Forward::L2 && !hop.on_link && backend.mac.is_none() {
            return None;
        }
        let source = match (service.forward.is_tunnel(), backend.address) {
            (false, _) => Outer::None,
            (true, IpAddr::V4(_)) => {
                let route = match hop.address {
                    Some(IpAddr::V4(address)) => Some(address.into()),
                    _ => None,
                };
                Outer::V4(node.tunnel_source_v4.or(route)?)
            }
            (true, IpAddr::V6(_)) => {
                let route = match hop.address {
                    Some(IpAddr::V6(address)) => Some(address.into()),
                    _ => None,
                };
                Outer::V6(node.tunnel_source_v6.or(route)?)
            }
        };
        Some(Self {
            node,
            service,
            backend,
            hop,
            destination,
            source,
        })
    }

    /// The interface it leaves by; 0 is the one it came in on.
    pub(super) fn egress(&self) -> u32 {
        self.hop.egress
    }

    /// Compares what left with what should have.
    pub(super) fn fault(&self, kind: Kind, hash: u64, frame: &[u8], seen: &[u8]) -> Option<Fault> {
        let expected = match self.outgoing(kind, hash, frame, seen) {
            Ok(expected) => expected,
            Err(fault) => return Some(fault),
        };
        if expected == seen {
            return None;
        }
        let at = expected.iter().zip(seen).position(|(a, b)| a != b);
        let Some(at) = at else {
            return Some(Fault {
                what: "length".to_owned(),
                expected: format!("{} bytes", expected.len()),
                seen: format!("{} bytes", seen.len()),
            });
        };
        let (name, from, to) = self.field(&expected, at);
        let part = |bytes: &[u8]| hex(&bytes[from..to.min(bytes.len())]);
        Some(Fault {
            what: name,
            expected: part(&expected),
            seen: part(seen),
        })
    }

    fn outgoing(&self, kind: Kind, hash: u64, frame: &[u8], seen: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut inner = frame.to_vec();
        if let (Kind::Syn, Some(limit)) = (kind, self.service.mss_clamp) {
            packet::clamp_mss(&mut inner, limit);
        }
        if self.service.forward.is_translation() {
            self.translate(&mut inner, seen)?;
        }
        let source = self.hop.source.map_or_else(
            || <[u8; 6]>::try_from(&frame[..6]).unwrap_or_default(),
            |mac| mac.0,
        );
        let mut out = [self.destination.0, source].concat();
        let packet = &inner[ETHERNET_LEN..];
        match self.source {
            Outer::None => out.extend(&inner[12..]),
            Outer::V4(source) => {
                out.extend(ETHERTYPE_IPV4);
                out.extend(self.outer_v4(source, hash, packet));
                out.extend(packet);
            }
            Outer::V6(source) => {
                out.extend(ETHERTYPE_IPV6);
                out.extend(self.outer_v6(source, hash, packet));
                out.extend(packet);
            }
        }
        Ok(out)
    }

    /// Other ends, one hop less, and new checksums.
    fn translate(&self, frame: &mut [u8], seen: &[u8]) -> Result<(), Fault> {
        let at = packet::transport_at(frame);
        let (ttl, source, destination) = if packet::is_v4(frame) {
            (22, 26..30, 30..34)
        } else {
            (21, 22..38, 38..54)
        };
        frame[ttl] -= 1;
        match self.backend.address {
            IpAddr::V4(address) => frame[destination].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => frame[destination].copy_from_slice(&address.octets()),
        }
        if let Some(port) = self.backend.port {
            frame[at + 2..at + 4].copy_from_slice(&port.to_be_bytes());
        }
        if self.service.forward == Forward::Fullnat {
            let from = seen.get(source.clone()).unwrap_or_default();
            let port = seen.get(at..at + 2).unwrap_or_default();
            self.check_pool(from, port)?;
            frame[source].copy_from_slice(from);
            frame[at..at + 2].copy_from_slice(port);
        }
        packet::seal(frame);
        Ok(())
    }

    /// Whether what a packet left from is of the pool.
    fn check_pool(&self, address: &[u8], port: &[u8]) -> Result<(), Fault> {
        let (v4, v6) = (&self.node.fullnat_sources_v4, &self.node.fullnat_sources_v6);
        let is_listed = v4.iter().any(|it| it.octets() == address)
            || v6.iter().any(|it| it.octets() == address);
        let (first, last) = self.node.fullnat_ports;
        let port = <[u8; 2]>::try_from(port).map(u16::from_be_bytes);
        let is_in = port.is_ok_and(|port| (first..=last).contains(&port));
        if is_listed && is_in {
            return Ok(());
        }
        Err(Fault {
            what: "source of fullnat".to_owned(),
            expected: format!("an address of the pool, port {first} to {last}"),
            seen: format!("{} port {}", hex(address), port.unwrap_or_default()),
        })
    }

    fn outer_v4(&self, source: TunnelSource<Ipv4Addr>, hash: u64, packet: &[u8]) -> Vec<u8> {
        let between = self.between(hash, packet.len());
        let traffic_class = traffic_class(packet);
        let len = (20 + between.len() + packet.len()) as u16;
        let [a, b] = len.to_be_bytes();
        let mut header = vec![0x45, traffic_class, a, b, 0, 0, 0x40, 0, OUTER_TTL];
        header.extend([self.carried(packet), 0, 0]);
        let from = u32::from(source.address()) | hash as u32 & low_bits(source.host_bits());
        header.extend(from.to_be_bytes());
        if let IpAddr::V4(address) = self.backend.address {
            header.extend(address.octets());
        }
        let check = checksum::finish(checksum::sum(&header));
        header[10..12].copy_from_slice(&check.to_be_bytes());
        header.extend(between);
        header
    }

    fn outer_v6(&self, source: TunnelSource<Ipv6Addr>, hash: u64, packet: &[u8]) -> Vec<u8> {
        let between = self.between(hash, packet.len());
        let class = u32::from(traffic_class(packet)) << 20;
        let mut header = (0x6000_0000 | class | hash as u32 & FLOW_LABEL)
            .to_be_bytes()
            .to_vec();
        header.extend(((between.len() + packet.len()) as u16).to_be_bytes());
        header.extend([self.carried(packet), OUTER_TTL]);
        let spread = hash as u32 & low_bits(source.host_bits());
        let from = u128::from(source.address()) | u128::from(spread);
        header.extend(from.to_be_bytes());
        if let IpAddr::V6(address) = self.backend.address {
            header.extend(address.octets());
        }
        header.extend(between);
        header
    }

    /// What stands between the outer IP header and the packet.
    fn between(&self, hash: u64, len: usize) -> Vec<u8> {
        if self.service.forward != Forward::Gue {
            return Vec::new();
        }
        let source = GUE_PORTS | hash as u16 & !GUE_PORTS;
        let len = UDP_LEN + len as u16;
        [source, self.node.gue_port, len, 0]
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect()
    }

    fn carried(&self, packet: &[u8]) -> u8 {
        match (self.service.forward, packet[0] >> 4) {
            (Forward::Gue, _) => PROTOCOL_UDP,
            (_, 4) => PROTOCOL_IPIP,
            _ => PROTOCOL_IPV6,
        }
    }

    /// Name and place of the field that holds the byte at `at`.
    fn field(&self, frame: &[u8], at: usize) -> (String, usize, usize) {
        let is_tunnel = self.service.forward.is_tunnel();
        let transport_at = packet::transport_at(frame);
        let outer = if is_tunnel { "outer " } else { "" };
        let ip: &[(usize, &str)] = if packet::is_v4(frame) {
            &[
                (14, "version, class of service"),
                (16, "length"),
                (18, "identification, flags"),
                (22, "ttl"),
                (23, "protocol"),
                (24, "header checksum"),
                (26, "source"),
                (30, "destination"),
            ]
        } else {
            &[
                (14, "version, class, flow label"),
                (18, "length"),
                (20, "next header"),
                (21, "hop limit"),
                (22, "source"),
                (38, "destination"),
            ]
        };
        let mut fields = vec![
            (0, "Ethernet destination".to_owned()),
            (6, "Ethernet source".to_owned()),
            (12, "EtherType".to_owned()),
        ];
        fields.extend(ip.iter().map(|(at, name)| (*at, format!("{outer}{name}"))));
        let ports = [(0, "source port"), (2, "destination port")];
        match (is_tunnel, self.service.forward) {
            (false, _) => {
                fields.extend(ports.map(|(at, name)| (transport_at + at, name.to_owned())));
                fields.push((transport_at + 4, "behind the ports".to_owned()));
            }
            (true, Forward::Gue) => {
                fields.extend(ports.map(|(at, name)| (transport_at + at, format!("GUE {name}"))));
                fields.push((transport_at + 4, "GUE length".to_owned()));
                fields.push((transport_at + 6, "GUE checksum".to_owned()));
                fields.push((transport_at + 8, "packet in the tunnel".to_owned()));
            }
            (true, _) => fields.push((transport_at, "packet in the tunnel".to_owned())),
        }
        let next = fields.iter().position(|(from, _)| *from > at);
        let end = next.map_or(frame.len(), |next| fields[next].0);
        let (from, name) = fields.swap_remove(next.unwrap_or(fields.len()) - 1);
        (name, from, end)
    }
}

fn low_bits(count: u8) -> u32 {
    ((1_u64 << count.min(32)) - 1) as u32
}

/// Of an IP packet.
fn traffic_class(packet: &[u8]) -> u8 {
    match packet[0] >> 4 {
        4 => packet[1],
        _ => packet[0] << 4 | packet[1] >> 4,
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
