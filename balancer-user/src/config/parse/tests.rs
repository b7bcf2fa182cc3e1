use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::model::{Affinity, Forward, Identity, Ports, ProbeKind};
use super::super::testing::{
    PATH_SAMPLE, SAMPLE, assert_clean, assert_finds, examined, spoiled, spoiled_in, unmarked,
};
use super::*;

mod packet_path;
mod probes;

/// In the sample, what is replaced; by what, with `§` where the finding must
/// stand; its rule; and what the key does take.
type Case = (&'static str, &'static str, &'static str, &'static str);

fn run(cases: &[Case]) {
    run_on(SAMPLE, cases);
}

fn run_on(sample: &str, cases: &[Case]) {
    for (from, wrong, rule, right) in cases {
        assert_finds(&spoiled_in(sample, from, wrong), rule, "error");
        if !right.is_empty() {
            assert_clean(&spoiled_in(sample, from, right));
        }
    }
}

#[test]
fn samples_are_faultless() {
    assert_clean(SAMPLE);
    assert_clean(PATH_SAMPLE);
}

#[test]
#[rustfmt::skip]
fn faults_of_the_node_are_found_at_their_place() {
    run(&[
        ("[node]", "[node]\n§colour = 1", "unknown-key", "[node] # colour"),
        ("[node]\ninterfaces = [\"eth0\", \"eth1\"]", "§[node]", "missing-key", "[node]\ninterfaces = [\"e\"]"),
        ("[\"eth0\", \"eth1\"]", "§\"eth0\"", "wrong-type", "[\"eth0\"]"),
        ("[\"eth0\", \"eth1\"]", "§[]", "bad-value", "[\"eth0.100\"]"),
        ("\"eth1\"", "§\"eth0\"", "duplicate-name", "\"eth2\""),
        ("\"eth1\"", "§\"a/b\"", "bad-value", "\"ab\""),
        ("\"eth1\"", "§\"a b\"", "bad-value", "\"a-b\""),
        ("\"eth1\"", "§\"\"", "bad-value", "\"x\""),
        ("\"eth1\"", "§\"a234567890123456\"", "bad-value", "\"a23456789012345\""),
        ("\"eth1\"", "§7", "wrong-type", "\"7\""),
        ("\"native\"", "§\"nativ\"", "bad-value", "\"generic\""),
        ("\"000102030405060708090a0b0c0d0e0f\"", "§\"0001\"", "bad-value", "\"FFffffffffffffffffffffffffffffff\""),
        ("\"000102030405060708090a0b0c0d0e0f\"", "§\"+00102030405060708090a0b0c0d0e0f\"", "bad-value", ""),
        ("\"000102030405060708090a0b0c0d0e0f\"", "§\"ß00102030405060708090a0b0c0d0e0\"", "bad-value", ""),
        ("65537", "§65536", "table-size", "1_000_003"),
        ("65537", "§1000033", "table-size", "0x10001"),
        ("65537", "§-7", "table-size", "65539"),
        ("65537", "§\"65537\"", "wrong-type", "65537"),
        ("\"198.51.100.1\"", "§\"2001:db8::2\"", "bad-value", "\"198.51.100.2\""),
        ("\"198.51.100.1\"", "§\"127.0.0.1\"", "bad-value", "\"10.9.9.9\""),
        ("\"2001:db8::1\"", "§\"fe80::1\"", "bad-value", "\"2001:db8::2\""),
        ("\"/run/balancer/b.sock\"", "§\"b.sock\"", "bad-value", "\"/b.sock\""),
        ("\"lb-readers\"", "§\"lb readers\"", "bad-value", "\"readers\""),
        ("\"lb-operators\"", "§7", "wrong-type", "\"operators\""),
        ("\"/var/lib/b\"", "§\"/a\\u0000b\"", "bad-value", "\"/a\""),
        ("page = false", "page = §\"off\"", "wrong-type", "page = true"),
        ("keep_forwarding = true", "keep_forwarding = §\"true\"", "wrong-type", "keep_forwarding = false"),
        ("\"10s\"", "§10", "wrong-type", "\"1h\""),
        ("\"10s\"", "§\"999ms\"", "bad-value", "\"1s\""),
        ("\"10s\"", "§\"10\"", "bad-value", "\"1m 30s\""),
    ]);
}

