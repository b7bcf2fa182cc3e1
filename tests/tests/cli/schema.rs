//! `balancer check --schema`: it takes what `check` takes, and no slip of an
//! editor's user that a schema can see.

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{FILE, Scratch, balancer, run};

/// A file in which every key that fits stands, twice the service for those
/// that do not fit together.
const FULL: &str = r#"
based_on = 7

[node]
interfaces = ["eth0", "eth1"]
xdp_mode = "native"
seed = "000102030405060708090a0b0c0d0e0f"
table_size = 65537
tunnel_source_v4 = "172.16.0.0/16"
tunnel_source_v6 = "2001:db8::1"
gue_port = 6081
fullnat_sources_v4 = ["10.0.0.250"]
fullnat_sources_v6 = ["2001:db8::250"]
fullnat_ports = "32768-60999"
nat_idle_timeout = "15m"
nat_closed_timeout = "30s"
handshake_sample = 0
flow_table_size = 1024
page = false
socket = "/run/b.sock"
read_group = "readers"
change_group = "operators"
state_dir = "/var/lib/b"
pin_dir = "/sys/fs/bpf/b"
answer_echo = false
keep_forwarding = true
resync_interval = "1h"

[[node.webhook]]
name = "on-call"
url = "http://10.0.0.9:9093"
kind = "alertmanager"
timeout = "2s"
ca_file = "/etc/ca.pem"

[[service]]
name = "web"
address = "192.0.2.10"
port = [443, "8000-8010"]
protocol = "tcp"
forward = "ipip"
allowed_backends = ["10.0.0.0/24", "2001:db8::/64"]
fail_open_below = 0.3
drain_timeout = "1h 30m"
peak_flows_per_second = 1_000_000_000_000
affinity = "source"
mss_clamp = 1400
allow_sources = ["192.0.2.0/24"]
deny_sources = ["192.0.2.128/25"]
source_limit = { flows_per_second = 100, burst = 10, prefix_length = 24 }
allow = ["single-backend", "churn"]
allow_reason = "it is so"
[service.health]
kind = "https"
port = 8443
path = "/healthz"
host = "web.example"
expect_status = [200, 204]
identity = { header = { name = "x-service", value = "web" } }
server_name = "www.web.example"
ca_file = "/etc/ca.pem"
certificate_warning = "30d"
interval = "2s"
jitter = 0.2
timeout = "250ms"
rise = 3
fall = 4
compare = ["/", "/cart"]
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
weight = 0
zone = "a"
capacity_flows_per_second = 30000
mac = "02:00:00:00:00:01"
drain = false

[[service]]
name = "quic"
address = "2001:db8::53"
port = "any"
protocol = "udp"
forward = "l2"
affinity = "flow"
flow_idle_timeout = "1m"
quic = { server_id_offset = 1, server_id_length = 2 }
[service.health]
kind = "dns"
port = 53
query_name = "www.example.com"
query_type = "AAAA"
expect_answer = ["2001:db8::1"]
[[service.backend]]
address = "2001:db8::54"
server_id = "0a1b"

[[service]]
name = "calls"
address = "192.0.2.11"
port = 50051
protocol = "tcp"
forward = "l2"
[service.health]
kind = "grpc"
via = "vip"
grpc_service = "shop.Cart"
[[service.backend]]
address = "10.0.0.12"

[[service]]
name = "syslog"
address = "192.0.2.12"
port = 514
protocol = "udp"
forward = "l2"
[service.health]
kind = "udp"
send_hex = "00ff"
expect = "ok"
[[service.backend]]
address = "10.0.0.13"

[[service]]
name = "special"
address = "192.0.2.13"
port = 99
protocol = "tcp"
forward = "l2"
[service.health]
kind = "command"
command = ["/usr/local/bin/check", "-v"]
command_user = "probe"
[[service.backend]]
address = "10.0.0.14"
"#;

