//! What is counted of the services that a change touches.

use std::collections::{BTreeMap, BTreeSet};

use super::controller::Controller;
use super::report::last_failure;
use crate::config::model::{Affinity, Config, Protocol, Service};
use crate::desired::{BackendState, backend_state};
use crate::probe::compare::Comparing;
use crate::probe::scheduler::TargetId;
use crate::revision::Figures;
use crate::verdict::answers;
use crate::verdict::{self, Counted, Harm, Patient, Subject};

/// Backends that a stage's figures name; a revision stays a file that people
/// read.
const MAX_FIGURES: usize = 256;

/// The services that a change touches.
#[derive(Default)]
pub(super) struct Watched {
    patients: Vec<Patient>,
    /// By service and backend: what was counted when the stage began.
    stage_began: BTreeMap<TargetId, Counted>,
    now: BTreeMap<TargetId, Counted>,
    /// Backends that were up when the change began, or have been since.
    were_up: BTreeSet<TargetId>,
    /// What backends answer; none where nobody is asked.
    comparing: Option<Comparing>,
    /// What was told of it.
    noted: BTreeSet<String>,
}

impl Watched {
    /// From here on figures are of a new stage.
    pub(super) fn begin_stage(&mut self) {
        self.stage_began = self.now.clone();
        if let Some(comparing) = &self.comparing {
            comparing.begin_stage();
        }
        for patient in &mut self.patients {
            for subject in &mut patient.backends {
                subject.stage = Counted::default();
            }
        }
    }

    /// The harm that is seen.
    pub(super) fn harms(&self) -> Vec<Harm> {
        let counted = self.patients.iter().flat_map(verdict::judge);
        counted.chain(self.comparison_harms()).collect()
    }

    /// From here on answers are compared.
    pub(super) fn compare(&mut self, comparing: Comparing) {
        self.comparing = Some(comparing);
    }

    /// Whether enough answers were heard to begin; they need not be good.
    pub(super) fn is_compared(&self) -> bool {
        self.comparing.as_ref().is_none_or(Comparing::is_proven)
    }

    /// The harm that answers show.
    pub(super) fn comparison_harms(&self) -> Vec<Harm> {
        let comparing = self.comparing.as_ref();
        comparing.map_or_else(Vec::new, |it| it.heard(|heard| answers::judge(heard)))
    }

    /// Whether they show none.
    pub(super) fn compares_well(&self) -> bool {
        self.comparison_harms().is_empty()
    }

    /// Whether that was not told yet.
    pub(super) fn is_news(&mut self, text: String) -> bool {
        self.noted.insert(text)
    }

    /// What answers show that is no harm, each once.
    pub(super) fn new_notes(&mut self) -> Vec<String> {
        let comparing = self.comparing.as_ref();
        let mut notes = comparing.map_or_else(Vec::new, |it| it.heard(|it| answers::notes(it)));
        notes.retain(|note| self.noted.insert(note.clone()));
        notes
    }

    /// What is written down of the stage: of [`MAX_FIGURES`] backends at most,
    /// those first whose share changes most.
    pub(super) fn figures(&self) -> Vec<Figures> {
        let mut figures: Vec<(f64, Figures)> = Vec::new();
        for patient in &self.patients {
            let changes = patient.backends.iter();
            let changes = changes.map(|it| (it.share_after - it.share_before).abs());
            figures.extend(changes.zip(verdict::figures(patient)));
        }
        // Stable: what changes alike stays in the file's order.
        figures.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        figures.truncate(MAX_FIGURES);
        let mut figures: Vec<Figures> = figures.into_iter().map(|(_, it)| it).collect();
        if let Some(comparing) = &self.comparing {
            comparing.heard(|heard| {
                for it in &mut figures {
                    let comparison = heard.iter().find(|one| one.service == it.service);
                    it.answers = comparison.and_then(|one| one.answers(&it.backend));
                }
            });
        }
        figures
    }

    /// Forgets the answers of a backend that is not up.
    fn forget_answers(&self, id: &TargetId) {
        if let Some(comparing) = &self.comparing {
            comparing.heard(|heard| {
                let of_service = heard.iter_mut().filter(|it| it.service == id.service);
                of_service.for_each(|it| it.forget(&id.backend));
            });
        }
    }
}

impl Controller {
    /// Begins to watch the services that differ.
    pub(super) fn watch(&mut self, before: &Config, after: &Config) -> Watched {
        let changed = after.services.iter().filter(|service| {
            let was = before.service(&service.name);
            was.is_none_or(|was| was != *service)
        });
        let patients = changed
            .map(|service| self.patient(before, service, after))
            .collect();
        let mut watched = Watched {
            patients,
            ..Watched::default()
        };
        self.count_watched(&mut watched);
        for patient in &mut watched.patients {
            for subject in &mut patient.backends {
                let id = target(&patient.service, &subject.name);
                let counted = watched.now.get(&id).filter(|_| !subject.is_other);
                subject.before = counted.copied().unwrap_or_default();
            }
        }
        watched.begin_stage();
        watched
    }

