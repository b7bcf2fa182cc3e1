//! The model's reading of a frame, in the words of the RFCs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::verdict::Reason;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What tells service and flow of a packet, and what else its IP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub source: IpAddr,
    /// The address dialled.
    pub destination: IpAddr,
    /// Source and destination port.
    pub ports: [u16; 2],
    /// 6 or 17.
    pub protocol: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether more fragments follow.
    pub is_fragment: bool,
    /// Where the IP header begins, behind the tags.
    pub ip_at: usize,
    /// Bytes of the IP header, options included.
    pub header_len: usize,
    /// Bytes of the IP packet by its own account.
    pub ip_len: usize,
}

/// How a packet stands to its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// UDP has no first packet.
    None,
    /// TCP with SYN and without ACK.
    Syn,
    /// Any other TCP packet.
    Established,
}

/// Reads what tells the service.
///
/// # Errors
/// A reason to let the packet pass. The fixed header has to be there before
/// anything in it is judged: version and header length first, then the
/// protocol, then the fragment's offset, then whether the ports are there.
pub fn flow(frame: &[u8]) -> Result<Flow, Reason> {
    let mut at = 12;
    let mut ethertype = u16_at(frame, at).ok_or(Reason::Truncated)?;
    // IEEE 802.1Q: a tag is its own EtherType, two bytes, and the next EtherType.
    while matches!(ethertype, 0x8100 | 0x88a8) && at < 12 + 2 * 4 {
        at += 4;
        ethertype = u16_at(frame, at).ok_or(Reason::Truncated)?;
    }
    match ethertype {
        0x0800 => flow_v4(frame, at + 2),
        0x86dd => flow_v6(frame, at + 2),
        _ => Err(Reason::NotIp),
    }
}

/// RFC 791, 3.1.
fn flow_v4(frame: &[u8], ip_at: usize) -> Result<Flow, Reason> {
    let header: &[u8; 20] = array(frame, ip_at).ok_or(Reason::Truncated)?;
    let [version, words] = [header[0] / 16, header[0] % 16];
    if version != 4 || words < 5 {
        return Err(Reason::BadIpHeader);
    }
    let protocol = tcp_or_udp(header[9])?;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x1fff != 0 {
        return Err(Reason::LaterFragment);
    }
    let header_len = usize::from(words) * 4;
    let address = |at| Ipv4Addr::from(*array::<4>(header, at).expect("inside the header"));
    Ok(Flow {
        source: address(12).into(),
        destination: address(16).into(),
        ports: ports(frame, ip_at + header_len)?,
        protocol,
        traffic_class: header[1],
        ttl: header[8],
        is_fragment: fragment & (1 << 13) != 0,
        ip_at,
        header_len,
        ip_len: usize::from(u16::from_be_bytes([header[2], header[3]])),
    })
}

/// RFC 8200, 3: only where TCP or UDP follows the fixed header at once.
fn flow_v6(frame: &[u8], ip_at: usize) -> Result<Flow, Reason> {
    let header: &[u8; 40] = array(frame, ip_at).ok_or(Reason::Truncated)?;
    let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    if first >> 28 != 6 {
        return Err(Reason::BadIpHeader);
    }
    let protocol = tcp_or_udp(header[6])?;
    let address = |at| Ipv6Addr::from(*array::<16>(header, at).expect("inside the header"));
    Ok(Flow {
        source: address(8).into(),
        destination: address(24).into(),
        ports: ports(frame, ip_at + 40)?,
        protocol,
        traffic_class: (first >> 20) as u8,
        ttl: header[7],
        is_fragment: false,
        ip_at,
        header_len: 40,
        ip_len: 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
    })
}

/// Judges the rest of a packet that is for a service: fragment, TTL, length,
/// then the transport header.
///
/// # Errors
/// A reason to drop it.
pub fn transport(frame: &[u8], flow: &Flow) -> Result<Opening, Reason> {
    if flow.is_fragment {
        return Err(Reason::Fragment);
    }
    if flow.ttl == 0 {
        return Err(Reason::TtlExpired);
    }
    // What comes after the packet is Ethernet's padding.
    let packet = frame[flow.ip_at..]
        .get(..flow.ip_len)
        .ok_or(Reason::BadLength)?;
    let segment = packet.get(flow.header_len..).ok_or(Reason::BadLength)?;
    if flow.protocol == UDP {
        // RFC 768: the length counts the header of eight bytes.
        if segment.len() < 8 {
            return Err(Reason::BadLength);
        }
        let len = usize::from(u16_at(segment, 4).ok_or(Reason::BadLength)?);
        if len < 8 || len > segment.len() {
            return Err(Reason::BadUdpLength);
        }
        return Ok(Opening::None);
    }
    // RFC 9293, 3.1: the data offset counts words and is at least five.
    if segment.len() < 20 {
        return Err(Reason::BadLength);
    }
    let header_len = usize::from(segment[12] / 16) * 4;
    if header_len < 20 || header_len > segment.len() {
        return Err(Reason::BadTcpHeader);
    }
    let (syn, ack) = (segment[13] & 0b00_0010 != 0, segment[13] & 0b01_0000 != 0);
    if syn && !ack {
        return Ok(Opening::Syn);
    }
    Ok(Opening::Established)
}

fn tcp_or_udp(protocol: u8) -> Result<u8, Reason> {
    match protocol {
        TCP | UDP => Ok(protocol),
        _ => Err(Reason::NotTcpUdp),
    }
}

fn ports(frame: &[u8], at: usize) -> Result<[u16; 2], Reason> {
    match (u16_at(frame, at), u16_at(frame, at + 2)) {
        (Some(source), Some(destination)) => Ok([source, destination]),
        _ => Err(Reason::Truncated),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array::<2>(bytes, at).map(|bytes| u16::from_be_bytes(*bytes))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}
