//! Reads addresses that packets come from: outer sources of tunnels, sources
//! of `fullnat`, and what a service says about its clients' networks.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::json;

use super::super::model::{SourceLimit, TunnelSource};
use super::super::wording::quoted;
use super::addresses::{host_address_v4, host_address_v6, network};
use super::defaults;
use super::fields::{Field, Fields, Path, Step, Value};
use super::values::{integer, list};

/// Most addresses that `fullnat` sends from.
const MAX_ADDRESSES: usize = 64;
/// Most networks of `allow_sources` and `deny_sources` together.
const MAX_SOURCES: usize = 10_000;
/// Most flows a second of a source, and most of a burst.
const MAX_FLOWS: u32 = 1_000_000_000;

const LIMIT_KEYS: &[&str] = &["flows_per_second", "burst", "prefix_length"];

/// An IPv4 address that this host can have, or a prefix of such.
pub(super) fn tunnel_source_v4(
    field: &mut Field<'_>,
    value: &Value<'_>,
) -> Option<TunnelSource<Ipv4Addr>> {
    let prefix = json!({ "pattern": "^[0-9.]+/[0-9]{1,2}$" });
    field.takes(|| json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, prefix] }));
    if !is_prefix(value) {
        return host_address_v4(field, value).map(TunnelSource::from);
    }
    match source_prefix(field, value)? {
        IpNet::V4(prefix) => Some(prefix.into()),
        IpNet::V6(prefix) => {
            other_family(field, value, prefix.into(), "an IPv4");
            None
        }
    }
}

/// The same for IPv6.
pub(super) fn tunnel_source_v6(
    field: &mut Field<'_>,
    value: &Value<'_>,
) -> Option<TunnelSource<Ipv6Addr>> {
    let prefix = json!({ "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$" });
    field.takes(|| json!({ "type": "string", "anyOf": [{ "format": "ipv6" }, prefix] }));
    if !is_prefix(value) {
        return host_address_v6(field, value).map(TunnelSource::from);
    }
    match source_prefix(field, value)? {
        IpNet::V6(prefix) => Some(prefix.into()),
        IpNet::V4(prefix) => {
            other_family(field, value, prefix.into(), "an IPv6");
            None
        }
    }
}

fn is_prefix(value: &Value<'_>) -> bool {
    value.get_ref().as_str().is_some_and(|it| it.contains('/'))
}

fn other_family(field: &mut Field<'_>, value: &Value<'_>, prefix: IpNet, wanted: &str) {
    let help = "IPv4 tunnels read `tunnel_source_v4`, IPv6 ones `tunnel_source_v6`";
    let text = format!("is \"{prefix}\", not {wanted} address or prefix");
    field.bad(value, text, help);
}

/// A prefix of two addresses or more, of which hosts can have every one.
fn source_prefix(field: &mut Field<'_>, value: &Value<'_>) -> Option<IpNet> {
    let prefix = network(field, value)?;
    if prefix.prefix_len() == prefix.max_prefix_len() {
        let help = format!("write \"{}\"", prefix.addr());
        field.bad(value, format!("is \"{prefix}\", a single address"), help);
        return None;
    }
    if let Some(kind) = unusable_part(prefix) {
        let text = format!("is \"{prefix}\", which holds {kind}");
        let help = "take a prefix that nobody else uses, such as \"172.16.0.0/16\"";
        field.bad(value, text, help);
        return None;
    }
    Some(prefix)
}

/// What a prefix holds that no host can have, if so; see `addresses::unusable`.
fn unusable_part(prefix: IpNet) -> Option<&'static str> {
    let v4 = |a, b, length| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length).into();
    let v6 =
        |a, f, length| Ipv6Net::new_assert(Ipv6Addr::new(a, 0, 0, 0, 0, f, 0, 0), length).into();
    let unusable: [(IpNet, _); 10] = [
        (v4(0, 0, 32), "the unspecified address"),
        (v4(127, 0, 8), "loopback addresses"),
        (v4(169, 254, 16), "link-local addresses"),
        (v4(224, 0, 4), "multicast addresses"),
        (
            IpAddr::V4(Ipv4Addr::BROADCAST).into(),
            "the broadcast address",
        ),
        (v6(0, 0, 128), "the unspecified address"),
        (IpAddr::V6(Ipv6Addr::LOCALHOST).into(), "loopback addresses"),
        (v6(0, 0xffff, 96), "IPv4 addresses in IPv6 clothes"),
        (v6(0xfe80, 0, 10), "link-local addresses"),
        (v6(0xff00, 0, 8), "multicast addresses"),
    ];
    let overlaps = |net: &IpNet| prefix.contains(net) || net.contains(&prefix);
    unusable
        .into_iter()
        .find(|(net, _)| overlaps(net))
        .map(|(_, kind)| kind)
}

