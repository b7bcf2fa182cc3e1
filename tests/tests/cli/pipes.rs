//! Readers of stdout that leave, and a stdout that takes nothing.

use std::fs::File;
use std::io;
use std::process::Stdio;

use super::{FILE, Ran, Scratch, balancer, isolated};

#[test]
fn closed_pipe_is_no_error_and_no_panic() {
    let scratch = Scratch::new();
    let file = scratch.file("b.toml", FILE);
    let frame = "00".repeat(60);
    for mut command in [
        balancer(&["--help"]),
        balancer(&["--version"]),
        balancer(&["check", "--list"]),
        balancer(&["check", &file]),
        balancer(&["check", &file, "--json"]),
        balancer(&["completions", "bash"]),
        balancer(&["man"]),
        isolated(&["trace", "--config", &file, "--hex", &frame]),
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        let ran = Ran::from(output);
        assert_eq!(ran.code, Some(0), "{command:?}: {ran:?}");
        assert!(!ran.stderr.contains("panic"), "{command:?}: {ran:?}");
        assert!(!ran.stderr.contains("error: "), "{command:?}: {ran:?}");
    }
}

#[test]
fn closed_stderr_is_no_panic() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = balancer(&["check", "/nonexistent"]);
    let status = command.stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn full_disk_is_an_error() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = balancer(&["check", "--list"]);
    let output = command.stdout(Stdio::from(full)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: writing to stdout: "), "{stderr}");
}
