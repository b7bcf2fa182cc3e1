//! Reads `[[service]]` and `[[service.backend]]`.

use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use serde_json::json;
use toml::de::DeTable;

use super::super::check::rules;
use super::super::model::{
    Affinity, Backend, Backends, Forward, Pool, Ports, Protocol, Service, Unfinished,
};
use super::super::spans::{ServiceSpans, TableSpans};
use super::MAX_BACKENDS;
use super::addresses::{address, network};
use super::defaults;
use super::fields::{Field, Fields, Names, Path, Step, Value};
use super::health;
use super::ports::{port, ports};
use super::quic::{quic, server_id};
use super::sink::Sink;
use super::sources::{filters, source_limit};
use super::values::{
    boolean, choice, duration, integer, is_name, list, mac, name, share, text, text_where,
};

const SERVICE_KEYS: &[&str] = &[
    "name",
    "address",
    "port",
    "protocol",
    "forward",
    "allowed_backends",
    "fail_open_below",
    "backup_below",
    "slow_start",
    "unfinished_handshakes",
    "drain_timeout",
    "peak_flows_per_second",
    "affinity",
    "flow_idle_timeout",
    "mss_clamp",
    "allow_sources",
    "deny_sources",
    "allow",
    "allow_reason",
    "source_limit",
    "quic",
    "health",
    "backend",
];

const BACKEND_KEYS: &[&str] = &[
    "name",
    "address",
    "port",
    "weight",
    "zone",
    "capacity_flows_per_second",
    "mac",
    "server_id",
    "pool",
    "drain",
];

const UNFINISHED: &[(&str, Unfinished)] = &[
    ("named", Unfinished::Named),
    ("trickle", Unfinished::Trickle),
    ("out", Unfinished::Out),
];

/// Rates are multiplied with weights; this keeps the products small.
const RATES: RangeInclusive<u64> = 1..=1_000_000_000_000;
/// Least segment size that Linux takes (`TCP_MIN_MSS`), and what the longest
/// packet leaves beside an IPv4 and a TCP header.
const MSS: RangeInclusive<u16> = 88..=65_495;
const MAX_NETWORKS: usize = 1024;
const MAX_ALLOWED: usize = 64;
const MAX_REASON_LEN: usize = 1024;

pub(super) fn service<'t>(
    table: &'t DeTable<'t>,
    header: Range<usize>,
    index: usize,
    root: &Path<'_>,
    names: &mut Names<'t>,
    sink: &mut Sink,
) -> (Option<Service>, ServiceSpans) {
    let step = match named(table) {
        Some((name, span)) => {
            names.claim(("service", "name"), name, span, root, sink);
            Step::Named("service", name)
        }
        None => Step::Nth("service", index),
    };
    let place = Path {
        parent: Some(root),
        step,
    };
    let mut spans = ServiceSpans::default();
    let mut fields = Fields::new(table, header, place, SERVICE_KEYS, sink);
    let head = head(&mut fields);
    let (allow, allow_reason) = allow(&mut fields);
    let known = head.as_ref().map(|head| (&head.ports, head.protocol));
    let health = health::health(&mut fields, known, &mut spans.health);
    let backends = backends(&mut fields, &mut spans.backends);
    if !backends.iter().any(|it| it.pool == Pool::Backup) {
        let help = "remove it, or give a backend `pool = \"backup\"`";
        fields.refuse("backup_below", "does nothing without a backup", help);
    }
    let service = head.map(|head| Service {
        allow,
        allow_reason,
        health,
        backends: backends.into(),
        ..head
    });
    spans.table = fields.into_spans();
    (service, spans)
}

/// The name of a table, if it has a good one.
fn named<'t>(table: &'t DeTable<'t>) -> Option<(&'t str, Range<usize>)> {
    let value = table.get("name")?;
    let name = value.get_ref().as_str().filter(|name| is_name(name))?;
    Some((name, value.span()))
}

