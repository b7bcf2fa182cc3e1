//! Reads what a probe of each kind asks, out of `[service.health]`.

use serde_json::json;

use super::super::model::{
    CommandProbe, DnsProbe, DnsRecord, GrpcProbe, HttpProbe, Identity, Payload, ProbeKind,
    TlsProbe, UdpProbe,
};
use super::defaults;
use super::fields::{Field, Fields, Path, Step, Value};
use super::values::{choice, dns_name, hex_byte, integer, list, path, text_where};
use crate::config::wording::quoted;
use crate::probe;

pub(super) const MAX_REQUEST_TEXT: usize = 1024;
const MAX_STATUSES: usize = 64;
const MAX_BODY_TEXT: usize = 4096;
/// What fits into a frame with all headers.
const MAX_PAYLOAD: usize = 1024;
const MAX_ANSWERS: usize = 64;
const MAX_ARGUMENTS: usize = 64;

/// What `kind` can be.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Tcp,
    Http,
    Https,
    H2c,
    H2,
    Grpc,
    Grpcs,
    Udp,
    Dns,
    Command,
}

pub(super) const KINDS: &[(&str, Kind)] = &[
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("h2c", Kind::H2c),
    ("h2", Kind::H2),
    ("grpc", Kind::Grpc),
    ("grpcs", Kind::Grpcs),
    ("udp", Kind::Udp),
    ("dns", Kind::Dns),
    ("command", Kind::Command),
];

const HTTP: &[Kind] = &[Kind::Http, Kind::Https, Kind::H2c, Kind::H2];
const TLS: &[Kind] = &[Kind::Https, Kind::H2, Kind::Grpcs];
const UDP: &[Kind] = &[Kind::Udp];
const DNS: &[Kind] = &[Kind::Dns];
const COMMAND: &[Kind] = &[Kind::Command];
const ASKING: &[Kind] = &[
    Kind::Http,
    Kind::Https,
    Kind::H2c,
    Kind::H2,
    Kind::Grpc,
    Kind::Grpcs,
];

/// Which kinds read a key that not all of them do.
const READ_BY: &[(&str, &[Kind])] = &[
    ("path", HTTP),
    ("host", ASKING),
    ("expect_status", HTTP),
    ("identity", ASKING),
    ("compare", &[Kind::Http, Kind::Https]),
    ("server_name", TLS),
    ("ca_file", TLS),
    ("certificate_warning", TLS),
    ("grpc_service", &[Kind::Grpc, Kind::Grpcs]),
    ("send", UDP),
    ("send_hex", UDP),
    ("expect", UDP),
    ("expect_hex", UDP),
    ("query_name", DNS),
    ("query_type", DNS),
    ("expect_answer", DNS),
    ("command", COMMAND),
    ("command_user", COMMAND),
];

/// Reads the keys of all kinds, so that each fault in them is told, and
/// refuses those that this kind does not read.
pub(super) fn kind(fields: &mut Fields<'_, '_>, kind: Option<Kind>) -> Option<ProbeKind> {
    let http = http(fields);
    let tls = tls(fields, http.identity.as_ref());
    let service = fields.optional(
        "grpc_service",
        text_where(MAX_REQUEST_TEXT, "the name of a service", is_visible),
    );
    let grpc = GrpcProbe {
        service: service.unwrap_or_default().to_owned(),
        host: http.host.clone(),
        identity: http.identity.clone(),
    };
    let udp = udp(fields, kind);
    let dns = dns(fields, kind);
    let command = command(fields, kind);
    let identity = http.identity.as_ref();
    if let Some(kind) = kind {
        refuse_unfitting(fields, kind, identity);
    }
    Some(match kind? {
        Kind::Tcp => ProbeKind::Tcp,
        Kind::Http => ProbeKind::Http(http),
        Kind::Https => ProbeKind::Https(http, tls),
        Kind::H2c => ProbeKind::H2c(http),
        Kind::H2 => ProbeKind::H2(http, tls),
        Kind::Grpc => ProbeKind::Grpc(grpc),
        Kind::Grpcs => ProbeKind::Grpcs(grpc, tls),
        Kind::Udp => ProbeKind::Udp(udp?),
        Kind::Dns => ProbeKind::Dns(dns?),
        Kind::Command => ProbeKind::Command(command?),
    })
}

