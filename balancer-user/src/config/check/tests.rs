use std::time::Instant;

use super::super::examine;
use super::super::parse::parse;
use super::super::testing::{
    PATH_SAMPLE, SAMPLE, assert_clean, assert_finds, examined, spoiled, spoiled_in,
};
use super::*;

const V6_2: &str = "name = \"dns-2\"\naddress = \"2001:db8:1::2\"";

#[test]
#[rustfmt::skip]
fn each_shape_rule_finds_its_fault_and_nothing_else() {
    for (from, wrong, rule, level, right) in [
        ("\"192.0.2.10\"", "§\"127.0.0.1\"", "bad-service-address", "error", "\"203.0.113.1\""),
        ("\"192.0.2.10\"", "§\"224.0.0.1\"", "bad-service-address", "error", ""),
        ("\"192.0.2.10\"", "§\"::ffff:192.0.2.10\"", "bad-service-address", "error", ""),
        (V6_2, "address = §\"2001:db8:1::1\"", "duplicate-backend", "error", "address = \"2001:db8:1::3\""),
        ("\"2001:db8:1::2\"", "§\"2001:db8::53\"", "bad-backend-address", "error", "\"2001:db8::54\""),
        ("\"2001:db8:1::2\"", "§\"2001:db8::1\"", "bad-backend-address", "error", ""),
        ("\"2001:db8:1::2\"", "§\"::1\"", "bad-backend-address", "error", ""),
        ("\"2001:db8:1::2\"", "§\"::\"", "bad-backend-address", "error", ""),
        ("\"2001:db8:1::2\"", "§\"ff02::1\"", "bad-backend-address", "error", ""),
        ("\"2001:db8:1::2\"", "§\"fe80::1\"", "bad-backend-address", "error", ""),
        ("\"2001:db8:1::2\"", "§\"::ffff:10.0.0.9\"", "bad-backend-address", "error", ""),
        ("\"10.0.0.12\"", "§\"10.0.1.12\"", "backend-outside-pool", "error", "\"10.0.0.255\""),
        ("\"2001:db8:1::2\"", "§\"10.0.0.9\"", "family-mismatch", "error", ""),
        ("\"10.0.0.11\"\nport = 443", "\"10.0.0.11\"\nport = §8443", "port-mismatch", "error", "\"10.0.0.11\""),
        (V6_2, "address = \"2001:db8:1::2\"\nport = §53", "port-mismatch", "error", ""),
        ("\"250ms\"", "§\"2s\"", "probe-timing", "error", "\"1999ms\""),
        ("rise = 3", "rise = §1", "probe-timing", "warning", "rise = 2"),
        ("\"2s\"", "§\"7600ms\"", "probe-timing", "warning", "\"7500ms\""),
        ("port = 8443\npath", "port = §8443\nvia = \"vip\"\npath", "probe-way", "error", "via = \"vip\"\npath"),
        ("[service.health]\nkind = \"tcp\"", "[service.health]\nkind = \"tcp\"\nvia = §\"vip\"", "probe-way", "error", "[service.health]\nkind = \"dns\"\nquery_name = \"a.example\"\nvia = \"vip\"\nport = 8060"),
        ("[service.health]\nkind = \"tcp\"", "[service.health]\nkind = §\"http\"", "probe-without-proof", "warning", "[service.health]\nkind = \"http\"\nidentity = { body = \"x\" }"),
        ("[service.health]\nkind = \"tcp\"", "[service.health]\nkind = §\"https\"", "probe-without-proof", "warning", "[service.health]\nkind = \"https\"\nserver_name = \"dns.example\""),
    ] {
        assert_finds(&spoiled(from, wrong), rule, level);
        if !right.is_empty() {
            assert_clean(&spoiled(from, right));
        }
    }
}

