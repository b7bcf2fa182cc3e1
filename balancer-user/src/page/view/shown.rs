//! What goes over the stream, as JSON.

use std::sync::Arc;

use serde::Serialize;

use crate::metrics::Unix;
use crate::page::headline::Headline;
use crate::revision::UnixSeconds;
use crate::watch::incident::Incident;

/// All that a page is sent in a second.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// When, in seconds since 1970.
    pub at: Unix,
    /// Since when the daemon runs.
    pub started_at: Unix,
    /// Whether it is the load balancer.
    pub headline: Headline,
    /// Interfaces, and how the program is on each.
    pub interfaces: Vec<(String, String)>,
    /// The number of the revision in force.
    pub revision: Option<u64>,
    /// The change under way.
    pub change: Option<String>,
    /// All services together.
    pub totals: Totals,
    /// Services that the filter leaves.
    pub found: usize,
    /// Which page this is, from 1 on, and how many there are.
    pub page: (usize, usize),
    /// The rows of this page.
    pub services: Vec<Row>,
    /// Services in full.
    pub unfolded: Vec<Full>,
    /// Incidents that are open, the gravest first.
    pub incidents: Vec<Incident>,
    /// How many are open in all.
    pub open_incidents: u64,
    /// What is wrong with the node and no incident.
    pub problems: Vec<String>,
    /// Incidents that are over, the latest first, if others than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<Vec<Incident>>,
    /// The newest revisions, if they are others than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revisions: Option<Vec<RevisionRow>>,
}

/// All services together.
#[derive(Debug, Clone, Serialize)]
pub struct Totals {
    /// Services, and those that are up.
    pub services: (usize, usize),
    /// Backends that are wanted, and those that take traffic.
    pub backends: (usize, usize),
    /// New flows a second.
    pub flows: f64,
    /// Packets a second.
    pub packets: f64,
    /// Bits a second.
    pub bits: f64,
    /// Packets a second in the last minutes, the latest last; sent once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<f64>>,
}

/// A service in a row.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub name: Arc<str>,
    /// `192.0.2.10:443/tcp`.
    pub endpoint: String,
    /// `l2`, `ipip`, `gue`, `nat` or `fullnat`.
    pub forward: String,
    /// What is counted: `flows` or `packets`.
    pub measure: &'static str,
    /// `up`, `degraded`, `on-backups`, `fail-open` or `down`.
    pub state: &'static str,
    /// Backends that are wanted, and those that take traffic.
    pub backends: (usize, usize),
    /// Its open incidents.
    pub incidents: usize,
    /// New flows a second.
    pub flows: f64,
    /// Packets a second.
    pub packets: f64,
    /// Bits a second.
    pub bits: f64,
    /// The share that goes elsewhere than the slots say, 0 to 1.
    pub skew: Option<f64>,
    /// What is counted, a second, in the last minutes, the latest last; sent
    /// when the row comes into view.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<Option<f64>>>,
}

/// A service in full.
#[derive(Debug, Clone, Serialize)]
pub struct Full {
    /// Its name.
    pub name: Arc<str>,
    /// Its backends; if there are too many, those that need attention first.
    pub backends: Vec<BackendRow>,
    /// Backends that are not among them.
    pub more: usize,
}

/// A backend.
#[derive(Debug, Clone, Serialize)]
pub struct BackendRow {
    /// Its name.
    pub name: Arc<str>,
    /// Its address.
    pub endpoint: String,
    /// Its weight.
    pub weight: u16,
    /// `up`, `slow-start`, `standby`, `unproven`, `down`, `held`, `draining`
    /// or `disabled`.
    pub state: &'static str,
    /// Share of the slots, 0 to 1.
    pub expected: f64,
    /// Share of what came in the last half minute.
    pub seen: Option<f64>,
    /// Whether these two differ by more than chance has it.
    pub is_off: bool,
    /// New flows a second.
    pub flows: f64,
    /// Packets a second.
    pub packets: f64,
    /// Bits a second.
    pub bits: f64,
    /// Median of the handshakes of the last seconds.
    pub handshake_micros: Option<u32>,
    /// The last good probe.
    pub probe_micros: Option<u32>,
    /// Why the last probe was bad.
    pub failure: Option<Arc<str>>,
}

/// A revision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RevisionRow {
    /// Its number.
    pub number: u64,
    /// Who made it.
    pub author: String,
    /// `apply`, `command`, `reload`, `rollback` or `start`.
    pub cause: &'static str,
    /// `pending`, `committed`, `undone` or `interrupted`.
    pub outcome: &'static str,
    /// When that was.
    pub at: UnixSeconds,
    /// What it does.
    pub summary: String,
    /// Why it was undone.
    pub why: Option<String>,
}