/// The keys of the service itself, without its tables.
fn head(fields: &mut Fields<'_, '_>) -> Option<Service> {
    const PROTOCOLS: &[(&str, Protocol)] = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    const FORWARDS: &[(&str, Forward)] = &[
        ("l2", Forward::L2),
        ("ipip", Forward::Ipip),
        ("gue", Forward::Gue),
        ("nat", Forward::Nat),
        ("fullnat", Forward::Fullnat),
    ];
    let name = fields.required("name", "name = \"web\"", name);
    let address = fields.required("address", "address = \"192.0.2.10\"", address);
    let ports = fields.required("port", "port = 443", ports);
    let protocol = fields.required("protocol", "protocol = \"tcp\"", choice(PROTOCOLS, &[]));
    let forward = fields.required("forward", "forward = \"ipip\"", choice(FORWARDS, &[]));
    let allowed_backends = fields.optional("allowed_backends", list(MAX_NETWORKS, network));
    let fail_open_below = fields.optional("fail_open_below", share(1.0));
    let backup_below = fields.optional("backup_below", share(1.0));
    let hour = Duration::from_secs(3600);
    let slow_start = fields.optional("slow_start", duration(Duration::ZERO..=hour));
    let unfinished = fields.optional("unfinished_handshakes", choice(UNFINISHED, &[]));
    let day = Duration::from_secs(24 * 3600);
    let drain_timeout = fields.optional("drain_timeout", duration(Duration::ZERO..=day));
    let peak = fields.optional("peak_flows_per_second", integer(RATES));
    let affinity = affinity(fields, protocol);
    let mss_clamp = fields.optional("mss_clamp", integer(MSS));
    let (allow_sources, deny_sources) = filters(fields, address);
    let source_limit = source_limit(fields, address);
    let quic = quic(fields);
    refuse_unfitting(fields, protocol, affinity);
    Some(Service {
        name: name?.to_owned(),
        address: address?,
        ports: ports?,
        protocol: protocol?,
        forward: forward?,
        allowed_backends: allowed_backends.unwrap_or_default(),
        fail_open_below,
        backup_below: backup_below.unwrap_or(0.0),
        slow_start: slow_start.unwrap_or(Duration::ZERO),
        unfinished_handshakes: unfinished.unwrap_or(Unfinished::Named),
        drain_timeout: drain_timeout.unwrap_or(defaults::DRAIN_TIMEOUT),
        peak_flows_per_second: peak,
        affinity: affinity?,
        mss_clamp,
        allow_sources,
        deny_sources,
        source_limit,
        quic,
        allow: Vec::new(),
        allow_reason: None,
        health: None,
        backends: Backends::default(),
    })
}

/// `None` if the word is not good.
fn affinity(fields: &mut Fields<'_, '_>, protocol: Option<Protocol>) -> Option<Affinity> {
    let day = Duration::from_secs(24 * 3600);
    let limits = Duration::from_secs(1)..=day;
    let idle_timeout = fields.optional("flow_idle_timeout", duration(limits));
    let idle_timeout = idle_timeout.unwrap_or(defaults::FLOW_IDLE_TIMEOUT);
    let words = [
        ("hash", Affinity::Hash),
        ("flow", Affinity::Flow { idle_timeout }),
        ("source", Affinity::Source),
    ];
    if !fields.has("affinity") {
        return Some(Affinity::Hash);
    }
    fields.optional("affinity", |field, value| {
        let found = choice(&words, &[])(field, value)?;
        if protocol == Some(Protocol::Tcp) && matches!(found, Affinity::Flow { .. }) {
            let help = "remove it: flows of tcp are recorded whenever a change needs it";
            field.bad(value, "is \"flow\", which is for udp", help);
            return None;
        }
        Some(found)
    })
}

/// Reports the keys that protocol and affinity leave without a use.
fn refuse_unfitting(
    fields: &mut Fields<'_, '_>,
    protocol: Option<Protocol>,
    affinity: Option<Affinity>,
) {
    let Some(affinity) = affinity else {
        return;
    };
    let by_flow = matches!(affinity, Affinity::Flow { .. });
    if !by_flow {
        let help = "remove it, or write `affinity = \"flow\"`, which is for udp";
        let why = format!("does nothing with affinity {affinity}");
        fields.refuse("flow_idle_timeout", &why, help);
    }
    match protocol {
        Some(Protocol::Tcp) => {
            let help = "remove it: QUIC runs over udp";
            fields.refuse("quic", "does nothing with protocol tcp", help);
        }
        Some(Protocol::Udp) => {
            let help = "remove it: only tcp has segments";
            fields.refuse("mss_clamp", "does nothing with protocol udp", help);
            let help = "remove it: only tcp has handshakes";
            fields.refuse(
                "unfinished_handshakes",
                "does nothing with protocol udp",
                help,
            );
            if !by_flow {
                let why = "cannot be kept: without records nothing tells a new flow of udp";
                let help = "remove it, or write `affinity = \"flow\"`";
                fields.refuse("source_limit", why, help);
            }
        }
        None => {}
    }
}