#[test]
#[rustfmt::skip]
fn each_rule_of_the_packet_path_finds_its_fault_and_nothing_else() {
    for (from, wrong, rule, level, right) in [
        // Modes that translate: families, ports, loops, sources.
        ("\"2001:db8:1::26\"", "§\"10.0.0.26\"", "family-mismatch", "error", "\"2001:db8:1::27\""),
        ("\"10.0.0.11\"\nport = 8443", "§\"2001:db8:9::1\"\nport = 8443", "family-mismatch", "error", "\"10.0.0.11\"\nport = 1"),
        ("\"2001:db8:1::26\"", "\"2001:db8:1::26\"\nport = §25", "port-mismatch", "error", ""),
        ("\"10.0.2.1\"", "\"10.0.2.1\"\nport = §4434", "port-mismatch", "error", "\"10.0.2.1\"\nport = 4433"),
        ("\"2001:db8:1::26\"", "§\"2001:db8::25\"", "translation-loop", "error", ""),
        ("\"10.0.0.11\"\nport = 8443", "§\"192.0.2.20\"\nport = 8443", "translation-loop", "error", "\"192.0.2.21\"\nport = 8443"),
        ("\"10.0.2.1\"", "§\"192.0.2.10\"", "bad-backend-address", "error", ""),
        ("\"10.0.2.1\"", "§\"172.16.255.9\"", "bad-backend-address", "error", "\"172.17.0.0\""),
        ("\"10.0.2.1\"", "§\"10.1.0.6\"", "bad-backend-address", "error", "\"10.1.0.7\""),
        ("\"2001:db8:3::1\"", "§\"2001:db8:ffff::7\"", "bad-backend-address", "error", "\"2001:db8:ffff:1::7\""),
        ("\"10.0.0.11\"\nport = 8444", "§\"10.0.0.11\"\nport = 8443", "duplicate-backend", "error", ""),
        ("kind = \"tcp\"\nfast_interval", "kind = \"tcp\"\nvia = §\"vip\"\nfast_interval", "probe-way", "error", "kind = \"tcp\"\nvia = \"backend\"\nfast_interval"),
        // Server ids.
        ("\"0a1b2d\"", "§\"0a1b2c\"", "server-id", "error", "\"000000\""),
        ("\"0a1b2d\"", "§\"0a1b\"", "server-id", "error", ""),
        ("\"10.0.0.11\"\nport = 8444", "\"10.0.0.11\"\nport = 8444\nserver_id = §\"01\"", "server-id", "error", ""),
        // 2184 flows a second, for two minutes, are 262,080 records.
        ("peak_flows_per_second = 2184", "peak_flows_per_second = §2185", "map-capacity", "warning", "peak_flows_per_second = 100"),
    ] {
        assert_finds(&spoiled_in(PATH_SAMPLE, from, wrong), rule, level);
        if !right.is_empty() {
            assert_clean(&spoiled_in(PATH_SAMPLE, from, right));
        }
    }
}

#[test]
fn a_translating_mode_rewrites_the_only_port_of_a_service() {
    let one = spoiled_in(PATH_SAMPLE, "port = [25, 587]", "port = 25");
    let rewritten = one.replace("::26\"", "::26\"\nport = 2525");
    assert_clean(&rewritten);
    assert_clean(&rewritten.replace("\"fullnat\"", "\"nat\""));
    for ports in ["[25, 587]", "\"25-26\"", "\"any\""] {
        let text = rewritten.replace("port = 25\n", &format!("port = {ports}\n"));
        let text = text.replace("kind = \"tcp\"", "kind = \"tcp\"\nport = 1");
        let marked = text
            .replace("port = 1\nport = 8443", "port = 8443")
            .replace("= 2525", "= §2525");
        let finding = assert_finds(&marked, "port-mismatch", "error");
        assert!(
            finding.message.contains("keeps the one"),
            "{}",
            finding.message
        );
    }
}

