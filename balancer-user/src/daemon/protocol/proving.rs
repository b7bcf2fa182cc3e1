//! Servers that get traffic by a change have to prove themselves before
//! anything moves to them: who that is is [`crate::plan`]'s word, for a plan
//! and for a change alike.
//!
//! New names have seats by then, and the probes that will go on say when they
//! are up. A known name at another address, or with another probe, is still
//! what it was to the tables and the scheduler, and so is all of a service that
//! cannot move in parts: those servers are proven beside the loop, and begin as
//! what they were proven to be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use super::{Controller, Progress, Step, UnderWay, hops};
use crate::config::capacity::is_wanted;
use crate::config::model::{Backend, Config, Service};
use crate::daemon::preparing::Done;
use crate::desired::{BackendState, backend_state, probed};
use crate::health::State;
use crate::plan::to_prove_between;
use crate::probe::prove::{Proofs, prove_by};
use crate::probe::scheduler::{TargetId, TargetSpec};

/// What is known of servers whose name means another one before or after the
/// change, by the address that is probed.
pub(in crate::daemon) type Known = BTreeMap<(TargetId, SocketAddr), State>;

/// The backends of some services by the names of service and backend.
fn names<'a>(
    config: &'a Config,
    of: &HashSet<&str>,
) -> HashMap<(&'a str, &'a str), (&'a Service, &'a Backend)> {
    let services = config.services.iter();
    let services = services.filter(|it| of.contains(it.name.as_str()));
    let backends = services.flat_map(|service| {
        let backends = service.backends.iter();
        backends.map(move |it| ((service.name.as_str(), it.name.as_str()), (service, it)))
    });
    backends.collect()
}

/// Services of a configuration that are new or not what they were.
fn differing<'a>(before: &Config, after: &'a Config) -> HashSet<&'a str> {
    let services = before.services.iter();
    let known: HashMap<&str, &Service> = services.map(|it| (it.name.as_str(), it)).collect();
    let services = after.services.iter();
    let differing = services.filter(|it| known.get(it.name.as_str()) != Some(it));
    differing.map(|it| it.name.as_str()).collect()
}

/// Where a backend's probes go.
fn probed_at(service: &Service, backend: &Backend) -> Option<SocketAddr> {
    TargetSpec::of(service, backend).map(|spec| spec.address)
}

/// Who has to prove itself.
#[derive(Debug, Default)]
pub(super) struct Proving {
    /// New names, probed or not, by service and place in it.
    new: Vec<(usize, usize)>,
    /// Servers that are proven beside the loop.
    beside: Vec<TargetSpec>,
    /// What came of that.
    proofs: Proofs,
}

impl Controller {
    /// Works out who has to prove itself, and begins to prove those whom the
    /// scheduler does not know.
    pub(super) fn begin_proving(&mut self) {
        let Some(change) = &mut self.under_way else {
            return;
        };
        let (before, after) = (change.staging.before(), change.staging.after());
        let differing = differing(before, after);
        let (earlier, present) = (names(before, &differing), names(&self.config, &differing));
        // A service that cannot move in parts is as it was until the first
        // stage: its new names have no seats, either.
        let is_seated = |service: &str, backend: &str| {
            let name = (service, backend);
            !earlier.contains_key(&name) && present.contains_key(&name)
        };
        let mut new = Vec::new();
        let services = after.services.iter().enumerate();
        for (service_at, service) in services.filter(|(_, it)| differing.contains(it.name.as_str()))
        {
            for (backend_at, backend) in service.backends.iter().enumerate() {
                let is_seated = is_seated(&service.name, &backend.name);
                if is_seated && is_wanted(backend) {
                    new.push((service_at, backend_at));
                }
            }
        }
        let mut beside = to_prove_between(Some(before), after);
        beside.retain(|spec| !is_seated(&spec.id.service, &spec.id.backend));
        // The way back finds those as they are.
        for spec in &beside {
            let was = earlier.get(&(spec.id.service.as_str(), spec.id.backend.as_str()));
            let Some((service, backend)) = was else {
                continue;
            };
            if let Some(address) = probed_at(service, backend) {
                let state = probed(service, backend, &self.world);
                change.known.insert((spec.id.clone(), address), state);
            }
        }
        change.proving = Proving {
            new,
            beside: beside.clone(),
            proofs: Proofs::new(),
        };
        self.prove_beside(beside);
    }

