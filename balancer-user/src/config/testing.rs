//! What the tests of this module share: a faultless file and a way to spoil
//! it in one place.

use super::diagnostic::Finding;
use super::{Examined, examine};

/// A file without a finding, in which every key stands once.
pub(super) const SAMPLE: &str = r#"[node]
interfaces = ["eth0", "eth1"]
xdp_mode = "native"
seed = "000102030405060708090a0b0c0d0e0f"
table_size = 65537
tunnel_source_v4 = "198.51.100.1"
tunnel_source_v6 = "2001:db8::1"
socket = "/run/balancer/b.sock"
state_dir = "/var/lib/b"
pin_dir = "/sys/fs/bpf/b"
answer_echo = false
keep_forwarding = true
resync_interval = "10s"

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

/// [`SAMPLE`] with one text replaced; the text must be there exactly once.
pub(super) fn spoiled(from: &str, to: &str) -> String {
    assert_eq!(SAMPLE.matches(from).count(), 1, "{from:?} in the sample");
    SAMPLE.replacen(from, to, 1)
}

/// Examines a text without tables.
pub(super) fn examined(text: &str) -> Examined {
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
