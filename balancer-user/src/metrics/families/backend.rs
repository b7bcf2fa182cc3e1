//! What concerns a backend; left out where there are too many
//! ([`Detail`]).

use std::fmt;

use super::{Family, counter, gauge, handshakes, histogram, probes};
use crate::metrics::ledger::{Count, Steps, Totals};
use crate::metrics::text::Samples;
use crate::metrics::{BackendObserved, Detail, ServiceObserved, Snapshot};

const BACKEND: &[&str] = &["service", "backend"];

pub(super) const ALL: &[Family] = &[
    gauge(
        "balancer_backend_state",
        "The present state of a backend, value 1; other states have no sample.",
        &["service", "backend", "state"],
        |it, samples| {
            observed(it, |service, name, backend| {
                let service = &service.shape.service;
                samples.level(&[service, name, backend.state.name()], 1.0)
            })
        },
    ),
    gauge(
        "balancer_backend_weight",
        "Weight of a backend, as configured.",
        BACKEND,
        |it, samples| {
            let services = it.observed.services.iter();
            let mut services = services.filter(|_| it.detail > Detail::Service);
            services.try_for_each(|service| {
                let shape = &service.shape;
                shape.backends.iter().try_for_each(|(name, weight)| {
                    samples.level(&[&shape.service, name], f64::from(*weight))
                })
            })
        },
    ),
    gauge(
        "balancer_backend_expected_share_ratio",
        "Share of new flows that a backend is to get: of the slots, as they are now.",
        BACKEND,
        |it, samples| {
            observed(it, |service, name, backend| {
                samples.level(&[&service.shape.service, name], backend.share)
            })
        },
    ),
    gauge(
        "balancer_backend_observed_share_ratio",
        "Share of new flows (TCP) or packets (UDP) that a backend got in about the last half minute, and since its service's table changed; none without traffic.",
        BACKEND,
        |it, samples| {
            observed(it, |service, name, backend| match service.recent() {
                Some(all) => samples.level(&[&service.shape.service, name], backend.recent / all),
                None => Ok(()),
            })
        },
    ),
    gauge(
        "balancer_backend_certificate_end_timestamp_seconds",
        "When the certificate ends that a backend showed its last probe over TLS.",
        BACKEND,
        |it, samples| {
            let is_told = it.detail != Detail::Service;
            let mut seen = it.observed.certificates.iter().filter(|_| is_told);
            seen.try_for_each(|it| samples.level(&[&it.service, &it.backend], it.ends))
        },
    ),
    counter(
        "balancer_backend_packets_total",
        "Packets of clients sent to a backend.",
        BACKEND,
        |it, samples| count(it, samples, Count::Packets),
    ),
    counter(
        "balancer_backend_bytes_total",
        "Bytes of these packets from the IP header on.",
        BACKEND,
        |it, samples| count(it, samples, Count::Bytes),
    ),
    counter(
        "balancer_backend_flows_total",
        "New flows: SYNs of TCP, first records of UDP flows.",
        BACKEND,
        |it, samples| count(it, samples, Count::Flows),
    ),
    counter(
        "balancer_backend_resets_total",
        "TCP packets of clients with RST.",
        BACKEND,
        |it, samples| count(it, samples, Count::Resets),
    ),
    counter(
        "balancer_backend_handshakes_total",
        "Timed handshakes by result: finished, unfinished (none in 3 s, or reset) or unknown.",
        &["service", "backend", "result"],
        |it, samples| {
            each(it, |service, name, totals| {
                samples.count(&[service, name, "finished"], totals.of(Count::Finished))?;
                samples.count(&[service, name, "unfinished"], totals.of(Count::Unfinished))?;
                samples.count(&[service, name, "unknown"], totals.of(Count::Unknown))
            })
        },
    ),
    counter(
        "balancer_backend_syn_repeats_total",
        "Further SYNs of timed handshakes before they were over.",
        BACKEND,
        |it, samples| count(it, samples, Count::Repeated),
    ),
    counter(
        "balancer_backend_probes_total",
        "Probes by result: passed, failed, or local (failed on the balancer's own side, which says nothing of the backend).",
        &["service", "backend", "result"],
        |it, samples| {
            each(it, |service, name, totals| {
                samples.count(&[service, name, "passed"], totals.of(Count::Passed))?;
                samples.count(&[service, name, "failed"], totals.of(Count::Failed))?;
                samples.count(&[service, name, "local"], totals.of(Count::Local))
            })
        },
    ),
    counter(
        "balancer_backend_probe_state_changes_total",
        "How often the probes changed their mind about a backend.",
        BACKEND,
        |it, samples| count(it, samples, Count::Transitions),
    ),
    histogram(
        "balancer_backend_handshake_duration_seconds",
        "Time from SYN to the client's ACK of timed handshakes; the sum is an estimate by the buckets.",
        BACKEND,
        |it, samples| {
            let has_any = it.observed.handshake_sample > 0.0;
            steps(it, |service, name, steps| match has_any {
                true => handshakes(samples, &[service, name], steps),
                false => Ok(()),
            })
        },
    ),
    histogram(
        "balancer_backend_probe_duration_seconds",
        "Time that probes took, good and bad ones.",
        BACKEND,
        |it, samples| {
            steps(it, |service, name, steps| {
                probes(samples, &[service, name], steps)
            })
        },
    ),
];

fn observed(
    snapshot: &Snapshot,
    mut write: impl FnMut(&ServiceObserved, &str, &BackendObserved) -> fmt::Result,
) -> fmt::Result {
    if snapshot.detail == Detail::Service {
        return Ok(());
    }
    let mut services = snapshot.observed.services.iter();
    services.try_for_each(|service| {
        let names = service.shape.backends.iter();
        let mut backends = names.zip(&service.backends);
        backends.try_for_each(|((name, _), backend)| write(service, name, backend))
    })
}

fn each(
    snapshot: &Snapshot,
    mut write: impl FnMut(&str, &str, &Totals) -> fmt::Result,
) -> fmt::Result {
    let services = snapshot.observed.services.iter();
    let mut services = services.zip(&snapshot.services);
    services.try_for_each(|(service, totals)| {
        let shape = &service.shape;
        let mut backends = shape.backends.iter().zip(&totals.backends);
        backends.try_for_each(|((name, _), totals)| write(&shape.service, name, totals))
    })
}

fn count(snapshot: &Snapshot, samples: &mut Samples<'_>, count: Count) -> fmt::Result {
    each(snapshot, |service, name, totals| {
        samples.count(&[service, name], totals.of(count))
    })
}

fn steps(
    snapshot: &Snapshot,
    mut write: impl FnMut(&str, &str, &Steps) -> fmt::Result,
) -> fmt::Result {
    let services = snapshot.observed.services.iter();
    let mut services = services.zip(&snapshot.services);
    services.try_for_each(|(service, totals)| {
        let shape = &service.shape;
        let mut backends = shape.backends.iter().zip(&totals.backend_steps);
        backends.try_for_each(|((name, _), steps)| write(&shape.service, name, steps))
    })
}
