//! What concerns a service.

use std::collections::BTreeMap;
use std::fmt;

use super::{Family, counter, gauge, handshakes, histogram, probes};
use crate::desired::BackendState;
use crate::metrics::ledger::{Count, ServiceTotals};
use crate::metrics::text::Samples;
use crate::metrics::{ServiceObserved, Snapshot};

const SERVICE: &[&str] = &["service"];

pub(super) const ALL: &[Family] = &[
    gauge(
        "balancer_service_state",
        "The present state of a service: up, degraded, on-backups, fail-open or down, value 1.",
        &["service", "state"],
        |it, samples| {
            let mut services = it.observed.services.iter();
            services.try_for_each(|it| samples.level(&[&it.shape.service, it.state], 1.0))
        },
    ),
    gauge(
        "balancer_service_backends",
        "Backends of a service by state.",
        &["service", "state"],
        states,
    ),
    gauge(
        "balancer_service_slots",
        "Slots of a service's table; 0 if no backend gets traffic.",
        SERVICE,
        |it, samples| {
            let mut services = it.observed.services.iter();
            services
                .try_for_each(|it| samples.level(&[&it.shape.service], f64::from(it.slot_count)))
        },
    ),
    gauge(
        "balancer_service_skew_ratio",
        "Share of the new flows (TCP) or packets (UDP) of about the last half minute that went elsewhere than the slots say; none without traffic.",
        SERVICE,
        |it, samples| {
            it.observed
                .services
                .iter()
                .try_for_each(|it| match it.skew() {
                    Some(skew) => samples.level(&[&it.shape.service], skew),
                    None => Ok(()),
                })
        },
    ),
    counter(
        "balancer_service_packets_total",
        "Packets of clients sent to backends of a service.",
        SERVICE,
        |it, samples| count(it, samples, Count::Packets),
    ),
    counter(
        "balancer_service_bytes_total",
        "Bytes of these packets from the IP header on.",
        SERVICE,
        |it, samples| count(it, samples, Count::Bytes),
    ),
    counter(
        "balancer_service_flows_total",
        "New flows: SYNs of TCP, first records of UDP flows.",
        SERVICE,
        |it, samples| count(it, samples, Count::Flows),
    ),
    counter(
        "balancer_service_resets_total",
        "TCP packets of clients with RST.",
        SERVICE,
        |it, samples| count(it, samples, Count::Resets),
    ),
    counter(
        "balancer_service_handshakes_total",
        "Timed handshakes by result: finished, unfinished (none in 3 s, or reset) or unknown.",
        &["service", "result"],
        |it, samples| {
            each(it, |name, totals| {
                let totals = &totals.totals;
                samples.count(&[name, "finished"], totals.of(Count::Finished))?;
                samples.count(&[name, "unfinished"], totals.of(Count::Unfinished))?;
                samples.count(&[name, "unknown"], totals.of(Count::Unknown))
            })
        },
    ),
    counter(
        "balancer_service_syn_repeats_total",
        "Further SYNs of timed handshakes before they were over.",
        SERVICE,
        |it, samples| count(it, samples, Count::Repeated),
    ),
    histogram(
        "balancer_service_handshake_duration_seconds",
        "Time from SYN to the client's ACK of timed handshakes; the sum is an estimate by the buckets.",
        SERVICE,
        |it, samples| {
            let has_any = it.observed.handshake_sample > 0.0;
            each(it, |name, totals| match has_any {
                true => handshakes(samples, &[name], &totals.steps),
                false => Ok(()),
            })
        },
    ),
    counter(
        "balancer_service_probes_total",
        "Probes by result: passed, failed, or local (failed on the balancer's own side, which says nothing of the backend).",
        &["service", "result"],
        |it, samples| {
            each(it, |name, totals| {
                let totals = &totals.totals;
                samples.count(&[name, "passed"], totals.of(Count::Passed))?;
                samples.count(&[name, "failed"], totals.of(Count::Failed))?;
                samples.count(&[name, "local"], totals.of(Count::Local))
            })
        },
    ),
    histogram(
        "balancer_service_probe_duration_seconds",
        "Time that probes took, good and bad ones.",
        SERVICE,
        |it, samples| each(it, |name, totals| probes(samples, &[name], &totals.steps)),
    ),
];

fn each(
    snapshot: &Snapshot,
    mut write: impl FnMut(&str, &ServiceTotals) -> fmt::Result,
) -> fmt::Result {
    let services = snapshot.observed.services.iter();
    let mut services = services.zip(&snapshot.services);
    services.try_for_each(|(service, totals)| write(&service.shape.service, totals))
}

fn count(snapshot: &Snapshot, samples: &mut Samples<'_>, count: Count) -> fmt::Result {
    each(snapshot, |name, it| {
        samples.count(&[name], it.totals.of(count))
    })
}

fn states(snapshot: &Snapshot, samples: &mut Samples<'_>) -> fmt::Result {
    let one = |service: &ServiceObserved, samples: &mut Samples<'_>| {
        let none = BackendState::ALL.iter().map(|state| (state.name(), 0_u32));
        let mut counts: BTreeMap<&str, u32> = none.collect();
        for backend in &service.backends {
            *counts.entry(backend.state.name()).or_default() += 1;
        }
        counts.into_iter().try_for_each(|(state, count)| {
            samples.level(&[&service.shape.service, state], f64::from(count))
        })
    };
    let mut services = snapshot.observed.services.iter();
    services.try_for_each(|service| one(service, samples))
}
