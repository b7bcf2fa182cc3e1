//! What is counted alike of services and of backends.

use std::fmt;

use super::Snapshot;
use crate::metrics::ledger::{Count, Steps, Totals};
use crate::metrics::text::Samples;

/// Of whom it is counted.
pub(super) trait Subject {
    /// Hands over the labels and the totals of each.
    fn totals(
        snapshot: &Snapshot,
        write: impl FnMut(&[&str], &Totals) -> fmt::Result,
    ) -> fmt::Result;

    /// Hands over the labels and the durations of each.
    fn steps(snapshot: &Snapshot, write: impl FnMut(&[&str], &Steps) -> fmt::Result)
    -> fmt::Result;
}

/// The families of a subject: `counted!("backend", "a backend", Backends,
/// "service", "backend")`: the word in names, whom packets are sent to, the labels.
macro_rules! counted {
    ($name:literal, $to:literal, $subject:ty, $($label:literal),+) => {
        &[
            counter(
                concat!("balancer_", $name, "_packets_total"),
                concat!("Packets of clients sent to ", $to, "."),
                &[$($label),+],
                |it, samples| counted::count::<$subject>(it, samples, Count::Packets),
            ),
            counter(
                concat!("balancer_", $name, "_bytes_total"),
                "Bytes of these packets from the IP header on.",
                &[$($label),+],
                |it, samples| counted::count::<$subject>(it, samples, Count::Bytes),
            ),
            counter(
                concat!("balancer_", $name, "_flows_total"),
                "New flows: SYNs of TCP, first records of UDP flows.",
                &[$($label),+],
                |it, samples| counted::count::<$subject>(it, samples, Count::Flows),
            ),
            counter(
                concat!("balancer_", $name, "_resets_total"),
                "TCP packets of clients with RST.",
                &[$($label),+],
                |it, samples| counted::count::<$subject>(it, samples, Count::Resets),
            ),
            counter(
                concat!("balancer_", $name, "_handshakes_total"),
                "Timed handshakes by result: finished, unfinished (none in 3 s, or reset) or unknown.",
                &[$($label,)+ "result"],
                |it, samples| counted::results::<$subject>(it, samples, counted::HANDSHAKES),
            ),
            counter(
                concat!("balancer_", $name, "_syn_repeats_total"),
                "Further SYNs of timed handshakes before they were over.",
                &[$($label),+],
                |it, samples| counted::count::<$subject>(it, samples, Count::Repeated),
            ),
            histogram(
                concat!("balancer_", $name, "_handshake_duration_seconds"),
                "Time from SYN to the client's ACK of timed handshakes; the sum is an estimate by the buckets.",
                &[$($label),+],
                |it, samples| {
                    if it.observed.handshake_sample <= 0.0 {
                        return Ok(());
                    }
                    <$subject>::steps(it, |labels, steps| handshakes(samples, labels, steps))
                },
            ),
            counter(
                concat!("balancer_", $name, "_probes_total"),
                "Probes by result: passed, failed, or local (failed on the balancer's own side, which says nothing of the backend).",
                &[$($label,)+ "result"],
                |it, samples| counted::results::<$subject>(it, samples, counted::PROBES),
            ),
            histogram(
                concat!("balancer_", $name, "_probe_duration_seconds"),
                "Time that probes took, good and bad ones.",
                &[$($label),+],
                |it, samples| <$subject>::steps(it, |labels, steps| probes(samples, labels, steps)),
            ),
        ]
    };
}

pub(super) use counted;

/// How a timed handshake can end.
pub(super) const HANDSHAKES: [(&str, Count); 3] = [
    ("finished", Count::Finished),
    ("unfinished", Count::Unfinished),
    ("unknown", Count::Unknown),
];

/// How a probe can end.
pub(super) const PROBES: [(&str, Count); 3] = [
    ("passed", Count::Passed),
    ("failed", Count::Failed),
    ("local", Count::Local),
];

/// A sample for each.
pub(super) fn count<S: Subject>(
    snapshot: &Snapshot,
    samples: &mut Samples<'_>,
    count: Count,
) -> fmt::Result {
    S::totals(snapshot, |labels, totals| {
        samples.count(labels, totals.of(count))
    })
}

/// A sample for each and each result, which is the last label.
pub(super) fn results<S: Subject>(
    snapshot: &Snapshot,
    samples: &mut Samples<'_>,
    results: [(&str, Count); 3],
) -> fmt::Result {
    S::totals(snapshot, |labels, totals| {
        results.iter().try_for_each(|(result, count)| {
            let mut all = [""; 3];
            let (subject, last) = all.split_at_mut(labels.len());
            subject.copy_from_slice(labels);
            last[0] = result;
            samples.count(&all[..=labels.len()], totals.of(*count))
        })
    })
}
