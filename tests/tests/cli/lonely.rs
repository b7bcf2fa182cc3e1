//! Commands that find no daemon, and daemons that cannot start.

use super::{FILE, Scratch, as_nobody, balancer, isolated, run};

#[test]
fn commands_say_that_no_balancer_answers() {
    let scratch = Scratch::new();
    let socket = scratch.path("none.sock");
    let socket = socket.to_str().unwrap();
    let fragment = scratch.file("fragment.toml", "[[service]]\n");
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["service", "list"],
        &["service", "add", "--file", &fragment],
        &["service", "remove", "web"],
        &["backend", "list"],
        &["backend", "add", "web", "web-1", "10.0.0.1"],
        &["backend", "remove", "web", "web-1", "--dry-run"],
        &["backend", "drain", "web", "web-1"],
        &["backend", "undrain", "web", "web-1"],
        &["backend", "weight", "web", "web-1", "1"],
        &["plan", &fragment],
        &["reload"],
        &["events"],
        &["events", "--follow"],
    ] {
        let gist = format!("no balancer answers at {socket}");
        run(balancer(&[&["--socket", socket], args].concat())).assert_failed(&gist);
        // The environment names the socket as well.
        let mut command = balancer(args);
        command.env("BALANCER_SOCKET", socket);
        run(command).assert_failed(&gist);
    }
}

#[test]
fn live_screen_needs_a_terminal_and_says_what_does_not() {
    let ran = run(balancer(&["top"]));
    ran.assert_failed("needs a terminal; `balancer status` prints the same");
}

#[test]
fn fragment_that_cannot_be_read_is_one_line() {
    let ran = run(balancer(&["service", "add", "--file", "/nonexistent"]));
    ran.assert_failed("cannot read /nonexistent");
}

#[test]
fn run_refuses_a_file_with_an_error_and_shows_it() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", FILE.replace("192.0.2.11", "192.0.2.10"));
    let ran = run(balancer(&["run", "--config", &file]));
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("error[vip-overlap]"), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 error, "), "{}", ran.stderr);
    run(balancer(&["run", "--config", "/nonexistent"])).assert_failed("cannot read /nonexistent");
}

#[test]
fn run_refuses_an_interface_that_does_not_exist() {
    let scratch = Scratch::new();
    let dir = scratch.path("").to_str().unwrap().to_owned();
    let own = format!(
        "interfaces = [\"nowhere0\"]\nsocket = \"{dir}/s\"\nstate_dir = \"{dir}/state\"\n\
         pin_dir = \"/sys/fs/bpf/cli-{}\"",
        std::process::id()
    );
    let file = scratch.file("b.toml", FILE.replace("interfaces = [\"eth0\"]", &own));
    let ran = run(isolated(&["run", "--config", &file]));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stdout, "");
    let last = ran.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: interface nowhere0"), "{ran:?}");
    assert!(!scratch.path("s").exists(), "the socket was left behind");
    let _ = std::fs::remove_dir(format!("/sys/fs/bpf/cli-{}", std::process::id()));
}

#[test]
fn what_needs_root_says_so_in_one_line() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", FILE);
    for args in [
        &["run", "--config", &file][..],
        &["trace", "--config", &file, "--hex", "00"],
        &["decap", "--interface", "lo"],
        &["unload"],
    ] {
        let gist = format!("`balancer {}` needs root", args[0]);
        run(as_nobody(&scratch, args)).assert_failed(&gist);
    }
}

#[test]
fn unload_with_nothing_to_remove_is_done() {
    let scratch = Scratch::new();
    let socket = scratch.path("none.sock");
    let dir = "/sys/fs/bpf/cli-was-never-there";
    let ran = run(balancer(&[
        "--socket",
        socket.to_str().unwrap(),
        "unload",
        "--pin-dir",
        dir,
    ]));
    assert_eq!(
        ran.stdout,
        format!("nothing to remove: {dir} is not there\n")
    );
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

#[test]
fn decap_refuses_an_interface_that_does_not_exist() {
    let dir = format!("/sys/fs/bpf/cli-decap-{}", std::process::id());
    let ran = run(isolated(&[
        "decap",
        "--interface",
        "nowhere0",
        "--source",
        "10.0.0.0/24",
        "--pin-dir",
        &dir,
    ]));
    let _ = std::fs::remove_dir(&dir);
    ran.assert_failed("interface nowhere0");
}
