//! From the kernel's route to the frame a packet has to become. Pure: messages
//! in, types out.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteLwEnCapType, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use super::error::Error;
use super::link::Link;
use super::neighbour::family;
use crate::config::model::Mac;

/// Where a packet for a destination leaves this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface it leaves by.
    pub egress: u32,
    /// That interface's name.
    pub interface: String,
    /// Who gets the frame: the gateway, or the destination itself. May be of
    /// the other family: IPv4 can be routed via an IPv6 gateway.
    pub neighbour: IpAddr,
    /// The destination is on the link, no gateway in between.
    pub on_link: bool,
    /// The neighbour's MAC; `None` while the kernel has not resolved it, which
    /// [`super::Netlink::solicit`] makes it do.
    pub mac: Option<Mac>,
    /// The egress interface's MAC.
    pub source_mac: Mac,
    /// The address the kernel would send from.
    pub source: Option<IpAddr>,
    /// Bytes of the longest packet the way takes: the route's MTU where it has
    /// one (set by hand, or learned from an ICMP error), the link's otherwise.
    pub mtu: u32,
}

/// Why there is no next hop for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// No route covers it.
    NoRoute {
        /// The destination.
        destination: IpAddr,
    },
    /// It is this host, or is routed to the loopback.
    Local {
        /// The destination.
        destination: IpAddr,
    },
    /// Its route drops packets without a word.
    Blackhole {
        /// The destination.
        destination: IpAddr,
    },
    /// Its route answers that the host is unreachable.
    Unreachable {
        /// The destination.
        destination: IpAddr,
    },
    /// Its route answers that this is prohibited.
    Prohibited {
        /// The destination.
        destination: IpAddr,
    },
    /// It is a broadcast or multicast address.
    NotUnicast {
        /// The destination.
        destination: IpAddr,
    },
    /// Its route puts packets into an encapsulation of its own.
    Encapsulated {
        /// The destination.
        destination: IpAddr,
    },
    /// Its route leaves by an interface without Ethernet addresses.
    NoEthernet {
        /// The destination.
        destination: IpAddr,
        /// That interface's name.
        interface: String,
    },
    /// The interface its route leaves by is not to be seen.
    NoInterface {
        /// The destination.
        destination: IpAddr,
        /// That interface's index.
        egress: u32,
    },
    /// The kernel could not be asked.
    Netlink {
        /// The destination.
        destination: IpAddr,
        /// Why not.
        error: Error,
    },
}

impl Unresolved {
    /// What a refused route lookup says of the destination: most kinds of
    /// reject routes show as an error number only.
    pub(super) fn of(destination: IpAddr, error: Error) -> Self {
        match error.errno() {
            Some(Errno::ENETUNREACH) => Self::NoRoute { destination },
            Some(Errno::EHOSTUNREACH) => Self::Unreachable { destination },
            Some(Errno::EACCES) => Self::Prohibited { destination },
            Some(Errno::EINVAL) => Self::Blackhole { destination },
            _ => Self::Netlink { destination, error },
        }
    }

