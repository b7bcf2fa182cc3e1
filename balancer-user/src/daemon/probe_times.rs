//! How long the last good probes of each backend took, for the watch.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::model::Config;
use crate::health::Outcome;
use crate::probe::scheduler::TargetId;
use crate::watch::PROBES;

/// The latest first.
type Times = [Option<Duration>; PROBES];

/// By service and backend.
#[derive(Debug, Default)]
pub(super) struct ProbeTimes(HashMap<String, HashMap<String, Times>>);

impl ProbeTimes {
    /// Takes the outcome of a probe. After a bad one, who answers begins anew.
    pub(super) fn take(&mut self, id: &TargetId, outcome: &Outcome) {
        let service = match self.0.get_mut(&id.service) {
            Some(service) => service,
            None => self.0.entry(id.service.clone()).or_default(),
        };
        if outcome.failure().is_some() {
            service.remove(&id.backend);
            return;
        }
        let times = match service.get_mut(&id.backend) {
            Some(times) => times,
            None => service.entry(id.backend.clone()).or_default(),
        };
        times.rotate_right(1);
        times[0] = Some(outcome.duration());
    }

    /// Those of a backend.
    pub(super) fn of(&self, service: &str, backend: &str) -> Times {
        let known = self.0.get(service).and_then(|it| it.get(backend));
        known.copied().unwrap_or_default()
    }

    /// Forgets whoever is not in the file.
    pub(super) fn keep_only(&mut self, config: &Config) {
        self.0.retain(|name, backends| {
            let Some(service) = config.service(name) else {
                return false;
            };
            backends.retain(|backend, _| service.backend(backend).is_some());
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Failure;

    #[test]
    fn last_good_probes_are_kept_and_a_bad_one_begins_anew() {
        let id = TargetId {
            service: "web".to_owned(),
            backend: "web-1".to_owned(),
        };
        let mut times = ProbeTimes::default();
        let passed = |millis| Outcome::Passed {
            duration: Duration::from_millis(millis),
            certificate_ends: None,
        };
        for millis in 1..=4 {
            times.take(&id, &passed(millis));
        }
        let of = |times: &ProbeTimes| {
            times
                .of("web", "web-1")
                .map(|it| it.map(|it| it.as_millis()))
        };
        assert_eq!(of(&times), [Some(4), Some(3), Some(2)]);
        let failed = Outcome::Failed {
            reason: Failure::Refused,
            duration: Duration::ZERO,
        };
        times.take(&id, &failed);
        assert_eq!(of(&times), [None; PROBES]);
        times.take(&id, &passed(9));
        assert_eq!(of(&times), [Some(9), None, None]);
    }
}
