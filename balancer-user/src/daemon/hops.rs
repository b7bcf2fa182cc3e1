//! Ways to the backends, as the members need them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use balancer_common::layout::Member;

use crate::config::model::{Backend, Config, Forward, Node, Service};
use crate::member::{self, Hop};
use crate::netlink::{Netlink, NextHop, Unresolved};

/// MTU where no interface tells one.
const ETHERNET_MTU: u32 = 1500;

/// What the kernel said of each backend's address.
pub type Found = BTreeMap<IpAddr, Result<NextHop, Unresolved>>;

/// Addresses of backends, and whether the Ethernet address of the neighbour
/// that leads there is needed: where the file names it, nobody is asked.
pub type Addresses = BTreeMap<IpAddr, bool>;

/// Addresses of all backends.
pub fn addresses(config: &Config) -> Addresses {
    let mut addresses = Addresses::new();
    for backend in backends(config) {
        *addresses.entry(backend.address).or_default() |= backend.mac.is_none();
    }
    addresses
}

/// Which neighbours are asked for their Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solicit {
    /// Those that did not answer yet.
    Missing,
    /// All: the kernel does not see the traffic that needs them, and lets
    /// them grow stale.
    All,
}

/// Asks the kernel for the way to these addresses.
pub async fn ask(netlink: &Netlink, addresses: Addresses, solicit: Solicit) -> Found {
    let (addresses, needed): (Vec<IpAddr>, Vec<bool>) = addresses.into_iter().unzip();
    let hops = netlink.next_hops(&addresses).await;
    let mut asked = BTreeSet::new();
    let hops_needed = hops.iter().zip(needed).filter(|(_, needed)| *needed);
    for hop in hops_needed.filter_map(|(hop, _)| hop.as_ref().ok()) {
        let wanted = solicit == Solicit::All || hop.mac.is_none();
        if !wanted || !asked.insert((hop.egress, hop.neighbour)) {
            continue;
        }
        if let Err(error) = netlink.solicit(hop).await {
            tracing::debug!(neighbour = %hop.neighbour, %error, "not solicited");
        }
    }
    addresses.into_iter().zip(hops).collect()
}

/// Asks beside the loop whether a silent backend's next hop still has the
/// Ethernet address that it is known by; what comes of it is a change as any.
pub fn doubt(netlink: &Netlink, hop: &NextHop) {
    let (netlink, hop) = (netlink.clone(), hop.clone());
    tokio::spawn(async move {
        if let Err(error) = netlink.verify(&hop).await {
            tracing::debug!(neighbour = %hop.neighbour, %error, "not verified");
        }
    });
}

/// Whether a neighbour's Ethernet address is needed and not known.
pub fn is_missing(config: &Config, found: &Found) -> bool {
    let mut asked = backends(config).filter(|backend| backend.mac.is_none());
    asked.any(|backend| {
        let hop = found.get(&backend.address);
        hop.is_some_and(|hop| hop.as_ref().is_ok_and(|hop| hop.mac.is_none()))
    })
}

/// The hops for the members. A backend whose MAC stands in the file has one
/// even without a route: its packets leave the way they came.
pub fn for_members(config: &Config, found: &Found) -> BTreeMap<IpAddr, Hop> {
    backends(config)
        .filter_map(|backend| Some((backend.address, for_member(&config.node, backend, found)?)))
        .collect()
}

/// With a `mac` in the file the route only chooses among the interfaces that
/// the file names: another one, such as a VLAN's, cannot take frames from XDP.
fn for_member(node: &Node, backend: &Backend, found: &Found) -> Option<Hop> {
    match found.get(&backend.address) {
        Some(Ok(hop)) if backend.mac.is_none() || node.interfaces.contains(&hop.interface) => {
            Some(Hop {
                egress: hop.egress,
                mtu: hop.mtu,
                destination: hop.mac,
                source: Some(hop.source_mac),
                address: hop.source,
                on_link: hop.on_link,
            })
        }
        _ if backend.mac.is_some() => Some(Hop {
            egress: 0,
            mtu: ETHERNET_MTU,
            destination: None,
            source: None,
            address: None,
            on_link: true,
        }),
        _ => None,
    }
}

/// What [`describe`] says of a backend that packets can be sent to.
pub const RESOLVED: &str = "resolved";

/// Why packets cannot be sent to a backend; [`RESOLVED`] if they can. It asks
/// the code that makes the member, so that the two never disagree.
pub fn describe(node: &Node, service: &Service, backend: &Backend, found: &Found) -> String {
    let hop = for_member(node, backend, found);
    let member = member::build(node, service, backend, hop.as_ref(), true, 0, 0);
    if member.flags & Member::RESOLVED != 0 {
        return RESOLVED.to_owned();
    }
    match found.get(&backend.address) {
        None => "not looked up yet".to_owned(),
        Some(Err(error)) if backend.mac.is_none() => error.to_string(),
        Some(Ok(hop)) if hop.mac.is_none() && backend.mac.is_none() => format!(
            "neighbour {} on {} does not answer",
            hop.neighbour, hop.interface
        ),
        Some(Ok(hop)) if service.forward == Forward::L2 => format!(
            "behind the gateway {} on {}, and l2 needs it on the link; use ipip",
            hop.neighbour, hop.interface
        ),
        Some(_) => "no source address for the tunnel; set node.tunnel_source_v4 or \
                    node.tunnel_source_v6"
            .to_owned(),
    }
}

/// Asks once, without a daemon.
pub async fn resolve(config: &Config) -> BTreeMap<IpAddr, Hop> {
    let found = match Netlink::connect() {
        Ok((netlink, _changes)) => ask(&netlink, addresses(config), Solicit::Missing).await,
        Err(error) => {
            tracing::warn!(%error, "the kernel's routes cannot be read");
            Found::new()
        }
    };
    for_members(config, &found)
}

fn backends(config: &Config) -> impl Iterator<Item = &Backend> {
    config.services.iter().flat_map(|service| &service.backends)
}
