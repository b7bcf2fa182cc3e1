//! Metrics for Prometheus: what they are, and the text they are told in.
//!
//! The daemon's loop publishes an [`Observed`] a second, mostly shared with the
//! one before. Who scrapes reads the kernel's counters and the probes' beside
//! the loop, [`ledger`] makes totals of them that never go back, and [`text`]
//! writes one family after the other. All but [`process`] and [`scrape`] is
//! pure. What a scrape costs is bounded by [`Detail`]: metrics of single
//! backends are left out where there are too many of them.

pub mod families;
pub mod ledger;
pub mod process;
pub mod scrape;
pub mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use balancer_common::verdict::Reason;
use serde::Deserialize;

use crate::api::connections::Seen;
use crate::desired::BackendState;
use crate::health::Durations;
use crate::watch::incident::Incident;
use ledger::ServiceTotals;
use process::Process;

/// Backends up to which each has histograms of its own.
pub const MAX_WITH_HISTOGRAMS: usize = 1000;
/// Backends up to which each has metrics of its own.
pub const MAX_BACKENDS: usize = 20_000;
/// Open incidents that are told one by one.
pub const MAX_INCIDENTS: usize = 100;
/// Incidents that are over and still told of.
pub const MAX_CLOSED: usize = 5;
/// Revisions that are told one by one.
pub const MAX_REVISIONS: usize = 10;

/// How much is told of single backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// Nothing: services alone.
    Service,
    /// All but histograms.
    Backend,
    /// All.
    Histogram,
}

impl Detail {
    /// What is told where nobody asked for another one.
    pub fn for_backends(count: usize) -> Self {
        if count <= MAX_WITH_HISTOGRAMS {
            Self::Histogram
        } else if count <= MAX_BACKENDS {
            Self::Backend
        } else {
            Self::Service
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Backend => "backend",
            Self::Histogram => "histogram",
        }
    }
}

/// Seconds since 1970.
pub type Unix = f64;

/// What the loop knows beside the counters, in one second.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// When that was.
    pub at: Unix,
    /// When the daemon started.
    pub started_at: Unix,
    /// The services, in the file's order.
    pub services: Vec<ServiceObserved>,
    /// The revision in force.
    pub revision: Option<RevisionObserved>,
    /// The newest change that is over.
    pub last_change: Option<RevisionObserved>,
    /// Whether a change is under way.
    pub is_change_under_way: bool,
    /// The last re-reading of the file: when, and whether it is in force.
    pub last_reload: Option<(Unix, bool)>,
    /// The last change of the kernel's tables.
    pub last_write: Option<WriteObserved>,
    /// Those that are open, [`MAX_INCIDENTS`] at most.
    pub incidents: Vec<Incident>,
    /// Those that are open, by kind; 0 where there were some.
    pub open_incidents: BTreeMap<&'static str, u64>,
    /// Incidents that were opened since the start, by kind.
    pub opened: BTreeMap<&'static str, u64>,
    /// How full the maps are.
    pub maps: Vec<MapObserved>,
    /// How the program is on each interface.
    pub interfaces: Vec<(String, String)>,
    /// Share of TCP flows whose handshake is timed.
    pub handshake_sample: f64,
    /// Differences between kernel and running revision.
    pub drifts: usize,
    /// Who is told of incidents.
    pub webhooks: Vec<WebhookObserved>,
    /// Other balancers of the group, and those that differ or are silent.
    pub peers: (usize, usize),
    /// The newest revisions, the newest first, [`MAX_REVISIONS`] at most.
    pub revisions: Vec<RevisionObserved>,
    /// The change under way, in one sentence.
    pub change_under_way: Option<String>,
    /// Incidents that are over, the latest first, [`MAX_CLOSED`] at most.
    pub closed: Vec<Incident>,
    /// What is wrong with the node and no incident, a sentence each.
    pub problems: Vec<String>,
    /// Whether live packets are captured.
    pub is_capturing: bool,
    /// Certificates that probes were shown.
    pub certificates: Vec<CertificateObserved>,
}

/// A certificate that a backend showed its last probe.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateObserved {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// When it ends.
    pub ends: Unix,
}

impl Observed {
    /// Backends of all services.
    pub fn backend_count(&self) -> usize {
        self.services.iter().map(|it| it.backends.len()).sum()
    }
}

