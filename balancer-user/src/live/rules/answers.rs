//! Rules about what the network answered.

use std::net::IpAddr;

use super::super::host::{Claim, VipAnswer};
use super::{Context, is_wanted};
use crate::config::check::rules;
use crate::config::diagnostic::Level;
use crate::config::model::{Backend, Forward, Mac, Protocol, Service};
use crate::config::spans::Place;

pub(super) fn check(context: &mut Context<'_>) {
    for (index, service) in context.services() {
        claims(context, index, service);
        for (place, backend) in service.backends.iter().enumerate() {
            accepts(context, (index, place), service, backend);
        }
    }
}

fn claims(context: &mut Context<'_>, index: usize, service: &Service) {
    let host = context.host;
    let of_service = |claim: &&Claim| claim.address == service.address;
    for claim in host.claims.iter().filter(of_service) {
        let backend = backend_with(context, service, claim.mac);
        let who = match backend {
            Some(name) => format!("backend {name} ({})", claim.mac),
            None => claim.mac.to_string(),
        };
        let message = format!(
            "service {}: {} is answered for on {} by {who}",
            service.name, service.address, claim.interface
        );
        let help = match (backend, service.address) {
            (Some(_), IpAddr::V4(_)) => {
                "on the backend, hold the address on `lo` and set \
                 `net.ipv4.conf.all.arp_ignore=1` and `arp_announce=2`"
            }
            (Some(_), IpAddr::V6(_)) => "on the backend, hold the address on `lo` only",
            (None, _) => {
                "find out who that is; allow this if it is another balancer of the group that \
                 announces the address"
            }
        };
        let place = Place::Service(index, "address");
        context.report(&rules::VIP_ANSWERED_ELSEWHERE, place, message, |finding| {
            finding.help(help)
        });
    }
}

/// The backend that frames with that address would go to, without a gateway.
fn backend_with<'a>(context: &Context<'_>, service: &'a Service, mac: Mac) -> Option<&'a str> {
    let has_mac = |backend: &&Backend| {
        let hop = context.host.hops.get(&backend.address);
        let hop = hop.and_then(|hop| hop.as_ref().ok());
        let resolved = hop.filter(|hop| hop.on_link).and_then(|hop| hop.mac);
        backend.mac.or(resolved) == Some(mac)
    };
    let found = service.backends.iter().find(has_mac)?;
    Some(&found.name)
}

fn accepts(
    context: &mut Context<'_>,
    (index, place): (usize, usize),
    service: &Service,
    backend: &Backend,
) {
    let Service {
        name,
        address,
        forward,
        ..
    } = service;
    let object = format!("service {name}: backend {}", backend.name);
    let (message, help) = match context.host.vips.get(&(index, place)) {
        None | Some(VipAnswer::Taken { .. }) => return,
        Some(VipAnswer::Refused) => {
            let port = service
                .ports
                .first()
                .map_or(String::new(), |port| format!(":{port}"));
            if port.is_empty() {
                // Any port: that nobody listens on one of them says nothing.
                return;
            }
            let address = match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            (
                format!("{object} refuses connections to {address}{port}"),
                "have the server listen on that address as well, or on all".to_owned(),
            )
        }
        Some(VipAnswer::Silent) => {
            let asked = match service.protocol {
                Protocol::Tcp => "a SYN",
                Protocol::Udp => "a ping",
            };
            (
                format!("{object} does not answer {asked} to {address} that comes by {forward}"),
                help(service),
            )
        }
    };
    let level = match (service.protocol, is_wanted(backend)) {
        (Protocol::Tcp, true) => Level::Error,
        _ => Level::Warning,
    };
    let place = Place::Backend(index, place, "address");
    context.report(&rules::BACKEND_VIP, place, message, |finding| {
        finding.level(level).help(help)
    });
}

fn help(service: &Service) -> String {
    let bits = match service.address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let hold = format!("`ip addr add {}/{bits} dev lo`", service.address);
    match service.forward {
        Forward::Ipip | Forward::Gue => format!(
            "on the backend: {hold}, and unwrap the packets, by `balancer decap` with this \
             balancer as `--source`, or by a tunnel interface with `rp_filter` 0; see also \
             filters on the way"
        ),
        Forward::L2 | Forward::Nat | Forward::Fullnat => {
            format!("on the backend: {hold}; see also filters on the way")
        }
    }
}
