//! Reads `[service.health]`.

use std::time::Duration;

use serde_json::json;

use super::super::model::{
    Flap, Health, HttpProbe, Identity, Ports, ProbeKind, Protocol, TlsProbe,
};
use super::super::spans::TableSpans;
use super::defaults;
use super::fields::{Fields, Path, Step};
use super::ports::port;
use super::service::names_no_port;
use super::values::{choice, dns_name, duration, integer, list, list_of, path, share, text_where};

const KEYS: &[&str] = &[
    "kind",
    "port",
    "path",
    "host",
    "expect_status",
    "identity",
    "server_name",
    "ca_file",
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
const MAX_STATUSES: usize = 64;
const MAX_REQUEST_TEXT: usize = 1024;
const MAX_BODY_TEXT: usize = 4096;
/// Each is asked in turn: with more of them every one is looked at less often.
const MAX_COMPARED: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Tcp,
    Http,
    Https,
}

const KINDS: &[(&str, Kind)] = &[
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
];

/// Kinds that are designed but not built yet.
const LATER_KINDS: &[&str] = &["grpc", "udp", "dns", "command"];

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
    let kind = fields.required("kind", "kind = \"https\"", choice(KINDS, LATER_KINDS));
    let port = fields.optional("port", port);
    if !fields.has("port") && names_no_port(head.map(|(ports, _)| ports)) {
        let help = "the service has every port, so add the one to probe: `port = 443`";
        fields.missing("port", help);
    }
    let http = http(&mut fields);
    let tls = tls(&mut fields, http.identity.as_ref());
    refuse_unfitting(&mut fields, kind, http.identity.as_ref());
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
        kind: match kind? {
            Kind::Tcp => ProbeKind::Tcp,
            Kind::Http => ProbeKind::Http(http),
            Kind::Https => ProbeKind::Https(http, tls),
        },
        port,
        interval: interval.unwrap_or(defaults::INTERVAL),
        jitter: jitter.unwrap_or(defaults::JITTER),
        timeout: timeout.unwrap_or(defaults::TIMEOUT),
        rise: rise.unwrap_or(defaults::RISE),
        fall: fall.unwrap_or(defaults::FALL),
        fast_interval,
        flap,
        compare,
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
    if protocol == Some(Protocol::Udp) && kind != Some(Kind::Tcp) && !is_none {
        let why = "does nothing with protocol udp, whose backends are asked nothing over TCP";
        fields.refuse("compare", why, "remove it");
    }
    compare.unwrap_or_else(defaults::compare)
}

/// What [`is_path`] takes, for messages.
const PATH_RULE: &str = "a path that begins with `/`, without spaces";

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && is_visible(text)
}

fn http(fields: &mut Fields<'_, '_>) -> HttpProbe {
    let path = fields.optional("path", text_where(MAX_REQUEST_TEXT, PATH_RULE, is_path));
    let host_rule = "a host, without spaces";
    let host = fields.optional("host", text_where(255, host_rule, is_visible));
    let statuses = list(MAX_STATUSES, |field, value| {
        integer(100_u16..=599)(field, value)
    });
    let expect_status = fields.optional("expect_status", statuses);
    HttpProbe {
        path: path.unwrap_or(defaults::HTTP_PATH).to_owned(),
        host: host.map(str::to_owned),
        expect_status: expect_status.unwrap_or_default(),
        identity: identity(fields),
    }
}

fn tls(fields: &mut Fields<'_, '_>, identity: Option<&Identity>) -> TlsProbe {
    let server_name = fields.optional("server_name", dns_name);
    let ca_file = fields.optional("ca_file", path(4095));
    TlsProbe {
        // The name that the certificate must carry is the one to ask for.
        server_name: server_name.or_else(|| match identity {
            Some(Identity::Certificate(name)) => Some(name.clone()),
            _ => None,
        }),
        ca_file,
    }
}

/// Reports the keys that the kind does not read.
fn refuse_unfitting(fields: &mut Fields<'_, '_>, kind: Option<Kind>, identity: Option<&Identity>) {
    let (http_keys, tls_keys) = (
        ["path", "host", "expect_status", "identity", "compare"],
        ["server_name", "ca_file"],
    );
    if kind == Some(Kind::Tcp) {
        let help = "remove it, or probe with kind http or https";
        for key in http_keys {
            fields.refuse(key, "does nothing with kind tcp", help);
        }
    }
    let plain = match kind {
        Some(Kind::Tcp) => "does nothing with kind tcp",
        Some(Kind::Http) => "does nothing with kind http",
        _ => return,
    };
    let help = "remove it, or probe with kind https";
    for key in tls_keys {
        fields.refuse(key, plain, help);
    }
    if kind == Some(Kind::Http) && matches!(identity, Some(Identity::Certificate(_))) {
        let why = "asks for a certificate, which kind http has not";
        fields.refuse(
            "identity",
            why,
            "probe with kind https, or ask for a header or body",
        );
    }
}

fn identity(fields: &mut Fields<'_, '_>) -> Option<Identity> {
    const WAYS: &[&str] = &["header", "body", "certificate"];
    let help = "write one of { header = { name = \"…\", value = \"…\" } }, { body = \"…\" }, { certificate = \"…\" }";
    let value = fields.value("identity")?;
    let one = || json!({ "minProperties": 1, "maxProperties": 1 });
    fields.field("identity").takes(one);
    let Some(table) = value.get_ref().as_table() else {
        fields.field("identity").wrong_type(value, "a table", help);
        return None;
    };
    let (parent, sink) = fields.inner();
    let place = Path {
        parent: Some(parent),
        step: Step::Table("identity"),
    };
    let mut fields = Fields::new(table, value.span(), place, WAYS, sink);
    let given = WAYS.iter().filter(|way| fields.has(way)).count();
    let header = header(&mut fields);
    let body = fields.optional(
        "body",
        text_where(MAX_BODY_TEXT, "text that the page contains", |_| true),
    );
    let certificate = fields.optional("certificate", dns_name);
    if given != 1 {
        let text = format!("has {given} proofs, wanted exactly one");
        fields.field("identity").bad(value, text, help);
        return None;
    }
    header
        .or(body.map(|text| Identity::Body(text.to_owned())))
        .or(certificate.map(Identity::Certificate))
}

fn header(fields: &mut Fields<'_, '_>) -> Option<Identity> {
    let value = fields.value("header")?;
    let Some(table) = value.get_ref().as_table() else {
        let help = "write { name = \"…\", value = \"…\" }";
        fields.field("header").wrong_type(value, "a table", help);
        return None;
    };
    let (parent, sink) = fields.inner();
    let place = Path {
        parent: Some(parent),
        step: Step::Table("header"),
    };
    let mut fields = Fields::new(table, value.span(), place, &["name", "value"], sink);
    // RFC 9110, 5.6.2: a field name is a token.
    let token = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    // RFC 9110, 5.5: white space around a value is no part of it.
    let field_value =
        |text: &str| text.trim() == text && text.chars().all(|c| c == '\t' || !c.is_control());
    let name_rule = "a header field's name";
    let name = fields.required(
        "name",
        "name = \"server\"",
        text_where(MAX_REQUEST_TEXT, name_rule, token),
    );
    let value_rule = "one line, without space around it";
    let value = fields.required(
        "value",
        "value = \"web\"",
        text_where(MAX_REQUEST_TEXT, value_rule, field_value),
    );
    Some(Identity::Header {
        name: name?.to_owned(),
        value: value?.to_owned(),
    })
}
