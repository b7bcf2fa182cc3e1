//! What concerns a backend; left out where there are too many
//! ([`Detail`]).

use std::fmt;

use super::counted::{self, Subject, counted};
use super::{Family, counter, gauge, handshakes, histogram, probes};
use crate::metrics::ledger::{Count, Steps, Totals};
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
        "balancer_backend_probe_state_changes_total",
        "How often the probes changed their mind about a backend.",
        BACKEND,
        |it, samples| counted::count::<Backends>(it, samples, Count::Transitions),
    ),
];

/// What is counted of each.
pub(super) const COUNTED: &[Family] =
    counted!("backend", "a backend", Backends, "service", "backend");

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

/// All backends of which single figures are told.
struct Backends;

impl Subject for Backends {
    fn totals(
        snapshot: &Snapshot,
        mut write: impl FnMut(&[&str], &Totals) -> fmt::Result,
    ) -> fmt::Result {
        let services = snapshot.observed.services.iter();
        let mut services = services.zip(&snapshot.services);
        services.try_for_each(|(service, totals)| {
            let shape = &service.shape;
            let mut backends = shape.backends.iter().zip(&totals.backends);
            backends.try_for_each(|((name, _), totals)| write(&[&shape.service, name], totals))
        })
    }

    fn steps(
        snapshot: &Snapshot,
        mut write: impl FnMut(&[&str], &Steps) -> fmt::Result,
    ) -> fmt::Result {
        let services = snapshot.observed.services.iter();
        let mut services = services.zip(&snapshot.services);
        services.try_for_each(|(service, totals)| {
            let shape = &service.shape;
            let mut backends = shape.backends.iter().zip(&totals.backend_steps);
            backends.try_for_each(|((name, _), steps)| write(&[&shape.service, name], steps))
        })
    }
}
