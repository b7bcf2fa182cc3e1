//! Rules about the ways to the backends.

use std::collections::BTreeMap;
use std::net::IpAddr;

use balancer_common::encap;
use balancer_common::too_big::QUOTE_V4;

use super::super::host::{Host, VipAnswer};
use super::{Context, is_wanted};
use crate::config::check::rules;
use crate::config::diagnostic::Level;
use crate::config::model::{Config, Service};
use crate::config::spans::Place;
use crate::daemon::hops;
use crate::member::{self, Hop};

/// What Ethernet carries unless somebody says otherwise.
const ETHERNET_MTU: u32 = 1500;
/// No IPv6 host sends shorter packets because of an error (RFC 8200, 5).
const LEAST_MTU_V6: u32 = 1280;

pub(super) fn check(context: &mut Context<'_>) {
    let hops = hops::for_members(context.config, &context.host.hops);
    let clients = Clients::new(context);
    for (index, service) in context.services() {
        neighbours(context, index, service);
        widths(context, index, service, &hops, &clients);
        reverse_paths(context, index, service);
    }
}

fn neighbours(context: &mut Context<'_>, index: usize, service: &Service) {
    let host = context.host;
    for (place, backend) in service.backends.iter().enumerate() {
        let way = hops::describe(&context.config.node, service, backend, &host.hops);
        if way == "resolved" {
            continue;
        }
        let silent = matches!(
            host.hops.get(&backend.address),
            Some(Ok(hop)) if hop.mac.is_none() && backend.mac.is_none()
        );
        if silent && !host.solicited {
            continue;
        }
        let (what, help) = match way.split_once("; ") {
            Some((what, help)) => (what, help),
            None => (way.as_str(), "is the server on, and its address right?"),
        };
        let message = format!("service {}: backend {}: {what}", service.name, backend.name);
        let level = match is_wanted(backend) {
            true => Level::Error,
            false => Level::Warning,
        };
        let place = Place::Backend(index, place, "address");
        context.report(&rules::NEIGHBOUR, place, message, |finding| {
            finding.level(level).help(help)
        });
    }
}

/// How long packets of clients may be.
struct Clients<'a> {
    /// Longest MTU of an interface that leads to no backend, with its name.
    own: Option<(&'a str, u32)>,
}

impl<'a> Clients<'a> {
    fn new(context: &Context<'a>) -> Self {
        let host = context.host;
        let leads_to_backends = |name: &str| {
            host.hops
                .values()
                .flatten()
                .any(|hop| hop.interface == name)
        };
        let own = host
            .interfaces
            .iter()
            .filter(|(name, _)| !leads_to_backends(name))
            .map(|(name, interface)| (name.as_str(), interface.mtu))
            .max_by_key(|(_, mtu)| *mtu);
        Self { own }
    }

    /// The MTU of clients. On a link that they share with the backends it may
    /// have been raised for the outer headers, and then is not theirs.
    fn mtu(&self, egress_mtu: u32) -> u32 {
        match self.own {
            Some((_, mtu)) => mtu,
            None => egress_mtu.min(ETHERNET_MTU),
        }
    }

    fn name(&self) -> String {
        match self.own {
            Some((name, _)) => format!(" from {name}"),
            None => String::new(),
        }
    }
}

/// What is left for a client's packet on the way to some backends.
#[derive(Default)]
struct Narrow<'a> {
    overhead: u32,
    backends: Vec<(usize, &'a str)>,
}

/// One finding for all backends of a service to which the same is left.
fn widths(
    context: &mut Context<'_>,
    index: usize,
    service: &Service,
    hops: &BTreeMap<IpAddr, Hop>,
    clients: &Clients<'_>,
) {
    let mut narrow: BTreeMap<(u32, u32), Narrow<'_>> = BTreeMap::new();
    for (place, backend) in service.backends.iter().enumerate() {
        let Some(hop) = hops.get(&backend.address).filter(|hop| hop.egress != 0) else {
            continue;
        };
        let overhead = encap::overhead(member::kind(service, backend));
        let wanted = clients.mtu(hop.mtu) + overhead;
        let left = hop.mtu.saturating_sub(overhead);
        if hop.mtu < wanted && !announces_less(context.host, (index, place), service, left) {
            let entry = narrow.entry((hop.mtu, wanted)).or_default();
            entry.overhead = overhead;
            entry.backends.push((place, &backend.name));
        }
    }
    for ((mtu, wanted), found) in narrow {
        let Some((first, name)) = found.backends.first() else {
            continue;
        };
        let others = match found.backends.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        let left = mtu.saturating_sub(found.overhead);
        let (least, family) = least(context.config, index);
        let (level, consequence) = match left < least {
            true => (
                Level::Error,
                format!("that leaves {left} bytes, and {family} clients send no less than {least}"),
            ),
            false => (
                Level::Warning,
                format!(
                    "longer packets than {left} bytes cost each client an ICMP error and a try"
                ),
            ),
        };
        let need = match found.overhead {
            0 => "need as much".to_owned(),
            overhead => format!("with {overhead} of headers need {wanted}"),
        };
        let message = format!(
            "service {}: backend {name}{others}: the way takes packets of {mtu} bytes, and {} of \
             clients{} {need}: {consequence}",
            service.name,
            wanted - found.overhead,
            clients.name(),
        );
        let place = Place::Backend(index, *first, "address");
        context.report(&rules::MTU, place, message, |finding| {
            finding.level(level).help(format!(
                "raise the MTU of the way to {wanted}; for TCP, a smaller MSS that the backends \
                 announce will do: `advmss` on their route to the clients"
            ))
        });
    }
}

/// Whether a TCP backend asks its clients for segments that fit.
fn announces_less(host: &Host, place: (usize, usize), service: &Service, left: u32) -> bool {
    let headers = match service.address {
        IpAddr::V4(_) => 20 + 20,
        IpAddr::V6(_) => 40 + 20,
    };
    match host.vips.get(&place) {
        Some(VipAnswer::Taken { mss: Some(mss) }) => u32::from(*mss) + headers <= left,
        _ => false,
    }
}

/// Bytes below which nothing makes a client's packets shorter.
fn least(config: &Config, index: usize) -> (u32, &'static str) {
    match config.services[index].address {
        IpAddr::V4(_) => (QUOTE_V4 as u32, "IPv4"),
        IpAddr::V6(_) => (LEAST_MTU_V6, "IPv6"),
    }
}

/// Probes go out by the route, and come back to the address they were sent
/// from. Where that is another interface's, a strict filter there drops them.
fn reverse_paths(context: &mut Context<'_>, index: usize, service: &Service) {
    if service.health.is_none() {
        return;
    }
    let host = context.host;
    for (place, backend) in service.backends.iter().enumerate() {
        let Some(Ok(hop)) = host.hops.get(&backend.address) else {
            continue;
        };
        let Some(source) = hop.source.filter(IpAddr::is_ipv4) else {
            continue;
        };
        let Some(owner) = host.addresses.get(&source) else {
            continue;
        };
        if *owner == hop.interface || !host.strict_reverse_path.contains(owner) {
            continue;
        }
        let message = format!(
            "service {}: backend {}: probes leave by {} from {source}, and their answers come in \
             on {owner}, where strict rp_filter drops them",
            service.name, backend.name, hop.interface
        );
        let place = Place::Backend(index, place, "address");
        context.report(&rules::RP_FILTER, place, message, |finding| {
            finding.help(format!(
                "`sysctl net.ipv4.conf.{owner}.rp_filter=2`, or a route with a `src` of {}",
                hop.interface
            ))
        });
    }
}
