//! Help, versions, bad usage, completions and manual pages.

use std::fs;

use super::{Scratch, balancer, run};

const COMMANDS: &[&[&str]] = &[
    &[],
    &["run"],
    &["check"],
    &["plan"],
    &["status"],
    &["service"],
    &["service", "list"],
    &["service", "add"],
    &["service", "remove"],
    &["backend"],
    &["backend", "list"],
    &["backend", "add"],
    &["backend", "remove"],
    &["backend", "drain"],
    &["backend", "undrain"],
    &["backend", "weight"],
    &["reload"],
    &["explain"],
    &["trace"],
    &["capture"],
    &["loadtest"],
    &["verify"],
    &["decap"],
    &["unload"],
    &["completions"],
    &["man"],
];

#[test]
fn help_goes_to_stdout_and_succeeds() {
    for command in COMMANDS {
        let ran = run(balancer(&[command, &["--help"][..]].concat()));
        assert_eq!(ran.code, Some(0), "{command:?}");
        assert_eq!(ran.stderr, "", "{command:?}");
        assert!(ran.stdout.contains("Usage: balancer"), "{command:?}");
        assert!(!ran.stdout.contains('\u{1b}'), "{command:?}");
    }
}

#[test]
fn help_states_what_breaks_and_what_persists() {
    for (command, consequence) in [
        (&["backend", "remove"][..], "flows break"),
        (&["backend", "drain"], "keep the old ones"),
        (&["backend", "add"], "once its probes passed"),
        (&["service", "remove"], "flows break"),
        (&["reload"], "Drains made by command are kept"),
        (&["run"], "nothing changes"),
        (&["plan"], "new backends are probed"),
        (&["unload"], "Refuses while a balancer is running"),
        (&["decap"], "packets from anyone are unwrapped"),
        (&["explain"], "neither counters nor records"),
        (&["trace"], "Nothing is attached"),
        (&["capture"], "no more than --limit packets a second"),
        (&["loadtest"], "a target has to stand in the list"),
        (&["verify"], "written anew at once"),
    ] {
        let ran = run(balancer(&[command, &["--help"][..]].concat()));
        let text = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(consequence), "{command:?}: {text}");
    }
}

