//! What was read of a packet.

use super::{ETHERNET_LEN, VLAN_LEN};
use crate::hash::Address;
use crate::layout::FragmentRecord;

/// What tells the service and the flow of a packet. The kernel allows no
/// misaligned store on a program's stack, so fields stay in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Packet<A> {
    /// Source address, network order.
    pub source: A,
    /// Destination address, network order.
    pub destination: A,
    /// Source and destination port, network order.
    pub ports: [u8; 4],
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// How much of the flow's packet it is.
    pub part: Part,
    /// Where the IP header begins: behind the Ethernet header and its tags.
    pub ip_at: usize,
    /// Bytes of the IP header, options and extension headers included.
    pub header_len: u32,
    /// Bytes of the whole IP packet as its header says.
    pub ip_len: u32,
}

/// How much of its flow's packet a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first of several fragments, with its identification as in the
    /// packet, IPv4's in the first two bytes.
    First(u32),
    /// A later fragment: no transport header. Its ports come from the record
    /// of the first one.
    Later(FragmentRecord),
    /// None: it is an ICMP error, which stands for a packet of the flow that it
    /// quotes. Addresses, ports and protocol are the flow's, all else its own.
    Error,
}

impl<A: Address> Packet<A> {
    /// Of no flow: what a reader fills in.
    pub const EMPTY: Self = Self {
        source: A::ZERO,
        destination: A::ZERO,
        ports: [0; 4],
        protocol: 0,
        traffic_class: 0,
        ttl: 0,
        part: Part::Whole,
        ip_at: 0,
        header_len: 0,
        ip_len: 0,
    };

    /// Whether it has no transport header.
    #[inline(always)]
    pub fn is_later(&self) -> bool {
        matches!(self.part, Part::Later(_))
    }

    /// Whether it is an ICMP error about its flow.
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        matches!(self.part, Part::Error)
    }

    /// Where the IP header begins: 14, 18 or 22. Of a packet read back from a
    /// map the kernel knows no bounds, and sees these.
    #[inline(always)]
    pub fn ip_at(&self) -> usize {
        ETHERNET_LEN + (self.ip_at.wrapping_sub(ETHERNET_LEN) & (3 * VLAN_LEN))
    }

    /// Bytes of the IP header, likewise: with four extensions no more than
    /// 8,232.
    #[inline(always)]
    pub fn header_len(&self) -> u32 {
        self.header_len & 0x3fff
    }

    /// The destination port, network order.
    #[inline(always)]
    pub fn destination_port(&self) -> [u8; 2] {
        [self.ports[2], self.ports[3]]
    }
}
