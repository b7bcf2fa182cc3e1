//! ngtcp2's HTTP/3 client, for single downloads over QUIC.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;
use crate::lab::process;
use crate::lab::quic::SERVER_NAME;

/// A download by `gtlsclient`.
#[derive(Clone, Debug)]
pub struct Ngtcp2Run {
    /// Who is asked.
    pub server: SocketAddr,
    /// The path asked for.
    pub path: String,
    /// When to migrate to another port, counted from the handshake's end. The
    /// connection ids change with it (RFC 9000, 9.5).
    pub migrate_after: Option<Duration>,
    /// How long it may take.
    pub limit: Duration,
}

impl Ngtcp2Run {
    /// A download that may take twenty seconds.
    pub fn new(server: SocketAddr, path: &str) -> Self {
        Self {
            server,
            path: path.to_owned(),
            migrate_after: None,
            limit: Duration::from_secs(20),
        }
    }

    /// Runs it; the body.
    ///
    /// # Errors
    /// When gtlsclient is not there, gets no answer, or was to migrate and did
    /// not.
    pub fn run(&self, namespace: &Namespace) -> Result<Vec<u8>> {
        let scratch = Scratch::create("ngtcp2")?;
        let mut command = namespace.command("gtlsclient");
        command.args(["--no-quic-dump", "--no-http-dump"]);
        command.args(["--exit-on-all-streams-close", "--handshake-timeout=5s"]);
        command.arg("--timeout=5s").arg("--download");
        command.arg(scratch.path());
        if let Some(after) = self.migrate_after {
            command.arg(format!("--change-local-addr={}us", after.as_micros()));
        }
        let (ip, port) = (self.server.ip().to_string(), self.server.port().to_string());
        let url = format!("https://{SERVER_NAME}{}", self.path);
        command.args([&ip, &port, &url]);
        let output = process::run(command, self.limit)?;
        let written = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = written.lines().rev().take(10).collect();
        ensure!(output.status.success(), "gtlsclient: {tail:?}");
        let moved = written.contains("Changing local address");
        ensure!(
            moved == self.migrate_after.is_some(),
            "gtlsclient has moved: {moved}; asked for: {:?}",
            self.migrate_after
        );
        let file = scratch.path().join(self.path.trim_start_matches('/'));
        fs::read(&file).with_context(|| format!("gtlsclient saved nothing; it wrote {tail:?}"))
    }
}
