//! Backends whose clients' handshakes do not finish are relieved where their
//! service asks for it.

use std::collections::HashMap;
use std::time::Instant;

use super::controller::Controller;
use crate::config::model::{Service, Unfinished};
use crate::desired::relief::{Case, Seen};
use crate::probe::scheduler::TargetId;
use crate::watch::{Kind, Look, ServiceLook, Sign};

impl Controller {
    /// Looks who is to get less and who all again, brings that about, and
    /// tells of those who get less.
    pub(super) fn relieve(&mut self, look: &Look, signs: &[Sign]) -> Vec<Sign> {
        let services = self.config.services.iter();
        let asks = |it: &(&Service, &ServiceLook)| it.0.unfinished_handshakes != Unfinished::Named;
        let mut seen: HashMap<(&str, &str), Seen> = HashMap::new();
        for (_, service) in services.zip(&look.services).filter(asks) {
            for backend in &service.backends {
                let it = seen.entry((&service.name, &backend.name)).or_default();
                it.counted = backend.handshakes.as_deref().copied();
            }
        }
        let unfinished = signs.iter().filter(|it| it.kind == Kind::Handshakes);
        for sign in unfinished {
            // One of the whole service is no backend's.
            let backend = sign.backend.as_deref().unwrap_or_default();
            if let Some(it) = seen.get_mut(&(sign.service.as_str(), backend)) {
                it.ailment = Some(sign.what.clone());
            }
        }
        let now = Instant::now();
        let is_changing = self.under_way.is_some();
        let others = self.relief.look(
            &self.config.services,
            &self.world,
            is_changing,
            |service, backend| {
                let found = seen.get(&(service.name.as_str(), backend));
                found.cloned().unwrap_or_default()
            },
            now,
        );
        for id in &others {
            let cause = format!(
                "service {}: handshakes of backend {}",
                id.service, id.backend
            );
            // What fails is told there, and tried again with the next change.
            let _ = self.reconcile(&cause, now);
        }
        self.relief_signs(now)
    }

    fn relief_signs(&self, now: Instant) -> Vec<Sign> {
        let cases = self.relief.cases();
        let sign = |(id, case): (&TargetId, &Case)| {
            let percent = self.world.relieved.get(id)?;
            let lasts = now.saturating_duration_since(case.since).as_secs();
            let gets = match percent {
                0 => "no new flows".to_owned(),
                _ => format!("{percent} % of its share"),
            };
            Some(Sign {
                kind: Kind::BackendRelieved,
                service: id.service.clone(),
                backend: Some(id.backend.clone()),
                what: format!("gets {gets} since {lasts} s: {}", case.why),
                cause: "its clients' handshakes do not finish, though its probes pass; it gets \
                        its share again once they do (unfinished_handshakes)"
                    .to_owned(),
            })
        };
        cases.filter_map(sign).collect()
    }
}
