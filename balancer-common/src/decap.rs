//! The backend's side: what of a frame is a tunnel's, and what is inside.
//!
//! A packet is a tunnel's packet once its outer header names IP in IP or UDP
//! to the GUE port; it then ends in exactly one [`Form`] or [`Refusal`]. All
//! else is the stack's and not looked at further. The order is that of trust:
//! the caller asks whether the source is trusted ([`Outer::source`]) before
//! anything behind the outer IP header counts ([`Outer::inside`]).

pub mod ecn;
pub mod gue;
mod outcome;

pub use outcome::{Count, Fate, Form, Refusal};

use crate::checksum;
use crate::parse::{Frame, IPV4_LEN, IPV6_LEN, PROTOCOL_IPIP, PROTOCOL_IPV6, PROTOCOL_UDP};
use ecn::{ECN_MASK, Mark};

/// Bytes of a UDP header (RFC 768).
const UDP_LEN: usize = 8;
/// IPv6 next header of a fragment header (RFC 8200, 4.5).
const PROTOCOL_FRAGMENT: u8 = 44;
/// IPv6 next header of destination options (RFC 8200, 4.6).
const PROTOCOL_DESTINATION_OPTIONS: u8 = 60;
/// The one length of destination options that is stepped over: a tunnel
/// encapsulation limit and its padding (RFC 2473, 4.1.1).
const TUNNEL_OPTIONS_LEN: usize = 8;
/// Bits of an IPv6 option's type that say what a node does that does not know
/// it; zero is "skip" (RFC 8200, 4.2).
const OPTION_ACTION: u8 = 0xc0;
/// The option of one byte (RFC 8200, 4.2).
const OPTION_PAD1: u8 = 0;

/// A family of outer or inner headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)] // as `Form`
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address of the outer header, network order.
pub trait Address: Copy {
    /// Its family.
    const FAMILY: Family;
    /// Sum of its 16-bit words (RFC 1071).
    fn sum(&self) -> u32;
}

impl Address for [u8; 4] {
    const FAMILY: Family = Family::V4;

    #[inline(always)]
    fn sum(&self) -> u32 {
        checksum::sum(self)
    }
}

impl Address for [u8; 16] {
    const FAMILY: Family = Family::V6;

    #[inline(always)]
    fn sum(&self) -> u32 {
        checksum::sum(self)
    }
}

/// What the outer header carries the inner packet in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// The inner packet follows at once; its protocol number was 4 or 41.
    Ip(Family),
    /// A datagram to the GUE port.
    Gue,
}

/// A tunnel packet's outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer<A> {
    /// Source address, network order.
    pub source: A,
    destination: A,
    carrier: Carrier,
    is_fragment: bool,
    ecn: u8,
    /// Where what it carries begins.
    at: usize,
    /// Bytes of that as the header says; `None` if it contradicts itself.
    len: Option<usize>,
}

/// The packet inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inside {
    /// What it came in.
    pub form: Form,
    /// Its family.
    pub family: Family,
    /// Where it begins in the frame.
    pub at: usize,
    /// Its bytes, as its carrier says.
    pub len: usize,
    /// The change that the outer header's ECN makes to it.
    pub mark: Option<Mark>,
}

/// A UDP checksum that is still to be verified: all bytes from `at` and the
/// sum here add up to 0xffff if it is right (RFC 768).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpChecksum {
    /// Where the UDP header begins.
    pub at: usize,
    /// Bytes of the datagram.
    pub len: usize,
    /// Sum of the pseudo-header.
    pub pseudo_header: u32,
}

