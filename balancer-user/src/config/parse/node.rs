//! Reads `[node]`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use toml::de::{DeTable, DeValue};

use super::super::check::rules;
use super::super::model::{Node, Seed, XdpMode};
use super::super::prime::{MAX_TABLE_SIZE, is_prime, table_size_from};
use super::super::spans::TableSpans;
use super::addresses::{host_address_v4, host_address_v6};
use super::defaults;
use super::endpoints::group;
use super::fields::{Field, Fields, Names, Path, Step, Value};
use super::ports::{port, source_range};
use super::sink::Sink;
use super::sources::{addresses, tunnel_source_v4, tunnel_source_v6};
use super::values::{
    boolean, choice, duration, hex_byte, integer, list, name, path, share, text, text_where, whole,
};
use super::webhook::webhooks;

const KEYS: &[&str] = &[
    "interfaces",
    "xdp_mode",
    "seed",
    "table_size",
    "tunnel_source_v4",
    "tunnel_source_v6",
    "gue_port",
    "fullnat_sources_v4",
    "fullnat_sources_v6",
    "fullnat_ports",
    "nat_idle_timeout",
    "nat_closed_timeout",
    "handshake_sample",
    "flow_table_size",
    "listen",
    "page",
    "peers",
    "socket",
    "read_group",
    "change_group",
    "state_dir",
    "pin_dir",
    "answer_echo",
    "keep_forwarding",
    "resync_interval",
    "repair_drift",
    "webhook",
];

const MAX_INTERFACES: usize = 64;
/// Records in the flow table; allocated when the program is loaded.
const FLOW_TABLE_SIZES: RangeInclusive<u32> = 1024..=16_777_216;
/// `IFNAMSIZ` without its final zero byte.
const MAX_INTERFACE_LEN: usize = 15;
/// `sun_path` without its final zero byte (unix(7)).
const MAX_SOCKET_LEN: usize = 107;
/// `PATH_MAX` without its final zero byte.
const MAX_PATH_LEN: usize = 4095;

pub(super) fn node(
    table: &DeTable<'_>,
    header: Range<usize>,
    root: &Path<'_>,
    sink: &mut Sink,
) -> (Option<Node>, TableSpans) {
    let place = Path {
        parent: Some(root),
        step: Step::Table("node"),
    };
    let mut fields = Fields::new(table, header, place, KEYS, sink);
    let interfaces = interfaces(&mut fields);
    const XDP_MODES: &[(&str, XdpMode)] = &[
        ("auto", XdpMode::Auto),
        ("native", XdpMode::Native),
        ("generic", XdpMode::Generic),
    ];
    let xdp_mode = fields.optional("xdp_mode", choice(XDP_MODES, &[]));
    let seed = fields.optional("seed", seed);
    let table_size = fields.optional("table_size", table_size);
    let translation = translation(&mut fields);
    let tunnel_source_v4 = fields.optional("tunnel_source_v4", tunnel_source_v4);
    let tunnel_source_v6 = fields.optional("tunnel_source_v6", tunnel_source_v6);
    let gue_port = fields.optional("gue_port", port);
    let handshake_sample = fields.optional("handshake_sample", share(1.0));
    let flow_table_size = fields.optional("flow_table_size", integer(FLOW_TABLE_SIZES));
    let group = group(&mut fields);
    let page = fields.optional("page", boolean);
    let socket = fields.optional("socket", path(MAX_SOCKET_LEN));
    let read_group = fields.optional("read_group", name);
    let change_group = fields.optional("change_group", name);
    let state_dir = fields.optional("state_dir", path(MAX_PATH_LEN));
    let pin_dir = fields.optional("pin_dir", path(MAX_PATH_LEN));
    let answer_echo = fields.optional("answer_echo", boolean);
    let keep_forwarding = fields.optional("keep_forwarding", boolean);
    let limits = Duration::from_secs(1)..=Duration::from_secs(3600);
    let resync_interval = fields.optional("resync_interval", duration(limits));
    let repair_drift = fields.optional("repair_drift", boolean);
    let webhooks = webhooks(&mut fields);
    let node = interfaces.map(|interfaces| Node {
        interfaces,
        xdp_mode: xdp_mode.unwrap_or(XdpMode::Auto),
        seed,
        table_size: table_size.unwrap_or(defaults::TABLE_SIZE),
        tunnel_source_v4,
        tunnel_source_v6,
        gue_port: gue_port.unwrap_or(defaults::GUE_PORT),
        fullnat_sources_v4: translation.sources_v4,
        fullnat_sources_v6: translation.sources_v6,
        fullnat_ports: translation.ports,
        nat_idle_timeout: translation.idle_timeout,
        nat_closed_timeout: translation.closed_timeout,
        handshake_sample: handshake_sample.unwrap_or(defaults::HANDSHAKE_SAMPLE),
        flow_table_size: flow_table_size.unwrap_or(defaults::FLOW_TABLE_SIZE),
        listen: group.listen,
        page: page.unwrap_or(true),
        peers: group.peers,
        socket: socket.unwrap_or_else(|| PathBuf::from(defaults::SOCKET)),
        read_group: read_group.map(str::to_owned),
        change_group: change_group.map(str::to_owned),
        state_dir: state_dir.unwrap_or_else(|| PathBuf::from(defaults::STATE_DIR)),
        pin_dir: pin_dir.unwrap_or_else(|| PathBuf::from(defaults::PIN_DIR)),
        answer_echo: answer_echo.unwrap_or(true),
        keep_forwarding: keep_forwarding.unwrap_or(false),
        resync_interval: resync_interval.unwrap_or(defaults::RESYNC),
        repair_drift: repair_drift.unwrap_or(true),
        webhooks,
    });
    (node, fields.into_spans())
}

