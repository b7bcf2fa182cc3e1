//! One tunnel packet around an inner one, described field by field.
//!
//! Lengths, protocol numbers and checksums follow from the rest, unless a
//! field overrides them, as in [`Packet`](super::Packet).

use std::net::IpAddr;

use crate::model::forward::{checksum, ones_complement_sum};

const UDP: u8 = 17;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// A tunnel packet in an Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Ethernet destination, then source.
    pub ethernet: [u8; 12],
    /// Tags (EtherType 0x8100, outer ones 0x88a8) before the IP header.
    pub vlans: Vec<u16>,
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination; of the same family as the source.
    pub destination: IpAddr,
    /// Outer DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4: options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6: destination options without their next header, a multiple of
    /// eight bytes with it.
    pub destination_options: Vec<u8>,
    /// IPv4: flags and offset; IPv6: a fragment header with offset and flag.
    pub fragment: Option<u16>,
    /// GUE, or IP in IP.
    pub gue: Option<Gue>,
    /// Instead of 4 or 41, of IP in IP.
    pub protocol: Option<u8>,
    /// Instead of IPv4's total or IPv6's payload length.
    pub ip_len: Option<u16>,
    /// The inner packet.
    pub inner: Vec<u8>,
    /// Bytes after the outer packet.
    pub padding: Vec<u8>,
}

/// UDP and what follows it before the inner packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gue {
    /// Destination port.
    pub port: u16,
    /// Empty in variant 1.
    pub header: Vec<u8>,
    /// What stands in the checksum field.
    pub checksum: Checksum,
    /// Instead of its length.
    pub udp_len: Option<u16>,
}

/// A UDP checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// None.
    Zero,
    /// The right one; 0xffff where it would be none.
    Right,
    /// The right one and this, carries included.
    WrongBy(u16),
}

impl Gue {
    /// Variant 1 to the assigned port, without a checksum.
    pub fn direct() -> Self {
        Self {
            port: 6080,
            header: Vec::new(),
            checksum: Checksum::Zero,
            udp_len: None,
        }
    }

    /// Variant 0 with this header.
    pub fn with_header(header: &[u8]) -> Self {
        Self {
            header: header.to_vec(),
            ..Self::direct()
        }
    }
}