#[test]
#[rustfmt::skip]
fn faults_of_a_webhook_are_found_at_their_place() {
    run(&[
        ("\"chat\"", "§\"on-call\"", "duplicate-name", "\"pager\""),
        ("[[node.webhook]]\nname = \"on-call\"\n", "§[[node.webhook]]\n", "missing-key", ""),
        ("\"http://10.0.0.9:9093\"", "§\"10.0.0.9:9093\"", "bad-value", "\"https://[2001:db8::9]/x?y=z\""),
        ("\"http://10.0.0.9:9093\"", "§\"ftp://10.0.0.9\"", "bad-value", "\"http://am\""),
        ("\"http://10.0.0.9:9093\"", "§\"http://user:secret@10.0.0.9\"", "bad-value", ""),
        ("kind = \"alertmanager\"", "kind = §\"pager\"", "bad-value", "kind = \"json\""),
        ("\"1500ms\"", "§\"61s\"", "bad-value", "\"60s\""),
        ("\"/etc/chat.pem\"", "§\"chat.pem\"", "bad-value", "\"/c.pem\""),
    ]);
}

#[test]
#[rustfmt::skip]
fn faults_of_a_service_are_found_at_their_place() {
    run(&[
        ("name = \"web\"", "§nam = \"web\"\nname = \"web\"", "unknown-key", ""),
        ("name = \"dns\"", "name = §\"web\"", "duplicate-name", "name = \"web2\""),
        ("name = \"web\"", "name = §\"\"", "bad-value", "name = \"w\""),
        ("name = \"web\"", "name = §\"a b\"", "bad-value", "name = \"a_b-c.d:e@f\""),
        ("name = \"web\"", "name = §7", "wrong-type", "name = \"7\""),
        ("\"192.0.2.10\"", "§\"192.0.2.10:80\"", "bad-value", "\"192.0.2.11\""),
        ("\"192.0.2.10\"", "§\"www.example\"", "bad-value", "\"2001:db8::10\""),
        ("protocol = \"udp\"", "protocol = §\"sctp\"", "bad-value", "protocol = \"tcp\""),
        ("forward = \"l2\"", "forward = §\"l3\"", "bad-value", "forward = \"gue\""),
        ("[\"10.0.0.0/24\"]", "[§\"10.0.0.1/24\"]", "bad-value", "[\"10.0.0.0/28\", \"2001:db8::/32\"]"),
        ("[\"10.0.0.0/24\"]", "[§\"10.0.0.0\"]", "bad-value", "[\"10.0.0.11/32\", \"10.0.0.12/31\"]"),
        ("[\"10.0.0.0/24\"]", "§[]", "bad-value", "[\"0.0.0.0/0\"]"),
        ("0.3", "§30", "bad-value", "1"),
        ("0.3", "§-0.1", "bad-value", "0.0"),
        ("0.3", "§nan", "bad-value", "1.0"),
        ("0.3", "§\"0.3\"", "wrong-type", "1e-3"),
        ("drain_timeout = \"1m\"", "drain_timeout = §60", "wrong-type", "drain_timeout = \"0s\""),
        ("drain_timeout = \"1m\"", "drain_timeout = §\"25h\"", "bad-value", "drain_timeout = \"24h\""),
        ("20000", "§0", "bad-value", "1"),
        ("20000", "§99999999999999999999999999999999999999999", "bad-value", "40000"),
        ("[\"churn\"]", "[§\"chum\"]", "bad-value", "[\"churn\", \"single-backend\"]"),
        ("[\"churn\"]", "[§\"syntax\"]", "bad-value", ""),
        ("allow = [\"churn\"]\nallow", "§allow", "unknown-key", ""),
        ("\"moved on purpose\"", "§\" \"", "bad-value", "\"x\""),
    ]);
    let text = SAMPLE.replace("allow_reason = \"moved on purpose\"\n", "");
    assert_finds(&text.replacen("[[service]]", "§[[service]]", 1), "missing-key", "error");
}

