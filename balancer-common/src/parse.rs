//! Reads what the balancer needs from an Ethernet frame, in two steps.
//!
//! The first one reads only what tells a packet's service, and fails only with
//! reasons that let the packet pass: [`crate::plain`] takes what nearly every
//! packet is, [`crate::unusual`] all there is. The second is [`transport`],
//! called once the service is known, which finds every fault that makes a
//! packet of a service a drop, in this order: TTL, length, transport header.
//! Of a packet in fragments nothing is checked that only holds for the whole.
//!
//! Pure: bytes arrive through [`Frame`], so the kernel program, unit tests
//! and fuzzers run this same code.

mod packet;

use crate::affinity::Opening;
use crate::hash::Address;
use crate::verdict::Reason;

pub use packet::{Packet, Part};

/// Length of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Length of a VLAN tag.
pub const VLAN_LEN: usize = 4;
/// Tags that are read; a frame with more is nobody's.
pub const MAX_VLAN_TAGS: usize = 2;
/// EtherType of a VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
/// EtherType of a service tag (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: [u8; 2] = [0x88, 0xa8];
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;
/// IP protocol number of IPv4 in IP.
pub const PROTOCOL_IPIP: u8 = 4;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IP protocol number of IPv6 in IP.
pub const PROTOCOL_IPV6: u8 = 41;

const TCP_LEN: u32 = 20;
const UDP_LEN: u32 = 8;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const TCP_RST: u8 = 0x04;

/// Bounds-checked access to one Ethernet frame.
pub trait Frame {
    /// Bytes of the frame.
    fn len(&self) -> usize;

    /// Whether the frame has no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `N` bytes at `offset` where they lie, or `None` if the frame ends
    /// before them. Nothing may be written to the frame while they are in use.
    ///
    /// A header is read this way: of a copy the compiler makes words that
    /// straddle its fields.
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// A copy of the `N` bytes at `offset`, or `None` if the frame ends
    /// before them.
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.view(offset).copied()
    }
}

impl Frame for [u8] {
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let end = offset.checked_add(N)?;
        self.get(offset..end)?.try_into().ok()
    }
}

/// What an Ethernet header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// EtherType behind the tags.
    pub ethertype: [u8; 2],
    /// Bytes of the header with its tags: 14, 18 or 22.
    pub len: usize,
}

/// What a transport header says, in numbers: the kernel's verifier would
/// follow each way on from a value that it knows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    opening: u32,
    resets: u32,
}

impl Segment {
    /// A packet of which no more is known.
    pub const fn of(opening: Opening) -> Self {
        Self {
            opening: opening as u32,
            resets: 0,
        }
    }

    /// A TCP packet with these flags.
    #[inline(always)]
    pub const fn tcp(flags: u8) -> Self {
        let flags = flags as u32;
        let syns = flags >> TCP_SYN.trailing_zeros() & !(flags >> TCP_ACK.trailing_zeros()) & 1;
        Self {
            opening: Opening::Established as u32 - syns,
            resets: flags >> TCP_RST.trailing_zeros() & 1,
        }
    }

    /// How the packet stands to its flow, as a number.
    #[inline(always)]
    pub const fn opening(self) -> u32 {
        self.opening
    }

    /// 1 for TCP with SYN and without ACK, else 0.
    #[inline(always)]
    pub const fn syns(self) -> u32 {
        self.opening & Opening::Syn as u32
    }

    /// 1 for TCP with RST, else 0.
    #[inline(always)]
    pub const fn resets(self) -> u32 {
        self.resets
    }
}

/// Reads the Ethernet header with up to two tags.
#[inline(always)]
pub fn link(frame: &(impl Frame + ?Sized)) -> Result<Link, Reason> {
    let mut len = ETHERNET_LEN;
    let mut ethertype = frame.bytes(len - 2).ok_or(Reason::Truncated)?;
    // Not a loop: the verifier wants each offset as a constant.
    if is_tag(ethertype) {
        len += VLAN_LEN;
        ethertype = frame.bytes(len - 2).ok_or(Reason::Truncated)?;
        if is_tag(ethertype) {
            len += VLAN_LEN;
            ethertype = frame.bytes(len - 2).ok_or(Reason::Truncated)?;
        }
    }
    Ok(Link { ethertype, len })
}

