//! What concerns a service.

use std::collections::BTreeMap;
use std::fmt;

use super::counted::{self, Subject, counted};
use super::{Family, counter, gauge, handshakes, histogram, probes};
use crate::desired::BackendState;
use crate::metrics::ledger::{Count, ServiceTotals, Steps, Totals};
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
];

/// What is counted of each.
pub(super) const COUNTED: &[Family] =
    counted!("service", "backends of a service", Services, "service");

/// All services.
struct Services;

impl Subject for Services {
    fn totals(
        snapshot: &Snapshot,
        mut write: impl FnMut(&[&str], &Totals) -> fmt::Result,
    ) -> fmt::Result {
        each(snapshot, |name, it| write(&[name], &it.totals))
    }

    fn steps(
        snapshot: &Snapshot,
        mut write: impl FnMut(&[&str], &Steps) -> fmt::Result,
    ) -> fmt::Result {
        each(snapshot, |name, it| write(&[name], &it.steps))
    }
}

fn each(
    snapshot: &Snapshot,
    mut write: impl FnMut(&str, &ServiceTotals) -> fmt::Result,
) -> fmt::Result {
    let services = snapshot.observed.services.iter();
    let mut services = services.zip(&snapshot.services);
    services.try_for_each(|(service, totals)| write(&service.shape.service, totals))
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