#[test]
fn fullnat_needs_sources_of_its_family_that_no_service_has() {
    let missing = spoiled_in(
        PATH_SAMPLE,
        "fullnat_sources_v6 = [\"2001:db8:2::5\"]\n",
        "",
    );
    let marked = missing.replace("\"fullnat\"", "§\"fullnat\"");
    let finding = assert_finds(&marked, "fullnat-sources", "error");
    assert_eq!(finding.path, "service.mail.forward");
    let help = finding.help.unwrap();
    assert!(help.contains("fullnat_sources_v6"), "{help}");
    assert_clean(&missing.replace("\"fullnat\"", "\"nat\""));

    let shared = "[\"10.1.0.5\", \"10.1.0.6\"]";
    let marked = spoiled_in(PATH_SAMPLE, shared, "§[\"10.1.0.5\", \"192.0.2.20\"]");
    let finding = assert_finds(&marked, "fullnat-sources", "error");
    assert_eq!(finding.path, "node.fullnat_sources_v4");
    assert_eq!(finding.related[0].label, "service quic has it here");
    assert_clean(&marked.replace("§", "").replace(
        "\"10.1.0.5\", \"192.0.2.20\"",
        "\"10.1.0.5\", \"192.0.2.21\"",
    ));
}

#[test]
fn a_quic_backend_without_a_server_id_is_found_at_its_header() {
    let text = spoiled_in(PATH_SAMPLE, "server_id = \"0a1b2d\"\n", "");
    let marked = text.replace(
        "[[service.backend]]\nname = \"quic-2\"",
        "§[[service.backend]]\nname = \"quic-2\"",
    );
    let finding = assert_finds(&marked, "server-id", "error");
    assert_eq!(finding.help.unwrap(), "add `server_id = \"0a0a0a\"`");
}

#[test]
fn records_of_all_services_by_flow_share_the_flow_table() {
    let text = spoiled_in(PATH_SAMPLE, "\"2m\"", "\"121s\"");
    let marked = text.replace("second = 2184", "second = §2184");
    assert_finds(&marked, "map-capacity", "warning");
    assert_clean(&spoiled_in(PATH_SAMPLE, "\"2m\"", "\"119s\""));

    let (_, quic) = PATH_SAMPLE.rsplit_once("[[service]]").unwrap();
    let other = quic
        .replace("\"quic\"", "\"other\"")
        .replace("\"192.0.2.20\"", "\"192.0.2.21\"")
        .replace("second = 2184", "second = 1");
    let text = format!("{PATH_SAMPLE}\n[[service]]{other}");
    let marked = text.replace("second = 2184", "second = §2184");
    let finding = assert_finds(&marked, "map-capacity", "warning");
    assert!(
        finding.message.contains("those of other services 120 more"),
        "{}",
        finding.message
    );
    assert_clean(&text.replace("second = 2184", "second = 2183"));
}

/// Spoils the sample's second service, whose header gets the mark.
fn second_service(from: &str, to: &str) -> String {
    let text = spoiled(from, to);
    let (head, tail) = text.rsplit_once("[[service]]").unwrap();
    format!("{head}§[[service]]{tail}")
}

#[test]
fn a_service_needs_backends_that_take_traffic() {
    let one = second_service(V6_2, "address = \"2001:db8:1::2\"\ndrain = true");
    assert_finds(&one, "single-backend", "warning");
    let one = second_service(V6_2, "address = \"2001:db8:1::2\"\nweight = 0");
    let finding = assert_finds(&one, "single-backend", "warning");
    assert_eq!(
        finding.message,
        "service dns: only backend dns-1 takes traffic"
    );
    let none = one.replace(
        "::1\"\n\n[[service.backend]]",
        "::1\"\ndrain = true\n\n[[service.backend]]",
    );
    assert_finds(&none, "no-backends", "error");
    let none = &none[..none.find("[[service.backend]]\nname = \"dns-1\"").unwrap()];
    let finding = assert_finds(none, "no-backends", "error");
    assert_eq!(finding.message, "service dns: there is no backend");
    let report = examined("[node]\ninterfaces = [\"e\"]").report;
    assert_eq!(report.findings()[0].rule, "no-services");
    assert_eq!((report.errors(), report.warnings()), (0, 1));
}