#[inline(always)]
fn is_tag(ethertype: [u8; 2]) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// What the fixed IPv4 header says; ports are zero.
#[inline(always)]
pub(crate) fn fixed_ipv4(ip: &[u8; IPV4_LEN], ip_at: usize, header_len: u32) -> Packet<[u8; 4]> {
    let mut packet = Packet::EMPTY;
    fixed_ipv4_into(ip, ip_at, header_len, &mut packet);
    packet
}

#[inline(always)]
pub(crate) fn fixed_ipv4_into(
    ip: &[u8; IPV4_LEN],
    ip_at: usize,
    header_len: u32,
    packet: &mut Packet<[u8; 4]>,
) {
    packet.source = field(ip, 12);
    packet.destination = field(ip, 16);
    packet.ports = [0; 4];
    packet.protocol = ip[9];
    packet.traffic_class = ip[1];
    packet.ttl = ip[8];
    packet.part = Part::Whole;
    packet.ip_at = ip_at;
    packet.header_len = header_len;
    packet.ip_len = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
}

/// Part of a header, moved as one word and not byte by byte.
#[inline(always)]
pub fn field<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&header[at..at + N]);
    field
}

/// What the fixed IPv6 header says; ports are zero, and `protocol` is its
/// next header.
#[inline(always)]
pub(crate) fn fixed_ipv6(ip: &[u8; IPV6_LEN], ip_at: usize, header_len: u32) -> Packet<[u8; 16]> {
    let mut packet = Packet::EMPTY;
    fixed_ipv6_into(ip, ip_at, header_len, &mut packet);
    packet
}

#[inline(always)]
pub(crate) fn fixed_ipv6_into(
    ip: &[u8; IPV6_LEN],
    ip_at: usize,
    header_len: u32,
    packet: &mut Packet<[u8; 16]>,
) {
    packet.source = field(ip, 8);
    packet.destination = field(ip, 24);
    packet.ports = [0; 4];
    packet.protocol = ip[6];
    packet.traffic_class = ip[0] << 4 | ip[1] >> 4;
    packet.ttl = ip[7];
    packet.part = Part::Whole;
    packet.ip_at = ip_at;
    packet.header_len = header_len;
    packet.ip_len = IPV6_LEN as u32 + u32::from(u16::from_be_bytes([ip[4], ip[5]]));
}

/// Checks the rest of a packet that is for a service, and tells how it
/// stands to its flow.
#[inline(always)]
pub fn transport<A: Address>(
    frame: &(impl Frame + ?Sized),
    packet: &Packet<A>,
) -> Result<Segment, Reason> {
    if packet.ttl == 0 {
        return Err(Reason::TtlExpired);
    }
    // Ethernet pads short frames, so the frame may be longer than the packet.
    if packet.ip_len as usize + packet.ip_at() > frame.len() {
        return Err(Reason::BadLength);
    }
    // A first fragment that hides its transport header (RFC 1858, 3), and one
    // whose header would be whole only once it is put together.
    let (is_first, too_short) = match packet.part {
        Part::Whole => (false, Reason::BadLength),
        Part::First(_) => (true, Reason::TinyFragment),
        Part::Later(_) | Part::Error => return later(packet),
    };
    let at = packet.ip_at() + packet.header_len() as usize;
    if packet.protocol == PROTOCOL_UDP {
        if packet.ip_len < packet.header_len() + UDP_LEN {
            return Err(too_short);
        }
        let udp_len: [u8; 2] = frame.bytes(at + 4).ok_or(Reason::BadLength)?;
        let udp_len = u32::from(u16::from_be_bytes(udp_len));
        if udp_len < UDP_LEN || udp_len > packet.ip_len - packet.header_len() && !is_first {
            return Err(Reason::BadUdpLength);
        }
        return Ok(Segment::of(Opening::None));
    }
    if packet.ip_len < packet.header_len() + TCP_LEN {
        return Err(too_short);
    }
    let [offset, flags]: [u8; 2] = frame.bytes(at + 12).ok_or(Reason::BadLength)?;
    let tcp_len = u32::from(offset >> 4) * 4;
    if tcp_len < TCP_LEN {
        return Err(Reason::BadTcpHeader);
    }
    if tcp_len > packet.ip_len - packet.header_len() {
        return Err(if is_first {
            Reason::TinyFragment
        } else {
            Reason::BadTcpHeader
        });
    }
    Ok(Segment::tcp(flags))
}

