//! Writes `[service.health]`.

use super::super::model::{Flap, Health, HttpProbe, Identity, ProbeKind, TlsProbe};
use super::super::parse::defaults;
use super::{Text, duration, float, listed, plain, string, strings};

impl Text {
    pub(super) fn health(&mut self, health: &Health) {
        self.header("[service.health]");
        let (kind, http, tls) = match &health.kind {
            ProbeKind::Tcp => ("tcp", None, None),
            ProbeKind::Http(http) => ("http", Some(http), None),
            ProbeKind::Https(http, tls) => ("https", Some(http), Some(tls)),
        };
        self.key("kind", string(kind));
        self.optional("port", health.port, plain);
        if let Some(http) = http {
            self.http(http);
            if self.with_defaults || health.compare != defaults::compare() {
                self.key("compare", strings(&health.compare));
            }
        }
        if let (Some(tls), Some(http)) = (tls, http) {
            self.tls(tls, http.identity.as_ref());
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
        self.optional(
            "identity",
            http.identity.as_ref(),
            |identity| match identity {
                Identity::Header { name, value } => format!(
                    "{{ header = {{ name = {}, value = {} }} }}",
                    string(name),
                    string(value)
                ),
                Identity::Body(body) => format!("{{ body = {} }}", string(body)),
                Identity::Certificate(name) => format!("{{ certificate = {} }}", string(name)),
            },
        );
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
