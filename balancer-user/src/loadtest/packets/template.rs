//! The frame that all packets of a test are made of. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use balancer_common::checksum::{fold, sum};
use balancer_common::generate::{FIRST_PORT, Generate, PORTS};
use etherparse::{
    IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement, UdpHeader,
};
use ipnet::IpNet;

use crate::config::model::Mac;
use crate::dataplane::generator::Template;

/// Bytes of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Bytes of a frame where no size is asked for: the shortest there are on a
/// wire, its check sequence included.
pub const SHORTEST: u32 = 64;
/// Most source addresses that take turns.
const MOST_SOURCES: u32 = 1 << 16;
/// As most hosts begin with.
const HOPS: u8 = 64;
const WINDOW: u16 = 64_240;
/// What every IPv6 link carries, less headers (RFC 8200, 5), so any answer fits.
const MSS: u16 = 1220;
/// What stands in packets over and over, for who looks at them.
const PAYLOAD: &[u8] = b"balancer loadtest ";

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UDP with something in it.
    Udp,
    /// TCP's first packet.
    Syn,
}

/// The addresses that packets come from, in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sources {
    /// The first.
    pub first: IpAddr,
    /// How many, the others behind it.
    pub count: u32,
}

impl Sources {
    /// One.
    pub fn one(address: IpAddr) -> Self {
        Self {
            first: address,
            count: 1,
        }
    }

    /// The hosts of a prefix, the first 65,536 where it has more: not its own
    /// address and not its broadcast address.
    pub fn of(prefix: IpNet) -> Self {
        let free = prefix.max_prefix_len() - prefix.prefix_len();
        let first = prefix.hosts().next().unwrap_or(prefix.network());
        // 0 is the routers' anycast address (RFC 4291, 2.6.1).
        let first = match first {
            IpAddr::V6(address) if free > 0 && first == prefix.network() => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() + 1))
            }
            _ => first,
        };
        let all = 1 << free.min(20);
        let count: u32 = match (first, free) {
            (_, 0) => 1,
            (IpAddr::V4(_), 1) => 2,
            (IpAddr::V4(_), _) => all - 2,
            (IpAddr::V6(_), _) => all - 1,
        };
        Self {
            first,
            count: count.min(MOST_SOURCES),
        }
    }

    /// [`Sources::flows`] of a prefix, or of one address where there is none.
    pub fn ports(prefix: Option<IpNet>) -> u32 {
        prefix.map_or(PORTS, |it| Self::of(it.trunc()).flows())
    }

    /// Flows that packets can be of: each address has 64,512 ports.
    pub fn flows(self) -> u32 {
        self.count * PORTS
    }
}

/// What packets are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packets {
    /// Which.
    pub kind: Kind,
    /// Where they go.
    pub destination: SocketAddr,
    /// Where they come from; of the same family.
    pub sources: Sources,
    /// Flows they are of, in turn.
    pub flows: u32,
    /// Bytes of a frame, without its check sequence; more where its headers
    /// take more.
    pub size: u32,
    /// The interface's address and the next hop's.
    pub macs: [Mac; 2],
}