/// A service in one second.
#[derive(Debug, Clone)]
pub struct ServiceObserved {
    /// What seldom changes.
    pub shape: Arc<Shape>,
    /// `up`, `degraded`, `on-backups`, `fail-open` or `down`.
    pub state: &'static str,
    /// Slots of its table.
    pub slot_count: u32,
    /// Whether shares of new flows are to be those of the slots.
    pub is_even: bool,
    /// The backends, in the order of the shape's.
    pub backends: Vec<BackendObserved>,
}

impl ServiceObserved {
    /// New flows (TCP) or packets (UDP) that shares are seen of; none if there
    /// is less than one.
    pub fn recent(&self) -> Option<f64> {
        let sum: f64 = self.backends.iter().map(|it| it.recent).sum();
        (sum >= 1.0).then_some(sum)
    }

    /// The share of new flows that went elsewhere than the slots say, 0 to 1.
    pub fn skew(&self) -> Option<f64> {
        let all = self.recent()?;
        let off = |it: &BackendObserved| (it.recent / all - it.share).abs();
        Some(self.backends.iter().map(off).sum::<f64>() / 2.0)
    }
}

/// What seldom changes of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Its name.
    pub service: Arc<str>,
    /// Its backends' names and weights, in the file's order.
    pub backends: Vec<(Arc<str>, u16)>,
    /// Index of a counter, and the position of the backend that counts there.
    /// A backend may have several: an address that it had before keeps its
    /// flows for a while.
    pub counters: Vec<(u32, u32)>,
}

/// A backend in one second.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendObserved {
    /// Whether it takes traffic, and why not.
    pub state: BackendState,
    /// Whether it is in its slow start.
    pub is_ramping: bool,
    /// Its share of the slots, 0 to 1.
    pub share: f64,
    /// New flows (TCP) or packets (UDP) of late; older ones fade.
    pub recent: f64,
    /// What it got in the last second.
    pub rate: RateObserved,
    /// How long its last good probe took.
    pub probe_micros: Option<u32>,
    /// Median of the handshakes timed in the last seconds, as a power of two.
    pub handshake_micros: Option<u32>,
    /// Why its last probe was bad, where it is unwell.
    pub failure: Option<Arc<str>>,
}

/// Traffic in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateObserved {
    /// New flows.
    pub flows: f32,
    /// Packets.
    pub packets: f32,
    /// Bits.
    pub bits: f32,
}

impl std::ops::AddAssign for RateObserved {
    fn add_assign(&mut self, other: Self) {
        self.flows += other.flows;
        self.packets += other.packets;
        self.bits += other.bits;
    }
}

/// A revision, in short.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RevisionObserved {
    /// Its number.
    pub number: u64,
    /// Who made it.
    pub author: String,
    /// How it came: `apply`, `command`, `reload`, `rollback` or `start`.
    pub cause: &'static str,
    /// What became of it: `pending`, `committed`, `undone` or `interrupted`.
    pub outcome: &'static str,
    /// When.
    pub at: Unix,
    /// What it does, in one sentence.
    pub summary: String,
    /// Why it was undone.
    pub why: Option<String>,
}

/// A change of the kernel's tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WriteObserved {
    /// When.
    pub at: Unix,
    /// From its cause to the flip.
    pub seconds: f64,
    /// Whether the new tables are in force.
    pub succeeded: bool,
}

/// A receiver of incidents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookObserved {
    /// Its name.
    pub name: String,
    /// How many messages went which way.
    pub counts: crate::webhook::outbox::Counts,
    /// Messages that wait.
    pub waiting: usize,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapObserved {
    /// Its name.
    pub name: &'static str,
    /// Entries in use, where that is known.
    pub used: Option<u64>,
    /// Entries it has room for.
    pub capacity: u64,
}

/// All that one scrape tells.
#[derive(Debug)]
pub struct Snapshot {
    /// What the loop knew.
    pub observed: Arc<Observed>,
    /// Totals of the services, in the same order.
    pub services: Vec<ServiceTotals>,
    /// Packets by reason.
    pub reasons: Vec<(Reason, u64)>,
    /// Probes that began late as too many were under way.
    pub delayed_probes: u64,
    /// How long after its time each probe began.
    pub lateness: Durations,
    /// Connections of the control socket and of `node.listen`.
    pub connections: [Seen; 2],
    /// Scrapes that were refused as too many were under way.
    pub refused_scrapes: u64,
    /// The daemon's process.
    pub process: Process,
    /// How much is told.
    pub detail: Detail,
}

#[cfg(test)]
mod tests;
