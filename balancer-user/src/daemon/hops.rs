//! Ways to the backends, as the members need them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::model::Config;
use crate::member::Hop;
use crate::netlink::{Netlink, NextHop, Unresolved};

/// MTU where no interface tells one.
const ETHERNET_MTU: u32 = 1500;

/// What the kernel said of each backend's address.
pub type Found = BTreeMap<IpAddr, Result<NextHop, Unresolved>>;

/// Asks the kernel for the way to every backend.
pub async fn ask(netlink: &Netlink, config: &Config) -> Found {
    let addresses: BTreeSet<IpAddr> = config
        .services
        .iter()
        .flat_map(|service| &service.backends)
        .map(|backend| backend.address)
        .collect();
    let addresses: Vec<IpAddr> = addresses.into_iter().collect();
    let hops = netlink.next_hops(&addresses).await;
    addresses.into_iter().zip(hops).collect()
}

/// Asks neighbours that did not answer yet for their Ethernet address;
/// whether there are any.
pub async fn solicit_missing(netlink: &Netlink, config: &Config, found: &Found) -> bool {
    let mut missing = false;
    for (address, hop) in found {
        let Ok(hop) = hop else { continue };
        if hop.mac.is_none() && !has_static_mac(config, *address) {
            missing = true;
            if let Err(error) = netlink.solicit(hop).await {
                tracing::debug!(%address, %error, "neighbour not solicited");
            }
        }
    }
    missing
}

/// The hops for the members. A backend whose MAC stands in the file has one
/// even without a route: its packets leave the way they came.
pub fn for_members(config: &Config, found: &Found) -> BTreeMap<IpAddr, Hop> {
    let mut hops = BTreeMap::new();
    for backend in config.services.iter().flat_map(|service| &service.backends) {
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
pub fn describe(config: &Config, address: IpAddr, found: &Found) -> String {
    match found.get(&address) {
        _ if has_static_mac(config, address) => "resolved".to_owned(),
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
        Ok((netlink, _changes)) => ask(&netlink, config).await,
        Err(error) => {
            tracing::warn!(%error, "the kernel's routes cannot be read");
            Found::new()
        }
    };
    for_members(config, &found)
}

fn has_static_mac(config: &Config, address: IpAddr) -> bool {
    config
        .services
        .iter()
        .flat_map(|service| &service.backends)
        .any(|backend| backend.address == address && backend.mac.is_some())
}