#[test]
fn a_service_needs_a_probe_that_says_something() {
    let none = second_service("[service.health]\nkind = \"tcp\"\n", "");
    assert_finds(&none, "no-health-check", "warning");
    let unset = second_service("fail_open_below = 0\n", "");
    assert_finds(&unset, "fail-open-unset", "warning");
    let http = spoiled("protocol = \"udp\"", "protocol = \"tcp\"");
    assert_clean(&http);
    let http = http
        .replace("[53, \"8053-8060\"]", "[53, \"8053-8090\"]")
        .replace("kind = \"tcp\"", "kind = §\"tcp\"");
    assert_finds(&http, "no-health-check", "warning");
}

#[test]
fn detection_that_is_rash_is_found() {
    let fast = spoiled("interval = \"2s\"", "interval = §\"249ms\"");
    let fast = fast.replace("timeout = \"250ms\"", "timeout = \"100ms\"");
    assert_finds(&fast, "probe-timing", "warning");
    assert_clean(&fast.replace("§\"249ms\"", "\"250ms\""));
}

const OTHER: &str = r#"
[[service]]
name = "other"
address = "ADDRESS"
port = §PORT
protocol = "PROTOCOL"
forward = "ipip"
fail_open_below = 0
[service.health]
kind = "tcp"
port = 1
[[service.backend]]
address = "10.9.0.1"
[[service.backend]]
address = "10.9.0.2"
"#;

fn with_other(address: &str, port: &str, protocol: &str) -> String {
    let other = OTHER
        .replace("ADDRESS", address)
        .replace("PORT", port)
        .replace("PROTOCOL", protocol);
    format!("{SAMPLE}{other}")
}

#[test]
fn services_that_claim_the_same_packets_are_found() {
    for (address, port, protocol) in [
        ("2001:db8::53", "53", "udp"),
        ("2001:db8::53", "\"any\"", "udp"),
        ("2001:db8::53", "[1, \"8060-8070\"]", "udp"),
        ("2001:db8:0::0:53", "\"1-65535\"", "udp"),
    ] {
        let finding = assert_finds(&with_other(address, port, protocol), "vip-overlap", "error");
        assert_eq!(finding.path, "service.other.port");
        assert_eq!(finding.related[0].label, "service dns claims it here");
    }
    for (address, port, protocol) in [
        ("2001:db8::53", "53", "tcp"),
        ("2001:db8::54", "53", "udp"),
        ("2001:db8::53", "[54, \"8061-9000\"]", "udp"),
    ] {
        assert_clean(&with_other(address, port, protocol).replace('§', ""));
    }
    // An IPv4 address in IPv6 clothes claims the same as the bare one.
    let text = with_other("::ffff:192.0.2.10", "\"400-500\"", "tcp").replace('§', "");
    let report = examined(&text).report;
    let rules: Vec<_> = report.findings().iter().map(|found| found.rule).collect();
    let expected = ["bad-service-address", "vip-overlap", "no-health-check"];
    assert_eq!(rules, expected);
}

#[test]
fn a_backend_of_two_identities_is_found_once_for_each_pair_of_services() {
    let both = |identity: &str, address: &str| {
        let text = with_other("192.0.2.99", "8000", "udp").replace('§', "");
        let kind = format!("kind = \"http\"\nidentity = {{ body = \"{identity}\" }}\nport = 1");
        text.replace("kind = \"tcp\"\nport = 1", &kind)
            .replace(
                "[service.health]\nkind = \"tcp\"\n",
                "[service.health]\nkind = \"http\"\nidentity = { body = \"dns\" }\n",
            )
            .replace("\"10.9.0.1\"", address)
            .replace("\"10.9.0.2\"", "\"2001:db8:1::2\"")
    };
    let finding = assert_finds(
        &both("other", "§\"2001:db8:1::1\""),
        "shared-backend",
        "warning",
    );
    assert!(
        finding.message.ends_with("; so do 1 more"),
        "{}",
        finding.message
    );
    assert_clean(&both("dns", "\"2001:db8:1::1\""));
    let mut once = both("other", "\"10.9.0.1\"");
    once.insert(once.rfind("\"2001:db8:1::2\"").unwrap(), '§');
    let finding = assert_finds(&once, "shared-backend", "warning");
    assert!(!finding.message.contains("more"), "{}", finding.message);
}

