//! Writes a configuration as a file that reads back as the same.
//!
//! Defaults are left out, so that the text says what a person chose and
//! differences between two revisions stay small.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::model::{
    Affinity, Apply, Backend, Config, Node, Pool, Ports, Service, Unfinished, Webhook, XdpMode,
};
use super::parse::defaults;

mod health;
pub mod settings;

/// The configuration as TOML.
pub fn render(config: &Config) -> String {
    let mut text = Text::default();
    text.optional("based_on", config.based_on, plain);
    text.node(&config.node);
    text.apply(&config.apply);
    for service in &config.services {
        text.service(service);
    }
    text.written
}

/// One service as TOML, without what is each host's own: the Ethernet
/// addresses of its backends.
pub fn render_for_group(service: &Service) -> String {
    let mut text = Text::default();
    text.service_alone(service);
    for backend in &service.backends {
        text.backend(&Backend {
            mac: None,
            ..backend.clone()
        });
    }
    text.written
}

#[derive(Default)]
struct Text {
    written: String,
    /// Whether values are written that are as they are by default.
    with_defaults: bool,
}

impl Text {
    fn header(&mut self, header: &str) {
        if !self.written.is_empty() {
            self.written.push('\n');
        }
        self.written.push_str(header);
        self.written.push('\n');
    }