#[test]
#[rustfmt::skip]
fn faults_of_ports_are_found_at_their_place() {
    run(&[
        ("[53, \"8053-8060\"]", "§0", "port-mismatch", "1"),
        ("[53, \"8053-8060\"]", "§65536", "bad-value", "65535"),
        ("[53, \"8053-8060\"]", "§-1", "bad-value", "0xff"),
        ("[53, \"8053-8060\"]", "§\"0-5\"", "port-mismatch", "\"1-5\""),
        ("[53, \"8053-8060\"]", "§\"all\"", "bad-value", "\"7-7\""),
        ("[53, \"8053-8060\"]", "§\"53\"", "bad-value", "53"),
        ("[53, \"8053-8060\"]", "§\"9-8\"", "bad-value", "\"8-9\""),
        ("[53, \"8053-8060\"]", "§\"1-+9\"", "bad-value", "\"1-65535\""),
        ("[53, \"8053-8060\"]", "[53, §\"any\"]", "bad-value", "[53]"),
        ("[53, \"8053-8060\"]", "[\"50-60\", §53]", "bad-value", "[\"50-52\", 53]"),
        ("[53, \"8053-8060\"]", "[53, §53]", "bad-value", "[54, 53]"),
        ("[53, \"8053-8060\"]", "[53, §1.5]", "wrong-type", "[53, 1]"),
        ("[53, \"8053-8060\"]", "§[]", "bad-value", ""),
        ("[53, \"8053-8060\"]", "§true", "wrong-type", ""),
    ]);
}

#[test]
fn ports_are_sorted_and_touching_ranges_joined() {
    for (written, ports) in [
        ("[8010, \"8000-8009\", 443]", vec![(443, 443), (8000, 8010)]),
        ("\"1-65535\"", vec![(1, 65535)]),
        ("[65535, 1]", vec![(1, 1), (65535, 65535)]),
        ("\"7-7\"", vec![(7, 7)]),
    ] {
        let parsed = parse(&spoiled("[53, \"8053-8060\"]", written));
        let config = parsed.config.unwrap();
        assert_eq!(config.services[1].ports, Ports::Ranges(ports), "{written}");
    }
}

#[test]
#[rustfmt::skip]
fn faults_of_a_backend_are_found_at_their_place() {
    run(&[
        ("weight = 90", "§wieght = 90", "unknown-key", ""),
        ("weight = 90", "weight = §65536", "bad-value", "weight = 110"),
        ("weight = 90", "weight = §-1", "bad-value", "weight = 10"),
        ("weight = 90", "weight = §90.0", "wrong-type", "weight = 91"),
        ("name = \"dns-2\"", "name = §\"dns-1\"", "duplicate-name", "name = \"web-1\""),
        ("name = \"dns-2\"", "name = §\"\"", "bad-value", "name = \"2\""),
        ("\"10.0.0.12\"", "§\"10.0.0\"", "bad-value", "\"10.0.0.14\""),
        ("zone = \"a\"", "zone = §\"\"", "bad-value", "zone = \"eu-1\""),
        ("\"02:00:00:00:00:01\"", "§\"02-00-00-00-00-01\"", "bad-value", "\"AA:bb:00:00:00:01\""),
        ("\"02:00:00:00:00:01\"", "§\"01:00:5e:00:00:01\"", "bad-value", ""),
        ("\"02:00:00:00:00:01\"", "§\"00:00:00:00:00:00\"", "bad-value", ""),
        ("\"02:00:00:00:00:01\"", "§\"02:00:00:00:00:01:02\"", "bad-value", ""),
        ("\"02:00:00:00:00:01\"", "§\"02:00:00:00:00:+1\"", "bad-value", ""),
        ("drain = false", "drain = §0", "wrong-type", ""),
    ]);
    // A name that a sibling has by default is taken, too.
    let text = spoiled("name = \"web-1\"", "name = \"10.0.0.12\"");
    let text = text.replace("address = \"10.0.0.12\"", "address = §\"10.0.0.12\"");
    let finding = assert_finds(&text, "duplicate-name", "error");
    assert_eq!(finding.path, "service.web.backend.10.0.0.12.address");
    assert_eq!(finding.related[0].label, "first used here");
}

#[test]
fn node_is_required_and_tables_must_be_tables() {
    assert_finds("node = §1", "wrong-type", "error");
    let node = "[node]\ninterfaces = [\"e\"]\n";
    assert_finds(&format!("service = [§1]\n{node}"), "wrong-type", "error");
    assert_finds(
        &format!("{node}§[service]\nname = \"x\""),
        "wrong-type",
        "error",
    );
    let parsed = parse("");
    assert_eq!(parsed.findings.len(), 1);
    assert_eq!(parsed.findings[0].message, "the key `node` is missing");
}

