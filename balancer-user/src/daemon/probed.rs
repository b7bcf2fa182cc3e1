//! What probes found, taken into the tables.

use std::time::Instant;

use super::controller::Controller;
use super::hops;
use crate::health::{Failure, Transition};
use crate::netlink::{NextHop, Unresolved};
use crate::probe::scheduler::{Event, TargetId};

impl Controller {
    pub(super) async fn on_probes(&mut self, events: &[Event]) {
        let mut causes = Vec::new();
        for event in events {
            self.incidents.probe_times.take(&event.id, &event.outcome);
            if let Some(transition) = event.transition {
                causes.push(self.on_transition(event, transition));
            }
        }
        // Of hundreds that fail together there is one change of the tables.
        let Some(first) = causes.first() else {
            return;
        };
        let cause = match causes.len() - 1 {
            0 => first.clone(),
            others => format!("{first}; and {others} more"),
        };
        let _ = self.reconcile(&cause, Instant::now());
        self.go_on_if_proven().await;
    }

    /// Notes what a backend has become, and says why.
    fn on_transition(&mut self, event: &Event, transition: Transition) -> String {
        let (service, backend) = (&event.id.service, &event.id.backend);
        let cause = match event.outcome.failure() {
            Some(failure) => format!("backend {backend} is {}: {failure}", transition.to),
            None => format!("backend {backend} is {}", transition.to),
        };
        tracing::info!(%service, %backend, from = %transition.from, to = %transition.to, %cause, "health");
        // Probes go the way that packets go: it may lead to a wrong machine.
        if event.outcome.failure().is_some_and(Failure::is_silence)
            && let Some(Ok(hop)) = self.hop_of(&event.id)
        {
            hops::doubt(&self.netlink, hop);
        }
        self.world.health.insert(event.id.clone(), transition.to);
        format!("service {service}: {cause}")
    }

    fn hop_of(&self, id: &TargetId) -> Option<&Result<NextHop, Unresolved>> {
        let backend = self.config.service(&id.service)?.backend(&id.backend)?;
        self.found.get(&backend.address)
    }
}
