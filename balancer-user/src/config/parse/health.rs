//! Reads `[service.health]`.

use std::time::Duration;

use super::super::model::{Flap, Health, Ports, Protocol, Via};
use super::super::spans::TableSpans;
use super::defaults;
use super::fields::{Fields, Path, Step};
use super::ports::port;
use super::probes::{self, KINDS, Kind, MAX_REQUEST_TEXT, PATH_RULE, is_path};
use super::service::names_no_port;
use super::values::{choice, duration, integer, list_of, share, text_where};

const KEYS: &[&str] = &[
    "kind",
    "via",
    "port",
    "path",
    "host",
    "expect_status",
    "identity",
    "server_name",
    "ca_file",
    "certificate_warning",
    "grpc_service",
    "send",
    "send_hex",
    "expect",
    "expect_hex",
    "query_name",
    "query_type",
    "expect_answer",
    "command",
    "command_user",
    "interval",
    "jitter",
    "timeout",
    "rise",
    "fall",
    "fast_interval",
    "flap_limit",
    "flap_window",
    "flap_hold",
    "flap_hold_max",
    "compare",
];

const HOUR: Duration = Duration::from_secs(3600);
/// Each is asked in turn: with more of them every one is looked at less often.
const MAX_COMPARED: usize = 4;

pub(super) fn health(
    service: &mut Fields<'_, '_>,
    head: Option<(&Ports, Protocol)>,
    spans: &mut TableSpans,
) -> Option<Health> {
    let value = service.value("health")?;
    let Some(table) = value.get_ref().as_table() else {
        let help = "write it as `[service.health]`";
        service.field("health").wrong_type(value, "a table", help);
        return None;
    };
    let (parent, sink) = service.inner();
    let place = Path {
        parent: Some(parent),
        step: Step::Table("health"),
    };
    let mut fields = Fields::new(table, value.span(), place, KEYS, sink);
    let kind = fields.required("kind", "kind = \"https\"", choice(KINDS, &[]));
    let via = fields.optional("via", choice(Via::ALL, &[]));
    let port = fields.optional("port", port);
    if !fields.has("port") && names_no_port(head.map(|(ports, _)| ports)) {
        let help = "the service has every port, so add the one to probe: `port = 443`";
        fields.missing("port", help);
    }
    let what = probes::kind(&mut fields, kind);
    let days = Duration::ZERO..=365 * 24 * HOUR;
    let certificate_warning = fields.optional("certificate_warning", duration(days));
    let times = Duration::from_millis(10)..=HOUR;
    let interval = fields.optional("interval", duration(times));
    let jitter = fields.optional("jitter", share(0.5));
    let times = Duration::from_millis(1)..=HOUR;
    let timeout = fields.optional("timeout", duration(times));
    let rise = fields.optional("rise", integer(1..=100));
    let fall = fields.optional("fall", integer(1..=100));
    let times = Duration::from_millis(10)..=HOUR;
    let fast_interval = fields.optional("fast_interval", duration(times));
    let flap = flap(&mut fields);
    let compare = compare(&mut fields, kind, head.map(|(_, protocol)| protocol));
    *spans = fields.into_spans();
    Some(Health {
        kind: what?,
        via: via.unwrap_or(defaults::VIA),
        port,
        interval: interval.unwrap_or(defaults::INTERVAL),
        jitter: jitter.unwrap_or(defaults::JITTER),
        timeout: timeout.unwrap_or(defaults::TIMEOUT),
        rise: rise.unwrap_or(defaults::RISE),
        fall: fall.unwrap_or(defaults::FALL),
        fast_interval,
        flap,
        compare,
        certificate_warning: certificate_warning.unwrap_or(defaults::CERTIFICATE_WARNING),
    })
}

fn flap(fields: &mut Fields<'_, '_>) -> Flap {
    let unset = defaults::FLAP;
    let second = Duration::from_secs(1);
    let limit = fields.optional("flap_limit", integer(0..=100));
    let window = fields.optional("flap_window", duration(second..=HOUR));
    let hold = fields.optional("flap_hold", duration(second..=HOUR));
    let hold_max = fields.optional("flap_hold_max", duration(second..=24 * HOUR));
    let hold = hold.unwrap_or(unset.hold);
    if limit == Some(0) {
        for key in ["flap_window", "flap_hold", "flap_hold_max"] {
            let help = "remove it, or set `flap_limit` to 1 or more";
            fields.refuse(key, "does nothing with flap_limit 0", help);
        }
    }
    Flap {
        limit: limit.unwrap_or(unset.limit),
        window: window.unwrap_or(unset.window),
        hold,
        // A longer hold says by itself that it may last.
        hold_max: hold_max.unwrap_or(unset.hold_max.max(hold)),
    }
}

/// The paths whose answers are compared; only what is reached over TCP and
/// probed by HTTP can be asked for them.
fn compare(
    fields: &mut Fields<'_, '_>,
    kind: Option<Kind>,
    protocol: Option<Protocol>,
) -> Vec<String> {
    let read = list_of(0..=MAX_COMPARED, |field, value| {
        text_where(MAX_REQUEST_TEXT, PATH_RULE, is_path)(field, value).map(str::to_owned)
    });
    let compare = fields.optional("compare", read);
    let is_none = compare.as_ref().is_none_or(Vec::is_empty);
    // Of other kinds it was refused already.
    let is_read = matches!(kind, None | Some(Kind::Http | Kind::Https));
    if protocol == Some(Protocol::Udp) && is_read && !is_none {
        let why = "does nothing with protocol udp, whose backends are asked nothing over TCP";
        fields.refuse("compare", why, "remove it");
    }
    compare.unwrap_or_else(defaults::compare)
}
