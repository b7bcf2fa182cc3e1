//! One ICMP error, described field by field.

use std::net::IpAddr;

use crate::model::forward::checksum;

/// An ICMP error in an Ethernet frame. Lengths and checksums follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IcmpError {
    /// Ethernet destination, then source.
    pub ethernet: [u8; 12],
    /// Tags before the IP header.
    pub vlans: Vec<u16>,
    /// Who tells.
    pub source: IpAddr,
    /// Who is told; of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4: options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6: extension headers, each its number and all but its first byte.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// ICMP type and code.
    pub kind: [u8; 2],
    /// What stands behind the checksum.
    pub rest: [u8; 4],
    /// The quoted packet, from its IP header on.
    pub quote: Vec<u8>,
    /// Added to the checksum.
    pub wrong_by: u16,
    /// Bytes after the packet.
    pub padding_len: usize,
}

impl IcmpError {
    /// An error from a router to whoever sent the quoted packet.
    pub fn new(source: IpAddr, destination: IpAddr, kind: [u8; 2], quote: &[u8]) -> Self {
        Self {
            ethernet: [2, 0xaa, 0, 0, 0, 1, 2, 0xcc, 0, 0, 0, 9],
            vlans: Vec::new(),
            source,
            destination,
            ttl: 60,
            options: Vec::new(),
            extensions: Vec::new(),
            kind,
            rest: [0; 4],
            quote: quote.to_vec(),
            wrong_by: 0,
            padding_len: 0,
        }
    }

    /// The frame.
    ///
    /// # Panics
    /// When the addresses are of two families.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = self.ethernet.to_vec();
        for vlan in &self.vlans {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        let mut icmp = [&self.kind[..], &[0, 0], &self.rest, &self.quote].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_len = 20 + self.options.len();
                let mut ip = vec![0x40 + (header_len / 4) as u8, 0xc0];
                ip.extend(((header_len + icmp.len()) as u16).to_be_bytes());
                ip.extend([0x12, 0x34, 0, 0, self.ttl, 1, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.extend(&self.options);
                let check = checksum(&ip).to_be_bytes();
                ip[10..12].copy_from_slice(&check);
                frame.extend([0x08, 0x00]);
                frame.extend(ip);
                self.finish(&mut icmp, &[]);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let before: usize = self.extensions.iter().map(|(_, rest)| 1 + rest.len()).sum();
                let len = (before + icmp.len()) as u16;
                let ends = [source.octets(), destination.octets()].concat();
                let numbers = self.extensions.iter().map(|(number, _)| *number);
                let mut next = numbers.chain([58]);
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(len.to_be_bytes());
                frame.extend([next.next().unwrap_or(58), self.ttl]);
                frame.extend(&ends);
                for (_, rest) in &self.extensions {
                    frame.push(next.next().unwrap_or(58));
                    frame.extend(rest);
                }
                let len = (icmp.len() as u32).to_be_bytes();
                self.finish(&mut icmp, &[&ends[..], &len, &[0, 0, 0, 58]].concat());
            }
            (source, destination) => panic!("an error from {source} to {destination}"),
        }
        frame.extend(icmp);
        frame.extend(vec![0x5a; self.padding_len]);
        frame
    }

    fn finish(&self, icmp: &mut [u8], pseudo: &[u8]) {
        let check = checksum(&[pseudo, icmp].concat());
        let check = check.wrapping_add(self.wrong_by).to_be_bytes();
        icmp[2..4].copy_from_slice(&check);
    }
}