    fn key(&mut self, key: &str, value: impl Display) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.written, "{key} = {value}");
    }

    fn key_unless<T: PartialEq>(&mut self, key: &str, value: T, default: T, show: fn(T) -> String) {
        if self.with_defaults || value != default {
            self.key(key, show(value));
        }
    }

    fn optional<T>(&mut self, key: &str, value: Option<T>, show: impl FnOnce(T) -> String) {
        if let Some(value) = value {
            self.key(key, show(value));
        }
    }

    fn node(&mut self, node: &Node) {
        self.header("[node]");
        self.key("interfaces", strings(&node.interfaces));
        let mode = match node.xdp_mode {
            XdpMode::Auto => None,
            XdpMode::Native => Some("native"),
            XdpMode::Generic => Some("generic"),
        };
        self.optional("xdp_mode", mode, string);
        self.optional("seed", node.seed, |seed| {
            string(seed.0.map(|byte| format!("{byte:02x}")).concat())
        });
        let size = node.table_size;
        self.key_unless("table_size", size, defaults::TABLE_SIZE, plain);
        self.optional("tunnel_source_v4", node.tunnel_source_v4, string);
        self.optional("tunnel_source_v6", node.tunnel_source_v6, string);
        self.key_unless("gue_port", node.gue_port, defaults::GUE_PORT, plain);
        self.translation(node);
        let sample = node.handshake_sample;
        self.key_unless(
            "handshake_sample",
            sample,
            defaults::HANDSHAKE_SAMPLE,
            float,
        );
        let size = node.flow_table_size;
        self.key_unless("flow_table_size", size, defaults::FLOW_TABLE_SIZE, plain);
        self.optional("listen", node.listen, string);
        self.key_unless("page", node.page, true, plain);
        if !node.peers.is_empty() {
            self.key("peers", strings(&node.peers));
        }
        self.path("socket", &node.socket, defaults::SOCKET);
        self.optional("read_group", node.read_group.as_ref(), string);
        self.optional("change_group", node.change_group.as_ref(), string);
        self.path("state_dir", &node.state_dir, defaults::STATE_DIR);
        self.path("pin_dir", &node.pin_dir, defaults::PIN_DIR);
        self.key_unless("answer_echo", node.answer_echo, true, plain);
        self.key_unless("keep_forwarding", node.keep_forwarding, false, plain);
        self.key_unless(
            "resync_interval",
            node.resync_interval,
            defaults::RESYNC,
            duration,
        );
        self.key_unless("repair_drift", node.repair_drift, true, plain);
        for webhook in &node.webhooks {
            self.webhook(webhook);
        }
    }

    fn webhook(&mut self, webhook: &Webhook) {
        self.header("[[node.webhook]]");
        self.key("name", string(&webhook.name));
        self.key("url", string(&webhook.url));
        self.key("kind", string(webhook.kind.name()));
        let timeout = webhook.timeout;
        self.key_unless("timeout", timeout, defaults::WEBHOOK_TIMEOUT, duration);
        self.optional("ca_file", webhook.ca_file.as_ref(), |path| {
            string(path.display())
        });
    }

    /// What `nat` and `fullnat` read.
    fn translation(&mut self, node: &Node) {
        if !node.fullnat_sources_v4.is_empty() {
            self.key("fullnat_sources_v4", strings(&node.fullnat_sources_v4));
        }
        if !node.fullnat_sources_v6.is_empty() {
            self.key("fullnat_sources_v6", strings(&node.fullnat_sources_v6));
        }
        let range = node.fullnat_ports;
        self.key_unless("fullnat_ports", range, defaults::FULLNAT_PORTS, |range| {
            string(format_args!("{}-{}", range.0, range.1))
        });
        let (idle, closed) = (node.nat_idle_timeout, node.nat_closed_timeout);
        self.key_unless(
            "nat_idle_timeout",
            idle,
            defaults::NAT_IDLE_TIMEOUT,
            duration,
        );
        let default = defaults::NAT_CLOSED_TIMEOUT;
        self.key_unless("nat_closed_timeout", closed, default, duration);
    }

    fn path(&mut self, key: &str, value: &Path, default: &str) {
        if self.with_defaults || value != Path::new(default) {
            self.key(key, string(value.display()));
        }
    }

    fn apply(&mut self, apply: &Apply) {
        let unset = defaults::apply();
        if !self.with_defaults && *apply == unset {
            return;
        }
        self.header("[apply]");
        if self.with_defaults || apply.stages != unset.stages {
            self.key("stages", listed(&apply.stages, ToString::to_string));
        }
        self.key_unless("hold", apply.hold, unset.hold, duration);
        let (keep, unset) = (apply.keep, unset.keep);
        self.key_unless("keep_revisions", keep.revisions, unset.revisions, plain);
        self.key_unless("keep_for", keep.age, unset.age, duration);
    }

    fn service(&mut self, service: &Service) {
        self.service_alone(service);
        for backend in &service.backends {
            self.backend(backend);
        }
    }

    /// All but its backends.
    fn service_alone(&mut self, service: &Service) {
        self.header("[[service]]");
        self.key("name", string(&service.name));
        self.key("address", string(service.address));
        self.key("port", ports(&service.ports));
        self.key("protocol", string(service.protocol));
        self.key("forward", string(service.forward));
        if !service.allowed_backends.is_empty() {
            self.key("allowed_backends", strings(&service.allowed_backends));
        }
        self.optional("fail_open_below", service.fail_open_below, float);
        self.key_unless("backup_below", service.backup_below, 0.0, float);
        self.key_unless("slow_start", service.slow_start, Duration::ZERO, duration);
        let unfinished = service.unfinished_handshakes;
        self.key_unless(
            "unfinished_handshakes",
            unfinished,
            Unfinished::Named,
            string,
        );
        self.key_unless(
            "drain_timeout",
            service.drain_timeout,
            defaults::DRAIN_TIMEOUT,
            duration,
        );
        let peak = service.peak_flows_per_second;
        self.optional("peak_flows_per_second", peak, plain);
        self.packet_path(service);
        if !service.allow.is_empty() {
            self.key("allow", strings(&service.allow));
        }
        self.optional("allow_reason", service.allow_reason.as_ref(), string);
        self.tables(service);
        if let Some(health) = &service.health {
            self.health(health);
        }
    }

    fn packet_path(&mut self, service: &Service) {
        if service.affinity != Affinity::Hash {
            self.key("affinity", string(service.affinity));
        }
        if let Affinity::Flow { idle_timeout } = service.affinity {
            let default = defaults::FLOW_IDLE_TIMEOUT;
            self.key_unless("flow_idle_timeout", idle_timeout, default, duration);
        }
        self.optional("mss_clamp", service.mss_clamp, plain);
        if !service.allow_sources.is_empty() {
            self.key("allow_sources", strings(&service.allow_sources));
        }
        if !service.deny_sources.is_empty() {
            self.key("deny_sources", strings(&service.deny_sources));
        }
    }

    fn tables(&mut self, service: &Service) {
        if let Some(limit) = &service.source_limit {
            self.header("[service.source_limit]");
            let rate = limit.flows_per_second;
            self.key("flows_per_second", rate);
            self.key_unless("burst", limit.burst, rate, plain);
            let default = match service.address {
                IpAddr::V4(_) => defaults::SOURCE_PREFIX_V4,
                IpAddr::V6(_) => defaults::SOURCE_PREFIX_V6,
            };
            self.key_unless("prefix_length", limit.prefix_length, default, plain);
        }
        if let Some(quic) = &service.quic {
            self.header("[service.quic]");
            let offset = quic.server_id_offset;
            let default = defaults::SERVER_ID_OFFSET;
            self.key_unless("server_id_offset", offset, default, plain);
            self.key("server_id_length", quic.server_id_length);
        }
    }

    fn backend(&mut self, backend: &Backend) {
        self.header("[[service.backend]]");
        if backend.name != backend.address.to_string() {
            self.key("name", string(&backend.name));
        }
        self.key("address", string(backend.address));
        self.optional("port", backend.port, plain);
        self.key_unless("weight", backend.weight, defaults::WEIGHT, plain);
        self.optional("zone", backend.zone.as_ref(), string);
        let capacity = backend.capacity_flows_per_second;
        self.optional("capacity_flows_per_second", capacity, plain);
        self.optional("mac", backend.mac, string);
        self.optional("server_id", backend.server_id, string);
        self.key_unless("pool", backend.pool, Pool::Primary, string);
        self.key_unless("drain", backend.drain, false, plain);
    }
}

fn plain(value: impl Display) -> String {
    value.to_string()
}

/// A float that TOML does not take for an integer.
fn float(value: f64) -> String {
    format!("{value:?}")
}

fn duration(value: Duration) -> String {
    string(humantime::format_duration(value))
}

/// A basic string (TOML 1.0, "String").
fn string(value: impl Display) -> String {
    let value = value.to_string();
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            // TOML allows the C1 controls bare, but a terminal obeys them.
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

fn strings<T: Display>(values: &[T]) -> String {
    listed(values, string)
}

fn listed<'a, T>(values: &'a [T], show: impl Fn(&'a T) -> String) -> String {
    let values: Vec<String> = values.iter().map(show).collect();
    format!("[{}]", values.join(", "))
}

fn ports(ports: &Ports) -> String {
    let range = |(first, last): &(u16, u16)| {
        if first == last {
            first.to_string()
        } else {
            format!("\"{first}-{last}\"")
        }
    };
    match ports {
        Ports::Any => string("any"),
        Ports::Ranges(ranges) => match ranges.as_slice() {
            [one] => range(one),
            several => listed(several, range),
        },
    }
}

#[cfg(test)]
mod tests;
