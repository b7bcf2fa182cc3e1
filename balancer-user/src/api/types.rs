//! What goes over the control socket, as JSON.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | - | [`Status`] |
//! | `POST /v1/changes` | [`ChangeRequest`] | [`Changed`] |
//! | `POST /v1/plan` | [`PlanRequest`] | [`Planned`] |
//! | `POST /v1/explain` | [`ExplainRequest`] | [`Explanation`] |
//! | `POST /v1/apply` | [`ApplyRequest`] | [`Progress`], one a line |
//! | `POST /v1/reload` | - | [`Progress`], one a line |
//! | `POST /v1/rollback` | [`RollbackRequest`] | [`Progress`], one a line |
//! | `POST /v1/confirm` | - | [`Said`] |
//! | `GET /v1/revisions` | - | [`History`] |
//! | `GET /v1/revisions/N` | - | [`StoredRevision`] |
//! | `POST /v1/verify` | - | [`Verification`] |
//! | `POST /v1/repair` | - | the same, and what differs is written anew |
//! | `GET /v1/events` | - | [`Event`], one a line; with `?follow=true` without an end |
//! | `POST /v1/capture` | [`CaptureRequest`] | [`Captured`], one a line |
//! | `POST /v1/capture/stop` | [`CaptureStopRequest`] | [`Said`] |
//! | `GET /v1/openapi.json` | - | all this as an OpenAPI document, made of these types |
//! | `GET /v1/config` | - | the running configuration as TOML text |
//!
//! A refusal is a [`Problem`] (RFC 9457) with status 4xx; nothing changed.
//!
//! [`Progress`]: super::progress::Progress
//! [`Event`]: crate::watch::incident::Event
//! [`CaptureRequest`]: super::capture::CaptureRequest
//! [`CaptureStopRequest`]: super::capture::CaptureStopRequest
//! [`Captured`]: super::capture::Captured

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod explain;
mod problem;
mod verify;

pub use explain::{
    ExplainRequest, ExplainedBackend, ExplainedPacket, ExplainedRecord, ExplainedSlot, Explanation,
    Transport,
};
pub use problem::{Problem, TypedProblem};
pub use verify::{DriftFinding, RepairedDrift, Verification};

pub use super::apply::{ApplyRequest, History, How, RollbackRequest, Said, StoredRevision};
use super::capture::CaptureStatus;
use crate::plan::Plan;
use crate::rehearsal::Moves;
use crate::watch::incident::Incident;

/// What is going on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The file it was started with.
    pub config_file: String,
    /// Changes made by command since the file was read, oldest first.
    pub runtime_changes: Vec<String>,
    /// Number of the revision in force.
    #[serde(default)]
    pub revision: Option<u64>,
    /// The change under way, in one sentence.
    #[serde(default)]
    pub change_under_way: Option<String>,
    /// How the last re-reading of the file ended.
    pub last_reload: Option<Reload>,
    /// The last change of the kernel's tables.
    pub last_apply: Option<Apply>,
    /// Where the program is attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// What the loaded program can do, by name: at least what the services
    /// use. The rest is not in it.
    #[serde(default)]
    pub features: Vec<String>,
    /// The services, in the file's order.
    pub services: Vec<ServiceStatus>,
    /// Packets by reason, all that are not zero.
    pub reasons: BTreeMap<String, u64>,
    /// What needs attention, a sentence each; empty when all is well.
    pub problems: Vec<String>,
    /// The incidents that are open.
    #[serde(default)]
    pub incidents: Vec<Incident>,
    /// The capture of live packets that is on.
    #[serde(default)]
    pub capture: Option<CaptureStatus>,
}

/// How a re-reading of the file ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reload {
    /// Seconds since then.
    pub ago_seconds: u64,
    /// Whether the new file is in force.
    pub succeeded: bool,
    /// What changed, or why nothing did.
    pub summary: String,
}