impl Tunnel {
    /// IP in IP, with nothing but what is needed.
    pub fn ipip(source: IpAddr, destination: IpAddr, inner: Vec<u8>) -> Self {
        Self {
            ethernet: [2, 0xaa, 0, 0, 0, 1, 2, 0xcc, 0, 0, 0, 1],
            vlans: Vec::new(),
            source,
            destination,
            traffic_class: 0,
            options: Vec::new(),
            destination_options: Vec::new(),
            fragment: None,
            gue: None,
            protocol: None,
            ip_len: None,
            inner,
            padding: Vec::new(),
        }
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = self.link(self.source.is_ipv4());
        let carried = self.carried();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let at = frame.len();
                let words = 5 + self.options.len() / 4;
                let len = (words * 4 + carried.len()) as u16;
                frame.extend([0x40 | words as u8, self.traffic_class]);
                frame.extend(self.ip_len.unwrap_or(len).to_be_bytes());
                frame.extend([0x12, 0x34]);
                frame.extend(self.fragment.unwrap_or(0).to_be_bytes());
                frame.extend([64, self.carried_protocol(), 0, 0]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend_from_slice(&self.options);
                let check = checksum(&frame[at..]).to_be_bytes();
                frame[at + 10..at + 12].copy_from_slice(&check);
            }
            _ => self.ipv6(&mut frame, carried.len()),
        }
        frame.extend(carried);
        frame.extend_from_slice(&self.padding);
        frame
    }

    /// The frame that should come out of it: link header and inner packet,
    /// whose ECN is not touched here, and the padding.
    pub fn unwrapped(&self) -> Vec<u8> {
        let mut frame = self.link(self.inner[0] >> 4 == 4);
        frame.extend_from_slice(&self.inner);
        frame.extend_from_slice(&self.padding);
        frame
    }

    fn link(&self, is_ipv4: bool) -> Vec<u8> {
        let mut frame = self.ethernet.to_vec();
        for (index, tag) in self.vlans.iter().enumerate() {
            let is_outer = index + 1 < self.vlans.len();
            frame.extend(if is_outer { [0x88, 0xa8] } else { [0x81, 0x00] });
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if is_ipv4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame
    }

    fn ipv6(&self, frame: &mut Vec<u8>, carried_len: usize) {
        let mut extensions = Vec::new();
        let mut first = self.carried_protocol();
        if !self.destination_options.is_empty() {
            extensions.push(first);
            extensions.extend_from_slice(&self.destination_options);
            first = DESTINATION_OPTIONS;
        }
        if let Some(fragment) = self.fragment {
            let [high, low] = fragment.to_be_bytes();
            let header = [first, 0, high, low, 0, 0, 0, 7];
            extensions.splice(0..0, header);
            first = FRAGMENT;
        }
        let len = (extensions.len() + carried_len) as u16;
        let word = 6 << 28 | u32::from(self.traffic_class) << 20 | 0xb_eef5;
        frame.extend(word.to_be_bytes());
        frame.extend(self.ip_len.unwrap_or(len).to_be_bytes());
        frame.extend([first, 64]);
        frame.extend(octets(self.source));
        frame.extend(octets(self.destination));
        frame.extend(extensions);
    }

    fn carried_protocol(&self) -> u8 {
        let inner = self.inner.first().map_or(4, |first| first >> 4);
        match (&self.gue, self.protocol, inner) {
            (Some(_), _, _) => UDP,
            (_, Some(protocol), _) => protocol,
            (_, _, 6) => 41,
            _ => 4,
        }
    }

    /// What follows the outer IP header.
    fn carried(&self) -> Vec<u8> {
        let Some(gue) = &self.gue else {
            return self.inner.clone();
        };
        let len = (8 + gue.header.len() + self.inner.len()) as u16;
        let udp_len = gue.udp_len.unwrap_or(len);
        let mut datagram = vec![0xc3, 0x5d];
        datagram.extend(gue.port.to_be_bytes());
        datagram.extend(udp_len.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend_from_slice(&gue.header);
        datagram.extend_from_slice(&self.inner);
        let by = match gue.checksum {
            Checksum::Zero => return datagram,
            Checksum::Right => 0,
            Checksum::WrongBy(by) => by,
        };
        let mut covered = [address(self.source), address(self.destination)].concat();
        covered.extend(udp_len.to_be_bytes());
        covered.extend([0, UDP]);
        covered.extend_from_slice(&datagram[..datagram.len().min(usize::from(udp_len))]);
        let right = !ones_complement_sum(&covered);
        let (sum, carry) = right.overflowing_add(by);
        let check = match sum + u16::from(carry) {
            0 => 0xffff,
            check => check,
        };
        datagram[6..8].copy_from_slice(&check.to_be_bytes());
        datagram
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::hex;

    #[test]
    fn gue_over_ipv4_is_built_as_a_captured_one() {
        let tunnel = Tunnel {
            gue: Some(Gue {
                checksum: Checksum::Right,
                ..Gue::with_header(&[0, 4, 0, 0])
            }),
            ..Tunnel::ipip(
                "10.0.0.1".parse().unwrap(),
                "10.0.0.2".parse().unwrap(),
                vec![0x45, 0x00, 0x01],
            )
        };
        // The checksums by hand: 4500+0023+1234+4011+0a00+0001+0a00+0002 = ab6b,
        // and 1423 of the pseudo-header + db2c of UDP + 4604 = 13553 -> 3554.
        assert_eq!(
            hex(&tunnel.build()),
            "02aa0000000102cc000000010800\
             4500002312340000401154940a0000010a000002\
             c35d17c0000fcaab00040000450001"
        );
    }
}