#[test]
fn too_many_tables_are_found_at_the_first_too_many() {
    let mut text = SAMPLE.to_owned();
    for index in 0..MAX_BACKENDS - 2 {
        let address = format!("2001:db8:2::{index:x}");
        text.push_str(&format!("[[service.backend]]\naddress = \"{address}\"\n"));
    }
    assert!(parse(&text).config.is_some());
    let line = text.matches('\n').count() + 1;
    text.push_str("[[service.backend]]\naddress = \"10.0.0.1\"\n");
    let report = examined(&text).report;
    let finding = &report.findings()[0];
    assert_eq!(finding.rule, "bad-value");
    assert_eq!(report.position(finding), Some((line, 1)));
}

#[test]
fn several_syntax_faults_are_reported_with_the_others() {
    let (text, _) = unmarked(
        "[node]\ninterfaces = [\"e\", \"e\"]\ntable_size =\nseed = 'x\nsocket = 5\nsocket = 6\n",
    );
    let report = examined(&text).report;
    let found: Vec<_> = report
        .findings()
        .iter()
        .map(|finding| (finding.rule, report.position(finding).unwrap().0))
        .collect();
    let expected = [
        ("duplicate-name", 2),
        ("syntax", 3),
        ("syntax", 4),
        ("wrong-type", 5),
        ("syntax", 6),
    ];
    assert_eq!(found, expected, "{}", report.render(false));
}

#[test]
fn a_broken_header_does_not_blame_the_keys_below_it() {
    let text = spoiled(
        "[service.health]\nkind = \"https\"",
        "[service.health\nkind = \"https\"",
    );
    let parsed = parse(&text);
    assert!(parsed.config.is_none());
    assert!(
        parsed
            .findings
            .iter()
            .all(|finding| finding.rule == "syntax")
    );
}

#[test]
fn the_design_sample_parses_with_its_defaults() {
    let config = parse(DESIGN_SAMPLE).config.unwrap();
    let service = config.service("web").unwrap();
    assert_eq!(service.forward, Forward::Ipip);
    assert_eq!(service.ports, Ports::one(443));
    assert_eq!(service.drain_timeout, Duration::from_secs(300));
    assert_eq!(service.backends[0].weight, 100);
    let health = service.health.as_ref().unwrap();
    assert_eq!((health.rise, health.fall, health.jitter), (2, 3, 0.1));
    let ProbeKind::Https(http, tls) = &health.kind else {
        panic!("{health:?}");
    };
    let name = "web.example".to_owned();
    assert_eq!(http.identity, Some(Identity::Certificate(name.clone())));
    // The name to ask for is the one the certificate must carry.
    assert_eq!(tls.server_name, Some(name));
    assert_eq!(health.compare, ["/"]);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_fault() {
    assert_clean(&format!("\u{feff}{}", SAMPLE.replace('\n', "\r\n")));
}

const DESIGN_SAMPLE: &str = r#"
[node]
interfaces = ["eth0"]
xdp_mode = "auto"            # native, generic, auto
seed = "00112233445566778899aabbccddeeff"
table_size = 65537

[[service]]
name = "web"
address = "192.0.2.10"
port = 443                    # or a list, a range "8000-8010", or "any"
protocol = "tcp"
forward = "ipip"
allowed_backends = ["10.0.0.0/24"]
fail_open_below = 0.3
drain_timeout = "5m"
peak_flows_per_second = 20000

[service.health]
kind = "https"
path = "/healthz"
expect_status = [200]
identity = { certificate = "web.example" }
interval = "1s"
timeout = "500ms"
rise = 2
fall = 3

[[service.backend]]
name = "web-1"
address = "10.0.0.11"
weight = 100
zone = "a"
capacity_flows_per_second = 12000
"#;

#[test]
fn stages_ascend_to_a_hundred() {
    for (stages, fault) in [
        ("[1, 1, 100]", "`stages` goes from 1 to 1, wanted more"),
        ("[50, 10, 100]", "`stages` goes from 50 to 10, wanted more"),
        ("[1, 10]", "`stages` ends at 10, wanted 100"),
        ("[0, 100]", "`stages` is 0, limit 1 to 100"),
    ] {
        let text = format!("[node]\ninterfaces = [\"eth0\"]\n[apply]\nstages = {stages}\n");
        let found = parse(&text).findings;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].rule, "bad-value");
        assert_eq!(found[0].message, format!("apply: {fault}"));
    }
}
