//! Who has which address in a lab, and nothing else.
//!
//! Every lab uses the same addresses; they meet nobody outside its namespaces.
//! All of them are reserved: 10.0.0.0/8 and fd00::/8 for private use, the
//! service addresses for documentation.
//!
//! ```text
//! front segment  clients, balancer        10.N.0.0/16    fd00:N::/64
//!                and backends (l2, N=1)
//!                or router (routed, N=2)
//! back segment   balancer and router      10.3.0.0/24    fd00:3::/64
//! narrow segment router and far router    10.5.0.0/24    fd00:5::/64
//! backend i      router and backend       10.4.i.0/24    fd00:4:i::/64
//! services                                192.0.2.0/24   2001:db8:ff::/64
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::link::Mac;

/// Limits of the address plan.
pub(super) const MAX_CLIENTS: u8 = 100;
pub(super) const MAX_CLIENT_ADDRESSES: u8 = 250;
pub(super) const MAX_BACKENDS: u8 = 250;
pub(super) const MAX_VIPS: u8 = 200;

/// A range of addresses, printed as `10.1.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The first address.
    pub network: IpAddr,
    /// The length of the prefix.
    pub prefix_len: u8,
}

impl Subnet {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix_len: u8) -> Self {
        Self {
            network: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            prefix_len,
        }
    }

    const fn v6(segments: [u16; 8], prefix_len: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = segments;
        Self {
            network: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)),
            prefix_len,
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

/// An address of each family with the prefix lengths of their segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) v4: Ipv4Addr,
    pub(super) v4_len: u8,
    pub(super) v6: Ipv6Addr,
    pub(super) v6_len: u8,
}

impl Pair {
    pub(super) fn both(self) -> [(IpAddr, u8); 2] {
        [(self.v4.into(), self.v4_len), (self.v6.into(), self.v6_len)]
    }
}

/// The segment the clients are on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front(pub(super) u8);

impl Front {
    fn host(self, v4: [u8; 2], v6: [u16; 3]) -> Pair {
        let segment = u16::from(self.0);
        Pair {
            v4: Ipv4Addr::new(10, self.0, v4[0], v4[1]),
            v4_len: 16,
            v6: Ipv6Addr::new(0xfd00, segment, 0, 0, 0, v6[0], v6[1], v6[2]),
            v6_len: 64,
        }
    }

    pub(super) fn router(self) -> Pair {
        self.host([0, 1], [0, 0, 1])
    }

    pub(super) fn balancer(self) -> Pair {
        self.host([0, 2], [0, 0, 2])
    }

    pub(super) fn backend(self, index: u8) -> Pair {
        self.host([2, index + 1], [0xb, 0, u16::from(index) + 1])
    }

    pub(super) fn client(self, index: u8, address: u8) -> Pair {
        let v6 = [0xc, u16::from(index) + 1, u16::from(address) + 1];
        self.host([128 + index, address + 1], v6)
    }

    pub(super) fn clients(self) -> [Subnet; 2] {
        let segment = u16::from(self.0);
        [
            Subnet::v4(10, self.0, 128, 0, 17),
            Subnet::v6([0xfd00, segment, 0, 0, 0, 0xc, 0, 0], 96),
        ]
    }

    pub(super) fn backends(self) -> [Subnet; 2] {
        let segment = u16::from(self.0);
        [
            Subnet::v4(10, self.0, 2, 0, 24),
            Subnet::v6([0xfd00, segment, 0, 0, 0, 0xb, 0, 0], 96),
        ]
    }
}

/// The segment between balancer and router.
pub(super) fn back(host: u8) -> Pair {
    between(3, host)
}

/// The segment between the router and the far router.
pub(super) fn narrow(host: u8) -> Pair {
    between(5, host)
}

fn between(segment: u8, host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, segment, 0, host),
        v4_len: 24,
        v6: Ipv6Addr::new(0xfd00, segment.into(), 0, 0, 0, 0, 0, host.into()),
        v6_len: 64,
    }
}

/// The segment of one backend behind the router.
pub(super) fn behind_router(index: u8, host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 4, index, host),
        v4_len: 24,
        v6: Ipv6Addr::new(0xfd00, 4, index.into(), 0, 0, 0, 0, host.into()),
        v6_len: 64,
    }
}

/// All segments of backends behind the router.
pub(super) const BEHIND_ROUTER: [Subnet; 2] = [
    Subnet::v4(10, 4, 0, 0, 16),
    Subnet::v6([0xfd00, 4, 0, 0, 0, 0, 0, 0], 32),
];

/// Where the service addresses are from.
pub(super) const VIPS: [Subnet; 2] = [
    Subnet::v4(192, 0, 2, 0, 24),
    Subnet::v6([0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0], 64),
];

/// The default route.
pub(super) const EVERYWHERE: [Subnet; 2] = [Subnet::v4(0, 0, 0, 0, 0), Subnet::v6([0; 8], 0)];

/// A service address; held by a host alone, so the prefix is the address.
pub(super) fn vip(index: u8) -> Pair {
    let host = 10 + index;
    Pair {
        v4: Ipv4Addr::new(192, 0, 2, host),
        v4_len: 32,
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, host.into()),
        v6_len: 128,
    }
}

/// Who an Ethernet address belongs to: its fourth byte.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    Client = 1,
    Balancer = 2,
    Backend = 3,
    Router = 4,
    Switch = 5,
    Far = 6,
}

/// A locally administered address that tells whose it is: `02:b1:0b:…`.
pub(super) fn mac(owner: Owner, index: usize) -> Mac {
    let [low, high, ..] = index.to_le_bytes();
    Mac([0x02, 0xb1, 0x0b, owner as u8, high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_numbers_fit_and_stay_in_their_subnets() {
        let front = Front(1);
        let client = front.client(MAX_CLIENTS - 1, MAX_CLIENT_ADDRESSES - 1);
        assert_eq!(client.v4, Ipv4Addr::new(10, 1, 227, 250));
        assert_eq!(client.v6.to_string(), "fd00:1::c:64:fa");
        assert_eq!(
            front.backend(MAX_BACKENDS - 1).v4,
            Ipv4Addr::new(10, 1, 2, 250)
        );
        assert_eq!(
            behind_router(MAX_BACKENDS - 1, 2).v4,
            Ipv4Addr::new(10, 4, 249, 2)
        );
        assert_eq!(vip(MAX_VIPS - 1).v4, Ipv4Addr::new(192, 0, 2, 209));
    }

    #[test]
    fn subnets_print_as_the_configuration_file_has_them() {
        let [v4, v6] = Front(1).backends();
        assert_eq!(
            (v4.to_string(), v6.to_string()),
            ("10.1.2.0/24".into(), "fd00:1::b:0:0/96".into())
        );
    }

    #[test]
    fn macs_differ_and_are_locally_administered() {
        assert_eq!(mac(Owner::Backend, 258).to_string(), "02:b1:0b:03:01:02");
    }
}
