//! What the packet path reads.

use super::*;

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
