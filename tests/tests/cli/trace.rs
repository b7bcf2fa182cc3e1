//! `balancer trace` of frames in hex, byte by byte.

use std::net::SocketAddr;

use balancer_tests::frames::{Packet, hex};
use serde_json::{Value, json};

use super::{FILE, Ran, Scratch, isolated, run, run_with_stdin};

/// Ethernet addresses of a frame that comes in, destination first.
const MACS: &str = "020000000001020000000002";

/// 192.0.2.10:80 from 198.51.100.1:1234, a SYN; IP header and what follows.
const WEB: &str = "450000280000400040064e91c6336401c000020a\
                   04d200500000000100000000500203e800000000";
/// The same to 192.0.2.11.
const TUNNEL: &str = "450000280000400040064e90c6336401c000020b\
                      04d200500000000100000000500203e800000000";
/// The same to 192.0.2.12.
const SIX: &str = "450000280000400040064e8fc6336401c000020c\
                   04d200500000000100000000500203e800000000";
/// The same to 192.0.2.99, which is no service.
const NOBODYS: &str = "450000280000400040064e38c6336401c0000263\
                       04d200500000000100000000500203e800000000";

fn frame(packet: &str) -> String {
    format!("{MACS}0800{packet}")
}

fn trace(file: &str, more: &[&str]) -> Ran {
    run(isolated(
        &[&["trace", "--config", file, "--json"], more].concat(),
    ))
}

fn records(ran: &Ran) -> Vec<Value> {
    ran.stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The only record of one frame.
fn one(file: &str, frame: &str) -> Value {
    let mut records = records(&trace(file, &["--hex", frame]));
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn with_file(text: &str, test: impl FnOnce(&str)) {
    let scratch = Scratch::new();
    test(&scratch.file("b.toml", text));
}

fn without_flow(mut record: Value) -> Value {
    let record_map = record.as_object_mut().unwrap();
    let slot = record_map.remove("slot").unwrap().as_u64().unwrap();
    let hash = record_map.remove("hash").unwrap();
    let hash = u64::from_str_radix(hash.as_str().unwrap(), 16).unwrap();
    // The documented way from hash to slot, in a table of 65537.
    assert_eq!(slot, ((hash >> 32) * 65_537) >> 32);
    record
}

#[test]
fn l2_frame_leaves_with_the_backends_address_and_nothing_else_changed() {
    with_file(FILE, |file| {
        assert_eq!(
            without_flow(one(file, &frame(WEB))),
            json!({
                "index": 0,
                "verdict": "tx",
                "reason": "forwarded",
                "service": "web",
                "backend": "web-1",
                "out": format!("0200000000110200000000010800{WEB}"),
            })
        );
    });
}

#[test]
fn ipip_frame_leaves_in_an_outer_header() {
    with_file(FILE, |file| {
        // Total length 60, no fragmenting, TTL 64, protocol 4.
        let outer = "4500003c00004000400426a90a0000010a000015";
        assert_eq!(
            without_flow(one(file, &frame(TUNNEL))),
            json!({
                "index": 0,
                "verdict": "tx",
                "reason": "forwarded",
                "service": "tunnel",
                "backend": "tunnel-1",
                "out": format!("0200000000210200000000010800{outer}{TUNNEL}"),
            })
        );
    });
}

#[test]
fn ipv4_goes_through_an_ipv6_tunnel_labelled_with_its_hash() {
    with_file(FILE, |file| {
        let record = one(file, &frame(SIX));
        let label = &record["hash"].as_str().unwrap()[11..];
        // Payload length 40, next header 4, hop limit 64.
        let outer = format!(
            "600{label}00280440\
             20010db8000000000000000000000001\
             20010db8000000000000000000000031"
        );
        assert_eq!(record["backend"], "six-1");
        assert_eq!(
            record["out"],
            format!("02000000003102000000000186dd{outer}{SIX}")
        );
    });
}

#[test]
fn frames_for_nobody_pass_untouched() {
    with_file(FILE, |file| {
        assert_eq!(
            one(file, &frame(NOBODYS)),
            json!({
                "index": 0,
                "verdict": "pass",
                "reason": "no_service",
                "service": null,
                "backend": null,
                "out": frame(NOBODYS),
            })
        );
    });
}

#[test]
fn drop_names_its_reason_and_has_no_frame() {
    with_file(FILE, |file| {
        // UDP to 192.0.2.13, whose backend nobody knows the way to.
        let packet = "4500001c0000400040114e8fc6336401c000020d04d2003500080000";
        let ran = trace(file, &["--hex", &frame(packet)]);
        assert_eq!(
            without_flow(records(&ran).remove(0)),
            json!({
                "index": 0,
                "verdict": "drop",
                "reason": "no_next_hop",
                "service": "lost",
                "backend": "lost-1",
                "out": null,
            })
        );
        assert_eq!(ran.code, Some(0));
        let note = "note: service lost: no way to backend lost-1 (203.0.113.7) is known";
        assert!(ran.stderr.contains(note), "{}", ran.stderr);
    });
}

#[test]
fn text_has_the_same_in_words() {
    with_file(FILE, |file| {
        let (web, nobodys) = (frame(WEB), frame(NOBODYS));
        let ran = run(isolated(&[
            "trace", "--config", file, "--hex", &web, "--hex", &nobodys, "--hex", "00",
        ]));
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert!(
            lines[0].starts_with("0 tx forwarded service web backend web-1 slot "),
            "{}",
            lines[0]
        );
        assert!(
            lines[0].ends_with(&format!(" out 0200000000110200000000010800{WEB}")),
            "{}",
            lines[0]
        );
        assert_eq!(lines[1], format!("1 pass no_service out {nobodys}"));
        assert!(
            lines[2].starts_with("2 error the frame has 1 bytes"),
            "{}",
            lines[2]
        );
        assert_eq!(ran.code, Some(1));
    });
}

#[test]
fn frames_that_do_not_fit_are_named_and_the_others_still_run() {
    with_file(FILE, |file| {
        let web = frame(WEB);
        let (short, long) = ("00".repeat(13), "00".repeat(3_501));
        let (least, most) = ("00".repeat(14), "00".repeat(3_500));
        let args = [&web, &short, &long, &least, &most, ""];
        let args: Vec<&str> = args.iter().flat_map(|frame| ["--hex", frame]).collect();
        let ran = trace(file, &args);
        let records = records(&ran);
        assert_eq!(ran.code, Some(1));
        assert_eq!(records[0]["verdict"], "tx");
        for index in [1, 2, 5] {
            assert_eq!(records[index]["index"], index);
            let error = records[index]["error"].as_str().unwrap();
            assert!(error.contains("takes 14 to 3500"), "{error}");
            assert_eq!(records[index].as_object().unwrap().len(), 2);
        }
        for index in [3, 4] {
            assert_eq!(records[index]["reason"], "not_ip", "{}", records[index]);
        }
    });
}

#[test]
fn stdin_has_a_frame_a_line_in_any_spelling() {
    with_file(FILE, |file| {
        let web = frame(WEB);
        let spelled: Vec<String> = web
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair).to_uppercase())
            .collect();
        let input = format!(
            "{web}\n\n {} \nnonsense\n{}",
            spelled.join(":"),
            spelled.join(" ")
        );
        let command = isolated(&["trace", "--config", file, "--json", "--hex", "-"]);
        let ran = run_with_stdin(command, input.as_bytes());
        let records = records(&ran);
        assert_eq!(ran.code, Some(1));
        assert_eq!(records.len(), 4);
        for index in [0, 1, 3] {
            assert_eq!(records[index]["index"], index);
            assert_eq!(records[index]["out"], records[0]["out"]);
        }
        assert_eq!(
            records[2],
            json!({"index": 2, "error": "character 1 is 'n', no hex digit"})
        );
    });
}

