//! New backends have to pass their probes before anything moves to them.

use super::{Controller, Progress, Step, UnderWay, hops};
use crate::desired::{BackendState, backend_state};

impl Controller {
    /// Begins the first stage once every new backend is proven.
    pub(in crate::daemon) async fn go_on_if_proven(&mut self) {
        let is_proving = |change: &UnderWay| matches!(change.step, Step::Proving { .. });
        if self.under_way.as_ref().is_some_and(is_proving) && self.unproven().is_empty() {
            self.next_stage().await;
        }
    }

    pub(super) fn tell_who_is_missing(&self) {
        if let Some(change) = &self.under_way {
            change.tell(Progress::Proving {
                missing: self.unproven(),
            });
        }
    }

    /// New backends that are not proven, and why: those that take traffic
    /// after the change and were not in it before.
    pub(super) fn unproven(&self) -> Vec<String> {
        let Some(change) = &self.under_way else {
            return Vec::new();
        };
        let mut missing = Vec::new();
        for service in &change.staging.after().services {
            let before = change.staging.before().service(&service.name);
            for backend in &service.backends {
                let is_new = before.is_none_or(|it| it.backend(&backend.name).is_none());
                if !is_new || backend.drain || backend.weight == 0 {
                    continue;
                }
                let name = format!("service {}: backend {}", service.name, backend.name);
                if backend_state(service, backend, &self.world) != BackendState::Up {
                    let why = self.last_failure(&service.name, &backend.name);
                    missing.push(format!("{name}: {why}"));
                }
                let hop = hops::describe(&self.config.node, service, backend, &self.found);
                if hop != hops::RESOLVED {
                    missing.push(format!("{name}: {hop}"));
                }
            }
        }
        missing
    }
}