impl Packets {
    /// The frame and what varies in it; none where the families differ.
    pub fn template(&self) -> Option<Template> {
        let [from, to] = self.macs;
        let ethernet = PacketBuilder::ethernet2(from.0, to.0);
        let (ip, ip_len) = match (self.sources.first, self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                (ethernet.ipv4(from.octets(), to.octets(), HOPS), 20)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                (ethernet.ipv6(from.octets(), to.octets(), HOPS), 40)
            }
            _ => return None,
        };
        let transport_at = ETHERNET_LEN + ip_len;
        let (mut frame, headers) = match self.kind {
            Kind::Udp => self.udp(ip, transport_at + 8)?,
            Kind::Syn => self.syn(ip)?,
        };
        let len = frame.len();
        // What a packet lacks to a frame of that size is no part of it.
        frame.resize(len.max(self.size.max(SHORTEST) as usize), 0);
        let generate = self.generate(&frame, transport_at, len);
        Some(Template {
            frame,
            headers,
            generate,
        })
    }

    fn udp(&self, ip: PacketBuilderStep<IpHeaders>, headers: usize) -> Option<(Vec<u8>, usize)> {
        let udp: PacketBuilderStep<UdpHeader> = ip.udp(FIRST_PORT, self.destination.port());
        let len = (self.size as usize).saturating_sub(headers);
        let payload: Vec<u8> = PAYLOAD.iter().copied().cycle().take(len).collect();
        let mut frame = Vec::new();
        udp.write(&mut frame, &payload).ok()?;
        Some((frame, headers))
    }

    fn syn(&self, ip: PacketBuilderStep<IpHeaders>) -> Option<(Vec<u8>, usize)> {
        let tcp: PacketBuilderStep<TcpHeader> = ip
            .tcp(FIRST_PORT, self.destination.port(), 1, WINDOW)
            .syn()
            .options(&[TcpOptionElement::MaximumSegmentSize(MSS)])
            .ok()?;
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[]).ok()?;
        let headers = frame.len();
        Some((frame, headers))
    }

    /// Where the source is, and what all else adds to the checksums. The packet
    /// is the first `len` bytes of the frame.
    fn generate(&self, frame: &[u8], transport_at: usize, len: usize) -> Generate {
        let is_v4 = self.destination.is_ipv4();
        let (addresses_at, address_len) = match is_v4 {
            true => (ETHERNET_LEN + 12, 4),
            false => (ETHERNET_LEN + 8, 16),
        };
        let address_at = addresses_at + address_len - 4;
        let ip_checksum_at = ETHERNET_LEN + 10;
        let checksum_at = transport_at
            + match self.kind {
                Kind::Udp => 6,
                Kind::Syn => 16,
            };
        let mut bare = frame[..len].to_vec();
        bare[address_at..address_at + 4].fill(0);
        bare[transport_at..transport_at + 2].fill(0);
        bare[checksum_at..checksum_at + 2].fill(0);
        let ip_sum = match is_v4 {
            true => {
                bare[ip_checksum_at..ip_checksum_at + 2].fill(0);
                fold(sum(&bare[ETHERNET_LEN..transport_at]))
            }
            false => 0,
        };
        // The pseudo header: addresses, protocol, length (RFC 9293, 3.1).
        let protocol = match self.kind {
            Kind::Udp => 17,
            Kind::Syn => 6,
        };
        let addresses = fold(sum(&bare[addresses_at..transport_at]));
        let segment = &bare[transport_at..];
        let words = [
            addresses.into(),
            protocol,
            segment.len() as u32,
            fold(sum(segment)).into(),
        ];
        let mut address = [0; 4];
        address.copy_from_slice(&frame[address_at..address_at + 4]);
        Generate {
            words: 0,
            flows: self.flows.clamp(1, self.sources.flows()),
            sources: self.sources.count,
            address: u32::from_be_bytes(address),
            address_at: address_at as u32,
            port_at: transport_at as u32,
            ip_checksum_at: if is_v4 { ip_checksum_at as u32 } else { 0 },
            checksum_at: checksum_at as u32,
            ip_sum: ip_sum.into(),
            sum: fold(words.iter().sum()).into(),
            is_udp: u32::from(self.kind == Kind::Udp),
            padding: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn packets(kind: Kind, destination: &str, source: &str, size: u32) -> Packets {
        let sources = Sources::of(source.parse().unwrap());
        Packets {
            kind,
            destination: destination.parse().unwrap(),
            sources,
            flows: sources.flows(),
            size,
            macs: [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])],
        }
    }

    /// The packet of a flow, made as the program in the kernel makes it.
    fn packet(template: &Template, flow: u32) -> Vec<u8> {
        let (mut frame, generate) = (template.frame.clone(), &template.generate);
        let source = generate.source(flow);
        let mut write = |at: u32, bytes: &[u8]| {
            frame[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        write(generate.address_at, &source.address.to_be_bytes());
        write(generate.port_at, &source.port.to_be_bytes());
        if generate.ip_checksum_at != 0 {
            write(generate.ip_checksum_at, &source.ip_checksum.to_be_bytes());
        }
        write(generate.checksum_at, &source.checksum.to_be_bytes());
        frame
    }

    /// Where it comes from, its ports and its TCP header's or payload's length;
    /// both checksums have to be what a library of its own makes them.
    fn read(frame: &[u8]) -> (IpAddr, u16, u16, usize) {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let from: IpAddr = match sliced.net.unwrap() {
            etherparse::NetSlice::Ipv4(it) => {
                let header = it.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                header.source.into()
            }
            etherparse::NetSlice::Ipv6(it) => it.header().source_addr().into(),
            other => panic!("{other:?}"),
        };
        let ip = IpSlice::from_slice(&frame[ETHERNET_LEN..]).unwrap();
        let (transport, len) = match sliced.transport.unwrap() {
            TransportSlice::Udp(udp) => {
                let (header, payload) = (udp.to_header(), udp.payload());
                let sum = match &ip {
                    IpSlice::Ipv4(it) => {
                        header.calc_checksum_ipv4(&it.header().to_header(), payload)
                    }
                    IpSlice::Ipv6(it) => {
                        header.calc_checksum_ipv6(&it.header().to_header(), payload)
                    }
                };
                assert_eq!(sum.unwrap(), header.checksum);
                ((header.source_port, header.destination_port), payload.len())
            }
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                assert!(header.syn && !header.ack && tcp.payload().is_empty());
                let sum = match &ip {
                    IpSlice::Ipv4(it) => header.calc_checksum_ipv4(&it.header().to_header(), &[]),
                    IpSlice::Ipv6(it) => header.calc_checksum_ipv6(&it.header().to_header(), &[]),
                };
                assert_eq!(sum.unwrap(), header.checksum);
                (
                    (header.source_port, header.destination_port),
                    header.header_len(),
                )
            }
            other => panic!("{other:?}"),
        };
        (from, transport.0, transport.1, len)
    }

    #[test]
    fn packets_of_all_kinds_are_whole_in_every_flow() {
        let (v4, v6) = (
            ("192.0.2.1:53", "198.51.100.0/24"),
            ("[2001:db8::1]:53", "2001:db8:7::/112"),
        );
        for (kind, (to, from), size, frame_len, len) in [
            (Kind::Udp, v4, 64, 64, 22),
            (Kind::Udp, v4, 1001, 1001, 959),
            (Kind::Udp, v6, 64, 64, 2),
            (Kind::Udp, v6, 1514, 1514, 1452),
            (Kind::Syn, v4, 64, 64, 24),
            (Kind::Syn, v6, 64, 78, 24),
        ] {
            let packets = packets(kind, to, from, size);
            let template = packets.template().unwrap();
            assert_eq!(template.frame.len(), frame_len, "{kind:?} {to}");
            for flow in (0..packets.flows).step_by(999_983).chain(0..3) {
                let (address, port, to_port, got) = read(&packet(&template, flow));
                assert!(from.parse::<IpNet>().unwrap().contains(&address));
                assert!(port >= FIRST_PORT);
                assert_eq!((to_port, got), (53, len), "{kind:?} {to}");
            }
        }
    }

    #[test]
    fn sources_are_the_hosts_of_a_prefix() {
        for (prefix, first, count) in [
            ("192.0.2.7/32", "192.0.2.7", 1),
            ("192.0.2.6/31", "192.0.2.6", 2),
            ("192.0.2.0/24", "192.0.2.1", 254),
            ("10.0.0.0/8", "10.0.0.1", 65_536),
            ("2001:db8::7/128", "2001:db8::7", 1),
            ("2001:db8::/64", "2001:db8::1", 65_536),
            ("2001:db8::/126", "2001:db8::1", 3),
        ] {
            let expected = Sources {
                first: first.parse().unwrap(),
                count,
            };
            assert_eq!(Sources::of(prefix.parse().unwrap()), expected, "{prefix}");
        }
    }

    #[test]
    fn no_packet_goes_from_one_family_to_the_other() {
        let packets = packets(Kind::Udp, "192.0.2.1:53", "2001:db8::/64", 64);
        assert_eq!(packets.template(), None);
    }
}