fn allow(fields: &mut Fields<'_, '_>) -> (Vec<String>, Option<String>) {
    let allow = fields.optional("allow", list(MAX_ALLOWED, rule));
    let printable = |text: &str| !text.trim().is_empty() && !text.contains(char::is_control);
    let reason = text_where(MAX_REASON_LEN, "one line that says why", printable);
    let reason = fields.optional("allow_reason", reason);
    match (fields.has("allow"), fields.has("allow_reason")) {
        (true, false) => {
            let help = "say why, with `allow_reason = \"…\"`";
            fields.missing("allow_reason", help);
        }
        (false, true) => {
            let help = "name the rules with `allow = [\"…\"]`, or remove it";
            fields.refuse("allow_reason", "does nothing without `allow`", help);
        }
        _ => {}
    }
    (allow.unwrap_or_default(), reason.map(str::to_owned))
}

fn rule(field: &mut Field<'_>, value: &Value<'_>) -> Option<String> {
    field.takes(|| {
        let ids = rules::ALL.iter().filter(|rule| rule.allowable);
        json!({ "enum": ids.map(|rule| rule.id).collect::<Vec<_>>() })
    });
    match rules::find_allowable(text(field, value)?) {
        Ok(rule) => Some(rule.id.to_owned()),
        Err((message, help)) => {
            field.report(&rules::BAD_VALUE, value.span(), message, help);
            None
        }
    }
}

fn backends(fields: &mut Fields<'_, '_>, spans: &mut Vec<TableSpans>) -> Vec<Backend> {
    let tables = fields.tables("backend", MAX_BACKENDS);
    let (path, sink) = fields.inner();
    let mut names = Names::default();
    // The names of backends without one live here, for `names` to borrow.
    let addresses: Vec<Option<IpAddr>> = tables
        .iter()
        .map(|(table, _)| table.get("address")?.get_ref().as_str()?.parse().ok())
        .collect();
    let default_names: Vec<String> = addresses
        .iter()
        .map(|address| {
            address
                .map(|address| address.to_string())
                .unwrap_or_default()
        })
        .collect();
    let mut backends = Vec::with_capacity(tables.len());
    for (index, (table, header)) in tables.into_iter().enumerate() {
        let default = default_names[index].as_str();
        let found = match (named(table), table.get("address")) {
            (Some((name, span)), _) => Some((name, span, "name")),
            (None, Some(value)) if !default.is_empty() && !table.contains_key("name") => {
                Some((default, value.span(), "address"))
            }
            _ => None,
        };
        let step = match found {
            Some((name, span, key)) => {
                names.claim(("backend", key), name, span, path, sink);
                Step::Named("backend", name)
            }
            None => Step::Nth("backend", index),
        };
        let place = Path {
            parent: Some(path),
            step,
        };
        let mut fields = Fields::new(table, header, place, BACKEND_KEYS, sink);
        backends.extend(backend(&mut fields, default));
        spans.push(fields.into_spans());
    }
    backends
}

fn backend(fields: &mut Fields<'_, '_>, default_name: &str) -> Option<Backend> {
    let own_name = fields.optional("name", name);
    let address = fields.required("address", "address = \"10.0.0.11\"", address);
    let port = fields.optional("port", port);
    let weight = fields.optional("weight", integer(0..=u16::MAX));
    let zone = fields.optional("zone", name);
    let capacity = fields.optional("capacity_flows_per_second", integer(RATES));
    let mac = fields.optional("mac", mac);
    let server_id = fields.optional("server_id", server_id);
    let pools = &[("primary", Pool::Primary), ("backup", Pool::Backup)];
    let pool = fields.optional("pool", choice(pools, &[]));
    let drain = fields.optional("drain", boolean);
    Some(Backend {
        name: own_name.unwrap_or(default_name).to_owned(),
        address: address?,
        port,
        weight: weight.unwrap_or(defaults::WEIGHT),
        zone: zone.map(str::to_owned),
        capacity_flows_per_second: capacity,
        mac,
        server_id,
        pool: pool.unwrap_or(Pool::Primary),
        drain: drain.unwrap_or(false),
    })
}

/// Whether a service's ports leave open which one to probe.
pub(super) fn names_no_port(ports: Option<&Ports>) -> bool {
    matches!(ports, Some(Ports::Any))
}
