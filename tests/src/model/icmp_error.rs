//! The model's reading of ICMP errors (RFC 792, RFC 4443), of what they quote,
//! and what a client is told of a tunnel that it knows nothing of (RFC 2003,
//! 4.1; RFC 2473, 8).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::layout::Member;
use balancer_common::verdict::Reason;

use super::forward::{self, ones_complement_sum, outer_len};
use super::parse::{self, Flow, Part};
use super::too_big;

/// What a frame is, as an ICMP error.
pub enum Read {
    /// None, or one about nothing that could be ours.
    Other,
    /// One to a service's address that quotes no flow of it.
    Unmatched,
    /// One about a flow.
    About(Box<Told>),
    /// One about a packet that its receiver sent to somebody: maybe in the name
    /// of a client to a backend. The flow is what that answers.
    Sent(Box<Told>),
}

/// An error about a flow.
pub struct Told {
    /// The flow's client, address, ports and protocol; all else is the error's.
    pub flow: Flow,
    /// Where the error was sent to.
    pub asked: IpAddr,
    /// Where the quoted transport header begins.
    pub transport_at: usize,
    /// What fits, if something did not.
    mtu: Option<usize>,
    /// The quoted tunnel headers, if it is not a backend's packet.
    tunnel: Option<Tunnel>,
    /// The flow's packet, as far as it is quoted.
    inner: Vec<u8>,
    /// Sum of the quoted bytes of that, as the error's checksum has it.
    inner_sum: u16,
}

struct Tunnel {
    addresses: Vec<u8>,
    is_v4: bool,
    /// GUE: the UDP header.
    udp: Option<Vec<u8>>,
}

struct Quoted {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: [u16; 2],
    transport_at: usize,
}

/// Reads a frame that is neither TCP nor UDP.
pub fn read(frame: &[u8], is_service: impl Fn(IpAddr) -> bool) -> Read {
    let Some((error, mtu)) = error(frame) else {
        return Read::Other;
    };
    let (icmp_at, end) = (error.ip_at + error.header_len, error.ip_at + error.ip_len);
    let at = icmp_at + 8;
    let quoted = quoted(frame, at, end, error.destination.is_ipv4());
    let asked = error.destination;
    if is_service(asked) {
        return match quoted {
            Some(quoted) if quoted.source == asked && matches!(quoted.protocol, 6 | 17) => {
                Read::About(Box::new(answering(error, &quoted, mtu)))
            }
            _ => Read::Unmatched,
        };
    }
    let Some(quoted) = quoted.filter(|quoted| quoted.source == asked) else {
        return Read::Other;
    };
    if let Some(told) = tunnelled(frame, &error, &quoted, mtu) {
        return Read::About(Box::new(told));
    }
    match quoted.protocol {
        6 | 17 => Read::Sent(Box::new(answering(error, &quoted, mtu))),
        _ => Read::Other,
    }
}

/// An error as a packet that answers the quoted one.
fn answering(error: Flow, quoted: &Quoted, mtu: Option<usize>) -> Told {
    Told {
        asked: error.destination,
        transport_at: quoted.transport_at,
        flow: Flow {
            source: quoted.destination,
            destination: quoted.source,
            ports: [quoted.ports[1], quoted.ports[0]],
            protocol: quoted.protocol,
            ..error
        },
        mtu,
        tunnel: None,
        inner: Vec::new(),
        inner_sum: 0,
    }
}

/// The error's own packet, its ports and protocol zero, and what MTU it names.
fn error(frame: &[u8]) -> Option<(Flow, Option<usize>)> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0] | [0x88, 0xa8]) && at < 20 {
        at += 4;
    }
    let ip_at = at + 2;
    let is_v4 = match frame.get(at..ip_at)? {
        [0x08, 0x00] => true,
        [0x86, 0xdd] => false,
        _ => return None,
    };
    let ip = frame.get(ip_at..ip_at + if is_v4 { 20 } else { 40 })?;
    let (header_len, protocol) = if is_v4 {
        let is_fragment = ip[6] & 0x3f != 0 || ip[7] != 0;
        (
            usize::from(ip[0] % 16) * 4,
            if is_fragment { 0 } else { ip[9] },
        )
    } else {
        match parse::extensions(frame, ip_at, ip[6]).ok()? {
            (protocol, len, Part::Whole) => (len, protocol),
            _ => return None,
        }
    };
    let icmp = frame.get(ip_at + header_len..ip_at + header_len + 8)?;
    let named = |mtu: u32| Some(if mtu == 0 { 576 } else { mtu as usize });
    let mtu = match (is_v4, protocol, icmp[0], icmp[1]) {
        (true, 1, 3, 4) => named(u32::from(u16::from_be_bytes([icmp[6], icmp[7]]))),
        (true, 1, 3 | 11 | 12, _) | (false, 58, 1 | 3 | 4, _) => None,
        (false, 58, 2, _) => named(u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]])),
        _ => return None,
    };
    let (source, destination) = addresses(ip, is_v4);
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    let flow = Flow {
        source,
        destination,
        ports: [0; 2],
        protocol: 0,
        traffic_class: if is_v4 {
            ip[1]
        } else {
            ip[0] << 4 | ip[1] >> 4
        },
        ttl: if is_v4 { ip[8] } else { ip[7] },
        is_reset: false,
        initial_sequence: 0,
        part: Part::Whole,
        ip_at,
        header_len,
        ip_len: if is_v4 { u16_at(2) } else { 40 + u16_at(4) },
    };
    Some((flow, mtu))
}