#[test]
fn version_is_one_line() {
    let ran = run(balancer(&["--version"]));
    assert_eq!(
        ran.stdout,
        concat!("balancer ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(ran.code, Some(0));
}

#[test]
fn bad_usage_is_told_on_stderr_with_exit_2() {
    let file = "/nonexistent";
    for args in [
        &[][..],
        &["frobnicate"],
        &["run"],
        &["run", "--config", "-"],
        &["run", "--config", file, "--log", "=="],
        &["check"],
        &["plan"],
        &["check", file, "--format", "xml"],
        &["check", file, "--deny", "everything"],
        &["check", file, "--allow", "no-such-rule"],
        &["check", file, "--allow", "syntax"],
        &["check", file, "--json", "--format", "text"],
        &["check", "--explain", "no-such-rule"],
        &["status", "--yaml"],
        &["backend"],
        &["backend", "weight", "web", "web-1", "70000"],
        &["backend", "add", "web", "web-1", "nowhere"],
        &["service", "add"],
        &["service", "add", "web", "--address", "192.0.2.1"],
        &["service", "add", "--file", file, "web"],
        &["trace", "--config", file],
        &["trace", "--hex", "00"],
        &["trace", "--config", file, "--hex", "0"],
        &["trace", "--config", file, "--hex", "zz"],
        &["trace", "--config", file, "--hex", "00", "--pcap", file],
        &["capture", "--verdict", "accept"],
        &["capture", "--reason", "because"],
        &["capture", "--sample", "0"],
        &["capture", "--limit", "0"],
        &["capture", "--limit", "1000001"],
        &["capture", "--snaplen", "0"],
        &["capture", "--snaplen", "4097"],
        &["capture", "--count", "0"],
        &["capture", "--for", "soon"],
        &["capture", "--json", "--write", file],
        &["capture", "--text", "--json"],
        &["capture", "--stop", "--text"],
        &["decap"],
        &["decap", "--interface", "lo", "--mode", "offloaded"],
        &["decap", "--interface", "lo", "--source", "nowhere"],
        &["decap", "--interface", "lo", "--source", "10.0.0.1/24"],
        &[
            "decap",
            "--interface",
            "lo",
            "--source",
            "::/0",
            "--any-source",
        ],
        &["decap", "--interface", "lo", "--gue-port", "0"],
        &["decap", "--interface", "lo", "--stats", "0"],
        &["completions", "tcsh"],
    ] {
        assert_bad_usage(args);
    }
}

fn assert_bad_usage(args: &[&str]) {
    let ran = run(balancer(args));
    assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
    assert_eq!(ran.stdout, "", "{args:?}");
    assert!(!ran.stderr.is_empty(), "{args:?}");
}

#[test]
fn load_test_refuses_what_its_kind_of_target_has_no_use_for() {
    let file = "/nonexistent";
    for args in [
        &["loadtest"][..],
        &["loadtest", "192.0.2.1"],
        &["loadtest", "tcp://192.0.2.1:80", "--requests", "2"],
        &["loadtest", "tcp://192.0.2.1:80", "--expect-status", "200"],
        &["loadtest", "http://192.0.2.1/", "--server-name", "web"],
        &["loadtest", "http://192.0.2.1/", "--rate", "0"],
        &["loadtest", "http://192.0.2.1/", "--duration", "0s"],
        &["loadtest", "http://192.0.2.1/", "--max-failures", "101"],
        &["loadtest", "http://192.0.2.1/", "--max-skew", "0.5"],
        &["loadtest", "http://192.0.2.1/", "--header", "no field"],
        &["loadtest", "http://192.0.2.1/", "--source", "192.0.2.0/24"],
        &["loadtest", "http://192.0.2.1/", "--flows", "10"],
        &["loadtest", "tcp://192.0.2.1:80", "--size", "100"],
        &["loadtest", "tcp://192.0.2.1:80", "--max-lost", "1"],
        &["loadtest", "udp://192.0.2.1"],
        &["loadtest", "udp://192.0.2.1:53/path"],
        &["loadtest", "udp://192.0.2.1:53", "--requests", "1"],
        &["loadtest", "udp://192.0.2.1:53", "--timeout", "5s"],
        &["loadtest", "udp://192.0.2.1:53", "--most-under-way", "9"],
        &["loadtest", "udp://192.0.2.1:53", "--max-failures", "0"],
        &["loadtest", "udp://192.0.2.1:53", "--max-p99", "5ms"],
        &[
            "loadtest",
            "udp://192.0.2.1:53",
            "--server-header",
            "server",
        ],
        &["loadtest", "udp://192.0.2.1:53", "--ca-file", file],
        &["loadtest", "udp://192.0.2.1:53", "--size", "63"],
        &["loadtest", "udp://192.0.2.1:53", "--size", "1515"],
        &["loadtest", "udp://192.0.2.1:53", "--flows", "0"],
        &["loadtest", "udp://192.0.2.1:53", "--flows", "64513"],
        &["loadtest", "udp://192.0.2.1:53", "--max-lost", "101"],
        &["loadtest", "udp://192.0.2.1:53", "--source", "web"],
        &[
            "loadtest",
            "udp://192.0.2.1:53",
            "--source",
            "192.0.2.7,192.0.2.8",
        ],
        &["loadtest", "syn://192.0.2.1:80", "--size", "100"],
        &[
            "loadtest",
            "http://192.0.2.1/",
            "--metrics",
            "http://192.0.2.1/metrics",
        ],
    ] {
        assert_bad_usage(args);
    }
}

#[test]
fn completions_are_there_for_every_usual_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(balancer(&["completions", shell]));
        assert_eq!(ran.code, Some(0), "{shell}");
        assert!(ran.stdout.contains("undrain"), "{shell}");
    }
}

#[test]
fn manual_has_a_page_a_command() {
    let scratch = Scratch::new();
    let dir = scratch.path("man");
    let ran = run(balancer(&["man", "--dir", dir.to_str().unwrap()]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for page in ["balancer.1", "balancer-trace.1", "balancer-backend-drain.1"] {
        let text = fs::read_to_string(dir.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let ran = run(balancer(&["man"]));
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains(".TH balancer 1"), "{}", ran.stdout);
}