    fn prove_beside(&self, targets: Vec<TargetSpec>) {
        let Some(change) = self.under_way.as_ref().filter(|_| !targets.is_empty()) else {
            return;
        };
        let (done, revision) = (self.done.clone(), change.revision.number);
        let (lane, after) = (self.lane.clone(), change.staging.after().clone());
        tokio::spawn(async move {
            let proofs = prove_by(&lane, &after, targets).await;
            // Nobody is left to tell when the daemon ends.
            let _ = done.send(Done::Proven { revision, proofs }).await;
        });
    }

    /// Takes what was proven beside the loop; who failed is tried again for
    /// as long as the change waits.
    pub(in crate::daemon) async fn on_proven(&mut self, revision: u64, proofs: Proofs) {
        let is_proving = |it: &&mut UnderWay| {
            it.revision.number == revision && matches!(it.step, Step::Proving { .. })
        };
        let Some(change) = self.under_way.as_mut().filter(is_proving) else {
            return;
        };
        change.proving.proofs.extend(proofs);
        let proofs = &change.proving.proofs;
        let mut again = Vec::new();
        for spec in &change.proving.beside {
            match proofs.get(&spec.id) {
                Some(Ok(())) => {
                    let server = (spec.id.clone(), spec.address);
                    change.known.insert(server, State::Up);
                }
                Some(Err(_)) => again.push(spec.clone()),
                None => {}
            }
        }
        self.prove_beside(again);
        self.go_on_if_proven().await;
    }

    /// Begins the first stage once every new backend is proven.
    pub(in crate::daemon) async fn go_on_if_proven(&mut self) {
        let is_proving = |change: &UnderWay| matches!(change.step, Step::Proving { .. });
        let Some(change) = self.under_way.as_ref().filter(|it| is_proving(it)) else {
            return;
        };
        let is_proven = self.unproven(change).next().is_none();
        if is_proven && change.watched.is_compared() && change.watched.compares_well() {
            self.tell_notes();
            self.next_stage().await;
        }
    }

    pub(super) fn tell_who_is_missing(&self) {
        if let Some(change) = &self.under_way {
            change.tell(Progress::Proving {
                missing: self.not_proven(),
            });
        }
    }

    /// What is against the first stage: servers that are not proven, and why,
    /// and those that answer worse than their siblings.
    pub(super) fn not_proven(&self) -> Vec<String> {
        let Some(change) = &self.under_way else {
            return Vec::new();
        };
        let mut missing: Vec<String> = self.unproven(change).collect();
        let harms = change.watched.comparison_harms();
        missing.extend(harms.iter().map(ToString::to_string));
        missing
    }

    fn unproven<'a>(&'a self, change: &'a UnderWay) -> impl Iterator<Item = String> + 'a {
        let after = change.staging.after();
        let new = change.proving.new.iter().filter_map(move |place| {
            let service = after.services.get(place.0)?;
            let backend = service.backends.get(place.1)?;
            let name = || format!("service {}: backend {}", service.name, backend.name);
            let state = backend_state(service, backend, &self.world);
            if !matches!(state, BackendState::Up | BackendState::Standby) {
                let why = self.last_failure(&service.name, &backend.name);
                return Some(format!("{}: {why}", name()));
            }
            let hop = hops::describe(&self.config.node, service, backend, &self.found);
            (hop != hops::RESOLVED).then(|| format!("{}: {hop}", name()))
        });
        let beside = change.proving.beside.iter().filter_map(|spec| {
            let (id, address) = (&spec.id, spec.address);
            match change.proving.proofs.get(id) {
                Some(Ok(())) => None,
                Some(Err(why)) => Some(format!("{id} at {address}: {why}")),
                None => Some(format!("{id} at {address}: no probe has passed yet")),
            }
        });
        new.chain(beside)
    }
}
