//! wrk, for as many HTTP requests as a connection takes.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;
use crate::lab::process;

/// wrk rounds what it prints ("1.02k"); its script interface has the numbers.
const SCRIPT: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\n@@lab@@{"elapsed_micros":%d,"requests":%d,"bytes":%d,"connect_errors":%d,"read_errors":%d,' ..
    '"write_errors":%d,"bad_statuses":%d,"timeouts":%d,"mean_micros":%.0f,"p50_micros":%.0f,"p99_micros":%.0f,' ..
    '"max_micros":%.0f}\n',
    summary.duration, summary.requests, summary.bytes, e.connect, e.read, e.write, e.status,
    e.timeout, latency.mean, latency:percentile(50), latency:percentile(99), latency.max))
end
"#;

/// A run of wrk.
#[derive(Clone, Debug)]
pub struct WrkRun {
    /// Who is asked.
    pub server: SocketAddr,
    /// The path asked for.
    pub path: String,
    /// Threads.
    pub threads: u32,
    /// Connections, over all threads.
    pub connections: u32,
    /// How long; wrk takes whole seconds.
    pub seconds: u32,
    /// Whether each request has a connection of its own.
    pub reconnect: bool,
    /// How long an answer may take before it counts as a timeout.
    pub patience_secs: u32,
}

/// What wrk counted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct WrkReport {
    /// How long it took.
    pub elapsed_micros: u64,
    /// Requests answered.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Connections that could not be made.
    pub connect_errors: u64,
    /// Connections that broke while reading.
    pub read_errors: u64,
    /// Connections that broke while writing.
    pub write_errors: u64,
    /// Answers with a status of 400 or more.
    pub bad_statuses: u64,
    /// Requests without an answer in time.
    pub timeouts: u64,
    /// Mean latency.
    pub mean_micros: u64,
    /// Median latency.
    pub p50_micros: u64,
    /// Latency that one request in a hundred exceeds.
    pub p99_micros: u64,
    /// Longest latency.
    pub max_micros: u64,
}

impl WrkReport {
    /// Requests answered a second.
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 * 1e6 / self.elapsed_micros.max(1) as f64
    }

    /// Everything that went wrong.
    pub fn errors(&self) -> u64 {
        self.connect_errors
            + self.read_errors
            + self.write_errors
            + self.bad_statuses
            + self.timeouts
    }
}

impl WrkRun {
    /// One thread with ten connections that stay, for two seconds.
    pub fn new(server: SocketAddr, path: &str) -> Self {
        let path = path.to_owned();
        Self {
            server,
            path,
            threads: 1,
            connections: 10,
            seconds: 2,
            reconnect: false,
            patience_secs: 2,
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When wrk is not there, or cannot connect even once.
    pub fn run(&self, namespace: &Namespace) -> Result<WrkReport> {
        let scratch = Scratch::create("wrk")?;
        let script = scratch.path().join("report.lua");
        fs::write(&script, SCRIPT)?;
        let mut command = namespace.command("wrk");
        command.args(["--threads", &self.threads.to_string()]);
        command.args(["--connections", &self.connections.to_string()]);
        command.args(["--duration", &format!("{}s", self.seconds)]);
        command.args(["--timeout", &format!("{}s", self.patience_secs)]);
        command.arg("--script").arg(&script);
        if self.reconnect {
            command.args(["--header", "Connection: close"]);
        }
        command.arg(format!("http://{}{}", self.server, self.path));
        let limit = Duration::from_secs(u64::from(self.seconds) + 20);
        let output = process::run(command, limit)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "wrk: {errors}{text}");
        let (_, report) = text
            .split_once("@@lab@@")
            .with_context(|| format!("wrk did not report: {errors}{text}"))?;
        Ok(serde_json::from_str(report)?)
    }
}
