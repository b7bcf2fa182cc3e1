//! `balancer check`.

use serde_json::Value;

use super::{FILE, Scratch, as_nobody, balancer, run, run_with_stdin};

const GOOD: &str = r#"[node]
interfaces = ["eth0"]

[[service]]
name = "dns"
address = "192.0.2.10"
port = 53
protocol = "udp"
forward = "l2"
fail_open_below = 0.3
[service.health]
kind = "tcp"
[[service.backend]]
name = "dns-1"
address = "10.0.0.11"
[[service.backend]]
name = "dns-2"
address = "10.0.0.12"
"#;

/// One error, no warning.
fn bad() -> String {
    GOOD.replace("10.0.0.12", "10.0.0.11")
}

/// One warning, no error.
fn doubtful() -> String {
    GOOD.replace("fail_open_below = 0.3\n", "")
}

#[test]
fn good_file_gets_one_line() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", GOOD);
    let ran = run(balancer(&["check", &file]));
    assert_eq!(
        ran.stdout,
        format!("{file}: 0 errors, 0 warnings, 0 allowed\n")
    );
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.code, Some(0));
}

#[test]
fn bad_file_gets_every_finding_with_its_place_and_exit_1() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", bad());
    let ran = run(balancer(&["check", &file]));
    let expected = format!(
        "\
error[duplicate-backend]: service dns: backend dns-2 has the address 10.0.0.11 of backend dns-1
  --> {file}:18:11
"
    );
    assert!(ran.stdout.starts_with(&expected), "{}", ran.stdout);
    let end = format!("\n{file}: 1 error, 0 warnings, 0 allowed\n");
    assert!(ran.stdout.ends_with(&end), "{}", ran.stdout);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn warnings_fail_only_when_they_are_denied() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", doubtful());
    let check = |more: &[&str]| run(balancer(&[&["check", &file], more].concat())).code;
    assert_eq!(check(&[]), Some(0));
    assert_eq!(check(&["--deny", "warnings"]), Some(1));
    let allowed = ["--deny", "warnings", "--allow", "fail-open-unset"];
    assert_eq!(check(&allowed), Some(0));
}

#[test]
fn allowed_findings_are_shown_and_counted_apart() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", bad());
    let ran = run(balancer(&["check", &file, "--allow", "duplicate-backend"]));
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stdout.starts_with("allowed[duplicate-backend]"),
        "{}",
        ran.stdout
    );
    let end = format!("{file}: 0 errors, 0 warnings, 1 allowed\n");
    assert!(ran.stdout.ends_with(&end), "{}", ran.stdout);
}

#[test]
fn json_holds_findings_and_sums() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", bad());
    for format in [&["--format", "json"][..], &["--json"]] {
        let ran = run(balancer(&[&["check", &file], format].concat()));
        let json: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(ran.code, Some(1));
        assert_eq!(json["errors"], 1);
        assert_eq!(json["findings"][0]["rule"], "duplicate-backend");
        assert_eq!(json["findings"][0]["line"], 18);
        assert_eq!(
            json["findings"][0]["path"],
            "service.dns.backend.dns-2.address"
        );
    }
}

#[test]
fn sarif_holds_results() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", bad());
    let ran = run(balancer(&["check", &file, "--format", "sarif"]));
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ran.code, Some(1));
    assert_eq!(json["version"], "2.1.0");
    assert_eq!(json["runs"][0]["results"][0]["ruleId"], "duplicate-backend");
}

#[test]
fn stdin_is_a_file_too() {
    let ran = run_with_stdin(balancer(&["check", "-"]), GOOD.as_bytes());
    assert_eq!(ran.stdout, "stdin: 0 errors, 0 warnings, 0 allowed\n");
    assert_eq!(ran.code, Some(0));
    run_with_stdin(balancer(&["check", "-"]), b"\xff\xfe").assert_failed("not UTF-8 at byte 0");
}

#[test]
fn several_faults_of_the_text_come_at_once() {
    let text = FILE.replace("interfaces =", "interfacs =") + "colour = \"red\"\n";
    let ran = run_with_stdin(balancer(&["check", "-"]), text.as_bytes());
    for rule in ["unknown-key", "missing-key", "interfacs", "colour"] {
        assert!(ran.stdout.contains(rule), "{rule}: {}", ran.stdout);
    }
    assert_eq!(ran.code, Some(1));
}

#[test]
fn file_that_cannot_be_read_is_one_line() {
    run(balancer(&["check", "/nonexistent"])).assert_failed("cannot read /nonexistent: No such");
    run(balancer(&["check", "/etc"])).assert_failed("cannot read /etc: Is a directory");
}

#[test]
fn nothing_needs_root() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", GOOD);
    assert_eq!(run(as_nobody(&scratch, &["check", &file])).code, Some(0));
}

#[test]
fn rules_are_listed_and_explained() {
    let ran = run(balancer(&["check", "--list"]));
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stdout
            .lines()
            .any(|line| line.starts_with("table-share "))
    );
    let ran = run(balancer(&["check", "--list", "--json"]));
    let rules: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    assert!(rules.iter().any(|rule| rule["rule"] == "vip-overlap"));
    let ran = run(balancer(&["check", "--explain", "vip-overlap"]));
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stdout
            .starts_with("vip-overlap: two services claim the same address, port and protocol\n"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("allowable:  no: "), "{}", ran.stdout);
    let ran = run(balancer(&["check", "--explain", "mtu"]));
    for part in [
        "\nlevel:      error\n",
        "\nlooks at:   this host and its network, by `balancer check --live`",
        "\nallowable:  yes: `--allow mtu`",
    ] {
        assert!(ran.stdout.contains(part), "no {part:?} in {}", ran.stdout);
    }
    // What it is for is wrapped.
    let (_, text) = ran.stdout.rsplit_once("\n\n").unwrap();
    assert!(text.lines().count() > 5, "{text}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    let ran = run(balancer(&["check", "--explain", "vip-overlpa"]));
    assert!(
        ran.stderr.contains("did you mean \"vip-overlap\"?"),
        "{}",
        ran.stderr
    );
}

#[test]
fn live_check_without_root_says_what_it_could_not_look_at() {
    let scratch = Scratch::new();
    // No host has an interface of that name.
    let file = scratch.file("b.toml", GOOD.replace("eth0", "no-such-0"));
    let ran = run(as_nobody(&scratch, &["check", "--live", &file]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let found = "error[missing-interface]: interface no-such-0 does not exist";
    assert!(ran.stdout.contains(found), "{ran:?}");
    let unseen = "note: not looked at: neighbours that the kernel does not know yet: asking for \
                  them needs root\n";
    assert!(ran.stderr.contains(unseen), "{ran:?}");
    assert!(!ran.stdout.contains("does not answer"), "{ran:?}");
}

#[test]
fn live_check_of_a_file_that_cannot_be_read_looks_at_nothing() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", "[node\n");
    let ran = run(balancer(&["check", "--live", &file]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let note = "note: the host is not looked at before the file can be read\n";
    assert_eq!(ran.stderr, note);
}
