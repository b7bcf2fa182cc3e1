//! Rules about how services and backends fit together.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::super::capacity::{is_wanted, weight_in_use};
use super::super::diagnostic::Level;
use super::super::model::{
    Backend, Config, Forward, Identity, Node, Pool, Ports, Protocol, Service,
};
use super::super::parse::unusable;
use super::super::spans::Place;
use super::{Context, packet_path, probes, rules};

pub(super) fn check(context: &mut Context<'_>) {
    if context.config.services.is_empty() {
        let message = "the file has no service, so every packet passes by untouched";
        context.report(&rules::NO_SERVICES, Place::File, message, |finding| {
            finding.help("add a `[[service]]`")
        });
    }
    vip_overlap(context);
    shared_backend(context);
    let own = OwnAddresses::new(context.config);
    for (index, service) in context.services() {
        service_address(context, index, service);
        eligible(context, index, service);
        duplicate_backend(context, index, service);
        for (place, backend) in service.backends.iter().enumerate() {
            backend_address(context, (index, place), service, backend, &own);
            backend_fit(context, (index, place), service, backend);
        }
        packet_path::check_service(context, index, service);
        probes::check(context, index, service);
    }
    packet_path::check_node(context);
}

/// The same address for an IPv4 address and its IPv6 clothes.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn service_address(context: &mut Context<'_>, index: usize, service: &Service) {
    let Some(kind) = unusable(service.address) else {
        return;
    };
    let message = format!(
        "service {}: the address {} is {kind}, which no client dials",
        service.name, service.address
    );
    let help = match canonical(service.address) {
        IpAddr::V4(v4) if service.address.is_ipv6() => format!("write \"{v4}\""),
        _ => "name the address that clients dial".to_owned(),
    };
    let place = Place::Service(index, "address");
    context.report(&rules::BAD_SERVICE_ADDRESS, place, message, |finding| {
        finding.help(help)
    });
}

/// Sweeps over each address's port ranges in order, so that the cost does
/// not grow with the square of the services on one address.
fn vip_overlap(context: &mut Context<'_>) {
    /// First port, last port, service.
    type Claim = (u16, u16, usize);
    let mut claims: HashMap<(IpAddr, Protocol), Vec<Claim>> = HashMap::new();
    for (index, service) in context.services() {
        let key = (canonical(service.address), service.protocol);
        let claims = claims.entry(key).or_default();
        match &service.ports {
            Ports::Any => claims.push((0, u16::MAX, index)),
            Ports::Ranges(ranges) => {
                claims.extend(ranges.iter().map(|(first, last)| (*first, *last, index)));
            }
        }
    }
    let mut pairs = HashSet::new();
    for claims in claims.values_mut() {
        claims.sort_unstable();
        let mut widest: Option<(u16, usize)> = None;
        for (first, last, index) in claims.iter() {
            if let Some((end, other)) = widest
                && *first <= end
                && other != *index
            {
                pairs.insert((other.min(*index), other.max(*index)));
            }
            if widest.is_none_or(|(end, _)| *last > end) {
                widest = Some((*last, *index));
            }
        }
    }
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_unstable();
    for (earlier, later) in pairs {
        let (first, second) = (
            &context.config.services[earlier],
            &context.config.services[later],
        );
        let message = format!(
            "service {}: {} port {} {} is already claimed by service {}",
            second.name, second.address, second.ports, second.protocol, first.name
        );
        let related = context.spans.find(Place::Service(earlier, "port"));
        let place = Place::Service(later, "port");
        context.report(&rules::VIP_OVERLAP, place, message, |finding| {
            finding
                .help("give one of them another address, port or protocol")
                .related(related, format!("service {} claims it here", first.name))
        });
    }
}