    /// The destination that has no next hop.
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::NoRoute { destination }
            | Self::Local { destination }
            | Self::Blackhole { destination }
            | Self::Unreachable { destination }
            | Self::Prohibited { destination }
            | Self::NotUnicast { destination }
            | Self::Encapsulated { destination }
            | Self::NoEthernet { destination, .. }
            | Self::NoInterface { destination, .. }
            | Self::Netlink { destination, .. } => *destination,
        }
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destination = self.destination();
        let rejected = |f: &mut fmt::Formatter<'_>, kind| {
            write!(
                f,
                "the route to {destination} is of type {kind}; \
                 replace it with one that leads there, or correct the address"
            )
        };
        match self {
            Self::NoRoute { .. } => write!(
                f,
                "no route to {destination}; add one with `ip route add`, or correct the address"
            ),
            Self::Local { .. } => write!(
                f,
                "the route to {destination} ends on this host; give the address of another host"
            ),
            Self::Blackhole { .. } => rejected(f, "blackhole"),
            Self::Unreachable { .. } => rejected(f, "unreachable"),
            Self::Prohibited { .. } => rejected(f, "prohibit"),
            Self::NotUnicast { .. } => write!(
                f,
                "{destination} is a broadcast or multicast address; give the address of one host"
            ),
            Self::Encapsulated { .. } => write!(
                f,
                "the route to {destination} has an encapsulation of its own, which the balancer \
                 does not add; route it without `encap`"
            ),
            Self::NoEthernet { interface, .. } => write!(
                f,
                "the route to {destination} leaves by {interface}, which has no Ethernet \
                 address; route it over an Ethernet interface"
            ),
            Self::NoInterface { egress, .. } => write!(
                f,
                "the route to {destination} leaves by interface {egress}, which cannot be read; \
                 see whether `ip link` still shows it"
            ),
            Self::Netlink { error, .. } => write!(f, "no next hop for {destination}: {error}"),
        }
    }
}

impl std::error::Error for Unresolved {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Netlink { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// What a route lookup tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: IpAddr,
    pub(super) egress: u32,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    mtu: Option<u32>,
}

impl Route {
    /// Who gets the frame.
    pub(super) fn neighbour(&self) -> IpAddr {
        self.gateway.unwrap_or(self.destination)
    }

    /// The next hop this route leads to, given the interface it leaves by and
    /// the MAC that [`Route::neighbour`] has there.
    pub(super) fn next_hop(
        &self,
        link: Option<&Link>,
        mac: Option<Mac>,
    ) -> Result<NextHop, Unresolved> {
        let (destination, egress) = (self.destination, self.egress);
        let Some(link) = link else {
            return Err(Unresolved::NoInterface {
                destination,
                egress,
            });
        };
        if link.loopback {
            return Err(Unresolved::Local { destination });
        }
        let Some(source_mac) = link.mac else {
            let interface = link.name.clone();
            return Err(Unresolved::NoEthernet {
                destination,
                interface,
            });
        };
        Ok(NextHop {
            egress,
            interface: link.name.clone(),
            neighbour: self.neighbour(),
            on_link: self.gateway.is_none(),
            mac,
            source_mac,
            source: self.source,
            // A route may state more than its link can carry.
            mtu: self.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        })
    }
}

/// Asks for the route to a destination, as `ip route get` does.
pub(super) fn request(destination: IpAddr) -> Result<RouteMessage, Unresolved> {
    // The kernel finds no route to these unless it is told an interface, too.
    if destination.is_multicast() || destination == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(Unresolved::NotUnicast { destination });
    }
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    message.attributes = vec![RouteAttribute::Destination(destination.into())];
    Ok(message)
}

/// The route in the answer to [`request`].
pub(super) fn decode(destination: IpAddr, message: &RouteMessage) -> Result<Route, Unresolved> {
    match message.header.kind {
        RouteType::Local | RouteType::Anycast => return Err(Unresolved::Local { destination }),
        RouteType::BlackHole => return Err(Unresolved::Blackhole { destination }),
        RouteType::Unreachable => return Err(Unresolved::Unreachable { destination }),
        RouteType::Prohibit => return Err(Unresolved::Prohibited { destination }),
        RouteType::Broadcast | RouteType::Multicast => {
            return Err(Unresolved::NotUnicast { destination });
        }
        RouteType::Throw => return Err(Unresolved::NoRoute { destination }),
        _ => {}
    }
    let mut route = Route {
        destination,
        egress: 0,
        gateway: None,
        source: None,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.egress = *index,
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => route.gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => {
                route.gateway = Some((*address).into());
            }
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            RouteAttribute::EncapType(kind) if *kind != RouteLwEnCapType::None => {
                return Err(Unresolved::Encapsulated { destination });
            }
            _ => {}
        }
    }
    Ok(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
