//! One frame, described field by field.
//!
//! A [`Packet`] starts as a valid one; a test then sets what it is about.
//! Lengths and the IPv4 header checksum follow from the rest, unless a field
//! overrides them. The transport checksum is zero unless a test says otherwise
//! or asks for the right one: most of the balancer neither looks at it nor
//! changes what it covers.

use std::net::{IpAddr, SocketAddr};

use crate::model::forward::checksum;

/// TCP flag.
pub const FIN: u8 = 0x01;
/// TCP flag.
pub const SYN: u8 = 0x02;
/// TCP flag.
pub const RST: u8 = 0x04;
/// TCP flag.
pub const ACK: u8 = 0x10;

/// Bit of [`Packet::fragment`]: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 1 << 13;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A TCP or UDP packet in an Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Ethernet destination, then source.
    pub ethernet: [u8; 12],
    /// Tags (EtherType 0x8100) before the IP header.
    pub vlans: Vec<u16>,
    /// Client.
    pub source: SocketAddr,
    /// Service; of the same family as the client.
    pub destination: SocketAddr,
    /// IP protocol number; what is built is TCP for 6 and UDP otherwise.
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4: flags and offset of a fragment.
    pub fragment: u16,
    /// IPv4: options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv4: identification.
    pub identification: u16,
    /// IPv6: extension headers, each with its number and what follows its
    /// first byte: see [`options`], [`routing`] and [`fragment_v6`].
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Whether the transport header is left out: a later fragment begins with
    /// payload.
    pub headless: bool,
    /// TCP: sequence number of the flow's SYN; all other packets have the next.
    pub initial_sequence: u32,
    /// TCP: flags.
    pub flags: u8,
    /// TCP: options, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    /// TCP and UDP: the checksum, right or wrong.
    pub transport_checksum: u16,
    /// Bytes after the transport header.
    pub payload_len: usize,
    /// The first of them; the others are noise.
    pub payload: Vec<u8>,
    /// Bytes after the packet.
    pub padding_len: usize,
    /// Instead of 4 or 6.
    pub version: Option<u8>,
    /// IPv4: instead of the header's words.
    pub header_words: Option<u8>,
    /// Instead of IPv4's total or IPv6's payload length.
    pub ip_len: Option<u16>,
    /// UDP: instead of its length.
    pub udp_len: Option<u16>,
    /// TCP: instead of the header's words.
    pub data_offset: Option<u8>,
}

