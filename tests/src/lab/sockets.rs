//! Which sockets a namespace listens on.
//!
//! Read from /proc, so that asking does not disturb the server: a connection
//! made only to see whether it is accepted shows up in the server's log, and
//! some servers take it for a client.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use super::namespace::Namespace;

const STATE_LISTEN: &str = "0A";
/// What an unconnected UDP socket has in the column of the TCP state.
const STATE_UNCONNECTED: &str = "07";

/// Addresses on which TCP connections are accepted.
///
/// # Errors
/// When the namespace cannot be entered or /proc cannot be read.
pub fn tcp_listeners(namespace: &Namespace) -> Result<Vec<SocketAddr>> {
    table(namespace, ["tcp", "tcp6"], STATE_LISTEN)
}

/// Addresses to which unconnected UDP sockets are bound.
///
/// # Errors
/// When the namespace cannot be entered or /proc cannot be read.
pub fn udp_listeners(namespace: &Namespace) -> Result<Vec<SocketAddr>> {
    table(namespace, ["udp", "udp6"], STATE_UNCONNECTED)
}

/// Whether a client of `wanted` finds a listener: one on that very address, or
/// on the port and all addresses (those of IPv6 take IPv4 along, unless the
/// server has asked for IPv6 alone, which /proc does not show).
pub fn covers(listeners: &[SocketAddr], wanted: SocketAddr) -> bool {
    listeners.iter().any(|listener| {
        let all = match listener.ip() {
            IpAddr::V4(ip) => ip.is_unspecified() && wanted.is_ipv4(),
            IpAddr::V6(ip) => ip.is_unspecified(),
        };
        listener.port() == wanted.port() && (all || listener.ip() == wanted.ip())
    })
}

fn table(namespace: &Namespace, files: [&str; 2], state: &str) -> Result<Vec<SocketAddr>> {
    let texts = namespace
        .run(|| files.map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}"))))?;
    let mut found = Vec::new();
    for text in texts {
        found.extend(text?.lines().skip(1).filter_map(|line| socket(line, state)));
    }
    Ok(found)
}

/// The local address of a line, if the socket is in the state wanted.
fn socket(line: &str, wanted: &str) -> Option<SocketAddr> {
    let mut columns = line.split_whitespace().skip(1);
    let (local, _remote, state) = (columns.next()?, columns.next()?, columns.next()?);
    if state != wanted {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    Some(SocketAddr::new(
        address(ip)?,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// Addresses stand there as 32-bit words, each printed in host order.
fn address(hex: &str) -> Option<IpAddr> {
    let mut octets = Vec::with_capacity(16);
    for start in (0..hex.len()).step_by(8) {
        let word = u32::from_str_radix(hex.get(start..start + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    if let Ok(v4) = <[u8; 4]>::try_from(octets.as_slice()) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(octets.as_slice())
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        assert_eq!(socket(v4, STATE_LISTEN), "127.0.0.1:8080".parse().ok());
        let v6 = "   1: 000000FD000000000000000001000000:0050 \
                  00000000000000000000000000000000:0000 0A 00000000:00000000";
        assert_eq!(socket(v6, STATE_LISTEN), "[fd00::1]:80".parse().ok());
        assert_eq!(socket(v4, STATE_UNCONNECTED), None);
        assert_eq!(socket("", STATE_LISTEN), None);
    }

    #[test]
    fn a_wildcard_covers_every_address_of_its_port() {
        let listeners = [
            "0.0.0.0:80".parse().unwrap(),
            "10.0.0.1:443".parse().unwrap(),
        ];
        for (address, expected) in [
            ("10.0.0.9:80", true),
            ("10.0.0.1:443", true),
            ("10.0.0.2:443", false),
            ("10.0.0.1:81", false),
            ("[fd00::1]:80", false),
        ] {
            assert_eq!(
                covers(&listeners, address.parse().unwrap()),
                expected,
                "{address}"
            );
        }
    }
}