/// A change of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Apply {
    /// Seconds since then.
    pub ago_seconds: u64,
    /// What brought it about.
    pub cause: String,
    /// From the cause to the flip in the kernel, table building included.
    pub duration_micros: u64,
    /// Whether it is in force; if not, `cause` says why.
    pub succeeded: bool,
}

/// An interface the program is attached to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native`, `generic`, `offloaded` or `detached`; `missing` where there
    /// is no such interface.
    pub mode: String,
    /// `up`, `down`, `no-carrier` or `missing`.
    #[serde(default)]
    pub state: String,
}

/// A service and its backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The VIP.
    pub address: IpAddr,
    /// The ports, as in the file: `443`, `80,8000-8010` or `any`.
    pub ports: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `l2`, `ipip`, `gue`, `nat` or `fullnat`.
    pub forward: String,
    /// How backends are probed, such as `http`, or `http via vip`; none without
    /// a probe.
    #[serde(default)]
    pub probe: Option<String>,
    /// `up` (all wanted backends are), `degraded` (some), `on-backups` (too few
    /// of the primary pool), `fail-open` (too few, so all are used) or `down`.
    pub state: String,
    /// Slots of its table; 0 if no backend gets traffic.
    pub slot_count: u32,
    /// What `share_seen` is a share of: new flows (TCP) or packets (UDP)
    /// since the table last changed.
    pub counted_since_change: u64,
    /// Seconds until flows of slots that moved are no longer kept where they
    /// were; none if no slot is in change.
    pub settling_seconds: Option<u64>,
    /// The backends, in the file's order.
    pub backends: Vec<BackendStatus>,
}

/// One backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port, where the file states one.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its weight.
    pub weight: u16,
    /// `up`, `slow-start`, `standby`, `unproven`, `down`, `held`, `draining` or
    /// `disabled`.
    pub state: String,
    /// Seconds in the probes' present state; none without a probe.
    pub since_seconds: Option<u64>,
    /// Why the last bad probe was bad.
    pub last_failure: Option<String>,
    /// `resolved`, or why packets cannot be sent there.
    pub next_hop: String,
    /// Slots it owns.
    pub slot_count: u32,
    /// Its slots as a share of the table, 0 to 1.
    pub share_expected: f64,
    /// Its share of what came since its service's table last changed: of new
    /// flows for TCP, of packets for UDP; none if nothing came.
    pub share_seen: Option<f64>,
    /// TCP connections opened.
    pub flows: u64,
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of these, from the IP header on.
    pub bytes: u64,
    /// TCP packets of clients with RST.
    pub resets: u64,
    /// What came of the handshakes that were timed; none where none are.
    pub handshakes: Option<HandshakeStatus>,
    /// New flows in the last second.
    pub flows_per_second: f64,
    /// Packets in the last second.
    pub packets_per_second: f64,
    /// Bits in the last second.
    pub bits_per_second: f64,
}

impl BackendStatus {
    /// Whether it takes its share, or a part of it.
    pub fn is_up(&self) -> bool {
        matches!(self.state.as_str(), "up" | "slow-start" | "trickle")
    }

    /// `10.0.0.11`, or `10.0.0.11:8443` where a port is stated: two backends
    /// may differ in nothing else.
    pub fn endpoint(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }
}

/// What came of a backend's timed handshakes (`node.handshake_sample`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HandshakeStatus {
    /// First SYNs.
    pub started: u64,
    /// Further SYNs before the handshake was over.
    pub repeated: u64,
    /// Handshakes that the client finished.
    pub finished: u64,
    /// Handshakes without an end within three seconds, or with a reset.
    pub unfinished: u64,
    /// Handshakes of which nobody knows the end, as another flow took their
    /// place.
    pub unknown: u64,
    /// Finished ones by their time from SYN to ACK: entry `n` counts those of
    /// `2^n` to `2^(n + 1)` microseconds; the first has the shorter ones too,
    /// the last the longer ones.
    pub log2_micros: Vec<u64>,
}