/// A SYN from a client port to the service `web`.
fn syn(port: u16) -> String {
    let client = SocketAddr::new("198.51.100.1".parse().unwrap(), port);
    hex(&Packet::tcp(client, "192.0.2.10:80".parse().unwrap()).build())
}

fn backends(file: &str, frames: &[String]) -> Vec<String> {
    let command = isolated(&["trace", "--config", file, "--json", "--hex", "-"]);
    let ran = run_with_stdin(command, frames.join("\n").as_bytes());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    records(&ran)
        .iter()
        .map(|record| record["backend"].as_str().unwrap().to_owned())
        .collect()
}

const SECOND: &str = "mac = \"02:00:00:00:00:11\"\n[[service.backend]]\nname = \"web-2\"\n\
                      address = \"10.0.0.12\"\nmac = \"02:00:00:00:00:12\"\n";

#[test]
fn flows_are_shared_out_and_each_stays_where_it_is() {
    let text = FILE.replace("mac = \"02:00:00:00:00:11\"\n", SECOND);
    with_file(&text, |file| {
        let frames: Vec<String> = (1_000..1_200).map(syn).collect();
        let first = backends(file, &frames);
        let ones = first.iter().filter(|name| *name == "web-1").count();
        assert!((60..140).contains(&ones), "{ones} of 200");
        // A trace depends on nothing but the file and the frames.
        assert_eq!(first, backends(file, &frames));
    });
}

#[test]
fn drained_backend_gets_no_new_flow() {
    let second = format!("{SECOND}drain = true\n");
    let text = FILE.replace("mac = \"02:00:00:00:00:11\"\n", &second);
    with_file(&text, |file| {
        let frames: Vec<String> = (1_000..1_050).map(syn).collect();
        assert!(backends(file, &frames).iter().all(|name| name == "web-1"));
    });
}

