//! The frames of the cases, and which of their bytes are the flow.
//!
//! The client's address and port vary without the checksums following: no
//! program looks at what the wrapper would have to pay for.

use std::net::SocketAddr;

use balancer_user::dataplane::bench::Stimulus;

use crate::frames::packet::{ACK, MORE_FRAGMENTS, SYN, fragment_v6};
use crate::frames::{Gue, IcmpError, Packet, Tunnel};
use crate::model::forward::checksum;

pub(super) const CLIENT_V4: &str = "10.0.0.0:33024";
pub(super) const CLIENT_V6: &str = "[2001:db8:c::]:33024";
pub(super) const SERVICE_V4: &str = "192.0.2.1:80";
pub(super) const SERVICE_V6: &str = "[2001:db8::1]:80";

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// No shorter frame is on a wire, but for its checksum.
const SHORTEST: usize = 60;

/// An address in a case's words.
pub(super) fn at(address: &str) -> SocketAddr {
    address.parse().expect("cases write addresses that parse")
}

/// A packet from a client, whose address and port are the flow.
fn from_client(packet: &Packet) -> Stimulus {
    let is_v4 = packet.source.is_ipv4();
    let (source_at, destination_at, ports_at) = if is_v4 { (12, 16, 20) } else { (8, 24, 40) };
    padded(Stimulus {
        frame: packet.build(),
        restored: 0,
        flows: 1,
        is_v6: !is_v4,
        address_at: ETHERNET + source_at,
        ports_at: ETHERNET + ports_at,
        is_second_port: false,
        service_at: ETHERNET + destination_at,
        services: 1,
        identification_at: 0,
    })
}

/// As long as a wire wants it, all headers restored.
fn padded(mut stimulus: Stimulus) -> Stimulus {
    // What a number of words restores.
    let len = (stimulus.frame.len().max(SHORTEST) + 2).next_multiple_of(8) - 2;
    stimulus.frame.resize(len, 0);
    stimulus.restored = len.min(126);
    stimulus
}

/// A segment of an open connection.
pub(super) fn segment(client: &str, service: &str) -> Stimulus {
    from_client(&Packet {
        flags: ACK,
        ..Packet::tcp(at(client), at(service))
    })
}

/// The first packet of a connection.
pub(super) fn syn(client: &str, service: &str) -> Stimulus {
    from_client(&Packet {
        flags: SYN,
        ..Packet::tcp(at(client), at(service))
    })
}

pub(super) fn datagram(client: &str, service: &str) -> Stimulus {
    from_client(&Packet::udp(at(client), at(service)))
}

/// A QUIC packet with a short header; bytes 2 and 3 of its payload, in the
/// connection id, are the server id.
pub(super) fn quic(client: &str, service: &str, server_id: [u8; 2]) -> Stimulus {
    let [high, low] = server_id;
    from_client(&Packet {
        payload: vec![0x40, 0x99, high, low],
        payload_len: 40,
        ..Packet::udp(at(client), at(service))
    })
}

/// A segment of a backend to a client, whose address and port are the flow.
pub(super) fn reply(backend: &str, client: &str) -> Stimulus {
    let stimulus = segment(backend, client);
    let address_len = if at(client).is_ipv4() { 4 } else { 16 };
    Stimulus {
        address_at: stimulus.address_at + address_len,
        is_second_port: true,
        ..stimulus
    }
}

/// A segment of a backend to the pool of `fullnat`: to 256 ports from this
/// one on, of as many addresses as it is spread over services.
pub(super) fn pooled_reply(backend: &str, first: &str) -> Stimulus {
    Stimulus {
        address_at: 0,
        ..reply(backend, first)
    }
}

/// Which fragment of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The one with the ports.
    First,
    /// One of the others.
    Later,
}

/// A fragment with eight bytes of payload; the client's address is the flow,
/// of both places alike.
pub(super) fn fragment(place: Place, client: &str, service: &str) -> Stimulus {
    const OFFSET: u16 = 2;
    const IDENTIFICATION: u32 = 7;
    let whole = Packet {
        payload_len: 8,
        headless: place == Place::Later,
        ..Packet::udp(at(client), at(service))
    };
    let packet = match (place, at(client).is_ipv4()) {
        (Place::First, true) => Packet {
            fragment: MORE_FRAGMENTS,
            ..whole
        },
        (Place::Later, true) => Packet {
            fragment: OFFSET,
            ..whole
        },
        (Place::First, false) => Packet {
            extensions: vec![fragment_v6(1, IDENTIFICATION)],
            ..whole
        },
        (Place::Later, false) => Packet {
            extensions: vec![fragment_v6(OFFSET << 3, IDENTIFICATION)],
            ..whole
        },
    };
    Stimulus {
        ports_at: 0,
        ..from_client(&packet)
    }
}