#[test]
fn a_backend_that_dominates_is_found() {
    // 201 of 401 is above one half, 200 of 400 is not.
    let text = spoiled("weight = 90", "weight = §201");
    assert_finds(&text, "dominant-backend", "warning");
    assert_clean(&spoiled("weight = 90", "weight = 200"));
    // Of two backends one may well have more.
    assert_clean(&spoiled(V6_2, "address = \"2001:db8:1::2\"\nweight = 90"));
}

#[test]
fn weights_that_differ_more_than_tenfold_are_found_at_the_greatest() {
    let uneven = |weight: u32| {
        let greatest = format!("address = \"10.0.0.13\"\nweight = §{weight}");
        spoiled("weight = 90", "weight = 10").replace("address = \"10.0.0.13\"", &greatest)
    };
    let finding = assert_finds(&uneven(101), "dominant-backend", "warning");
    assert_eq!(finding.related[0].label, "backend web-1 has the least");
    assert_clean(&uneven(100).replace('§', ""));
}

/// The sample with other weights, peak and capacities of service web.
fn loaded(peak: u64, backends: &[(u16, u64, &str)]) -> String {
    let (head, rest) = SAMPLE
        .split_once("[[service.backend]]\nname = \"web-1\"")
        .unwrap();
    let (_, dns) = rest.split_once("[[service]]").unwrap();
    let mut text = head.replace("= 20000", &format!("= {peak}"));
    for (index, (weight, capacity, zone)) in backends.iter().enumerate() {
        text.push_str(&format!(
            "[[service.backend]]\nname = \"b{index}\"\naddress = \"10.0.0.{}\"\nweight = {weight}\n",
            index + 1
        ));
        if *capacity > 0 {
            text.push_str(&format!("capacity_flows_per_second = {capacity}\n"));
        }
        if !zone.is_empty() {
            text.push_str(&format!("zone = \"{zone}\"\n"));
        }
    }
    format!("{text}\n[[service]]{dns}")
}

fn findings(text: &str) -> Vec<(&'static str, String)> {
    let report = examined(text).report;
    let findings = report.findings().iter();
    findings
        .map(|finding| (finding.rule, finding.message.clone()))
        .collect()
}

#[test]
fn a_peak_above_a_capacity_is_found_and_a_peak_at_it_is_not() {
    let half = [(1, 50, ""), (1, 0, "")];
    assert_eq!(findings(&loaded(50, &half)), []);
    let found = findings(&loaded(101, &half));
    let message = "service web: backend b0 would get 51 new flows a second at peak, limit 50";
    assert_eq!(found, [("capacity", message.to_owned())]);
    let found = findings(&loaded(100, &half));
    let message = "service web: without backend b1, backend b0 would get 100 new flows a second at peak, limit 50";
    assert_eq!(found, [("capacity-n-1", message.to_owned())]);
}

#[test]
fn the_loss_of_a_backend_or_a_zone_is_reckoned_with() {
    let spread = |capacity| {
        [
            (1, capacity, "a"),
            (1, capacity, "a"),
            (1, capacity, "b"),
            (1, capacity, "c"),
        ]
    };
    // Of four, three are left, or two without zone a.
    assert_eq!(findings(&loaded(120, &spread(60))), []);
    let found = findings(&loaded(121, &spread(60)));
    let message =
        "service web: without zone a, backend b2 would get 61 new flows a second at peak, limit 60";
    assert_eq!(found, [("capacity-n-1", message.to_owned())]);
    let found = findings(&loaded(121, &spread(40)));
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|(rule, _)| *rule == "capacity-n-1"));
    let found = findings(&loaded(10, &[(1, 0, "a"), (1, 0, "a")]));
    let message = "service web: without zone a no backend is left";
    assert_eq!(found, [("capacity-n-1", message.to_owned())]);
}