/// One finding for each pair of services, however many backends they share.
fn shared_backend(context: &mut Context<'_>) {
    let mut first_use: HashMap<IpAddr, (usize, usize, &Identity)> = HashMap::new();
    let mut shared: HashMap<(usize, usize), (usize, usize, usize)> = HashMap::new();
    for (index, service) in context.services() {
        let Some(identity) = identity(service) else {
            continue;
        };
        for (place, backend) in service.backends.iter().enumerate() {
            let (other, other_place, other_identity) = *first_use
                .entry(canonical(backend.address))
                .or_insert((index, place, identity));
            if other_identity != identity {
                let (.., count) = shared
                    .entry((index, other))
                    .or_insert((place, other_place, 0));
                *count += 1;
            }
        }
    }
    let mut shared: Vec<_> = shared.into_iter().collect();
    shared.sort_unstable();
    for ((index, other), (place, other_place, count)) in shared {
        let service = &context.config.services[index];
        let other_name = &context.config.services[other].name;
        let backend = &service.backends[place];
        let mut message = format!(
            "service {}: backend {} also serves service {other_name}, which asks for another identity",
            service.name, backend.name
        );
        if count > 1 {
            message.push_str(&format!("; so do {} more", count - 1));
        }
        let related = context
            .spans
            .find(Place::Backend(other, other_place, "address"));
        let place = Place::Backend(index, place, "address");
        context.report(&rules::SHARED_BACKEND, place, message, |finding| {
            finding
                .help("check that the list of servers was not copied from the wrong service")
                .related(related, format!("service {other_name} has it here"))
        });
    }
}

fn identity(service: &Service) -> Option<&Identity> {
    service.health.as_ref()?.kind.identity()
}

fn eligible(context: &mut Context<'_>, index: usize, service: &Service) {
    let takes_traffic = |backend: &&Backend| weight_in_use(backend) > 0;
    let is_reserve = |backend: &Backend| backend.pool == Pool::Backup && is_wanted(backend);
    let mut eligible = service.backends.iter().filter(takes_traffic);
    let (rule, text, help) = match (eligible.next(), eligible.next()) {
        (None, _) => {
            let why = if service.backends.is_empty() {
                "no backend"
            } else if service.backends.iter().all(|backend| backend.drain) {
                "only drained backends"
            } else if service.backends.iter().any(is_reserve) {
                "no backend that is not a backup"
            } else {
                "no backend with a weight above 0 that is not drained"
            };
            let help = "add a `[[service.backend]]`, give one weight, or remove the service";
            (&rules::NO_BACKENDS, why.to_owned(), help)
        }
        // With a backup there are two.
        (Some(_), None) if service.backends.iter().any(is_reserve) => return,
        (Some(only), None) => {
            let text = format!("only backend {} takes traffic", only.name);
            (&rules::SINGLE_BACKEND, text, "add a second backend")
        }
        _ => return,
    };
    let message = match rule.level {
        Level::Error => format!("service {}: there is {text}", service.name),
        Level::Warning => format!("service {}: {text}", service.name),
    };
    context.report(rule, Place::Service(index, ""), message, |finding| {
        finding.help(help)
    });
}

fn duplicate_backend(context: &mut Context<'_>, index: usize, service: &Service) {
    let default_port = single_port(service);
    let mut first_use = HashMap::with_capacity(service.backends.len());
    for (place, backend) in service.backends.iter().enumerate() {
        let key = (canonical(backend.address), backend.port.or(default_port));
        let first = *first_use.entry(key).or_insert(place);
        if first == place {
            continue;
        }
        let other = &service.backends[first].name;
        let message = format!(
            "service {}: backend {} has the address {} of backend {other}",
            service.name, backend.name, backend.address
        );
        let related = context.spans.find(Place::Backend(index, first, "address"));
        let place = Place::Backend(index, place, "address");
        context.report(&rules::DUPLICATE_BACKEND, place, message, |finding| {
            finding
                .help("keep one of them; for a larger share raise its `weight`")
                .related(related, format!("backend {other} has it here"))
        });
    }
}

/// The service's port, if it is exactly one.
fn single_port(service: &Service) -> Option<u16> {
    service.ports.first().filter(|_| service.ports.count() == 1)
}

/// Addresses that packets must not be forwarded to.
struct OwnAddresses<'a> {
    /// Services' addresses, with the first service of each.
    vips: HashMap<IpAddr, &'a str>,
    node: &'a Node,
}

impl<'a> OwnAddresses<'a> {
    fn new(config: &'a Config) -> Self {
        let mut vips = HashMap::new();
        for service in &config.services {
            vips.entry(canonical(service.address))
                .or_insert(service.name.as_str());
        }
        let node = &config.node;
        Self { vips, node }
    }

