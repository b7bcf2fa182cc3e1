//! What the tests of this module share: a faultless file and a way to spoil
//! it in one place.

use super::diagnostic::Finding;
use super::{Examined, examine};

/// A file without a finding, in which every key stands once.
pub(crate) const SAMPLE: &str = r#"[node]
interfaces = ["eth0", "eth1"]
xdp_mode = "native"
seed = "000102030405060708090a0b0c0d0e0f"
listen = "10.0.0.1:9180"
page = false
peers = ["10.0.0.2:9180", "[2001:db8::2]:9180"]
table_size = 65537
tunnel_source_v4 = "198.51.100.1"
tunnel_source_v6 = "2001:db8::1"
socket = "/run/balancer/b.sock"
read_group = "lb-readers"
change_group = "lb-operators"
state_dir = "/var/lib/b"
pin_dir = "/sys/fs/bpf/b"
answer_echo = false
keep_forwarding = true
resync_interval = "10s"
repair_drift = false

[[node.webhook]]
name = "on-call"
url = "http://10.0.0.9:9093"
kind = "alertmanager"

[[node.webhook]]
name = "chat"
url = "https://chat.example/hooks/1"
kind = "json"
timeout = "1500ms"
ca_file = "/etc/chat.pem"

[apply]
stages = [5, 100]
hold = "3s"
keep_revisions = 20
keep_for = "90days"

[[service]]
name = "web"
address = "192.0.2.10"
port = 443
protocol = "tcp"
forward = "ipip"
allowed_backends = ["10.0.0.0/24"]
fail_open_below = 0.3
drain_timeout = "1m"
peak_flows_per_second = 20000
allow = ["churn"]
allow_reason = "moved on purpose"

[service.health]
kind = "https"
port = 8443
path = "/healthz"
host = "web.example"
expect_status = [200]
identity = { certificate = "web.example" }
server_name = "www.web.example"
ca_file = "/etc/ca.pem"
interval = "2s"
jitter = 0.2
timeout = "250ms"
rise = 3
fall = 4
compare = ["/", "/cart?full=1"]

[[service.backend]]
name = "web-1"
address = "10.0.0.11"
port = 443
weight = 90
zone = "a"
capacity_flows_per_second = 30000
mac = "02:00:00:00:00:01"
drain = false

[[service.backend]]
address = "10.0.0.12"
zone = "b"
capacity_flows_per_second = 30000

[[service.backend]]
address = "10.0.0.13"
zone = "c"
capacity_flows_per_second = 30000

[[service]]
name = "dns"
address = "2001:db8::53"
port = [53, "8053-8060"]
protocol = "udp"
forward = "l2"
fail_open_below = 0

[service.health]
kind = "tcp"

[[service.backend]]
name = "dns-1"
address = "2001:db8:1::1"

[[service.backend]]
name = "dns-2"
address = "2001:db8:1::2"
"#;

/// A file without a finding, in which every key stands once that [`SAMPLE`]
/// has not.
pub(super) const PATH_SAMPLE: &str = r#"based_on = 41

[node]
interfaces = ["eth0"]
tunnel_source_v4 = "172.16.0.0/16"
tunnel_source_v6 = "2001:db8:ffff::/64"
gue_port = 6081
fullnat_sources_v4 = ["10.1.0.5", "10.1.0.6"]
fullnat_sources_v6 = ["2001:db8:2::5"]
fullnat_ports = "10000-30000"
nat_idle_timeout = "10m"
nat_closed_timeout = "20s"
handshake_sample = 0.02
flow_table_size = 262144

[[service]]
name = "web"
address = "192.0.2.10"
port = 9443
protocol = "tcp"
forward = "nat"
fail_open_below = 0
affinity = "source"
mss_clamp = 1400
allow_sources = ["0.0.0.0/0", "203.0.113.128/25"]
deny_sources = ["203.0.113.0/24"]

[service.source_limit]
flows_per_second = 100
burst = 300
prefix_length = 24

[service.health]
kind = "tcp"
port = 8443

[[service.backend]]
name = "web-1"
address = "10.0.0.11"
port = 8443

[[service.backend]]
name = "web-2"
address = "10.0.0.11"
port = 8444

[[service]]
name = "mail"
address = "2001:db8::25"
port = [25, 587]
protocol = "tcp"
forward = "fullnat"
fail_open_below = 0
backup_below = 0.6
slow_start = "45s"
unfinished_handshakes = "trickle"

[service.health]
kind = "tcp"
fast_interval = "350ms"
flap_limit = 2
flap_window = "4m"
flap_hold = "15s"
flap_hold_max = "55s"

[[service.backend]]
name = "mail-1"
address = "2001:db8:1::25"

[[service.backend]]
name = "mail-2"
address = "2001:db8:1::26"

[[service.backend]]
name = "mail-3"
address = "2001:db8:1::37"
pool = "backup"

[[service]]
name = "quic"
address = "192.0.2.20"
port = 4433
protocol = "udp"
forward = "gue"
fail_open_below = 0
peak_flows_per_second = 2184
affinity = "flow"
flow_idle_timeout = "2m"

[service.source_limit]
flows_per_second = 7

[service.quic]
server_id_offset = 2
server_id_length = 3

[service.health]
kind = "tcp"

[[service.backend]]
name = "quic-1"
address = "10.0.2.1"
server_id = "0a1b2c"

[[service.backend]]
name = "quic-2"
address = "2001:db8:3::1"
server_id = "0a1b2d"
"#;

/// [`SAMPLE`] with one text replaced; the text must be there exactly once.
pub(super) fn spoiled(from: &str, to: &str) -> String {
    spoiled_in(SAMPLE, from, to)
}

/// The same for another sample.
pub(super) fn spoiled_in(sample: &str, from: &str, to: &str) -> String {
    assert_eq!(sample.matches(from).count(), 1, "{from:?} in the sample");
    sample.replacen(from, to, 1)
}

/// Examines a text without tables.
pub(crate) fn examined(text: &str) -> Examined {
    examine("sample.toml", text, None)
}

/// Takes the mark `§` out of a text and says on which line and column,
/// both from 1, it was.
pub(super) fn unmarked(text: &str) -> (String, Option<(usize, usize)>) {
    let place = text.find('§').map(|offset| {
        let before = &text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    });
    (text.replacen('§', "", 1), place)
}

/// Asserts that a text has exactly one finding, of that rule and level, at
/// its mark `§`, or without a place if there is no mark.
pub(super) fn assert_finds(marked: &str, rule: &str, level: &str) -> Finding {
    let (text, place) = unmarked(marked);
    let examined = examined(&text);
    let findings = examined.report.findings();
    let found: Vec<_> = findings
        .iter()
        .map(|finding| (finding.rule, finding.level.name()))
        .collect();
    let shown = examined.report.render(false);
    assert_eq!(found, [(rule, level)], "{marked}\n{shown}");
    assert_eq!(
        examined.report.position(&findings[0]),
        place,
        "{marked}\n{shown}"
    );
    let finding = findings[0].clone();
    let message = &finding.message;
    assert!(!message.ends_with('.'), "{message}");
    assert!(finding.help.is_some(), "no way out: {message}");
    finding
}

/// Asserts that a text has no finding.
pub(super) fn assert_clean(text: &str) {
    let examined = examined(text);
    let shown = examined.report.render(false);
    assert!(examined.report.findings().is_empty(), "{text}\n{shown}");
    assert!(examined.config.is_some());
}