#[test]
fn backups_bear_a_part_once_a_loss_brings_them_in_and_none_before() {
    let with_backup = |peak, below: &str, zone: &str| {
        let text = loaded(peak, &[(1, 60, "a"), (1, 60, "b"), (1, 60, zone)]);
        let text = text.replace("name = \"b2\"\n", "name = \"b2\"\npool = \"backup\"\n");
        text.replace(
            "fail_open_below = 0.3\n",
            &format!("fail_open_below = 0.3\n{below}"),
        )
    };
    // Two of 60 bear 120 while all is well, and never 121.
    let found = findings(&with_backup(121, "backup_below = 0.6\n", "c"));
    let message = "service web: backend b0 would get 61 new flows a second at peak, limit 60";
    assert_eq!(found[0], ("capacity", message.to_owned()));
    // With one lost the backup comes in, and two bear it again.
    assert_eq!(findings(&with_backup(120, "backup_below = 0.6\n", "c")), []);
    // Where half is enough it does not.
    let found = findings(&with_backup(120, "backup_below = 0.5\n", "c"));
    let message = "service web: without backend b1, backend b0 would get 120 new flows a second at peak, limit 60";
    assert_eq!(found[0], ("capacity-n-1", message.to_owned()));
    // It does not help where it is lost with the zone.
    let found = findings(&with_backup(120, "backup_below = 0.6\n", "b"));
    let message = "service web: without zone b, backend b0 would get 120 new flows a second at peak, limit 60";
    assert_eq!(found, [("capacity-n-1", message.to_owned())]);
}

#[test]
fn service_of_backups_alone_has_no_backend_and_one_beside_them_is_not_single() {
    let text = loaded(10, &[(1, 0, ""), (1, 0, "")]);
    let backup = |text: &str, name: &str| {
        let line = format!("name = \"{name}\"\n");
        text.replace(&line, &format!("{line}pool = \"backup\"\n"))
    };
    let one = backup(&text, "b1");
    assert_eq!(findings(&one), []);
    let found = findings(&backup(&one, "b0"));
    let message = "service web: there is no backend that is not a backup".to_owned();
    assert_eq!(found, [("no-backends", message)]);
}

#[test]
fn a_table_too_small_for_its_backends_is_found() {
    let small = second_service("table_size = 65537", "table_size = 211");
    assert!(
        findings(&small.replace('§', ""))
            .iter()
            .all(|(rule, _)| *rule == "table-size")
    );
    let small = spoiled("table_size = 65537", "table_size = 293");
    let small = small.replacen("[[service]]", "§[[service]]", 1);
    let finding = assert_finds(&small, "table-size", "warning");
    assert_eq!(finding.help.unwrap(), "set `table_size = 307` in `[node]`");
    assert_clean(&spoiled("table_size = 65537", "table_size = 307"));
}

#[test]
fn a_table_that_does_not_match_the_weights_is_found() {
    let with_slots = |slots: &dyn Fn(&Service) -> Vec<u32>| {
        let report = examine("f", SAMPLE, Some(&|service, _| slots(service))).report;
        let findings = report.findings().iter();
        findings
            .map(|finding| format!("{} {}", finding.rule, finding.message))
            .collect::<Vec<_>>()
    };
    let fair = |service: &Service| {
        let weights = service.backends.iter().map(|backend| backend.weight);
        weights
            .map(|weight| u32::from(weight) * 200)
            .collect::<Vec<u32>>()
    };
    assert_eq!(with_slots(&fair), [""; 0]);
    let shifted = |by: u32| {
        move |service: &Service| {
            let mut slots = fair(service);
            slots[0] += by;
            slots[1] -= by;
            slots
        }
    };
    // 1 % of 18000 and of 20000 slots.
    assert_eq!(with_slots(&shifted(180)), [""; 0]);
    let found = with_slots(&shifted(181));
    let message = "table-share service web: backend web-1 has 18181 of 58000 slots, its weight's share is 18000.0";
    assert_eq!(found, [message]);
    let starved = |service: &Service| {
        let mut slots = vec![0; service.backends.len()];
        slots[0] = 65_537;
        slots
    };
    let found = with_slots(&starved);
    assert_eq!(found.len(), 2);
    assert!(
        found[0].contains("backend 10.0.0.12 has 0 of 65537 slots"),
        "{found:?}"
    );
    assert!(found[0].ends_with("; 2 more are off"), "{found:?}");
    // Two slots off are noise, whatever their share.
    let tiny = |service: &Service| vec![3; service.backends.len()];
    assert_eq!(with_slots(&tiny), [""; 0]);
}

