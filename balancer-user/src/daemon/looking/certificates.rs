//! Signs of certificates that end soon.

use std::time::SystemTime;

use super::super::controller::Controller;
use crate::probe::scheduler::TargetId;
use crate::watch::{Sign, certificates};

impl Controller {
    /// Of all services whose probes are shown certificates.
    pub(super) fn certificate_signs(&self) -> Vec<Sign> {
        let now = SystemTime::now();
        let states = self.scheduler.states();
        let mut signs = Vec::new();
        for service in &self.config.services {
            let health = service.health.as_ref();
            let Some(health) = health.filter(|health| health.kind.tls().is_some()) else {
                continue;
            };
            for backend in &service.backends {
                let id = TargetId {
                    service: service.name.clone(),
                    backend: backend.name.clone(),
                };
                let ends = states.one(&id).and_then(|it| it.monitor.certificate_ends());
                let whose = (service.name.as_str(), backend.name.as_str());
                signs.extend(ends.and_then(|ends| {
                    certificates::sign(whose, ends, now, health.certificate_warning)
                }));
            }
        }
        signs
    }
}
