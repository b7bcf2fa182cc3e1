//! Rules about what translating modes, QUIC and the flow table need.

use std::collections::HashMap;
use std::net::IpAddr;

use super::super::diagnostic::Level;
use super::super::model::{Affinity, Config, Forward, Quic, ServerId, Service, Unfinished};
use super::super::spans::Place;
use super::super::wording::counted;
use super::{Context, rules};

/// Rules about the node beside all services.
pub(super) fn check_node(context: &mut Context<'_>) {
    fullnat_sources_apart(context);
    flow_table(context);
}

/// Rules about one service.
pub(super) fn check_service(context: &mut Context<'_>, index: usize, service: &Service) {
    fullnat_sources(context, index, service);
    untimed_handshakes(context, index, service);
    match &service.quic {
        Some(quic) => server_ids(context, index, service, quic),
        None => unread_server_ids(context, index, service),
    }
}

/// Nobody sees handshakes that are not timed.
fn untimed_handshakes(context: &mut Context<'_>, index: usize, service: &Service) {
    let how = service.unfinished_handshakes;
    if how == Unfinished::Named || context.config.node.handshake_sample > 0.0 {
        return;
    }
    let message = format!(
        "service {}: unfinished_handshakes \"{how}\" does nothing with node.handshake_sample 0",
        service.name
    );
    let place = Place::Service(index, "unfinished_handshakes");
    context.report(&rules::BAD_VALUE, place, message, |it| {
        it.help("leave handshake_sample out, or write `unfinished_handshakes = \"named\"`")
    });
}

/// The addresses that `fullnat` sends from, with their key.
fn sources(config: &Config) -> impl Iterator<Item = (IpAddr, &'static str)> + '_ {
    let v4 = config.node.fullnat_sources_v4.iter();
    let v6 = config.node.fullnat_sources_v6.iter();
    v4.map(|address| (IpAddr::from(*address), "fullnat_sources_v4"))
        .chain(v6.map(|address| (IpAddr::from(*address), "fullnat_sources_v6")))
}

/// Replies to a source that is a service's would be taken for its clients'.
fn fullnat_sources_apart(context: &mut Context<'_>) {
    let mut claimed: HashMap<IpAddr, usize> = HashMap::new();
    for (index, service) in context.services() {
        claimed.entry(service.address).or_insert(index);
    }
    for (address, key) in sources(context.config) {
        let Some(index) = claimed.get(&address) else {
            continue;
        };
        let service = &context.config.services[*index].name;
        let message = format!("node: {address} in {key} is the address of service {service}");
        let related = context.spans.find(Place::Service(*index, "address"));
        context.report(&rules::FULLNAT_SOURCES, Place::Node(key), message, |it| {
            it.help("name an address that nothing else uses and that backends route here")
                .related(related, format!("service {service} has it here"))
        });
    }
}

fn fullnat_sources(context: &mut Context<'_>, index: usize, service: &Service) {
    let (missing, key, family) = match service.address {
        IpAddr::V4(_) => {
            let sources = &context.config.node.fullnat_sources_v4;
            (sources.is_empty(), "fullnat_sources_v4", "IPv4")
        }
        IpAddr::V6(_) => {
            let sources = &context.config.node.fullnat_sources_v6;
            (sources.is_empty(), "fullnat_sources_v6", "IPv6")
        }
    };
    if service.forward != Forward::Fullnat || !missing {
        return;
    }
    let message = format!(
        "service {}: fullnat has no {family} address to send from, wanted 1 to 64",
        service.name
    );
    let related = context.spans.find(Place::Node(""));
    let place = Place::Service(index, "forward");
    context.report(&rules::FULLNAT_SOURCES, place, message, |finding| {
        finding
            .help(format!("add `{key} = [\"…\"]` to `[node]`"))
            .related(related, format!("{key} is missing here"))
    });
}

/// Each backend has an id, of the service's length, and of its own.
fn server_ids(context: &mut Context<'_>, index: usize, service: &Service, quic: &Quic) {
    let wanted = usize::from(quic.server_id_length);
    let mut first_use: HashMap<ServerId, usize> = HashMap::new();
    for (place, backend) in service.backends.iter().enumerate() {
        let object = format!("service {}: backend {}", service.name, backend.name);
        let of_length = counted(wanted, "byte");
        let mut related = (context.spans.find(Place::Service(index, "quic")), None);
        let (message, help) = match backend.server_id {
            None => {
                let message = format!("{object}: no server_id, wanted {of_length}");
                (
                    message,
                    format!("add `server_id = \"{}\"`", "0a".repeat(wanted)),
                )
            }
            Some(id) if id.bytes().len() != wanted => {
                let found = counted(id.bytes().len(), "byte");
                let message = format!("{object}: server_id {id} has {found}, wanted {of_length}");
                let help = "connection ids have no other room; mend it or `server_id_length`";
                (message, help.to_owned())
            }
            Some(id) => {
                let first = *first_use.entry(id).or_insert(place);
                if first == place {
                    continue;
                }
                let other = &service.backends[first].name;
                let at = Place::Backend(index, first, "server_id");
                related = (context.spans.find(at), Some(other));
                let message = format!("{object}: server_id {id} is that of backend {other}");
                let help = "give each backend the id that its server puts into connection ids";
                (message, help.to_owned())
            }
        };
        let label = match related.1 {
            Some(other) => format!("backend {other} has it here"),
            None => format!("ids of {of_length} are asked for here"),
        };
        let place = Place::Backend(index, place, "server_id");
        context.report(&rules::SERVER_ID, place, message, |finding| {
            finding.help(help).related(related.0, label)
        });
    }
}

fn unread_server_ids(context: &mut Context<'_>, index: usize, service: &Service) {
    for (place, backend) in service.backends.iter().enumerate() {
        let Some(id) = backend.server_id else {
            continue;
        };
        let message = format!(
            "service {}: backend {}: nothing reads server_id {id}, as the service has no quic",
            service.name, backend.name
        );
        let place = Place::Backend(index, place, "server_id");
        context.report(&rules::SERVER_ID, place, message, |finding| {
            finding.help("remove it, or add `[service.quic]`")
        });
    }
}

/// The records that services with `affinity = "flow"` hold at their declared
/// peaks. One finding, at the service that holds most of them.
fn flow_table(context: &mut Context<'_>) {
    let size = context.config.node.flow_table_size;
    let held = |service: &Service| match (service.affinity, service.peak_flows_per_second) {
        (Affinity::Flow { idle_timeout }, Some(peak)) => {
            (u128::from(peak) * idle_timeout.as_millis()).div_ceil(1000)
        }
        _ => 0,
    };
    let total: u128 = context.config.services.iter().map(held).sum();
    if total <= u128::from(size) {
        return;
    }
    let Some((index, service)) = context
        .services()
        .max_by_key(|(index, service)| (held(service), std::cmp::Reverse(*index)))
    else {
        return;
    };
    let most = held(service);
    let of_others = match total - most {
        0 => String::new(),
        others => format!(", those of other services {others} more"),
    };
    let message = format!(
        "service {}: at its peak {most} flows are within flow_idle_timeout{of_others}, and the \
         flow table has {size} records",
        service.name
    );
    let related = context.spans.find(Place::Node("flow_table_size"));
    let place = Place::Service(index, "peak_flows_per_second");
    context.report(&rules::MAP_CAPACITY, place, message, |finding| {
        finding
            .level(Level::Warning)
            .help("raise `flow_table_size` in `[node]`, or shorten `flow_idle_timeout`")
            .related(related, "flow_table_size is set here, or left at 131072")
    });
}
