//! What holds where the file says nothing.

use std::time::Duration;

use super::super::model::{Apply, Flap, Health, Keep, ProbeKind, Via};

/// `node.table_size`.
pub const TABLE_SIZE: u32 = 65_537;
/// `node.socket`.
pub const SOCKET: &str = "/run/balancer/balancer.sock";
/// `node.state_dir`.
pub const STATE_DIR: &str = "/var/lib/balancer";
/// `node.pin_dir`.
pub const PIN_DIR: &str = "/sys/fs/bpf/balancer";
/// `node.resync_interval`.
pub const RESYNC: Duration = Duration::from_secs(30);
/// `node.gue_port`.
pub const GUE_PORT: u16 = 6080;
/// `node.fullnat_ports`.
pub const FULLNAT_PORTS: (u16, u16) = (32_768, 60_999);
/// `node.nat_idle_timeout`.
pub const NAT_IDLE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// `node.nat_closed_timeout`.
pub const NAT_CLOSED_TIMEOUT: Duration = Duration::from_secs(30);
/// `node.handshake_sample`.
pub const HANDSHAKE_SAMPLE: f64 = 0.01;
/// `node.flow_table_size`.
pub const FLOW_TABLE_SIZE: u32 = 131_072;
/// A webhook's `timeout`.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// A service's `flow_idle_timeout`.
pub const FLOW_IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// `source_limit.prefix_length` of an IPv4 service.
pub const SOURCE_PREFIX_V4: u8 = 32;
/// The same of an IPv6 service: what one site commonly has (RFC 6177).
pub const SOURCE_PREFIX_V6: u8 = 64;
/// `quic.server_id_offset`: the first byte holds other bits.
pub const SERVER_ID_OFFSET: u8 = 1;
/// A service's `drain_timeout`.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);
/// A backend's `weight`.
pub const WEIGHT: u16 = 100;
/// A probe's `path`.
pub const HTTP_PATH: &str = "/";
/// A probe's `interval`.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// A probe's `jitter`.
pub const JITTER: f64 = 0.1;
/// A probe's `timeout`.
pub const TIMEOUT: Duration = Duration::from_millis(500);
/// A probe's `rise`.
pub const RISE: u32 = 2;
/// A probe's `fall`.
pub const FALL: u32 = 3;

/// A probe's `flap_…`.
pub const FLAP: Flap = Flap {
    limit: 3,
    window: Duration::from_secs(300),
    hold: Duration::from_secs(30),
    hold_max: Duration::from_secs(600),
};

/// A probe's `via`.
pub const VIA: Via = Via::Backend;

/// A probe's `compare`.
pub fn compare() -> Vec<String> {
    vec!["/".to_owned()]
}

/// A probe's `certificate_warning`.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);
/// The user that a probe's `command` runs as.
pub const COMMAND_USER: &str = "nobody";

/// `[service.health]` of which only the kind is said.
pub fn health(kind: ProbeKind) -> Health {
    Health {
        kind,
        via: VIA,
        port: None,
        interval: INTERVAL,
        jitter: JITTER,
        timeout: TIMEOUT,
        rise: RISE,
        fall: FALL,
        fast_interval: None,
        flap: FLAP,
        compare: compare(),
        certificate_warning: CERTIFICATE_WARNING,
    }
}

/// `[apply]`.
pub fn apply() -> Apply {
    Apply {
        stages: vec![1, 10, 50, 100],
        hold: Duration::from_secs(10),
        keep: Keep {
            revisions: 1000,
            age: Duration::from_secs(365 * 24 * 3600),
        },
    }
}
