//! iperf3, for throughput over TCP and loss over UDP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::namespace::Namespace;
use crate::lab::process;
use crate::lab::wait::wait_for;

/// How long a server may be busy with the run before: it ends after the client
/// does.
const BUSY_LIMIT: Duration = Duration::from_secs(20);
/// What it answers meanwhile.
const BUSY: &str = "the server is busy running a test";

/// A run of iperf3 against an [`crate::lab::server::Iperf3Server`].
#[derive(Clone, Debug)]
pub struct Iperf3Run {
    /// Who receives.
    pub server: SocketAddr,
    /// UDP instead of TCP.
    pub udp: bool,
    /// Bits a second; as many as go for TCP, one million for UDP without it.
    pub bits_per_second: Option<u64>,
    /// How long, in whole seconds.
    pub seconds: u32,
    /// The server sends and the client receives.
    pub reverse: bool,
    /// More arguments for iperf3.
    pub arguments: Vec<String>,
}

/// What both ends counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throughput {
    /// Bytes the sender sent.
    pub sent_bytes: u64,
    /// Bytes the receiver got.
    pub received_bytes: u64,
    /// Segments TCP sent again.
    pub retransmits: u64,
    /// Datagrams sent.
    pub packets: u64,
    /// Datagrams that did not arrive.
    pub lost_packets: u64,
    /// As the receiver saw it.
    pub bits_per_second: f64,
}

impl Iperf3Run {
    /// One second of TCP, from client to server.
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            udp: false,
            bits_per_second: None,
            seconds: 1,
            reverse: false,
            arguments: Vec::new(),
        }
    }

    /// One second of UDP at a rate, from client to server.
    pub fn udp(server: SocketAddr, bits_per_second: u64) -> Self {
        Self {
            udp: true,
            bits_per_second: Some(bits_per_second),
            ..Self::new(server)
        }
    }

    /// Runs it, once the server is done with whoever was there before.
    ///
    /// # Errors
    /// When iperf3 is not there, cannot reach the server, or loses it.
    pub fn run(&self, namespace: &Namespace) -> Result<Throughput> {
        wait_for("an iperf3 server that is free", BUSY_LIMIT, || {
            self.try_run(namespace).transpose()
        })?
    }

    /// None if the server is busy.
    fn try_run(&self, namespace: &Namespace) -> Result<Option<Throughput>> {
        let mut command = namespace.command("iperf3");
        command.args(["--json", "--client", &self.server.ip().to_string()]);
        command.args(["--port", &self.server.port().to_string()]);
        command.args([
            "--time",
            &self.seconds.to_string(),
            "--connect-timeout",
            "3000",
        ]);
        if self.udp {
            command.arg("--udp");
        }
        if let Some(rate) = self.bits_per_second {
            command.args(["--bitrate", &rate.to_string()]);
        }
        if self.reverse {
            command.arg("--reverse");
        }
        command.args(&self.arguments);
        let output = process::run(command, Duration::from_secs(u64::from(self.seconds) + 20))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&text).with_context(|| {
            format!(
                "iperf3 did not report: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        match report["error"].as_str() {
            Some(error) if error.contains(BUSY) => Ok(None),
            Some(error) => bail!("iperf3 to {}: {error}", self.server),
            None => Ok(Some(throughput(&report["end"]))),
        }
    }
}

/// Reads the part `end`; what a protocol does not count is absent, and zero.
fn throughput(end: &Value) -> Throughput {
    let number = |part: &str, field: &str| end[part][field].as_u64().unwrap_or_default();
    let rate = |part: &str| end[part]["bits_per_second"].as_f64();
    // `sum` is the sender's view, in which nothing was lost when nothing
    // arrived: the receiver counts as lost what it knows to be missing.
    let udp = end["sum"]["packets"].is_u64();
    if !udp {
        return Throughput {
            sent_bytes: number("sum_sent", "bytes"),
            received_bytes: number("sum_received", "bytes"),
            retransmits: number("sum_sent", "retransmits"),
            bits_per_second: rate("sum_received").unwrap_or_default(),
            ..Throughput::default()
        };
    }
    let packets = number("sum_sent", "packets");
    let expected = number("sum_received", "packets");
    let arrived = expected.saturating_sub(number("sum_received", "lost_packets"));
    let sent_bytes = number("sum_sent", "bytes");
    Throughput {
        sent_bytes,
        received_bytes: sent_bytes.checked_div(packets).unwrap_or_default() * arrived,
        packets,
        lost_packets: packets.saturating_sub(arrived),
        bits_per_second: rate("sum_received").unwrap_or_default(),
        ..Throughput::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As iperf3 3.12 has it.
    fn end(received: u64, lost: u64) -> Value {
        json!({
            "sum": {"bytes": 1_000_000, "packets": 1000, "lost_packets": lost},
            "sum_sent": {"bytes": 1_000_000, "packets": 1000, "lost_packets": 0},
            "sum_received": {
                "bytes": 0, "packets": received, "lost_packets": lost, "bits_per_second": 7.0,
            },
        })
    }

    #[test]
    fn datagrams_that_nobody_saw_are_lost() {
        for (received, lost, expected) in
            [(1000, 0, 0), (1000, 20, 20), (990, 20, 30), (0, 0, 1000)]
        {
            let seen = throughput(&end(received, lost));
            assert_eq!((seen.packets, seen.lost_packets), (1000, expected));
            assert_eq!(seen.received_bytes, (1000 - expected) * 1000);
        }
    }

    #[test]
    fn both_ends_of_tcp_are_told_apart() {
        let seen = throughput(&json!({
            "sum_sent": {"bytes": 10, "retransmits": 2},
            "sum_received": {"bytes": 9, "bits_per_second": 72.0},
        }));
        assert_eq!((seen.sent_bytes, seen.received_bytes), (10, 9));
        assert_eq!((seen.retransmits, seen.lost_packets), (2, 0));
    }
}
