//! However a lab ends, nothing of it stays.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use balancer_tests::lab::cleanup::{NETNS_DIR, Scratch, sweep_stale};
use balancer_tests::lab::{Lab, LabConfig, process, wait_for};

use crate::{LIMIT, web};

/// Names under a directory that begin so.
fn names(directory: &str, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn nothing_is_left_after_a_drop() {
    let lab = Lab::routed(LabConfig::default()).unwrap();
    let server = web(&lab, 0);
    let (name, pid) = (lab.name().to_owned(), server.server.pid());
    let directory = server.server.directory().to_owned();
    assert_eq!(
        names(NETNS_DIR, &format!("{name}-")).len(),
        lab.nodes().count()
    );
    drop(server);
    drop(lab);
    assert_nothing_left(&name, pid, &directory);
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (tell, told) = std::sync::mpsc::channel();
    let panicked = thread::spawn(move || {
        let lab = Lab::l2(LabConfig::default()).unwrap();
        let server = web(&lab, 0);
        let directory = server.server.directory().to_owned();
        tell.send((lab.name().to_owned(), server.server.pid(), directory))
            .unwrap();
        panic!("on purpose");
    });
    panicked.join().unwrap_err();
    let (name, pid, directory) = told.recv().unwrap();
    assert_nothing_left(&name, pid, &directory);
}

fn assert_nothing_left(lab: &str, pid: u32, directory: &Path) {
    assert_eq!(names(NETNS_DIR, &format!("{lab}-")), [""; 0]);
    assert!(
        !fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(&format!("{lab}-"))
    );
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "process {pid} lives"
    );
    assert!(!directory.exists(), "{} exists", directory.display());
}

/// The test binary itself, running only the helper below, as a process that can
/// be killed.
fn helper() -> (process::Process, u32) {
    // Whoever runs the tests in the background has SIGINT ignored, and so would
    // all that they start.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM");
    command.arg(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "leftovers::helper_that_waits_for_its_end",
        "--nocapture",
    ]);
    command.env("LAB_SELF_HELPER", "1");
    let log = Scratch::create("helper").unwrap();
    let mut helper = process::Process::spawn("helper", command, &log.path().join("log")).unwrap();
    let mut told = || {
        let log = fs::read_to_string(log.path().join("log")).unwrap_or_default();
        let (_, rest) = log.split_once("server pid ")?;
        rest.split_once('.')?.0.parse().ok()
    };
    let server = helper
        .wait_until("the helper's server", LIMIT, &mut told)
        .unwrap();
    (helper, server)
}

#[test]
fn helper_that_waits_for_its_end() {
    if std::env::var_os("LAB_SELF_HELPER").is_none() {
        return; // Alone it has nothing to show.
    }
    let lab = Lab::l2(LabConfig::default()).unwrap();
    let server = web(&lab, 0);
    println!("server pid {}.", server.server.pid());
    thread::park_timeout(6 * LIMIT);
}

#[test]
fn nothing_is_left_after_sigint_and_sigterm() {
    use nix::sys::signal::Signal;
    use std::os::unix::process::ExitStatusExt;

    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (mut helper, server) = helper();
        let prefix = format!("blb{}-", helper.pid());
        assert!(!names(NETNS_DIR, &prefix).is_empty());
        helper.signal(signal).unwrap();
        let status = helper.wait(LIMIT).unwrap();
        assert_eq!(status.signal(), Some(signal as i32));
        assert_eq!(names(NETNS_DIR, &prefix), [""; 0]);
        assert_eq!(
            names(std::env::temp_dir().to_str().unwrap(), &prefix),
            [""; 0]
        );
        assert!(!Path::new(&format!("/proc/{server}")).exists());
    }
}

#[test]
fn a_sweep_removes_what_a_killed_process_left() {
    let (mut helper, server) = helper();
    let prefix = format!("blb{}-", helper.pid());
    helper.kill().unwrap();
    let gone = || (!Path::new(&format!("/proc/{server}")).exists()).then_some(());
    wait_for("the server to follow its parent", LIMIT, gone).unwrap();
    // Another test may sweep at the same time; what counts is that it is gone.
    wait_for("a sweep", LIMIT, || {
        let _ = sweep_stale();
        names(NETNS_DIR, &prefix).is_empty().then_some(())
    })
    .unwrap();
    assert_eq!(
        names(std::env::temp_dir().to_str().unwrap(), &prefix),
        [""; 0]
    );
}

#[test]
fn a_kept_namespace_outlives_its_lab() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let kept = lab.keep().unwrap();
    assert_eq!(kept.len(), lab.nodes().count());
    drop(lab);
    assert!(
        !sweep_stale()
            .unwrap()
            .iter()
            .any(|name| kept.contains(name))
    );
    for name in kept {
        let path = Path::new(NETNS_DIR).join(name);
        nix::mount::umount(&path).unwrap();
        fs::remove_file(path).unwrap();
    }
}
