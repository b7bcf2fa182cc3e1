//! Every metric there is: its name, what it means, and where its samples come
//! from. `docs/metrics.md` has them as a table, which a test compares.

mod backend;
mod counted;
mod node;
mod process;
mod service;

use std::fmt::{self, Write as _};

use balancer_common::layout::HANDSHAKE_BUCKETS;

use super::Snapshot;
use super::ledger::Steps;
use super::text::Samples;
use crate::health::STEPS;

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    /// The name that samples have, or begin with.
    pub name: &'static str,
    /// What it means, in one sentence.
    pub help: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Writes its samples.
    pub samples: fn(&Snapshot, &mut Samples<'_>) -> fmt::Result,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// All of them, in the order in which they are told.
pub fn all() -> impl Iterator<Item = &'static Family> {
    let groups = [
        node::ALL,
        service::ALL,
        service::COUNTED,
        backend::ALL,
        backend::COUNTED,
        process::ALL,
    ];
    groups.into_iter().flatten()
}

/// The table of `docs/metrics.md`.
pub fn table() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in all() {
        let labels: Vec<String> = family.labels.iter().map(|it| format!("`{it}`")).collect();
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            family.name,
            family.kind.name(),
            labels.join(", "),
            family.help
        );
    }
    table
}

const fn counter(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&Snapshot, &mut Samples<'_>) -> fmt::Result,
) -> Family {
    Family {
        name,
        help,
        kind: Kind::Counter,
        labels,
        samples,
    }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&Snapshot, &mut Samples<'_>) -> fmt::Result,
) -> Family {
    Family {
        kind: Kind::Gauge,
        ..counter(name, help, labels, samples)
    }
}

const fn histogram(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    samples: fn(&Snapshot, &mut Samples<'_>) -> fmt::Result,
) -> Family {
    Family {
        kind: Kind::Histogram,
        ..counter(name, help, labels, samples)
    }
}

/// Handshakes by their time. The kernel counts them by powers of two and keeps
/// no sum: that is made of the middle of each step.
fn handshakes(samples: &mut Samples<'_>, labels: &[&str], steps: &Steps) -> fmt::Result {
    let mut buckets = [(f64::INFINITY, 0); HANDSHAKE_BUCKETS];
    let mut sum = 0.0;
    for (at, count) in steps.handshakes().iter().enumerate() {
        let begin = (at as f64).exp2() / 1e6;
        sum += begin * std::f64::consts::SQRT_2 * *count as f64;
        let is_last = at + 1 == HANDSHAKE_BUCKETS;
        let end = if is_last { f64::INFINITY } else { begin * 2.0 };
        buckets[at] = (end, *count);
    }
    samples.histogram(labels, sum, &buckets)
}

/// Probes by their time.
fn probes(samples: &mut Samples<'_>, labels: &[&str], steps: &Steps) -> fmt::Result {
    durations(samples, labels, steps.probes(), steps.probes_micros())
}

/// Probes in each of the steps, and the sum of their durations.
fn durations(
    samples: &mut Samples<'_>,
    labels: &[&str],
    steps: &[u64],
    micros: u64,
) -> fmt::Result {
    let mut buckets = [(f64::INFINITY, 0); STEPS.len() + 1];
    for (at, count) in steps.iter().enumerate() {
        let end = STEPS
            .get(at)
            .map_or(f64::INFINITY, std::time::Duration::as_secs_f64);
        buckets[at] = (end, *count);
    }
    samples.histogram(labels, micros as f64 / 1e6, &buckets)
}
