//! Settings that the packet path itself carries out: outer sources, how
//! flows stick to backends, limits of sources, and QUIC's server ids.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

/// Most low bits of a tunnel's outer source that a flow's hash fills: one
/// 32-bit word.
pub const MAX_HOST_BITS: u8 = 32;

/// Outer source of tunnel packets: one address, or a prefix over which the
/// flow's hash spreads it, so that the backends' receive queues spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelSource<A> {
    address: A,
    prefix_length: u8,
}

impl From<Ipv4Addr> for TunnelSource<Ipv4Addr> {
    fn from(address: Ipv4Addr) -> Self {
        let prefix_length = 32;
        Self {
            address,
            prefix_length,
        }
    }
}

impl From<Ipv6Addr> for TunnelSource<Ipv6Addr> {
    fn from(address: Ipv6Addr) -> Self {
        let prefix_length = 128;
        Self {
            address,
            prefix_length,
        }
    }
}

impl From<Ipv4Net> for TunnelSource<Ipv4Addr> {
    fn from(prefix: Ipv4Net) -> Self {
        Self {
            address: prefix.network(),
            prefix_length: prefix.prefix_len(),
        }
    }
}

impl From<Ipv6Net> for TunnelSource<Ipv6Addr> {
    fn from(prefix: Ipv6Net) -> Self {
        Self {
            address: prefix.network(),
            prefix_length: prefix.prefix_len(),
        }
    }
}

impl<A: Copy + Into<IpAddr>> TunnelSource<A> {
    /// The address, or the prefix's first: its host bits are zero.
    pub fn address(&self) -> A {
        self.address
    }

    /// Leading bits that every outer source shares; 32 or 128, the family's
    /// length, for a single address.
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// How many of the address's low bits, 0 to [`MAX_HOST_BITS`], the flow's
    /// hash fills; 0 for a single address. Bits between these and the prefix
    /// stay zero.
    pub fn host_bits(&self) -> u8 {
        (self.family_length() - self.prefix_length).min(MAX_HOST_BITS)
    }

    /// Whether packets may carry that outer source.
    pub fn contains(&self, address: IpAddr) -> bool {
        ipnet::IpNet::new(self.address.into(), self.prefix_length)
            .is_ok_and(|prefix| prefix.contains(&address))
    }

    fn family_length(&self) -> u8 {
        match self.address.into() {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }
}

impl<A: Copy + Into<IpAddr> + fmt::Display> fmt::Display for TunnelSource<A> {
    /// As the file has it: `198.51.100.5` or `172.16.0.0/16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.prefix_length < self.family_length() {
            write!(f, "/{}", self.prefix_length)?;
        }
        Ok(())
    }
}

/// What makes packets stay with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// The hash of the five-tuple; TCP flows are recorded while their slot is
    /// in change.
    Hash,
    /// UDP only: every flow is recorded with its backend.
    Flow {
        /// A record silent for that long is given up.
        idle_timeout: Duration,
    },
    /// The hash of the client's address: all its flows go to one backend.
    Source,
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => "hash",
            Self::Flow { .. } => "flow",
            Self::Source => "source",
        })
    }
}

/// `[service.source_limit]`: how many new flows a second a source prefix may
/// open, as a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimit {
    /// Tokens a second; a new flow takes one.
    pub flows_per_second: u32,
    /// Tokens that the bucket holds at most.
    pub burst: u32,
    /// Leading bits of the client's address that share a bucket: 1 to 32, or
    /// to 128 for an IPv6 service.
    pub prefix_length: u8,
}

/// `[service.quic]`: where a connection id carries its server's id (plain
/// text form of draft-ietf-quic-load-balancers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quic {
    /// Bytes of the connection id before the server id, 0 to 19.
    pub server_id_offset: u8,
    /// Bytes of the server id, 1 to [`ServerId::MAX_LEN`]; with the offset 20
    /// at most, the longest connection id of QUIC v1 (RFC 9000, 17.2).
    pub server_id_length: u8,
}

/// The id by which QUIC connection ids name a backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId {
    /// Zero behind `len`, so that equal ids compare equal.
    bytes: [u8; Self::MAX_LEN],
    len: u8,
}

impl ServerId {
    /// Longest id, in bytes.
    pub const MAX_LEN: usize = 8;

    /// The id of these bytes, in the order of the wire; `None` unless there
    /// are 1 to [`Self::MAX_LEN`].
    pub fn new(id: &[u8]) -> Option<Self> {
        if id.is_empty() {
            return None;
        }
        let mut bytes = [0; Self::MAX_LEN];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let len = u8::try_from(id.len()).ok()?;
        Some(Self { bytes, len })
    }

    /// Its bytes, in the order of the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for ServerId {
    /// In hex, as the file has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.bytes() {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_of_a_tunnel_source_are_what_the_hash_may_fill() {
        let v4 = |prefix: &str| TunnelSource::from(prefix.parse::<Ipv4Net>().unwrap());
        let v6 = |prefix: &str| TunnelSource::from(prefix.parse::<Ipv6Net>().unwrap());
        assert_eq!(
            TunnelSource::from(Ipv4Addr::new(10, 0, 0, 1)).host_bits(),
            0
        );
        assert_eq!(v4("172.16.0.0/16").host_bits(), 16);
        assert_eq!(v4("10.0.0.4/31").host_bits(), 1);
        assert_eq!(v6("2001:db8::/126").host_bits(), 2);
        assert_eq!(v6("2001:db8::/96").host_bits(), 32);
        assert_eq!(v6("2001:db8::/64").host_bits(), 32);
        assert_eq!(v4("172.16.9.0/16").address(), Ipv4Addr::new(172, 16, 0, 0));
        assert_eq!(v4("172.16.0.0/16").to_string(), "172.16.0.0/16");
        assert_eq!(v4("10.0.0.1/32").to_string(), "10.0.0.1");
        assert!(v4("172.16.0.0/16").contains("172.16.255.255".parse().unwrap()));
        assert!(!v4("172.16.0.0/16").contains("172.17.0.0".parse().unwrap()));
        assert!(!v4("172.16.0.0/16").contains("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn server_ids_have_one_to_eight_bytes_and_show_as_hex() {
        assert_eq!(ServerId::new(&[]), None);
        assert_eq!(ServerId::new(&[1; 9]), None);
        let id = ServerId::new(&[0x0a, 0x1b]).unwrap();
        assert_eq!(id.to_string(), "0a1b");
        assert_ne!(Some(id), ServerId::new(&[0x0a, 0x1b, 0]));
        assert_eq!(ServerId::new(&[7; 8]).unwrap().bytes(), [7; 8]);
    }
}