fn refuse_unfitting(fields: &mut Fields<'_, '_>, kind: Kind, identity: Option<&Identity>) {
    let word = |kind: Kind| {
        let mut all = KINDS.iter();
        all.find(|(_, one)| *one == kind)
            .map_or("", |(word, _)| word)
    };
    if kind == Kind::Command {
        let help = "remove it, or probe with another kind: a command goes its own ways";
        fields.refuse("via", "does nothing with kind command", help);
    }
    for (key, readers) in READ_BY {
        if readers.contains(&kind) {
            continue;
        }
        let words: Vec<&str> = readers.iter().map(|kind| word(*kind)).collect();
        let why = format!("does nothing with kind {}", word(kind));
        let help = format!("remove it, or probe with kind {}", words.join(" or "));
        fields.refuse(key, &why, &help);
    }
    let unfitting = match identity {
        Some(Identity::Certificate(_)) if !TLS.contains(&kind) && ASKING.contains(&kind) => {
            "asks for a certificate, which this kind has not"
        }
        Some(Identity::Body(_) | Identity::Pattern(_))
            if matches!(kind, Kind::Grpc | Kind::Grpcs) =>
        {
            "asks for a body, which a gRPC answer has not"
        }
        _ => return,
    };
    let why = format!("{unfitting} (kind {})", word(kind));
    let help = "ask for a header, or probe with kind https, h2 or grpcs for a certificate";
    fields.refuse("identity", &why, help);
}

fn udp(fields: &mut Fields<'_, '_>, kind: Option<Kind>) -> Option<UdpProbe> {
    let send = payload(fields, "send", "send_hex");
    let expect = payload(fields, "expect", "expect_hex");
    if kind == Some(Kind::Udp) && !fields.has("send") && !fields.has("send_hex") {
        let help = "add `send = \"…\"`, or `send_hex` for bytes: what the server answers to";
        fields.missing("send", help);
    }
    Some(UdpProbe {
        send: send?,
        expect,
    })
}

/// Bytes that one of two keys gives.
fn payload(fields: &mut Fields<'_, '_>, text: &'static str, hex: &'static str) -> Option<Payload> {
    let rule = "a text, with \\n and the like as TOML has them";
    let as_text = fields.optional(text, text_where(MAX_PAYLOAD, rule, |_| true));
    let as_hex = fields.optional(hex, hex_bytes);
    if fields.has(text) && fields.has(hex) {
        let why = format!("says the same as `{text}`");
        fields.refuse(hex, &why, "keep one of them");
    }
    as_text
        .map(|text| Payload::Text(text.to_owned()))
        .or(as_hex.map(Payload::Hex))
}

fn hex_bytes(field: &mut Field<'_>, value: &Value<'_>) -> Option<Vec<u8>> {
    let pairs = |text: &str| -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(text.len() / 2);
        for pair in text.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair)
                .ok()
                .filter(|pair| pair.len() == 2)?;
            bytes.push(hex_byte(pair)?);
        }
        Some(bytes)
    };
    let fits = |text: &str| pairs(text).is_some();
    let text = text_where(2 * MAX_PAYLOAD, "pairs of hex digits", fits)(field, value)?;
    pairs(text)
}