impl Packet {
    /// A SYN without payload.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            ethernet: [2, 0xaa, 0, 0, 0, 1, 2, 0xcc, 0, 0, 0, 1],
            vlans: Vec::new(),
            source,
            destination,
            protocol: TCP,
            traffic_class: 0,
            ttl: 64,
            fragment: 0,
            options: Vec::new(),
            identification: 0x5eed,
            extensions: Vec::new(),
            headless: false,
            initial_sequence: 0x0102_0304,
            flags: SYN,
            tcp_options: Vec::new(),
            transport_checksum: 0,
            payload_len: 0,
            payload: Vec::new(),
            padding_len: 0,
            version: None,
            header_words: None,
            ip_len: None,
            udp_len: None,
            data_offset: None,
        }
    }

    /// A datagram without payload.
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            protocol: UDP,
            ..Self::tcp(source, destination)
        }
    }

    /// The packet with the transport checksum that it should have.
    #[must_use]
    pub fn with_checksum(self) -> Self {
        let packet = Self {
            transport_checksum: 0,
            ..self
        };
        let frame = packet.build();
        let segment_at = frame.len() - packet.padding_len - packet.transport_len();
        let segment = &frame[segment_at..frame.len() - packet.padding_len];
        // The pseudo-header: both addresses, the length and the protocol, in
        // an order that its sum does not depend on (RFC 9293, 3.1; RFC 8200, 8.1).
        let mut words = vec![0, packet.protocol];
        words.extend((segment.len() as u16).to_be_bytes());
        for end in [packet.source, packet.destination] {
            match end.ip() {
                IpAddr::V4(address) => words.extend(address.octets()),
                IpAddr::V6(address) => words.extend(address.octets()),
            }
        }
        words.extend(segment);
        let transport_checksum = match checksum(&words) {
            0 if packet.protocol != TCP => 0xffff,
            checksum => checksum,
        };
        Self {
            transport_checksum,
            ..packet
        }
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = self.ethernet.to_vec();
        for (index, tag) in self.vlans.iter().enumerate() {
            let is_outer = index + 1 < self.vlans.len();
            frame.extend(if is_outer { [0x88, 0xa8] } else { [0x81, 0x00] });
            frame.extend(tag.to_be_bytes());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                self.ipv4(&mut frame, source.octets(), destination.octets());
            }
            (source, destination) => {
                frame.extend([0x86, 0xdd]);
                self.ipv6(&mut frame, octets_v6(source), octets_v6(destination));
            }
        }
        if !self.headless {
            self.transport(&mut frame);
        }
        let given = self.payload.len().min(self.payload_len);
        frame.extend_from_slice(&self.payload[..given]);
        frame.extend_from_slice(&NOISE[given..self.payload_len]);
        frame.resize(frame.len() + self.padding_len, 0);
        frame
    }

    fn transport_len(&self) -> usize {
        let header_len = match self.protocol {
            _ if self.headless => 0,
            TCP => 20 + self.tcp_options.len(),
            _ => 8,
        };
        header_len + self.payload_len
    }

    fn ipv4(&self, frame: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4]) {
        let words = 5 + self.options.len() / 4;
        let len = (words * 4 + self.transport_len()) as u16;
        let at = frame.len();
        frame.push(self.version.unwrap_or(4) << 4 | self.header_words.unwrap_or(words as u8));
        frame.push(self.traffic_class);
        frame.extend(self.ip_len.unwrap_or(len).to_be_bytes());
        frame.extend(self.identification.to_be_bytes());
        frame.extend(self.fragment.to_be_bytes());
        frame.extend([self.ttl, self.protocol, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend_from_slice(&self.options);
        let check = checksum(&frame[at..]).to_be_bytes();
        frame[at + 10..at + 12].copy_from_slice(&check);
    }

    fn ipv6(&self, frame: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16]) {
        let extension_len: usize = self.extensions.iter().map(|(_, rest)| 1 + rest.len()).sum();
        let len = (extension_len + self.transport_len()) as u16;
        let version = u32::from(self.version.unwrap_or(6));
        let first = version << 28 | u32::from(self.traffic_class) << 20 | 0x5_eed5;
        frame.extend(first.to_be_bytes());
        frame.extend(self.ip_len.unwrap_or(len).to_be_bytes());
        let numbers = self.extensions.iter().map(|(number, _)| *number);
        let mut next = numbers.chain([self.protocol]).skip(1);
        let first = self.extensions.first().map_or(self.protocol, |it| it.0);
        frame.extend([first, self.ttl]);
        frame.extend(source);
        frame.extend(destination);
        for (_, rest) in &self.extensions {
            frame.push(next.next().unwrap_or(self.protocol));
            frame.extend_from_slice(rest);
        }
    }

    fn transport(&self, frame: &mut Vec<u8>) {
        frame.extend(self.source.port().to_be_bytes());
        frame.extend(self.destination.port().to_be_bytes());
        if self.protocol == TCP {
            let is_later = self.flags & (SYN | ACK) != SYN;
            let sequence = self.initial_sequence.wrapping_add(is_later.into());
            frame.extend(sequence.to_be_bytes());
            frame.extend([5, 6, 7, 8]);
            let words = 5 + self.tcp_options.len() as u8 / 4;
            frame.extend([self.data_offset.unwrap_or(words) << 4, self.flags]);
            frame.extend([0xff, 0xff]);
            frame.extend(self.transport_checksum.to_be_bytes());
            frame.extend([0, 0]);
            frame.extend_from_slice(&self.tcp_options);
        } else {
            let len = self.udp_len.unwrap_or(self.transport_len() as u16);
            frame.extend(len.to_be_bytes());
            frame.extend(self.transport_checksum.to_be_bytes());
        }
    }
}

/// Hop-by-hop (0) or destination options (60) of `units` times eight bytes:
/// padding (RFC 8200, 4.2: PadN).
pub fn options(number: u8, units: u8) -> (u8, Vec<u8>) {
    let len = usize::from(units) * 8 - 1;
    let mut rest = vec![0; len];
    rest[0] = units - 1;
    rest[1] = 1;
    // What one PadN cannot fill, Pad1 does: zeros.
    rest[2] = (len - 3).min(255) as u8;
    (number, rest)
}

/// A routing header of eight bytes with these segments left.
pub fn routing(segments_left: u8) -> (u8, Vec<u8>) {
    (43, vec![0, 0, segments_left, 0, 0, 0, 0])
}

/// A fragment header; the last bit of `place` says that more follow, and its
/// high 13 are the offset in units of eight bytes.
pub fn fragment_v6(place: u16, identification: u32) -> (u8, Vec<u8>) {
    let mut rest = vec![0];
    rest.extend(place.to_be_bytes());
    rest.extend(identification.to_be_bytes());
    (44, rest)
}

fn octets_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Payload: bytes that differ from their neighbours, so that a shift shows.
pub(super) static NOISE: [u8; 4096] = noise();

const fn noise() -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let mut value = 1u32;
    let mut at = 0;
    while at < bytes.len() {
        value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes[at] = (value >> 24) as u8;
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::hex;

    #[test]
    fn lengths_and_checksum_follow_from_the_fields() {
        let client = "10.0.0.1:4660".parse().unwrap();
        let packet = Packet {
            options: vec![1, 1, 1, 0],
            payload_len: 2,
            padding_len: 1,
            ..Packet::udp(client, "192.0.2.1:53".parse().unwrap())
        };
        assert_eq!(
            hex(&packet.build()),
            "02aa0000000102cc000000010800\
             460000225eed000040114cdb0a000001c000020101010100\
             12340035000a00003c5e00"
        );
    }
}
