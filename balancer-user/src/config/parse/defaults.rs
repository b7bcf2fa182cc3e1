//! What holds where the file says nothing.

use std::time::Duration;

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