/// Reads the outer header of a tunnel packet over IPv4; `None` is no tunnel's.
#[inline(always)]
pub fn outer_v4(
    frame: &(impl Frame + ?Sized),
    ip_at: usize,
    gue_port: u16,
) -> Option<Outer<[u8; 4]>> {
    let ip: [u8; IPV4_LEN] = frame.bytes(ip_at)?;
    let header_len = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header_len < IPV4_LEN {
        return None;
    }
    let at = ip_at + header_len;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
    // A later fragment has no UDP header, so it cannot be told to be GUE.
    let has_ports = fragment & 0x1fff == 0;
    let carrier = carrier(frame, ip[9], at, has_ports, gue_port)?;
    let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    Some(Outer {
        source: [ip[12], ip[13], ip[14], ip[15]],
        destination: [ip[16], ip[17], ip[18], ip[19]],
        carrier,
        is_fragment: fragment != 0,
        ecn: ip[1] & ECN_MASK,
        at,
        len: total_len.checked_sub(header_len),
    })
}

/// As [`outer_v4`], over IPv6. Destination options of eight bytes whose
/// options may all be skipped are stepped over; behind any other extension
/// header the packet is the stack's.
#[inline(always)]
pub fn outer_v6(
    frame: &(impl Frame + ?Sized),
    ip_at: usize,
    gue_port: u16,
) -> Option<Outer<[u8; 16]>> {
    let ip: [u8; 8] = frame.bytes(ip_at)?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let payload_len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let mut outer = Outer {
        source: frame.bytes(ip_at + 8)?,
        destination: frame.bytes(ip_at + 24)?,
        carrier: Carrier::Gue,
        is_fragment: false,
        // The class straddles two bytes; its last two bits are in the second.
        ecn: ip[1] >> 4 & ECN_MASK,
        at: ip_at + IPV6_LEN,
        len: Some(payload_len),
    };
    let mut next_header = ip[6];
    let mut has_ports = true;
    if next_header == PROTOCOL_DESTINATION_OPTIONS {
        let options: [u8; TUNNEL_OPTIONS_LEN] = frame.bytes(outer.at)?;
        next_header = skippable(&options)?;
        outer.at += TUNNEL_OPTIONS_LEN;
        outer.len = payload_len.checked_sub(TUNNEL_OPTIONS_LEN);
    } else if next_header == PROTOCOL_FRAGMENT {
        let fragment: [u8; 4] = frame.bytes(outer.at)?;
        next_header = fragment[0];
        has_ports = u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 == 0;
        outer.at += 8;
        outer.is_fragment = true;
    }
    outer.carrier = carrier(frame, next_header, outer.at, has_ports, gue_port)?;
    Some(outer)
}

#[inline(always)]
fn carrier(
    frame: &(impl Frame + ?Sized),
    protocol: u8,
    at: usize,
    has_ports: bool,
    gue_port: u16,
) -> Option<Carrier> {
    match protocol {
        PROTOCOL_IPIP => Some(Carrier::Ip(Family::V4)),
        PROTOCOL_IPV6 => Some(Carrier::Ip(Family::V6)),
        PROTOCOL_UDP if has_ports => {
            let port: [u8; 2] = frame.bytes(at + 2)?;
            (u16::from_be_bytes(port) == gue_port).then_some(Carrier::Gue)
        }
        _ => None,
    }
}

/// The header that follows eight bytes of destination options, if a node that
/// knows none of them may skip them all.
#[inline(always)]
fn skippable(header: &[u8; TUNNEL_OPTIONS_LEN]) -> Option<u8> {
    let [next_header, 0, options @ ..] = header else {
        return None;
    };
    // Where the next option begins. Going through all bytes with a constant
    // index costs the verifier less than following a variable one.
    let mut next = 0;
    for (index, byte) in options.iter().enumerate() {
        if index != next {
            continue;
        }
        if byte & OPTION_ACTION != 0 {
            return None;
        }
        next += match options.get(index + 1) {
            _ if *byte == OPTION_PAD1 => 1,
            Some(len) => 2 + usize::from(*len),
            None => return None,
        };
    }
    (next == options.len()).then_some(*next_header)
}

