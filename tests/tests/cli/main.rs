//! The real `balancer`: its stdout, its stderr and its exit code.
//!
//! Texts are compared whole where others rely on them, and by their gist
//! where they are for people only.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod check;
mod corpus;
mod lonely;
mod pipes;
mod prometheus;
mod sarif;
mod schema;
mod trace;
mod trace_capture;
mod usage;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A user that may do nothing special.
const NOBODY: u32 = 65_534;

/// A file with services of every kind that `trace` needs, and no finding
/// that is an error.
const FILE: &str = r#"[node]
interfaces = ["eth0"]
seed = "000102030405060708090a0b0c0d0e0f"
tunnel_source_v4 = "10.0.0.1"
tunnel_source_v6 = "2001:db8::1"

[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "l2"
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
mac = "02:00:00:00:00:11"

[[service]]
name = "tunnel"
address = "192.0.2.11"
port = 80
protocol = "tcp"
forward = "ipip"
[service.health]
kind = "tcp"
[[service.backend]]
name = "tunnel-1"
address = "10.0.0.21"
mac = "02:00:00:00:00:21"

[[service]]
name = "six"
address = "192.0.2.12"
port = 80
protocol = "tcp"
forward = "ipip"
[[service.backend]]
name = "six-1"
address = "2001:db8::31"
mac = "02:00:00:00:00:31"

[[service]]
name = "lost"
address = "192.0.2.13"
port = "any"
protocol = "udp"
forward = "l2"
[[service.backend]]
name = "lost-1"
address = "203.0.113.7"
"#;

/// The binary under test; built if there is none yet.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let path = balancer_tests::balancer::binary();
        if !path.exists() {
            let status = Command::new(env!("CARGO"))
                .args(["build", "--release", "--package", "balancer-user"])
                .status()
                .unwrap();
            assert!(status.success(), "the binary does not build");
        }
        path
    })
}

/// `program`, without what the environment could make it do.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in ["BALANCER_SOCKET", "RUST_LOG", "NO_COLOR", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// The balancer.
fn balancer(args: &[&str]) -> Command {
    let mut command = clean(binary());
    command.args(args);
    command
}

/// The balancer in a network namespace without routes and neighbours.
fn isolated(args: &[&str]) -> Command {
    let mut command = clean("unshare");
    command.arg("--net").arg(binary()).args(args);
    command
}

/// The balancer run by somebody who is not root. The binary is copied, as it
/// may be built where only root can go; by a process of its own, as a child that
/// another test forks meanwhile would hold our descriptor, and nothing that is
/// open for writing can be run.
fn as_nobody(scratch: &Scratch, args: &[&str]) -> Command {
    let copy = scratch.path("balancer");
    if !copy.exists() {
        let copied = Command::new("cp")
            .arg(binary())
            .arg(&copy)
            .status()
            .unwrap();
        assert!(copied.success());
    }
    let mut command = clean(&copy);
    command.args(args).uid(NOBODY).gid(NOBODY);
    command
}

/// A directory that everybody may look into.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and gives its path as an argument.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// What became of a command.
#[derive(Debug, PartialEq)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// One line on stderr that contains `gist`, nothing on stdout, exit 1.
    #[track_caller]
    fn assert_failed(&self, gist: &str) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        assert!(self.stderr.contains(gist), "{self:?}");
    }
}

fn run(mut command: Command) -> Ran {
    command.output().unwrap().into()
}

fn run_with_stdin(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It may answer, or end, before it has read everything.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap().into()
    })
}
