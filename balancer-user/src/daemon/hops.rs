//! Ways to the backends, as the members need them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::model::{Backend, Config};
use crate::member::Hop;
use crate::netlink::{Netlink, NextHop, Unresolved};

/// MTU where no interface tells one.
const ETHERNET_MTU: u32 = 1500;

/// What the kernel said of each backend's address.
pub type Found = BTreeMap<IpAddr, Result<NextHop, Unresolved>>;

/// Addresses of all backends.
pub fn addresses(config: &Config) -> BTreeSet<IpAddr> {
    backends(config).map(|backend| backend.address).collect()
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
pub async fn ask(netlink: &Netlink, addresses: BTreeSet<IpAddr>, solicit: Solicit) -> Found {
    let addresses: Vec<IpAddr> = addresses.into_iter().collect();
    let hops = netlink.next_hops(&addresses).await;
    let mut asked = BTreeSet::new();
    for hop in hops.iter().flatten() {
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

/// Whether a neighbour's Ethernet address is needed and not known.
pub fn is_missing(config: &Config, found: &Found) -> bool {
    backends(config).any(|backend| {
        let hop = found.get(&backend.address);
        backend.mac.is_none()
            && hop.is_some_and(|hop| hop.as_ref().is_ok_and(|hop| hop.mac.is_none()))
    })
}

/// The hops for the members. A backend whose MAC stands in the file has one
/// even without a route: its packets leave the way they came.
pub fn for_members(config: &Config, found: &Found) -> BTreeMap<IpAddr, Hop> {
    let mut hops = BTreeMap::new();
    for backend in backends(config) {
        let hop = match found.get(&backend.address) {
            Some(Ok(hop)) => Hop {
                egress: hop.egress,
                mtu: hop.mtu,
                destination: hop.mac,
                source: Some(hop.source_mac),
                address: hop.source,
                on_link: hop.on_link,
            },
            _ if backend.mac.is_some() => Hop {
                egress: 0,
                mtu: ETHERNET_MTU,
                destination: None,
                source: None,
                address: None,
                on_link: true,
            },
            _ => continue,
        };
        hops.insert(backend.address, hop);
    }
    hops
}

/// Why packets cannot be sent to a backend; `resolved` if they can.
pub fn describe(backend: &Backend, found: &Found) -> String {
    match found.get(&backend.address) {
        _ if backend.mac.is_some() => "resolved".to_owned(),
        Some(Ok(hop)) if hop.mac.is_some() => "resolved".to_owned(),
        Some(Ok(hop)) => format!(
            "neighbour {} on {} does not answer",
            hop.neighbour, hop.interface
        ),
        Some(Err(error)) => error.to_string(),
        None => "not looked up yet".to_owned(),
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