fn printed() -> Value {
    let ran = run(balancer(&["check", "--schema"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&ran.stdout).unwrap()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft7::meta::validate(schema).unwrap();
    let options = jsonschema::options();
    options.should_validate_formats(true).build(schema).unwrap()
}

fn faults(schema: &Validator, text: &str) -> Vec<String> {
    let file: Value = toml::from_str(text).unwrap();
    let fault =
        |error: jsonschema::ValidationError<'_>| format!("{}: {error}", error.instance_path());
    schema.iter_errors(&file).map(fault).collect()
}

/// The faults that `check` finds in single values and keys; port 0 has a rule
/// of its own.
fn checked(scratch: &Scratch, text: &str) -> Vec<Value> {
    let file = scratch.file("b.toml", text);
    let ran = run(balancer(&["check", "--json", &file]));
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let of_text = [
        "unknown-key",
        "missing-key",
        "wrong-type",
        "bad-value",
        "port-mismatch",
    ];
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| of_text.iter().any(|rule| finding["rule"] == *rule))
        .cloned()
        .collect()
}

#[test]
fn files_that_check_takes_are_valid() {
    let scratch = Scratch::new();
    let schema = validator(&printed());
    let sample = include_str!("../../../deploy/balancer.toml");
    for text in [FULL, FILE, sample] {
        assert_eq!(checked(&scratch, text), [] as [Value; 0]);
        assert_eq!(faults(&schema, text), [""; 0]);
    }
}

#[test]
fn no_table_takes_a_key_that_nothing_reads() {
    fn look(schema: &Value, path: &str) -> usize {
        let table = schema.get("items").unwrap_or(schema);
        let Some(properties) = table.get("properties").and_then(Value::as_object) else {
            return 0;
        };
        assert_eq!(table["additionalProperties"], json!(false), "{path}");
        let inside = properties
            .iter()
            .map(|(name, schema)| look(schema, &format!("{path}/{name}")));
        1 + inside.sum::<usize>()
    }
    // The file, the node, services, backends, and four tables of a service,
    // one of which holds two more.
    assert!(look(&printed(), "") >= 9);
}

#[test]
fn slips_that_check_finds_in_single_values_are_invalid() {
    let scratch = Scratch::new();
    let schema = validator(&printed());
    for (right, wrong) in [
        ("keep_forwarding = true", "keep_forwardin = true"),
        ("keep_forwarding = true", "keep_forwarding = \"yes\""),
        ("interfaces = [\"eth0\", \"eth1\"]", "interfaces = []"),
        ("interfaces = [\"eth0\", \"eth1\"]", "interfaces = \"eth0\""),
        ("interfaces = [\"eth0\", \"eth1\"]\n", ""),
        ("xdp_mode = \"native\"", "xdp_mode = \"fast\""),
        ("gue_port = 6081", "gue_port = 0"),
        ("gue_port = 6081", "gue_port = 65536"),
        ("flow_table_size = 1024", "flow_table_size = 1023"),
        ("fullnat_ports = \"32768-60999\"", "fullnat_ports = 32768"),
        ("resync_interval = \"1h\"", "resync_interval = 30"),
        ("seed = \"0001", "seed = \"01"),
        ("name = \"web\"\n", ""),
        ("address = \"192.0.2.10\"", "address = \"web.example\""),
        ("port = [443, \"8000-8010\"]", "port = [443, \"any\"]"),
        ("protocol = \"tcp\"", "protocol = \"TCP\""),
        ("fail_open_below = 0.3", "fail_open_below = 30"),
        ("allow = [\"single-backend\"", "allow = [\"single-backnd\""),
        ("\"10.0.0.0/24\", ", "\"10.0.0.0\", "),
        ("expect_status = [200, 204]", "expect_status = [200, 99]"),
        ("compare = [\"/\", \"/cart\"]", "compare = \"/\""),
        ("kind = \"grpc\"", "kind = \"grp\""),
        ("grpc_service = \"shop.Cart\"", "grpc_service = 1"),
        ("query_type = \"AAAA\"", "query_type = \"aaaa\""),
        (
            "expect_answer = [\"2001:db8::1\"]",
            "expect_answer = \"2001:db8::1\"",
        ),
        (
            "command = [\"/usr/local/bin/check\", \"-v\"]",
            "command = \"/usr/local/bin/check\"",
        ),
        ("send_hex = \"00ff\"", "send_hex = 255"),
        ("certificate_warning = \"30d\"", "certificate_warning = 30"),
        ("{ header = {", "{ body = \"web\", header = {"),
        ("mac = \"02:00:00:00:00:01\"", "mac = \"02-00-00-00-00-01\""),
        ("server_id = \"0a1b\"", "server_id = \"0a1\""),
        ("server_id_length = 2", "server_id_length = 9"),
        ("based_on = 7", "based_on = 0"),
    ] {
        let text = FULL.replace(right, wrong);
        assert_ne!(text, FULL, "{right}");
        assert_ne!(checked(&scratch, &text), [] as [Value; 0], "{wrong}");
        assert_ne!(faults(&schema, &text), [""; 0], "{wrong}");
    }
}