    /// What an address of the node itself is, if it is one.
    fn source(&self, address: IpAddr) -> Option<&'static str> {
        let is_tunnel = self
            .node
            .tunnel_source_v4
            .is_some_and(|it| it.contains(address))
            || self
                .node
                .tunnel_source_v6
                .is_some_and(|it| it.contains(address));
        let is_fullnat = match address {
            IpAddr::V4(v4) => self.node.fullnat_sources_v4.contains(&v4),
            IpAddr::V6(v6) => self.node.fullnat_sources_v6.contains(&v6),
        };
        if is_tunnel {
            Some("this host's tunnel source")
        } else if is_fullnat {
            Some("this host's fullnat source")
        } else {
            None
        }
    }
}

fn backend_address(
    context: &mut Context<'_>,
    (index, place): (usize, usize),
    service: &Service,
    backend: &Backend,
    own: &OwnAddresses<'_>,
) {
    let address = canonical(backend.address);
    let kind = unusable(backend.address).or_else(|| own.source(address));
    let vip = own.vips.get(&address);
    let mut rule = &rules::BAD_BACKEND_ADDRESS;
    let what = match (kind, vip) {
        (Some(kind), _) => kind.to_owned(),
        (None, Some(other)) => {
            if service.forward.is_translation() {
                rule = &rules::TRANSLATION_LOOP;
            }
            format!("the address of service {other}")
        }
        (None, None) => return,
    };
    let message = format!(
        "service {}: the address {} of backend {} is {what}",
        service.name, backend.address, backend.name
    );
    let help = if address != backend.address {
        format!("write \"{address}\"")
    } else {
        "name an address of the server itself".to_owned()
    };
    let place = Place::Backend(index, place, "address");
    context.report(rule, place, message, |finding| finding.help(help));
}

/// Rules about one backend beside its service.
fn backend_fit(
    context: &mut Context<'_>,
    (index, place): (usize, usize),
    service: &Service,
    backend: &Backend,
) {
    let object = || format!("service {}: backend {}", service.name, backend.name);
    let nets = &service.allowed_backends;
    if !nets.is_empty() && !nets.iter().any(|net| net.contains(&backend.address)) {
        let message = format!(
            "{}: {} is outside allowed_backends",
            object(),
            backend.address
        );
        let related = context
            .spans
            .find(Place::Service(index, "allowed_backends"));
        let place = Place::Backend(index, place, "address");
        context.report(&rules::BACKEND_OUTSIDE_POOL, place, message, |finding| {
            finding
                .help("check that it is the right server; if so, widen `allowed_backends`")
                .related(related, "these are allowed")
        });
    }
    let one_family = match service.forward {
        Forward::L2 | Forward::Nat | Forward::Fullnat => true,
        Forward::Ipip | Forward::Gue => false,
    };
    if one_family && service.address.is_ipv4() != backend.address.is_ipv4() {
        let message = format!(
            "{}: {} cannot carry packets for {} to {}",
            object(),
            service.forward,
            service.address,
            backend.address
        );
        let place = Place::Backend(index, place, "address");
        context.report(&rules::FAMILY_MISMATCH, place, message, |finding| {
            finding.help("use an address of the service's family, or `forward = \"ipip\"`")
        });
    }
    backend_port(context, (index, place), service, backend);
}

fn backend_port(
    context: &mut Context<'_>,
    (index, place): (usize, usize),
    service: &Service,
    backend: &Backend,
) {
    let (Some(port), only) = (backend.port, single_port(service)) else {
        return;
    };
    let (name, ports, forward) = (&service.name, &service.ports, service.forward);
    let object = format!("service {name}: backend {}", backend.name);
    let (message, help) = match only {
        Some(only) if only == port || forward.is_translation() => return,
        None if forward.is_translation() => (
            format!(
                "{object}: port {port} is one and the service has {ports}, and with several ports \
                 each packet keeps the one it was sent to"
            ),
            "remove the backend's `port`, or make each port a service of its own",
        ),
        _ => (
            format!(
                "{object}: port {port} differs from the service's {ports}, and {forward} cannot \
                 rewrite ports"
            ),
            "remove the backend's `port` and let the server listen on the service's, or rewrite \
             it with `forward = \"nat\"`",
        ),
    };
    let place = Place::Backend(index, place, "port");
    context.report(&rules::PORT_MISMATCH, place, message, |finding| {
        finding.help(help)
    });
}