fn addresses(ip: &[u8], is_v4: bool) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| Ipv4Addr::from(*ip[at..].first_chunk::<4>().expect("a header")).into();
    let v6 = |at: usize| Ipv6Addr::from(*ip[at..].first_chunk::<16>().expect("a header")).into();
    if is_v4 {
        (v4(12), v4(16))
    } else {
        (v6(8), v6(24))
    }
}

/// A quoted header of that family, with eight bytes behind it at least.
fn quoted(frame: &[u8], at: usize, end: usize, is_v4: bool) -> Option<Quoted> {
    let ip = frame.get(at..at + if is_v4 { 20 } else { 40 })?;
    let (protocol, transport_at) = match (is_v4, ip[0] / 16) {
        (true, 4) if ip[0] % 16 >= 5 && (ip[6] & 0x1f, ip[7]) == (0, 0) => {
            (ip[9], at + usize::from(ip[0] % 16) * 4)
        }
        (false, 6) => match parse::extensions(frame, at, ip[6]).ok()? {
            (_, _, Part::Later(_)) => return None,
            (protocol, len, _) => (protocol, at + len),
        },
        _ => return None,
    };
    let behind = frame.get(transport_at..transport_at + 8)?;
    let (source, destination) = addresses(ip, is_v4);
    (transport_at + 8 <= end).then_some(Quoted {
        source,
        destination,
        protocol,
        ports: [0, 2].map(|at| u16::from_be_bytes([behind[at], behind[at + 1]])),
        transport_at,
    })
}

/// An error about a packet in a tunnel that began where the error was sent to:
/// plain headers, and a packet of TCP or UDP inside.
fn tunnelled(frame: &[u8], error: &Flow, outer: &Quoted, mtu: Option<usize>) -> Option<Told> {
    let icmp_at = error.ip_at + error.header_len;
    let end = error.ip_at + error.ip_len;
    let is_v4 = error.destination.is_ipv4();
    let is_plain = outer.transport_at == icmp_at + 8 + if is_v4 { 20 } else { 40 };
    if outer.source != error.destination || !is_plain {
        return None;
    }
    let (inner_at, udp) = match outer.protocol {
        4 | 41 => (outer.transport_at, None),
        17 => {
            let udp = &frame[outer.transport_at..outer.transport_at + 8];
            (outer.transport_at + 8, Some(udp.to_vec()))
        }
        _ => return None,
    };
    let is_inner_v4 = match (outer.protocol, frame.get(inner_at)? / 16) {
        (4 | 17, 4) => true,
        (41 | 17, 6) => false,
        _ => return None,
    };
    let inner = quoted(frame, inner_at, end, is_inner_v4)?;
    if !matches!(inner.protocol, 6 | 17) {
        return None;
    }
    let mut others = frame[icmp_at..inner_at].to_vec();
    if !is_v4 {
        others.extend(&frame[error.ip_at + 8..error.ip_at + 40]);
        others.extend(((end - icmp_at) as u32).to_be_bytes());
        others.extend([0, 0, 0, 58]);
    }
    let outer_at = icmp_at + 8;
    let from = if is_v4 { 12..20 } else { 8..40 };
    Some(Told {
        flow: Flow {
            source: inner.source,
            destination: inner.destination,
            ports: inner.ports,
            protocol: inner.protocol,
            ..*error
        },
        asked: error.destination,
        transport_at: inner.transport_at,
        mtu,
        tunnel: Some(Tunnel {
            addresses: frame[outer_at + from.start..outer_at + from.end].to_vec(),
            is_v4,
            udp,
        }),
        inner: frame.get(inner_at..end).unwrap_or_default().to_vec(),
        inner_sum: !ones_complement_sum(&others),
    })
}

impl Told {
    /// Whether such a packet of the flow goes to the member: it told of one
    /// that it was sent, or of one that it sent itself, unchanged since.
    pub fn is_about(&self, member: &Member, hash: u64) -> bool {
        let Some(tunnel) = &self.tunnel else {
            return true;
        };
        let expected = match (tunnel.is_v4, tunnel.udp.is_some()) {
            (true, false) => Member::IPIP_V4,
            (false, false) => Member::IPIP_V6,
            (true, true) => Member::GUE_V4,
            (false, true) => Member::GUE_V6,
        };
        if member.kind != expected {
            return false;
        }
        let udp = forward::gue(&self.flow, member, hash);
        let same_ports = tunnel.udp.as_ref().is_none_or(|sent| sent[..4] == udp[..4]);
        let same_ends = if tunnel.is_v4 {
            tunnel.addresses == forward::outer_v4(&self.flow, member, hash, &[])[12..20]
        } else {
            tunnel.addresses == forward::outer_v6(&self.flow, member, hash, &[])[8..40]
        };
        same_ports && same_ends
    }

    /// What the client is told, if the tunnel was too narrow.
    ///
    /// # Errors
    /// When there is nobody to tell, or more is quoted than fits.
    pub fn answer(&self, frame: &[u8], member: &Member) -> Option<Result<Vec<u8>, Reason>> {
        self.tunnel.as_ref()?;
        let way = self.mtu?.min(usize::from(member.mtu));
        let mtu = way.saturating_sub(outer_len(member.kind)).max(1);
        if self.inner.len() > 1280 - 48 || !too_big::is_told(frame, self.flow.source) {
            return Some(Err(Reason::ErrorUnmatched));
        }
        let mut out = [&frame[6..12], &frame[..6], &frame[12..self.flow.ip_at - 2]].concat();
        let is_v4 = self.flow.source.is_ipv4();
        out.extend(if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        let ends = (self.flow.destination, self.flow.source);
        out.extend(too_big::message(ends, mtu, &self.inner, self.inner_sum));
        Some(Ok(out))
    }
}