#[test]
fn an_allowed_finding_is_kept_but_does_not_count() {
    let text = spoiled("\"churn\"", "\"dominant-backend\"").replace("weight = 90", "weight = 201");
    let mut report = examined(&text).report;
    assert_eq!(
        (report.errors(), report.warnings(), report.allowed()),
        (0, 0, 1)
    );
    let reason = report.findings()[0].allowed.as_deref();
    assert_eq!(reason, Some("moved on purpose"));
    // What one service allows, another does not.
    let text = second_service("\"churn\"", "\"single-backend\"");
    let text = text.replace(V6_2, "address = \"2001:db8:1::2\"\nweight = 0");
    assert_finds(&text, "single-backend", "warning");
    report = examined(&text.replace('§', "")).report;
    assert_eq!(report.allow("single-backend", "night").unwrap(), 1);
    assert_eq!(report.warnings(), 0);
    assert!(report.allow("vip-overlap", "x").is_err());
}

#[test]
fn services_without_a_fault_are_checked_beside_a_broken_one() {
    let broken = SAMPLE.replacen("weight = ", "wieght = ", 1);
    let both = broken.replace(V6_2, "name = \"dns-2\"\naddress = \"2001:db8:1::1\"");
    assert_ne!(both, broken);
    let found = |text: &str| -> Vec<(String, String)> {
        let report = examined(text).report;
        let findings = report.findings().iter();
        findings
            .map(|it| (it.rule.to_owned(), it.path.clone()))
            .collect()
    };
    let unknown = (
        "unknown-key".to_owned(),
        "service.web.backend.web-1".to_owned(),
    );
    assert_eq!(found(&broken), std::slice::from_ref(&unknown));
    let twice = (
        "duplicate-backend".to_owned(),
        "service.dns.backend.dns-2.address".to_owned(),
    );
    assert_eq!(found(&both), [unknown, twice]);
    // Much depends on the node, so nothing is said of the rest.
    let node = both.replace("[node]", "[node]\ncolour = 1");
    assert!(found(&node).iter().all(|(rule, _)| rule == "unknown-key"));
}

#[test]
fn without_spans_findings_have_paths_but_no_places() {
    let parsed = parse(&spoiled("rise = 3", "rise = 1"));
    let found = check_config(&parsed.config.unwrap(), &Spans::default(), None);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path, "service.web.health.rise");
    assert_eq!(found[0].span, None);
}

#[test]
fn a_large_file_is_checked_in_linear_time() {
    let mut text = String::from("[node]\ninterfaces = [\"eth0\"]\n");
    for service in 0..1000 {
        let (high, low) = (service / 250, service % 250);
        text.push_str(&format!(
            "[[service]]\nname = \"s{service}\"\naddress = \"192.0.2.1\"\nport = {}\n\
             protocol = \"tcp\"\nforward = \"ipip\"\npeak_flows_per_second = 1000\nfail_open_below = 0.3\n\
             [service.health]\nkind = \"http\"\nidentity = {{ body = \"{}\" }}\n",
            service + 1,
            service % 2
        ));
        for backend in 0..100 {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.{high}.{low}.{backend}\"\n\
                 weight = 100\nzone = \"z{}\"\ncapacity_flows_per_second = 100\n",
                backend % 3
            ));
        }
    }
    let start = Instant::now();
    let examined = examined(&text);
    let elapsed = start.elapsed();
    assert!(
        examined.report.findings().is_empty(),
        "{}",
        examined.report.summary()
    );
    // Generous, as this may be a debug build on a busy machine: what is
    // quadratic in 100,000 backends takes minutes.
    assert!(elapsed.as_secs() < 30, "{elapsed:?}");
    println!("{} bytes in {elapsed:?}", text.len());
}