#[test]
fn configuration_that_breaks_rules_is_shown_and_still_traced() {
    let text = FILE.replace("192.0.2.11", "192.0.2.10");
    with_file(&text, |file| {
        let ran = trace(file, &["--hex", &frame(NOBODYS)]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(records(&ran)[0]["verdict"], "pass");
        assert!(ran.stderr.contains("error[vip-overlap]"), "{}", ran.stderr);
    });
}

#[test]
fn file_with_a_fault_in_its_text_is_refused() {
    with_file("[node]\ninterfaces = 7\n", |file| {
        let ran = trace(file, &["--hex", &frame(WEB)]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
        assert!(ran.stderr.contains("error[wrong-type]"), "{}", ran.stderr);
    });
    trace("/nonexistent", &["--hex", &frame(WEB)]).assert_failed("cannot read /nonexistent");
}

#[test]
fn missing_seed_and_tunnel_source_are_made_up_and_said() {
    let text = FILE
        .replace("seed = ", "state_dir = \"/nonexistent\" #")
        .replace("tunnel_source_v4 = \"10.0.0.1\"\n", "")
        .replace("tunnel_source_v6 = \"2001:db8::1\"\n", "");
    with_file(&text, |file| {
        let (tunnel, six) = (frame(TUNNEL), frame(SIX));
        let ran = trace(file, &["--hex", &tunnel, "--hex", &six]);
        let records = records(&ran);
        let source = |record: &Value, range: std::ops::Range<usize>| {
            record["out"].as_str().unwrap()[range].to_owned()
        };
        assert_eq!(source(&records[0], 52..60), "c0000008");
        assert_eq!(
            source(&records[1], 44..76),
            format!("0100{}", "0".repeat(28))
        );
        for note in [
            "192.0.0.8 stands for it",
            "100:: stands for it",
            "/nonexistent/seed holds none, so flows are hashed with zeros",
        ] {
            assert!(ran.stderr.contains(note), "{note}: {}", ran.stderr);
        }
    });
}

#[test]
fn seed_of_the_daemon_is_used_where_the_file_has_none() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("seed"), (0..16).collect::<Vec<u8>>()).unwrap();
    let dir = scratch.path("").to_str().unwrap().to_owned();
    let with_seed = scratch.file("a.toml", FILE);
    let kept = FILE.replace("seed = ", &format!("state_dir = \"{dir}\" #"));
    let without_seed = scratch.file("b.toml", kept);
    let web = frame(WEB);
    let ran = trace(&without_seed, &["--hex", &web]);
    assert!(!ran.stderr.contains("zeros"), "{}", ran.stderr);
    assert_eq!(records(&ran)[0], one(&with_seed, &web));
}

#[test]
fn verbose_shows_the_programs_own_line() {
    with_file(FILE, |file| {
        let ran = trace(file, &["--verbose", "--hex", &frame(WEB)]);
        assert!(
            ran.stderr.contains("reason 0 service 1 member 0"),
            "{}",
            ran.stderr
        );
    });
}

#[test]
fn explain_of_a_file_says_what_a_trace_does() {
    with_file(FILE, |file| {
        let flow = [
            "explain",
            "--config",
            file,
            "--src",
            "198.51.100.1:1234",
            "--proto",
            "tcp",
            "--dst",
        ];
        let json = |dst: &str| {
            let ran = run(isolated(&[&flow[..], &[dst, "--json"]].concat()));
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            serde_json::from_str::<Value>(&ran.stdout).unwrap()
        };
        let explained = json("192.0.2.10:80");
        let traced = one(file, &frame(WEB));
        assert_eq!(explained["tables"], file);
        assert_eq!(explained["service"], "web");
        assert_eq!(explained["slot"]["slot"], traced["slot"]);
        assert_eq!(explained["slot"]["hash"], traced["hash"]);
        assert_eq!(explained["packets"][0]["backend"], "web-1");
        assert_eq!(explained["packets"][0]["verdict"], traced["verdict"]);
        assert_eq!(explained["backends"][0]["state"], "assumed up");
        assert_eq!(explained["backends"][0]["share_expected"], 1.0);
        let nobodys = json("192.0.2.99:80");
        assert_eq!(nobodys["service"], Value::Null);
        assert_eq!(nobodys["packets"][0]["reason"], "no_service");

        let ran = run(isolated(&[&flow[..], &["192.0.2.10:80"]].concat()));
        let first = ran.stdout.lines().next().unwrap();
        assert_eq!(
            first,
            "tcp 198.51.100.1:1234 -> 192.0.2.10:80: goes to web-1"
        );
        let mixed = run(isolated(&[&flow[..], &["[2001:db8::1]:80"]].concat()));
        assert_eq!(mixed.code, Some(2));
        assert!(mixed.stderr.contains("two families"), "{}", mixed.stderr);
    });
}