/// A list of addresses that `read` takes, each once.
pub(super) fn addresses<'t, A: Copy + Display + Eq + Hash>(
    read: impl Fn(&mut Field<'_>, &'t Value<'t>) -> Option<A>,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<Vec<A>> {
    let mut seen = HashSet::new();
    list(MAX_ADDRESSES, move |field, value| {
        let address = read(field, value)?;
        once(field, value, &mut seen, address)
    })
}

/// Reports what a list has already.
fn once<T: Copy + Display + Eq + Hash>(
    field: &mut Field<'_>,
    value: &Value<'_>,
    seen: &mut HashSet<T>,
    entry: T,
) -> Option<T> {
    if seen.insert(entry) {
        return Some(entry);
    }
    field.bad(value, format!("names {entry} twice"), "name each once");
    None
}

/// `allow_sources` and `deny_sources`. The family is the service's; without a
/// good address, any.
pub(super) fn filters(
    fields: &mut Fields<'_, '_>,
    service: Option<IpAddr>,
) -> (Vec<IpNet>, Vec<IpNet>) {
    let mut seen = HashSet::new();
    let allow = fields.optional(
        "allow_sources",
        list(MAX_SOURCES, |field, value| {
            let net = client_network(field, value, service)?;
            once(field, value, &mut seen, net)
        }),
    );
    let allowed = std::mem::take(&mut seen);
    let allow_count = allow.as_ref().map_or(0, Vec::len);
    let deny = fields.optional("deny_sources", |field, value| {
        let deny = list(MAX_SOURCES, |field, value| {
            let net = client_network(field, value, service)?;
            if allowed.contains(&net) {
                let text = format!("has {net}, which `allow_sources` has as well");
                field.bad(value, text, "keep it in one of them");
                return None;
            }
            once(field, value, &mut seen, net)
        })(field, value)?;
        let count = allow_count + deny.len();
        if count > MAX_SOURCES {
            let text = format!("and `allow_sources` have {count} entries, limit {MAX_SOURCES}");
            field.bad(
                value,
                text,
                "join networks that touch into shorter prefixes",
            );
            return None;
        }
        Some(deny)
    });
    (allow.unwrap_or_default(), deny.unwrap_or_default())
}

fn client_network(
    field: &mut Field<'_>,
    value: &Value<'_>,
    service: Option<IpAddr>,
) -> Option<IpNet> {
    let net = network(field, value)?;
    let Some(service) = service else {
        return Some(net);
    };
    if service.is_ipv4() == net.addr().is_ipv4() {
        return Some(net);
    }
    let text = format!(
        "has {}, and no client of {service} has such an address",
        quoted(&net.to_string())
    );
    field.bad(
        value,
        text,
        "remove it; the lists are of the service's address family",
    );
    None
}

/// `[service.source_limit]`.
pub(super) fn source_limit(
    service: &mut Fields<'_, '_>,
    address: Option<IpAddr>,
) -> Option<SourceLimit> {
    let value = service.value("source_limit")?;
    let Some(table) = value.get_ref().as_table() else {
        let help = "write it as `[service.source_limit]`";
        service
            .field("source_limit")
            .wrong_type(value, "a table", help);
        return None;
    };
    let (parent, sink) = service.inner();
    let place = Path {
        parent: Some(parent),
        step: Step::Table("source_limit"),
    };
    let (default_length, longest) = match address {
        Some(IpAddr::V4(_)) => (defaults::SOURCE_PREFIX_V4, 32),
        _ => (defaults::SOURCE_PREFIX_V6, 128),
    };
    let mut fields = Fields::new(table, value.span(), place, LIMIT_KEYS, sink);
    let example = "flows_per_second = 100";
    let rate = fields.required("flows_per_second", example, integer(1..=MAX_FLOWS));
    let burst = fields.optional("burst", integer(1..=MAX_FLOWS));
    let length = fields.optional("prefix_length", integer(1..=longest));
    Some(SourceLimit {
        flows_per_second: rate?,
        burst: burst.unwrap_or(rate?),
        prefix_length: length.unwrap_or(default_length),
    })
}
