//! Certificates that probes were shown, and signs of those that end soon.

use std::time::{SystemTime, UNIX_EPOCH};

use super::super::controller::Controller;
use crate::metrics::CertificateObserved;
use crate::probe::scheduler::TargetId;
use crate::watch::{Sign, certificates};

impl Controller {
    /// Of all services whose probes are shown certificates.
    pub(super) fn look_at_certificates(&mut self) -> Vec<Sign> {
        let now = SystemTime::now();
        let states = self.scheduler.states();
        let (mut signs, mut seen) = (Vec::new(), Vec::new());
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
                let Some(ends) = ends else {
                    continue;
                };
                let whose = (service.name.as_str(), backend.name.as_str());
                let warning = health.certificate_warning;
                signs.extend(certificates::sign(whose, ends, now, warning));
                seen.push(CertificateObserved {
                    service: id.service,
                    backend: id.backend,
                    ends: match ends.duration_since(UNIX_EPOCH) {
                        Ok(since) => since.as_secs_f64(),
                        Err(before) => -before.duration().as_secs_f64(),
                    },
                });
            }
        }
        self.incidents.certificates = seen;
        signs
    }
}