impl<A: Address> Outer<A> {
    /// Finds the packet inside. A UDP checksum that is there is handed to
    /// `is_right`, before anything that it covers is looked at.
    #[inline(always)]
    pub fn inside(
        &self,
        frame: &(impl Frame + ?Sized),
        is_right: impl FnOnce(&UdpChecksum) -> bool,
    ) -> Result<Inside, Refusal> {
        if self.is_fragment {
            return Err(Refusal::FragmentedOuter);
        }
        let len = self.len.ok_or(Refusal::Truncated)?;
        // Ethernet pads short frames, so the frame may be longer.
        if self.at + len > frame.len() {
            return Err(Refusal::Truncated);
        }
        match self.carrier {
            Carrier::Ip(family) => {
                let form = Form::ipip(A::FAMILY, family);
                self.inner(frame, form, family, self.at, len)
            }
            Carrier::Gue => self.inside_gue(frame, len, is_right),
        }
    }

    #[inline(always)]
    fn inside_gue(
        &self,
        frame: &(impl Frame + ?Sized),
        len: usize,
        is_right: impl FnOnce(&UdpChecksum) -> bool,
    ) -> Result<Inside, Refusal> {
        let udp: [u8; UDP_LEN] = frame.bytes(self.at).ok_or(Refusal::Truncated)?;
        let udp_len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
        let payload_len = udp_len.checked_sub(UDP_LEN).ok_or(Refusal::Truncated)?;
        if udp_len > len {
            return Err(Refusal::Truncated);
        }
        // Zero is no checksum; over IPv6 that is a tunnel's right (RFC 6935).
        if udp[6] | udp[7] != 0 {
            let checksum = UdpChecksum {
                at: self.at,
                len: udp_len,
                pseudo_header: self.pseudo_header(udp_len),
            };
            // RFC 1122, 4.1.3.4: one that is there has to be verified.
            if !is_right(&checksum) {
                return Err(Refusal::BadUdpChecksum);
            }
        }
        let header = gue::read(frame, self.at + UDP_LEN)?;
        let inner_len = payload_len
            .checked_sub(header.len)
            .ok_or(Refusal::Truncated)?;
        let form = Form::gue(A::FAMILY, header.family);
        let at = self.at + UDP_LEN + header.len;
        self.inner(frame, form, header.family, at, inner_len)
    }

    #[inline(always)]
    fn pseudo_header(&self, udp_len: usize) -> u32 {
        let addresses = self.source.sum() + self.destination.sum();
        addresses + udp_len as u32 + u32::from(PROTOCOL_UDP)
    }

    /// Checks the inner header against its carrier, and works out its ECN.
    #[inline(always)]
    fn inner(
        &self,
        frame: &(impl Frame + ?Sized),
        form: Form,
        family: Family,
        at: usize,
        len: usize,
    ) -> Result<Inside, Refusal> {
        // Also the shortest packet of IPv4; one of IPv6 is checked below.
        let ip: [u8; IPV4_LEN] = frame.bytes(at).ok_or(Refusal::Truncated)?;
        let (version, ip_len) = match family {
            Family::V4 => (4, usize::from(u16::from_be_bytes([ip[2], ip[3]]))),
            Family::V6 => (
                6,
                IPV6_LEN + usize::from(u16::from_be_bytes([ip[4], ip[5]])),
            ),
        };
        if len < IPV4_LEN {
            return Err(Refusal::Truncated);
        }
        if ip[0] >> 4 != version {
            return Err(Refusal::BadInnerVersion);
        }
        if ip_len > len {
            return Err(Refusal::Truncated);
        }
        let mark = match family {
            Family::V4 => Mark::v4(&ip, self.ecn)?,
            Family::V6 => Mark::v6(&ip, self.ecn)?,
        };
        Ok(Inside {
            form,
            family,
            at,
            len,
            mark,
        })
    }
}

#[cfg(test)]
mod tests;
