//! Which packet a probe by the VIP becomes, and from which address it is sent.
//! Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use balancer_common::layout::Member;

use crate::config::model::{Backend, Config, Forward, Mac, Node, Protocol, Service, Via};
use crate::daemon::hops::{self, Found};
use crate::member::{self, Hop};
use crate::netlink::{Link, Unresolved};

/// One way through the balancer: what of a configuration says which packets
/// lead from the VIP to a backend. Who has the same has the same packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    /// The service's address.
    pub vip: IpAddr,
    /// The service's protocol.
    pub protocol: Protocol,
    /// How packets reach the backend.
    pub forward: Forward,
    /// The backend's own address.
    pub backend: IpAddr,
    /// Its next hop's Ethernet address, where the file names it.
    pub mac: Option<Mac>,
}

impl Passage {
    /// That of a backend whose probes go by the VIP; none where they do not.
    pub fn of(service: &Service, backend: &Backend) -> Option<Self> {
        let health = service.health.as_ref()?;
        (health.via == Via::Vip).then_some(Self {
            vip: service.address,
            protocol: service.protocol,
            forward: service.forward,
            backend: backend.address,
            mac: backend.mac,
        })
    }
}

impl fmt::Display for Passage {
    /// Such as `ipip to 10.0.0.11`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.forward, self.backend)
    }
}

/// A passage that packets can be sent through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Road {
    /// The entry that the packet path would have for the backend.
    pub member: Member,
    /// The interface that its packets leave by, never the one they came in on.
    pub interface: String,
    /// An address of this host of the VIP's family, to be answered at.
    pub source: IpAddr,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoad {
    /// Something of this host is missing: it says nothing about the backend.
    Ours(String),
    /// Packets of clients would not get there, either.
    Theirs(String),
}

/// What is known of this host.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Its interfaces.
    pub links: &'a [Link],
    /// Its addresses with the indexes of their interfaces.
    pub own: &'a [(IpAddr, u32)],
}

/// The passages of a configuration's probes, with what there is to each.
pub(super) type Roads = BTreeMap<Passage, Result<Road, NoRoad>>;

/// The roads of all probes by the VIP; `found` has what the kernel says of the
/// backends' addresses, and of the VIPs'.
pub(super) fn roads(config: &Config, found: &Found, surroundings: Surroundings<'_>) -> Roads {
    let hops = hops::for_members(config, found);
    let mut roads = Roads::new();
    for (service, backend, passage) in passages(config) {
        let road = match found.get(&service.address) {
            Some(Err(Unresolved::Local { .. })) => Err(NoRoad::Ours(format!(
                "the VIP {} is an address of this host, so nothing that this host sends there \
                 leaves it; lead it here by a route instead, or leave `via` out",
                service.address
            ))),
            _ => road(&config.node, service, backend, &hops, surroundings).and_then(|road| {
                let unknown = || hops::describe(&config.node, service, backend, found);
                road.ok_or_else(|| NoRoad::Theirs(unknown()))
            }),
        };
        roads.insert(passage, road);
    }
    roads
}

/// The backends that are probed by the VIP.
pub(super) fn passages(config: &Config) -> impl Iterator<Item = (&Service, &Backend, Passage)> {
    config.services.iter().flat_map(|service| {
        let backends = service.backends.iter();
        backends.filter_map(move |backend| Some((service, backend, Passage::of(service, backend)?)))
    })
}

/// The road to a backend; none where no packet can be sent there.
///
/// # Errors
/// This host has nothing to send it from.
pub fn road(
    node: &Node,
    service: &Service,
    backend: &Backend,
    hops: &BTreeMap<IpAddr, Hop>,
    Surroundings { links, own }: Surroundings<'_>,
) -> Result<Option<Road>, NoRoad> {
    let Some(mut hop) = hops.get(&backend.address).copied() else {
        return Ok(None);
    };
    if hop.egress == 0 {
        // Its frames leave the way they came, and this one comes from nowhere.
        let [name] = &node.interfaces[..] else {
            let why = "it has a `mac` and no route, and there are several interfaces";
            return Err(NoRoad::Ours(why.to_owned()));
        };
        let Some(link) = links.iter().find(|link| link.name == *name) else {
            return Ok(None);
        };
        (hop.egress, hop.source) = (link.index, link.mac);
    }
    let member = member::build(node, service, backend, Some(&hop), true, 0, 0);
    let link = links.iter().find(|link| link.index == hop.egress);
    let (true, Some(link)) = (member.flags & Member::RESOLVED != 0, link) else {
        return Ok(None);
    };
    let source = hop
        .address
        .filter(|address| address.is_ipv4() == service.address.is_ipv4())
        .or_else(|| own_address(service.address, own, hop.egress))
        .ok_or_else(|| {
            let why = "this host has no address of that family to be answered at";
            NoRoad::Ours(why.to_owned())
        })?;
    Ok(Some(Road {
        member,
        interface: link.name.clone(),
        source,
    }))
}

/// An address of this host of a family, of that interface if it has one.
fn own_address(wanted: IpAddr, own: &[(IpAddr, u32)], index: u32) -> Option<IpAddr> {
    let is_usable = |address: &IpAddr| match address {
        IpAddr::V4(address) => {
            wanted.is_ipv4() && !address.is_loopback() && !address.is_link_local()
        }
        IpAddr::V6(address) => {
            wanted.is_ipv6() && !address.is_loopback() && !address.is_unicast_link_local()
        }
    };
    let usable = own
        .iter()
        .filter(|(address, _)| is_usable(address) && *address != wanted);
    let (address, _) = usable.min_by_key(|(_, at)| *at != index)?;
    Some(*address)
}
