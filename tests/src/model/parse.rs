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
    /// Whole, or which fragment.
    pub part: Part,
    /// TCP with RST, as [`transport`] finds it.
    pub is_reset: bool,
    /// TCP: the sequence number that the flow's SYN had, if this is it or the
    /// packet right behind it, as [`transport`] finds it.
    pub initial_sequence: u32,
    /// Where the IP header begins, behind the tags.
    pub ip_at: usize,
    /// Bytes of the IP header, options and extension headers included.
    pub header_len: usize,
    /// Bytes of the IP packet by its own account.
    pub ip_len: usize,
}

/// How a packet stands to fragmentation (RFC 791, 3.2; RFC 8200, 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Not in fragments; an atomic fragment (RFC 6946) is none.
    Whole,
    /// At offset zero, and more follow.
    First(u32),
    /// At another offset. The ports of the flow are zero, and its protocol
    /// is what this fragment claims.
    Later(u32),
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
/// anything in it is judged: version and header length first, then extension
/// headers, then the protocol, then whether the ports are there.
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
    let identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let part = part(
        fragment % (1 << 13),
        fragment & 1 << 13 != 0,
        identification,
    );
    let header_len = usize::from(words) * 4;
    let address = |at| Ipv4Addr::from(*array::<4>(header, at).expect("inside the header"));
    Ok(Flow {
        source: address(12).into(),
        destination: address(16).into(),
        ports: ports(frame, ip_at + header_len, part)?,
        protocol,
        traffic_class: header[1],
        ttl: header[8],
        part,
        is_reset: false,
        initial_sequence: 0,
        ip_at,
        header_len,
        ip_len: usize::from(u16::from_be_bytes([header[2], header[3]])),
    })
}

/// RFC 8200, 3 and 4: up to four extension headers may come first.
fn flow_v6(frame: &[u8], ip_at: usize) -> Result<Flow, Reason> {
    let header: &[u8; 40] = array(frame, ip_at).ok_or(Reason::Truncated)?;
    let first = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    if first >> 28 != 6 {
        return Err(Reason::BadIpHeader);
    }
    let (protocol, header_len, part) = extensions(frame, ip_at, header[6])?;
    match part {
        // Destination options and routing may stand before any protocol.
        Part::Later(_) if matches!(protocol, 43 | 60) => {}
        _ => drop(tcp_or_udp(protocol)?),
    }
    let address = |at| Ipv6Addr::from(*array::<16>(header, at).expect("inside the header"));
    Ok(Flow {
        source: address(8).into(),
        destination: address(24).into(),
        ports: ports(frame, ip_at + header_len, part)?,
        protocol,
        traffic_class: (first >> 20) as u8,
        ttl: header[7],
        part,
        is_reset: false,
        initial_sequence: 0,
        ip_at,
        header_len,
        ip_len: 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
    })
}

/// What comes behind the extension headers, where, and in what part. Each is
/// judged when it is met: whether it is one that can be stepped over, whether
/// there may be one more, whether its first eight bytes are there.
///
/// # Errors
/// A reason to let the packet pass.
pub fn extensions(frame: &[u8], ip_at: usize, first: u8) -> Result<(u8, usize, Part), Reason> {
    let (mut next, mut len, mut seen) = (first, 40, Vec::new());
    let mut outcome = Part::Whole;
    loop {
        let is_extension = match next {
            // RFC 8200, 4.1: nowhere but right behind the IPv6 header.
            0 => seen.is_empty(),
            43 | 60 => true,
            44 => seen.len() == 4 || !seen.contains(&44),
            _ => false,
        };
        if !is_extension {
            return Ok((next, len, outcome));
        }
        if seen.len() == 4 {
            return Err(Reason::TooManyExtensions);
        }
        seen.push(next);
        let bytes: &[u8; 8] = array(frame, ip_at + len).ok_or(Reason::Truncated)?;
        // 4.4: a node that is still to be visited.
        if next == 43 && bytes[3] > 0 {
            return Err(Reason::SourceRouted);
        }
        if next == 44 {
            len += 8;
            let field = u16::from_be_bytes([bytes[2], bytes[3]]);
            let id = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            outcome = part(field >> 3, field % 2 == 1, id);
            if let Part::Later(_) = outcome {
                return Ok((bytes[0], len, outcome));
            }
        } else {
            len += 8 * (usize::from(bytes[1]) + 1);
        }
        next = bytes[0];
    }
}

fn part(offset: u16, more: bool, identification: u32) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First(identification),
        _ => Part::Later(identification),
    }
}

/// Judges the rest of a packet that is for a service: TTL, length, then the
/// transport header. Lengths of a whole datagram are not held against its
/// fragments, but the first one has to hold all of the transport header.
///
/// # Errors
/// A reason to drop it.
pub fn transport(frame: &[u8], flow: &mut Flow) -> Result<Opening, Reason> {
    if flow.ttl == 0 {
        return Err(Reason::TtlExpired);
    }
    // What comes after the packet is Ethernet's padding.
    let packet = frame[flow.ip_at..]
        .get(..flow.ip_len)
        .ok_or(Reason::BadLength)?;
    let is_first = matches!(flow.part, Part::First(_));
    let if_whole = |reason| {
        if is_first {
            Reason::TinyFragment
        } else {
            reason
        }
    };
    if let Part::Later(_) = flow.part {
        return match (packet.len() > flow.header_len, flow.protocol) {
            (false, _) => Err(Reason::BadLength),
            (true, UDP) => Ok(Opening::None),
            (true, _) => Ok(Opening::Established),
        };
    }
    let segment = packet
        .get(flow.header_len..)
        .ok_or(if_whole(Reason::BadLength))?;
    if flow.protocol == UDP {
        // RFC 768: the length counts the header of eight bytes.
        if segment.len() < 8 {
            return Err(if_whole(Reason::BadLength));
        }
        let len = usize::from(u16_at(segment, 4).ok_or(Reason::BadLength)?);
        if len < 8 || len > segment.len() && !is_first {
            return Err(Reason::BadUdpLength);
        }
        return Ok(Opening::None);
    }
    // RFC 9293, 3.1: the data offset counts words and is at least five.
    if segment.len() < 20 {
        return Err(if_whole(Reason::BadLength));
    }
    let header_len = usize::from(segment[12] / 16) * 4;
    if header_len < 20 {
        return Err(Reason::BadTcpHeader);
    }
    if header_len > segment.len() {
        return Err(if_whole(Reason::BadTcpHeader));
    }
    flow.is_reset = segment[13] & 0b00_0100 != 0;
    let (syn, ack) = (segment[13] & 0b00_0010 != 0, segment[13] & 0b01_0000 != 0);
    let sequence = u32::from_be_bytes([segment[4], segment[5], segment[6], segment[7]]);
    if syn && !ack {
        flow.initial_sequence = sequence;
        return Ok(Opening::Syn);
    }
    // RFC 9293, 3.4: the SYN takes one number.
    flow.initial_sequence = sequence.wrapping_sub(1);
    Ok(Opening::Established)
}

fn tcp_or_udp(protocol: u8) -> Result<u8, Reason> {
    match protocol {
        TCP | UDP => Ok(protocol),
        _ => Err(Reason::NotTcpUdp),
    }
}

fn ports(frame: &[u8], at: usize, part: Part) -> Result<[u16; 2], Reason> {
    if let Part::Later(_) = part {
        return Ok([0; 2]);
    }
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
