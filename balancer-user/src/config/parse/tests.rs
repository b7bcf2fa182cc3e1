use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::model::{Affinity, Forward, Identity, Ports, ProbeKind};
use super::super::testing::{
    PATH_SAMPLE, SAMPLE, assert_clean, assert_finds, examined, spoiled, spoiled_in, unmarked,
};
use super::*;

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
fn what_does_nothing_is_refused() {
    let text = spoiled_in(PATH_SAMPLE, "pool = \"backup\"\n", "");
    assert_finds(
        &text.replace("backup_below", "§backup_below"),
        "unknown-key",
        "error",
    );
    let text = spoiled_in(PATH_SAMPLE, "flap_limit = 2\n", "flap_limit = 0\n");
    let text = spoiled_in(&text, "flap_window = \"4m\"\nflap_hold = \"15s\"\n", "");
    assert_finds(
        &text.replace("flap_hold_max", "§flap_hold_max"),
        "unknown-key",
        "error",
    );
    let untimed = spoiled_in(PATH_SAMPLE, "0.02", "0");
    let key = "unfinished_handshakes = ";
    assert_finds(
        &untimed.replace(key, &format!("{key}§")),
        "bad-value",
        "error",
    );
    assert_clean(&untimed.replace("\"trickle\"", "\"named\""));
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
#[rustfmt::skip]
fn faults_of_what_the_packet_path_reads_are_found_at_their_place() {
    let deny = "deny_sources = [\"203.0.113.0/24\"]";
    run_on(PATH_SAMPLE, &[
        ("backup_below = 0.6", "backup_below = §60", "bad-value", "backup_below = 1"),
        ("slow_start = \"45s\"", "slow_start = §\"2h\"", "bad-value", "slow_start = \"0s\""),
        (
            "unfinished_handshakes = \"trickle\"",
            "unfinished_handshakes = §\"gone\"",
            "bad-value",
            "unfinished_handshakes = \"out\"",
        ),
        ("flap_hold = \"15s\"", "flap_hold = §\"56s\"", "probe-timing", "flap_hold = \"55s\""),
        ("\"350ms\"", "§\"1001ms\"", "probe-timing", "\"1s\""),
        ("based_on = 41", "based_on = §0", "bad-value", "based_on = 1"),
        ("based_on = 41", "based_on = §\"41\"", "wrong-type", ""),
        ("based_on = 41", "based_on = §-1", "bad-value", ""),
        ("\"172.16.0.0/16\"", "§\"172.16.0.1/16\"", "bad-value", "\"172.16.0.0/31\""),
        ("\"172.16.0.0/16\"", "§\"172.16.0.1/32\"", "bad-value", "\"172.16.0.1\""),
        ("\"172.16.0.0/16\"", "§\"128.0.0.0/1\"", "bad-value", "\"12.0.0.0/8\""),
        ("\"172.16.0.0/16\"", "§\"169.254.9.0/24\"", "bad-value", "\"169.253.0.0/16\""),
        ("\"172.16.0.0/16\"", "§\"2001:db8::/64\"", "bad-value", ""),
        ("\"172.16.0.0/16\"", "§\"172.16.0.0/33\"", "bad-value", ""),
        ("\"172.16.0.0/16\"", "§16", "wrong-type", ""),
        ("\"2001:db8:ffff::/64\"", "§\"172.17.0.0/16\"", "bad-value", "\"2001:db8:ffff::/127\""),
        ("\"2001:db8:ffff::/64\"", "§\"fe80::/64\"", "bad-value", "\"2001:db8:ffff::1\""),
        ("gue_port = 6081", "gue_port = §0", "port-mismatch", "gue_port = 1"),
        ("gue_port = 6081", "gue_port = §65536", "bad-value", "gue_port = 65535"),
        ("\"10.1.0.6\"", "§\"10.1.0.5\"", "bad-value", "\"10.1.0.7\""),
        ("\"10.1.0.6\"", "§\"127.0.0.1\"", "bad-value", ""),
        ("\"10.1.0.6\"", "§\"2001:db8:2::6\"", "bad-value", ""),
        ("\"2001:db8:2::5\"", "§\"10.1.0.7\"", "bad-value", "\"2001:db8:2::6\""),
        ("[\"2001:db8:2::5\"]", "§[]", "bad-value", ""),
        ("\"10000-30000\"", "§\"10000-11022\"", "bad-value", "\"10000-11023\""),
        ("\"10000-30000\"", "§\"0-30000\"", "port-mismatch", "\"1-65535\""),
        ("\"10000-30000\"", "§\"30000-10000\"", "bad-value", ""),
        ("\"10000-30000\"", "§10000", "wrong-type", ""),
        ("\"10000-30000\"", "§[\"10000-30000\"]", "wrong-type", ""),
        ("\"10m\"", "§\"9s\"", "bad-value", "\"10s\""),
        ("\"10m\"", "§\"25h\"", "bad-value", "\"24h\""),
        ("\"20s\"", "§\"999ms\"", "bad-value", "\"1s\""),
        ("\"20s\"", "§\"601s\"", "bad-value", "\"10m\""),
        ("0.02", "§1.01", "bad-value", "0.0001"),
        ("0.02", "§-0.01", "bad-value", "1"),
        ("262144", "§1023", "bad-value", "16_777_216"),
        ("262144", "§16777217", "bad-value", "0x40000"),
        ("forward = \"nat\"", "forward = §\"dnat\"", "bad-value", "forward = \"nat\" # dnat"),
        ("affinity = \"source\"", "affinity = §\"client\"", "bad-value", "affinity = \"hash\""),
        ("affinity = \"source\"", "affinity = §\"flow\"", "bad-value", ""),
        ("affinity = \"source\"", "§flow_idle_timeout = \"1m\"", "unknown-key", ""),
        ("flow_idle_timeout = \"2m\"", "flow_idle_timeout = §\"999ms\"", "bad-value", "flow_idle_timeout = \"1s\""),
        ("mss_clamp = 1400", "mss_clamp = §87", "bad-value", "mss_clamp = 88"),
        ("mss_clamp = 1400", "mss_clamp = §65496", "bad-value", "mss_clamp = 65495"),
        ("affinity = \"flow\"", "§mss_clamp = 1400\naffinity = \"flow\"", "unknown-key", ""),
        (deny, "deny_sources = [§\"203.0.113.128/25\"]", "bad-value", "deny_sources = [\"203.0.113.129/32\"]"),
        (deny, "deny_sources = [\"10.0.0.0/8\", §\"10.0.0.0/8\"]", "bad-value", "deny_sources = [\"10.0.0.0/8\", \"10.0.0.0/9\"]"),
        (deny, "deny_sources = [§\"2001:db8::/32\"]", "bad-value", ""),
        (deny, "deny_sources = [§\"203.0.113.1/24\"]", "bad-value", ""),
        (deny, "deny_sources = §[]", "bad-value", ""),
        ("flows_per_second = 100", "flows_per_second = §0", "bad-value", "flows_per_second = 1"),
        ("[service.source_limit]\nflows_per_second = 100", "§[service.source_limit]", "missing-key", ""),
        ("burst = 300", "burst = §0", "bad-value", "burst = 1"),
        ("burst = 300", "§bursts = 300", "unknown-key", ""),
        ("prefix_length = 24", "prefix_length = §33", "bad-value", "prefix_length = 32"),
        ("prefix_length = 24", "prefix_length = §0", "bad-value", "prefix_length = 1"),
        ("server_id_offset = 2", "server_id_offset = §20", "bad-value", "server_id_offset = 0"),
        ("server_id_length = 3", "server_id_length = §9", "bad-value", ""),
        ("server_id_length = 3", "server_id_length = §0", "bad-value", ""),
        ("server_id_offset = 2\nserver_id_length = 3", "server_id_offset = 18\nserver_id_length = §3", "bad-value", "server_id_offset = 17\nserver_id_length = 3"),
        ("[service.quic]\nserver_id_offset = 2\nserver_id_length = 3", "§[service.quic]", "missing-key", ""),
        ("\"0a1b2d\"", "§\"0a1b2\"", "bad-value", "\"0A1B2D\""),
        ("\"0a1b2d\"", "§\"0a1b2g\"", "bad-value", ""),
        ("\"0a1b2d\"", "§\"\"", "bad-value", ""),
        ("\"0a1b2d\"", "§\"0a1b2d0a1b2d0a1b2d\"", "bad-value", ""),
        ("\"0a1b2d\"", "§0x0a1b2d", "wrong-type", ""),
    ]);
}

#[test]
fn what_protocol_and_affinity_leave_without_a_use_is_found() {
    let udp = |affinity: &str| {
        spoiled_in(
            PATH_SAMPLE,
            "affinity = \"flow\"\nflow_idle_timeout = \"2m\"",
            affinity,
        )
    };
    let text =
        udp("affinity = \"hash\"").replace("[service.source_limit]\nflows_per_second = 7\n", "");
    assert_clean(&text);
    for affinity in ["", "affinity = \"source\""] {
        let text = udp(affinity);
        let (head, tail) = text.rsplit_once("[service.source_limit]").unwrap();
        let marked = format!("{head}[service.§source_limit]{tail}");
        let finding = assert_finds(&marked, "unknown-key", "error");
        assert!(
            finding.message.contains("new flow of udp"),
            "{}",
            finding.message
        );
        assert!(finding.help.unwrap().contains("affinity = \"flow\""));
    }
    let tcp = PATH_SAMPLE
        .replace("\"udp\"", "\"tcp\"")
        .replace("affinity = \"flow\"\nflow_idle_timeout = \"2m\"\n", "");
    let marked = tcp.replace("[service.quic]", "[service.§quic]");
    assert_finds(&marked, "unknown-key", "error");
}

#[test]
fn source_lists_hold_ten_thousand_networks_together() {
    let nets = |from: u32, count: u32| -> String {
        let nets = (from..from + count).map(|at| format!("\"{}/32\"", Ipv4Addr::from(at)));
        nets.collect::<Vec<_>>().join(", ")
    };
    let with = |allow: u32, deny: u32| {
        let text = spoiled_in(PATH_SAMPLE, "\"203.0.113.128/25\"", &nets(1 << 24, allow));
        text.replace(
            "[\"203.0.113.0/24\"]",
            &format!("§[{}]", nets(2 << 24, deny)),
        )
    };
    // 0.0.0.0/0 is in the list as well.
    assert_finds(&with(4_999, 5_001), "bad-value", "error");
    assert_clean(&with(4_999, 5_000).replace('§', ""));
}

#[test]
fn what_the_packet_path_reads_has_its_defaults() {
    let config = parse(DESIGN_SAMPLE).config.unwrap();
    let node = &config.node;
    assert_eq!(
        (node.gue_port, node.fullnat_ports),
        (6080, (32_768, 60_999))
    );
    let seconds = |timeout: Duration| timeout.as_secs();
    let timeouts = (
        seconds(node.nat_idle_timeout),
        seconds(node.nat_closed_timeout),
    );
    assert_eq!(timeouts, (900, 30));
    assert_eq!(
        (node.handshake_sample, node.flow_table_size),
        (0.01, 131_072)
    );
    let web = config.service("web").unwrap();
    assert_eq!(web.affinity, Affinity::Hash);
    assert_eq!(
        (web.mss_clamp, web.source_limit, web.quic),
        (None, None, None)
    );

    let config = parse(PATH_SAMPLE).config.unwrap();
    let quic = config.service("quic").unwrap();
    let limit = quic.source_limit.unwrap();
    assert_eq!((limit.burst, limit.prefix_length), (7, 32));
    let text = spoiled_in(PATH_SAMPLE, "server_id_offset = 2\n", "")
        .replace("\"192.0.2.20\"", "\"2001:db8::20\"");
    let config = parse(&text).config.unwrap();
    let quic = config.service("quic").unwrap();
    assert_eq!(quic.quic.unwrap().server_id_offset, 1);
    assert_eq!(quic.source_limit.unwrap().prefix_length, 64);
    let idle_timeout = Duration::from_secs(120);
    assert_eq!(quic.affinity, Affinity::Flow { idle_timeout });
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
#[rustfmt::skip]
fn faults_of_a_probe_are_found_at_their_place() {
    let identity = "{ certificate = \"web.example\" }";
    run(&[
        ("kind = \"https\"", "kind = §\"htps\"", "bad-value", ""),
        (identity, "{ pattern = §\"a(\" }", "bad-value", "{ pattern = \"^build [0-9]+$\" }"),
        (identity, "{ pattern = §\"(a{999}){999}\" }", "bad-value", ""),
        ("kind = \"https\"", "kind = \"https\"\ncertificate_warning = §\"400d\"", "bad-value",
            "kind = \"https\"\ncertificate_warning = \"30d\""),
        ("[service.health]\nkind = \"https\"", "§[service.health]", "missing-key", ""),
        ("port = 8443", "port = §0", "port-mismatch", "port = 1"),
        ("\"/healthz\"", "§\"healthz\"", "bad-value", "\"/\""),
        ("\"/healthz\"", "§\"/a b\"", "bad-value", "\"/a?b=c%20d\""),
        ("host = \"web.example\"", "host = §\"a\\r\\nb\"", "bad-value", "host = \"a:8080\""),
        ("[200]", "§200", "wrong-type", "[200, 204]"),
        ("[200]", "[200, §99]", "bad-value", "[100, 599]"),
        ("[200]", "§[]", "bad-value", "[301]"),
        (identity, "§{}", "bad-value", "{ body = \"ok\" }"),
        (identity, "§\"web\"", "wrong-type", "{ header = { name = \"server\", value = \"web 1\" } }"),
        (identity, "§{ body = \"x\", certificate = \"y\" }", "bad-value", ""),
        (identity, "{ body = §\"\" }", "bad-value", "{ body = \"\\n\" }"),
        (identity, "{ header = §{ name = \"a\" } }", "missing-key", ""),
        (identity, "{ header = { name = §\"a b\", value = \"c\" } }", "bad-value", ""),
        (identity, "{ header = { name = \"a\", value = §\"c\\n\" } }", "bad-value", ""),
        (identity, "{ certificate = §\"*.example\" }", "bad-value", "{ certificate = \"a.b-c.example\" }"),
        ("\"www.web.example\"", "§\"a..b\"", "bad-value", "\"a.b\""),
        ("\"/etc/ca.pem\"", "§\"ca.pem\"", "bad-value", "\"/ca.pem\""),
        ("\"2s\"", "§2", "wrong-type", "\"5s\""),
        ("\"2s\"", "§\"9ms\"", "bad-value", "\"2.5s\""),
        ("jitter = 0.2", "jitter = §0.6", "bad-value", "jitter = 0.5"),
        ("\"250ms\"", "§\"0s\"", "bad-value", "\"1ms\""),
        ("rise = 3", "rise = §0", "bad-value", "rise = 100"),
        ("fall = 4", "fall = §101", "bad-value", "fall = 2"),
        ("[\"/\", \"/cart?full=1\"]", "§\"/\"", "wrong-type", "[]"),
        ("[\"/\", \"/cart?full=1\"]", "[§\"cart\"]", "bad-value", "[\"/cart\"]"),
        ("[\"/\", \"/cart?full=1\"]", "§[\"/1\", \"/2\", \"/3\", \"/4\", \"/5\"]", "bad-value",
            "[\"/1\", \"/2\", \"/3\", \"/4\"]"),
    ]);
}

#[test]
fn a_key_that_does_not_fit_the_kind_is_found() {
    let from = "kind = \"tcp\"";
    for key in [
        "path = \"/\"",
        "host = \"h\"",
        "expect_status = [200]",
        "identity = { body = \"x\" }",
        "compare = [\"/\"]",
        "server_name = \"a.b\"",
        "ca_file = \"/ca\"",
    ] {
        assert_finds(
            &spoiled(from, &format!("{from}\n§{key}")),
            "unknown-key",
            "error",
        );
    }
    // It stands in a UDP service.
    let http = "kind = \"http\"\nexpect_status = [200]";
    for key in [
        "compare = [\"/\"]",
        "server_name = \"a.b\"",
        "ca_file = \"/ca\"",
        "identity = { certificate = \"a.b\" }",
    ] {
        assert_finds(
            &spoiled(from, &format!("{http}\n§{key}")),
            "unknown-key",
            "error",
        );
    }
    assert_clean(&spoiled(from, http));
}

#[test]
fn faults_of_the_other_kinds_are_found_at_their_place() {
    let from = "kind = \"tcp\"";
    let wrong = |text: &str, rule: &str| assert_finds(&spoiled(from, text), rule, "error");
    for text in [
        "kind = \"udp\"\nsend = \"x\"\nexpect = §\"\"",
        "kind = \"udp\"\nsend_hex = §\"0\"",
        "kind = \"udp\"\nsend_hex = §\"0g\"",
        "kind = \"dns\"\nquery_name = §\"a..b\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\nquery_type = §\"a\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\nexpect_answer = [§\"::1\"]",
        "kind = \"command\"\ncommand = §[\"check\"]",
        "kind = \"command\"\ncommand = [\"/check\", §\"\\u0000\"]",
        "kind = \"command\"\ncommand = [\"/check\"]\ncommand_user = §\"a b\"",
        "kind = \"grpc\"\ngrpc_service = §\"a b\"",
    ] {
        wrong(text, "bad-value");
    }
    for text in [
        "kind = \"udp\"\nsend = \"x\"\n§send_hex = \"00\"",
        "kind = \"udp\"\nsend = \"x\"\n§query_name = \"a.b\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\n§path = \"/\"",
        "kind = \"h2c\"\nexpect_status = [200]\n§identity = { certificate = \"a.b\" }",
        "kind = \"h2\"\nexpect_status = [200]\n§compare = [\"/\"]",
        "kind = \"grpc\"\n§certificate_warning = \"1d\"\ngrpc_service = \"a\"",
        "kind = \"grpc\"\n§identity = { body = \"x\" }",
        "kind = \"grpcs\"\n§identity = { pattern = \"x\" }",
    ] {
        wrong(text, "unknown-key");
    }
    let head = "[service.health]\nkind = \"tcp\"";
    for kind in ["udp", "dns", "command"] {
        let text = spoiled(head, &format!("§[service.health]\nkind = \"{kind}\""));
        assert_finds(&text, "missing-key", "error");
    }
    for text in [
        "kind = \"udp\"\nsend = \"x\\r\\n\"\nexpect_hex = \"00fF\"",
        "kind = \"dns\"\nquery_name = \".\"\nquery_type = \"NS\"",
        "kind = \"dns\"\nquery_name = \"a.b\"\nexpect_answer = [\"192.0.2.1\"]",
        "kind = \"command\"\ncommand = [\"/check\", \"-x\"]\ncommand_user = \"probe\"",
        "kind = \"grpc\"\ngrpc_service = \"shop.Cart\"\nhost = \"shop\"",
        "kind = \"grpcs\"\nidentity = { certificate = \"a.b\" }\ncertificate_warning = \"0s\"",
        "kind = \"h2\"\nexpect_status = [200]\nserver_name = \"a.b\"",
    ] {
        assert_clean(&spoiled(from, text));
    }
}

#[test]
fn any_port_needs_a_port_to_probe() {
    let text = spoiled("[53, \"8053-8060\"]", "\"any\"");
    let (head, tail) = text.rsplit_once("[service.health]").unwrap();
    assert_finds(
        &format!("{head}§[service.health]{tail}"),
        "missing-key",
        "error",
    );
    let with_port = format!("{head}[service.health]\nport = 53{tail}");
    assert_clean(&with_port);
    let config = parse(&with_port).config.unwrap();
    assert_eq!(config.services[1].ports, Ports::Any);
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
