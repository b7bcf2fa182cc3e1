//! Writes `[service.health]`.

use super::super::model::{
    DnsProbe, Flap, Health, HttpProbe, Identity, Payload, ProbeKind, TlsProbe, UdpProbe, Via,
};
use super::super::parse::defaults;
use super::{Text, duration, float, listed, plain, string, strings};

impl Text {
    pub(super) fn health(&mut self, health: &Health) {
        self.header("[service.health]");
        let kind = &health.kind;
        self.key("kind", string(kind.name()));
        if !matches!(kind, ProbeKind::Command(_)) {
            let word = |via: Via| string(via.to_string());
            self.key_unless("via", health.via, defaults::VIA, word);
        }
        self.optional("port", health.port, plain);
        if let Some(http) = kind.http() {
            self.http(http);
        }
        let is_compared = matches!(kind, ProbeKind::Http(_) | ProbeKind::Https(..));
        if is_compared && (self.with_defaults || health.compare != defaults::compare()) {
            self.key("compare", strings(&health.compare));
        }
        match kind {
            ProbeKind::Udp(udp) => self.udp(udp),
            ProbeKind::Dns(dns) => self.dns(dns),
            ProbeKind::Command(command) => {
                self.key("command", strings(&command.command));
                let user = command.user.as_str();
                self.key_unless("command_user", user, defaults::COMMAND_USER, string);
            }
            _ => {}
        }
        if let Some(grpc) = kind.grpc() {
            if !grpc.service.is_empty() {
                self.key("grpc_service", string(&grpc.service));
            }
            self.optional("host", grpc.host.as_ref(), string);
            self.optional("identity", grpc.identity.as_ref(), identity);
        }
        if let Some(tls) = kind.tls() {
            self.tls(tls, kind.identity());
            let warning = health.certificate_warning;
            let unset = defaults::CERTIFICATE_WARNING;
            self.key_unless("certificate_warning", warning, unset, duration);
        }
        self.key_unless("interval", health.interval, defaults::INTERVAL, duration);
        self.key_unless("jitter", health.jitter, defaults::JITTER, float);
        self.key_unless("timeout", health.timeout, defaults::TIMEOUT, duration);
        self.key_unless("rise", health.rise, defaults::RISE, plain);
        self.key_unless("fall", health.fall, defaults::FALL, plain);
        self.optional("fast_interval", health.fast_interval, duration);
        self.flap(&health.flap);
    }

    fn http(&mut self, http: &HttpProbe) {
        let path = http.path.as_str();
        self.key_unless("path", path, defaults::HTTP_PATH, string);
        self.optional("host", http.host.as_ref(), string);
        if !http.expect_status.is_empty() {
            self.key("expect_status", listed(&http.expect_status, plain));
        }
        self.optional("identity", http.identity.as_ref(), identity);
    }

    fn udp(&mut self, udp: &UdpProbe) {
        self.payload(&udp.send, "send", "send_hex");
        if let Some(expect) = &udp.expect {
            self.payload(expect, "expect", "expect_hex");
        }
    }

    fn payload(&mut self, payload: &Payload, text: &str, hex: &str) {
        match payload {
            Payload::Text(it) => self.key(text, string(it)),
            Payload::Hex(bytes) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                self.key(hex, string(digits));
            }
        }
    }

    fn dns(&mut self, dns: &DnsProbe) {
        self.key("query_name", string(&dns.name));
        self.key("query_type", string(dns.record.name()));
        if !dns.expect.is_empty() {
            self.key("expect_answer", strings(&dns.expect));
        }
    }

    fn tls(&mut self, tls: &TlsProbe, identity: Option<&Identity>) {
        let default = match identity {
            Some(Identity::Certificate(name)) => Some(name),
            _ => None,
        };
        if tls.server_name.as_ref() != default {
            self.optional("server_name", tls.server_name.as_ref(), string);
        }
        self.optional("ca_file", tls.ca_file.as_ref(), |path| {
            string(path.display())
        });
    }

    fn flap(&mut self, flap: &Flap) {
        let unset = defaults::FLAP;
        self.key_unless("flap_limit", flap.limit, unset.limit, plain);
        self.key_unless("flap_window", flap.window, unset.window, duration);
        self.key_unless("flap_hold", flap.hold, unset.hold, duration);
        self.key_unless("flap_hold_max", flap.hold_max, unset.hold_max, duration);
    }
}

fn identity(identity: &Identity) -> String {
    match identity {
        Identity::Header { name, value } => format!(
            "{{ header = {{ name = {}, value = {} }} }}",
            string(name),
            string(value)
        ),
        Identity::Body(body) => format!("{{ body = {} }}", string(body)),
        Identity::Pattern(pattern) => format!("{{ pattern = {} }}", string(pattern)),
        Identity::Certificate(name) => format!("{{ certificate = {} }}", string(name)),
    }
}