/// What `nat` and `fullnat` read.
struct Translation {
    sources_v4: Vec<Ipv4Addr>,
    sources_v6: Vec<Ipv6Addr>,
    ports: (u16, u16),
    idle_timeout: Duration,
    closed_timeout: Duration,
}

fn translation(fields: &mut Fields<'_, '_>) -> Translation {
    let seconds = Duration::from_secs;
    let idle = duration(seconds(10)..=seconds(24 * 3600));
    let closed = duration(seconds(1)..=seconds(600));
    let sources_v4 = fields.optional("fullnat_sources_v4", addresses(host_address_v4));
    let sources_v6 = fields.optional("fullnat_sources_v6", addresses(host_address_v6));
    let ports = fields.optional("fullnat_ports", source_range);
    let idle_timeout = fields.optional("nat_idle_timeout", idle);
    let closed_timeout = fields.optional("nat_closed_timeout", closed);
    Translation {
        sources_v4: sources_v4.unwrap_or_default(),
        sources_v6: sources_v6.unwrap_or_default(),
        ports: ports.unwrap_or(defaults::FULLNAT_PORTS),
        idle_timeout: idle_timeout.unwrap_or(defaults::NAT_IDLE_TIMEOUT),
        closed_timeout: closed_timeout.unwrap_or(defaults::NAT_CLOSED_TIMEOUT),
    }
}

fn interfaces(fields: &mut Fields<'_, '_>) -> Option<Vec<String>> {
    let rule = "an interface's name, without space, `/` or `:`";
    // As the kernel has it (dev_valid_name).
    let fits = |name: &str| {
        name != "."
            && name != ".."
            && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "/:".contains(c))
    };
    let mut found = Vec::new();
    let all_good = fields.required(
        "interfaces",
        "interfaces = [\"eth0\"]",
        list(MAX_INTERFACES, |field, value| {
            let name = text_where(MAX_INTERFACE_LEN, rule, fits)(field, value)?;
            found.push((name, value.span()));
            Some(())
        }),
    );
    let (path, sink) = fields.inner();
    let mut names = Names::default();
    for (name, span) in &found {
        let kind = ("interface", "");
        names.claim(kind, name, span.clone(), path, sink);
    }
    all_good?;
    Some(found.into_iter().map(|(name, _)| name.to_owned()).collect())
}

/// Sixteen bytes in hex. The messages never show them: the seed is a secret.
fn seed(field: &mut Field<'_>, value: &Value<'_>) -> Option<Seed> {
    let help = "make one with `openssl rand -hex 16`, the same on every balancer of a group";
    field.takes(|| json!({ "type": "string", "pattern": "^[0-9a-fA-F]{32}$" }));
    let written = text(field, value)?;
    let count = written.chars().count();
    if count != 32 {
        field.bad(
            value,
            format!("has {count} characters, wanted 32 hex digits"),
            help,
        );
        return None;
    }
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = written.get(index * 2..index * 2 + 2);
        let Some(found) = digits.and_then(hex_byte) else {
            field.bad(value, "has characters other than hex digits", help);
            return None;
        };
        *byte = found;
    }
    Some(Seed(bytes))
}

fn table_size(field: &mut Field<'_>, value: &Value<'_>) -> Option<u32> {
    field.takes(|| whole(2, MAX_TABLE_SIZE.into()));
    let DeValue::Integer(digits) = value.get_ref() else {
        field.wrong_type(value, "an integer", "write a prime, such as 65537");
        return None;
    };
    let found = u32::from_str_radix(digits.as_str(), digits.radix())
        .ok()
        .filter(|size| *size <= MAX_TABLE_SIZE);
    match found {
        Some(size) if is_prime(size) => Some(size),
        Some(size) => {
            let text = format!("table_size {size} is not prime");
            let help = format!("try {}", table_size_from(size));
            field.report(&rules::TABLE_SIZE, value.span(), text, help);
            None
        }
        None => {
            let text = format!("table_size is {digits}, limit 2 to {MAX_TABLE_SIZE}");
            let help = "65537 suits up to 655 backends a service";
            field.report(&rules::TABLE_SIZE, value.span(), text, help);
            None
        }
    }
}