/// A change, or the question what it would do.
///
/// Unknown keys are refused: a misspelt `dry_run` would make the change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    /// What is to change.
    pub change: Change,
    /// Only say what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// An everyday change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Adds a service.
    ServiceAdd {
        /// A `[[service]]` table as it would stand in the file.
        toml: String,
    },
    /// Removes a service with all its backends.
    ServiceRemove {
        /// Its name.
        service: String,
    },
    /// Adds a backend; it gets traffic once its probes passed.
    BackendAdd {
        /// The service's name.
        service: String,
        /// A `[[service.backend]]` table's keys, as they would stand in the
        /// file below that heading.
        toml: String,
    },
    /// Removes a backend; its flows break.
    BackendRemove {
        /// The service's name.
        service: String,
        /// The backend's name.
        backend: String,
    },
    /// Sends no new flows to a backend and keeps the old ones.
    BackendDrain {
        /// The service's name.
        service: String,
        /// The backend's name.
        backend: String,
    },
    /// Ends a drain.
    BackendUndrain {
        /// The service's name.
        service: String,
        /// The backend's name.
        backend: String,
    },
    /// Sets a backend's weight.
    BackendWeight {
        /// The service's name.
        service: String,
        /// The backend's name.
        backend: String,
        /// Share of new flows relative to the siblings; 0 is none.
        weight: u16,
    },
}

/// A change that was made, or would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// One sentence.
    pub summary: String,
    /// Whether it was only asked about.
    pub dry_run: bool,
    /// Shares of the backends it touches.
    pub shares: Vec<ShareChange>,
    /// Warnings of the check: after a command those that it brought about,
    /// after a re-reading of the file all.
    pub warnings: Vec<String>,
    /// From the request to the flip in the kernel; none for a dry run.
    pub duration_micros: Option<u64>,
    /// Number of its revision; none for a dry run.
    #[serde(default)]
    pub revision: Option<u64>,
}

/// A backend's share of the slots before and after a change, 0 to 1, were
/// every backend that is wanted up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShareChange {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// None if it is new.
    pub before: Option<f64>,
    /// None if it is removed.
    pub after: Option<f64>,
}

/// Bytes of all packets that may come with a request for a plan.
pub const MAX_FRAMES_LEN: usize = 8 << 20;

/// A question what a configuration would do; nothing changes by it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// The configuration, as a file.
    pub text: String,
    /// What the file is called in findings.
    pub name: String,
    /// Ids of rules whose findings are let pass.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Whether the findings' text has colours.
    #[serde(default)]
    pub color: bool,
    /// Whether to say what becomes of flows that the balancer has on record.
    #[serde(default)]
    pub flows: bool,
    /// Packets of flows to say it of, from the Ethernet header on, in Base64.
    #[serde(default)]
    pub frames: Vec<String>,
}

/// What a configuration would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Planned {
    /// The plan; none of a file that the check refuses.
    pub plan: Option<Plan>,
    /// Findings that count as errors, of the check and about the step.
    pub errors: usize,
    /// Those that count as warnings.
    pub warnings: usize,
    /// Those that are allowed.
    pub allowed: usize,
    /// All of them, as `balancer check --json` prints them.
    pub report: serde_json::Value,
    /// All of them, for people to read.
    pub text: String,
    /// What becomes of flows on record, where that was asked.
    #[serde(default)]
    pub recorded: Option<Moves>,
    /// What becomes of the flows whose packets came with the request.
    #[serde(default)]
    pub captured: Option<Moves>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_key_is_refused_and_makes_no_change() {
        let change = r#"{"op":"service_remove","service":"web"}"#;
        let read = |text: String| serde_json::from_str::<ChangeRequest>(&text);
        assert!(
            read(format!(r#"{{"change":{change},"dry_run":true}}"#)).is_ok_and(|it| it.dry_run)
        );
        let error = read(format!(r#"{{"change":{change},"dryrun":true}}"#)).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `dryrun`"),
            "{error}"
        );
    }
}