/// An IPv4 packet to an Ethernet address, whose header's checksum holds
/// whatever the flow.
pub(super) fn checked(mut stimulus: Stimulus, to: [u8; 6]) -> Stimulus {
    let frame = &mut stimulus.frame;
    frame[..6].copy_from_slice(&to);
    let header = ETHERNET..ETHERNET + 20;
    stimulus.identification_at = ETHERNET + 4;
    frame[stimulus.identification_at..][..2].copy_from_slice(&[0xff, 0xff]);
    frame[ETHERNET + 10..][..2].fill(0);
    let sum = checksum(&frame[header]).to_be_bytes();
    frame[ETHERNET + 10..][..2].copy_from_slice(&sum);
    stimulus
}

/// A router's "host unreachable" about what a backend sent to a client, with
/// eight quoted bytes of TCP.
pub(super) fn icmp_error(client: &str, service: &str) -> Stimulus {
    let reply = Packet {
        flags: ACK,
        ..Packet::tcp(at(service), at(client))
    };
    let quote = &reply.build()[ETHERNET..];
    let (router, kind, quoted) = if at(client).is_ipv4() {
        ("198.51.100.9:0", [3, 1], &quote[..20 + 8])
    } else {
        ("[2001:db8:f::9]:0", [1, 3], &quote[..40 + 8])
    };
    unvaried(IcmpError::new(at(router).ip(), at(service).ip(), kind, quoted).build())
}

/// An echo request with eight bytes of data.
pub(super) fn echo(client: &str, service: &str) -> Stimulus {
    let (source, destination) = (at(client), at(service));
    let is_v4 = source.is_ipv4();
    let packet = Packet {
        protocol: if is_v4 { 1 } else { 58 },
        payload_len: 8,
        ..Packet::udp(source, destination)
    };
    let mut frame = packet.build();
    let icmp_at = ETHERNET + if is_v4 { 20 } else { 40 };
    frame[icmp_at..icmp_at + 8].copy_from_slice(&[
        if is_v4 { 8 } else { 128 },
        0,
        0,
        0,
        1,
        2,
        0,
        1,
    ]);
    let sum = if is_v4 {
        checksum(&frame[icmp_at..])
    } else {
        let len = (frame.len() - icmp_at) as u8;
        let pseudo = [&frame[ETHERNET + 8..], &[0, 0, 0, len, 0, 0, 0, 58]].concat();
        checksum(&pseudo)
    };
    frame[icmp_at + 2..icmp_at + 4].copy_from_slice(&sum.to_be_bytes());
    unvaried(frame)
}

/// A frame whose checksum has to hold, so nothing of it varies.
fn unvaried(frame: Vec<u8>) -> Stimulus {
    padded(Stimulus {
        frame,
        restored: 0,
        flows: 1,
        is_v6: false,
        address_at: 0,
        ports_at: 0,
        is_second_port: false,
        service_at: 0,
        services: 1,
        identification_at: 0,
    })
}

/// Who has that address?
pub(super) fn arp() -> Stimulus {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0xcc, 0, 0, 0, 1, 0x08, 0x06]);
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1, 2, 0xcc, 0, 0, 0, 1]);
    frame.extend([203, 0, 113, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    padded(Stimulus {
        frame,
        restored: 0,
        flows: 1,
        is_v6: false,
        address_at: 0,
        ports_at: 0,
        is_second_port: false,
        service_at: 0,
        services: 1,
        identification_at: 0,
    })
}

/// What is between an outer IP header and the inner packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outer {
    /// Nothing.
    Ip,
    /// UDP without a checksum, GUE variant 1.
    Gue,
}

/// The packet inside another, as a balancer sends it to a backend between
/// these two ends.
pub(super) fn tunnelled(ends: (&str, &str), outer: Outer, inner: &Stimulus) -> Stimulus {
    let inner_len = ip_len(&inner.frame);
    let packet = inner.frame[ETHERNET..ETHERNET + inner_len].to_vec();
    let tunnel = Tunnel {
        gue: match outer {
            Outer::Ip => None,
            Outer::Gue => Some(Gue::direct()),
        },
        ..Tunnel::ipip(at(ends.0).ip(), at(ends.1).ip(), packet)
    };
    let frame = tunnel.build();
    let header_len = frame.len() - ETHERNET - inner_len;
    padded(Stimulus {
        frame,
        address_at: inner.address_at + header_len,
        ports_at: inner.ports_at + header_len,
        ..inner.clone()
    })
}

/// Bytes of the IP packet in a frame, by its own account.
pub(super) fn ip_len(frame: &[u8]) -> usize {
    let field = |at: usize| {
        usize::from(u16::from_be_bytes([
            frame[ETHERNET + at],
            frame[ETHERNET + at + 1],
        ]))
    };
    match frame[12..ETHERNET] {
        [0x08, 0x00] => field(2),
        _ => field(4) + 40,
    }
}