/// The sequence number of the SYN that opened the flow, as this TCP packet
/// tells it: a SYN its own, the packet that follows one less (RFC 9293, 3.4).
/// What any other packet tells is of no SYN; 0 without a transport header.
#[inline(always)]
pub fn opened_with<A: Address>(
    frame: &(impl Frame + ?Sized),
    packet: &Packet<A>,
    segment: Segment,
) -> u32 {
    if packet.is_later() || packet.is_error() {
        return 0;
    }
    let at = packet.ip_at() + packet.header_len() as usize;
    let sequence = frame.bytes(at + 4).unwrap_or_default();
    u32::from_be_bytes(sequence).wrapping_sub(1 - segment.syns())
}

/// What can be checked of a later fragment, or of an ICMP error: it carries
/// something. Its flow is there, as its first fragment or its packet was.
#[inline(always)]
fn later<A: Address>(packet: &Packet<A>) -> Result<Segment, Reason> {
    if packet.ip_len <= packet.header_len() {
        return Err(Reason::BadLength);
    }
    Ok(Segment::of(match packet.protocol {
        PROTOCOL_UDP => Opening::None,
        _ => Opening::Established,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unusual::{self, Unusual};

    fn ipv4(frame: &[u8], ip_at: usize) -> Packet<[u8; 4]> {
        match unusual::ipv4(frame, ip_at) {
            Ok(Unusual::Packet(packet)) => packet,
            other => panic!("{other:?}"),
        }
    }

    fn ipv6(frame: &[u8]) -> Packet<[u8; 16]> {
        match unusual::ipv6(frame, ETHERNET_LEN) {
            Ok(Unusual::Packet(packet)) => packet,
            other => panic!("{other:?}"),
        }
    }

    use std::vec;
    use std::vec::Vec;

    fn tcp_v4() -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4);
        frame[14] = 0x45;
        frame[17] = 40;
        frame[22] = 64;
        frame[23] = PROTOCOL_TCP;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 1]);
        frame[34..38].copy_from_slice(&[0x12, 0x34, 0, 80]);
        frame[46] = 0x50;
        frame[47] = TCP_SYN;
        frame
    }

    fn udp_v6() -> Vec<u8> {
        let mut frame = vec![0; 14 + 40 + 8];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV6);
        frame[14] = 0x6a;
        frame[15] = 0xb0;
        frame[19] = 8;
        frame[20] = PROTOCOL_UDP;
        frame[21] = 64;
        frame[59] = 8;
        frame
    }

    #[test]
    fn five_tuple_is_read_behind_options() {
        let mut frame = tcp_v4();
        frame.splice(34..34, [1, 1, 1, 0]);
        frame[14] = 0x46;
        frame[17] = 44;
        let packet = ipv4(&frame, 14);
        assert_eq!(packet.ports, [0x12, 0x34, 0, 80]);
        assert_eq!(packet.header_len, 24);
        assert_eq!(
            transport(frame.as_slice(), &packet),
            Ok(Segment::of(Opening::Syn))
        );
    }

    #[test]
    fn up_to_two_tags_are_stepped_over() {
        let tags: [&[u8]; 3] = [&[], &[0x81, 0, 0, 7], &[0x88, 0xa8, 0, 7, 0x81, 0, 0x20, 9]];
        for tags in tags {
            let mut frame = tcp_v4();
            frame.splice(12..12, tags.iter().copied());
            let link = link(frame.as_slice()).unwrap();
            assert_eq!(link.ethertype, ETHERTYPE_IPV4);
            assert_eq!(link.len, ETHERNET_LEN + tags.len());
            let packet = ipv4(&frame, link.len);
            assert_eq!(
                transport(frame.as_slice(), &packet),
                Ok(Segment::of(Opening::Syn))
            );
        }
    }

    #[test]
    fn third_tag_is_no_ip() {
        let mut frame = tcp_v4();
        frame.splice(12..12, [0x81, 0, 0, 7, 0x81, 0, 0, 8, 0x81, 0, 0, 9]);
        assert_eq!(link(frame.as_slice()).unwrap().ethertype, ETHERTYPE_VLAN);
    }

    #[test]
    fn traffic_class_of_ipv6_straddles_two_bytes() {
        let packet = ipv6(&udp_v6());
        assert_eq!(packet.traffic_class, 0xab);
    }

    #[test]
    fn each_fault_of_a_service_packet_has_its_reason() {
        type Change = fn(&mut Vec<u8>);
        let cases: &[(Change, Result<Segment, Reason>)] = &[
            (|_| {}, Ok(Segment::of(Opening::Syn))),
            (|f| f[47] = 0x12, Ok(Segment::of(Opening::Established))),
            (|f| f[47] = 0x14, Ok(Segment::tcp(TCP_RST))),
            (|f| f[20] = 0x20, Ok(Segment::of(Opening::Syn))),
            (|f| [f[20], f[17]] = [0x20, 39], Err(Reason::TinyFragment)),
            (|f| [f[20], f[46]] = [0x20, 0x60], Err(Reason::TinyFragment)),
            (|f| [f[20], f[46]] = [0x20, 0x40], Err(Reason::BadTcpHeader)),
            (|f| f[22] = 0, Err(Reason::TtlExpired)),
            (|f| f[17] = 41, Err(Reason::BadLength)),
            (|f| f[17] = 39, Err(Reason::BadLength)),
            (|f| f[46] = 0x40, Err(Reason::BadTcpHeader)),
            (|f| f[46] = 0x60, Err(Reason::BadTcpHeader)),
            (|f| f.truncate(46), Err(Reason::BadLength)),
        ];
        for (index, (change, expected)) in cases.iter().enumerate() {
            let mut frame = tcp_v4();
            change(&mut frame);
            let packet = ipv4(&frame, 14);
            assert_eq!(
                transport(frame.as_slice(), &packet),
                *expected,
                "case {index}"
            );
        }
    }

    #[test]
    fn syn_and_what_follows_it_tell_the_same_sequence_number() {
        for sequence in [0, 1, 0x1234_5678, u32::MAX] {
            let mut frame = tcp_v4();
            let told =
                [(TCP_SYN, 0), (TCP_ACK, 1), (TCP_ACK | TCP_SYN, 1)].map(|(flags, later)| {
                    frame[47] = flags;
                    frame[38..42].copy_from_slice(&sequence.wrapping_add(later).to_be_bytes());
                    let packet = ipv4(&frame, 14);
                    opened_with(frame.as_slice(), &packet, Segment::tcp(flags))
                });
            assert_eq!(told, [sequence; 3]);
        }
    }

    #[test]
    fn udp_length_must_hold_its_header_and_fit_the_packet() {
        for (len, expected) in [
            (8, Ok(Segment::of(Opening::None))),
            (7, Err(Reason::BadUdpLength)),
            (9, Err(Reason::BadUdpLength)),
        ] {
            let mut frame = udp_v6();
            frame[59] = len;
            let packet = ipv6(&frame);
            assert_eq!(transport(frame.as_slice(), &packet), expected);
        }
    }

    #[test]
    fn what_cannot_be_told_a_service_passes_by_name() {
        type Change = fn(&mut Vec<u8>);
        let cases: &[(Change, Reason)] = &[
            (|f| f[14] = 0x44, Reason::BadIpHeader),
            (|f| f[14] = 0x65, Reason::BadIpHeader),
            (|f| f[23] = 2, Reason::NotTcpUdp),
            (|f| f.truncate(37), Reason::Truncated),
            (|f| f.truncate(33), Reason::Truncated),
        ];
        for (change, expected) in cases {
            let mut frame = tcp_v4();
            change(&mut frame);
            assert_eq!(unusual::ipv4(frame.as_slice(), 14), Err(*expected));
        }
    }
}