fn dns(fields: &mut Fields<'_, '_>, kind: Option<Kind>) -> Option<DnsProbe> {
    let name = fields.optional("query_name", |field, value| {
        // The root has an empty name.
        match value.get_ref().as_str() {
            Some(".") => Some(".".to_owned()),
            _ => dns_name(field, value),
        }
    });
    let record = fields.optional("query_type", choice(DnsRecord::ALL, &[]));
    let record = record.unwrap_or(DnsRecord::A);
    let answer = |field: &mut Field<'_>, value: &Value<'_>| answer(record, field, value);
    let expect = fields.optional("expect_answer", list(MAX_ANSWERS, answer));
    if kind == Some(Kind::Dns) && !fields.has("query_name") {
        let help = "add `query_name = \"www.example.com\"`: a name that the server knows";
        fields.missing("query_name", help);
    }
    Some(DnsProbe {
        name: name?,
        record,
        expect: expect.unwrap_or_default(),
    })
}

fn answer(record: DnsRecord, field: &mut Field<'_>, value: &Value<'_>) -> Option<String> {
    let (rule, fits): (_, fn(&str) -> bool) = match record {
        DnsRecord::A => ("an IPv4 address, as the type is A", |text| {
            text.parse::<std::net::Ipv4Addr>().is_ok()
        }),
        DnsRecord::Aaaa => ("an IPv6 address, as the type is AAAA", |text| {
            text.parse::<std::net::Ipv6Addr>().is_ok()
        }),
        _ => ("a record's data, as dig prints it", |_| true),
    };
    text_where(MAX_REQUEST_TEXT, rule, fits)(field, value).map(str::to_owned)
}

fn command(fields: &mut Fields<'_, '_>, kind: Option<Kind>) -> Option<CommandProbe> {
    let argument = |field: &mut Field<'_>, value: &Value<'_>| {
        // The kernel ends an argument at a zero.
        let rule = "an argument, without a zero byte";
        let fits = |text: &str| !text.contains('\0');
        text_where(MAX_BODY_TEXT, rule, fits)(field, value).map(str::to_owned)
    };
    let command = fields.optional("command", |field, value| {
        let command = list(MAX_ARGUMENTS, argument)(field, value)?;
        let program = command.first()?;
        if !program.starts_with('/') {
            let text = format!("begins with {}, no absolute path", quoted(program));
            field.bad(value, text, "write the program's whole path first");
            return None;
        }
        Some(command)
    });
    let rule = "a user's name";
    let is_user = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.$".contains(&byte))
    };
    let user = fields.optional("command_user", text_where(32, rule, is_user));
    if kind == Some(Kind::Command) && !fields.has("command") {
        let help = "add `command = [\"/usr/local/bin/check\", \"argument\"]`";
        fields.missing("command", help);
    }
    Some(CommandProbe {
        command: command?,
        user: user.unwrap_or(defaults::COMMAND_USER).to_owned(),
    })
}

/// What [`is_path`] takes, for messages.
pub(super) const PATH_RULE: &str = "a path that begins with `/`, without spaces";

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

pub(super) fn is_path(text: &str) -> bool {
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

fn identity(fields: &mut Fields<'_, '_>) -> Option<Identity> {
    const WAYS: &[&str] = &["header", "body", "pattern", "certificate"];
    let help = "write one of { header = { name = \"…\", value = \"…\" } }, { body = \"…\" }, { pattern = \"…\" }, { certificate = \"…\" }";
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
    let pattern = fields.optional("pattern", pattern);
    let certificate = fields.optional("certificate", dns_name);
    if given != 1 {
        let text = format!("has {given} proofs, wanted exactly one");
        fields.field("identity").bad(value, text, help);
        return None;
    }
    header
        .or(body.map(|text| Identity::Body(text.to_owned())))
        .or(pattern.map(Identity::Pattern))
        .or(certificate.map(Identity::Certificate))
}

fn pattern(field: &mut Field<'_>, value: &Value<'_>) -> Option<String> {
    let rule = "a regular expression";
    let pattern = text_where(MAX_REQUEST_TEXT, rule, |_| true)(field, value)?;
    if let Err(error) = probe::regex(pattern) {
        let text = format!("is {}: {error}", quoted(pattern));
        let help = "write one that Rust's regex crate takes: no look-around, no back references";
        field.bad(value, text, help);
        return None;
    }
    Some(pattern.to_owned())
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