    fn patient(&self, before: &Config, service: &Service, after: &Config) -> Patient {
        let shares = |config: &Config| -> BTreeMap<String, f64> {
            let Some(service) = config.service(&service.name) else {
                return BTreeMap::new();
            };
            let size = config.node.table_size;
            let counts = self.tables.slot_counts(service, size);
            let names = service.backends.iter().map(|backend| backend.name.clone());
            let shares = counts
                .into_iter()
                .map(|count| f64::from(count) / f64::from(size));
            names.zip(shares).collect()
        };
        let (old, new) = (shares(before), shares(after));
        let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let address = |config: &Config, name: &str| {
            Some(config.service(&service.name)?.backend(name)?.address)
        };
        let is_other = |name: &str| {
            let was = address(before, name);
            was.is_some() && was != address(after, name)
        };
        let backends = names.into_iter().map(|name| Subject {
            name: name.clone(),
            is_other: is_other(name),
            share_before: old.get(name).copied().unwrap_or_default(),
            share_after: new.get(name).copied().unwrap_or_default(),
            ..Subject::default()
        });
        Patient {
            service: service.name.clone(),
            backends: backends.collect(),
            is_even: service.protocol == Protocol::Tcp && service.affinity != Affinity::Source,
            may_dominate: service.allow.iter().any(|rule| rule == "dominant-backend"),
        }
    }

    /// Reads the counters and the states of what is watched.
    pub(super) fn count_watched(&mut self, watched: &mut Watched) {
        let mut indexes = Vec::new();
        for patient in &watched.patients {
            for seat in self.builder.seats(&patient.service).into_iter().flatten() {
                let id = target(&patient.service, &seat.backend);
                indexes.push((id, seat.counter, seat.slot_count));
            }
        }
        // Where a name means another server, the one that has slots counts.
        indexes.sort_by_key(|(_, _, slot_count)| *slot_count);
        let members: Vec<u32> = indexes.iter().map(|(_, index, _)| *index).collect();
        let counters = match self.dataplane.counters(&members) {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!(%error, "the change cannot be watched: counters cannot be read");
                return;
            }
        };
        let mut slots = BTreeMap::new();
        for (id, index, slot_count) in indexes {
            let member = counters.members.get(&index).copied().unwrap_or_default();
            let handshakes = counters.handshakes.get(&index).copied().unwrap_or_default();
            let counted = Counted {
                flows: member.flows,
                resets: member.resets,
                handshakes,
            };
            slots.insert(id.clone(), slot_count);
            watched.now.insert(id, counted);
        }
        let mut not_up = Vec::new();
        for patient in &mut watched.patients {
            let size = self.builder.slot_count(&patient.service).max(1);
            let service = self.config.service(&patient.service);
            for subject in &mut patient.backends {
                let id = target(&patient.service, &subject.name);
                let slots = slots.get(&id).copied().unwrap_or_default();
                subject.share = f64::from(slots) / f64::from(size);
                let now = watched.now.get(&id).copied().unwrap_or_default();
                let then = watched.stage_began.get(&id).copied().unwrap_or_default();
                subject.stage = now.since(&then);
                let backend = service.and_then(|it| Some((it, it.backend(&subject.name)?)));
                let state = backend.map(|(service, it)| backend_state(service, it, &self.world));
                let was_up = watched.were_up.contains(&id);
                let is_well = |state| matches!(state, BackendState::Up | BackendState::Standby);
                if state.is_some_and(|state| !is_well(state)) {
                    not_up.push(id.clone());
                }
                match state {
                    Some(BackendState::Up) if !was_up => {
                        watched.were_up.insert(id);
                    }
                    Some(BackendState::Down) if was_up => {
                        let why = self.last_failure(&patient.service, &subject.name);
                        subject.went_down = Some(why);
                    }
                    _ => {}
                }
            }
        }
        for id in not_up {
            watched.forget_answers(&id);
        }
    }

    /// Whether a backend's probes have failed as often as takes one down.
    pub(super) fn is_failing(&self, service: &str, backend: &str) -> bool {
        let found = self.scheduler.states().one(&target(service, backend));
        found.is_some_and(|it| it.monitor.is_failing())
    }

    /// Why the last probe of a backend was bad.
    pub(super) fn last_failure(&self, service: &str, backend: &str) -> String {
        let found = self.scheduler.states().one(&target(service, backend));
        let failure = found.and_then(|it| {
            let last = || Some(it.monitor.last_failure()?.1.to_string());
            last_failure(&it.monitor).or_else(last)
        });
        failure.unwrap_or_else(|| "no probe has passed yet".to_owned())
    }
}

fn target(service: &str, backend: &str) -> TargetId {
    TargetId {
        service: service.to_owned(),
        backend: backend.to_owned(),
    }
}
