//! What a change would do, worked out before anything happens.
//!
//! [`make`] compares the running configuration, and the tables that stand in
//! the kernel, with a candidate and the tables that it would get. [`findings`]
//! are the rules about the step from the one to the other. Pure, and linear in
//! the services that differ: nothing is changed, asked or waited for. What a
//! table would be is asked of the code that makes it.

mod established;
mod node;
mod rules;
mod service;
mod summary;
mod tables;
mod types;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use node::needs_restart;
pub use rules::findings;
pub use types::{
    BackendPlan, Break, CapacityPlan, Established, Fate, Loss, Move, Plan, ServicePlan,
    SettingChange,
};

use crate::change::TableMemo;
use crate::config::capacity::is_wanted;
use crate::config::model::{Backend, Config, Protocol, Service};
use crate::config::render::settings;
use crate::dataplane::Table;
use crate::desired::{Builder, World};
use crate::health;
use crate::parallel;
pub use crate::probe::prove::Proofs;
use crate::probe::scheduler::{TargetId, TargetSpec};

/// What runs, as far as a plan has to know it.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// Number of the running revision, where there is one.
    pub revision: Option<u64>,
    /// The running configuration; none before there is one.
    pub config: Option<Config>,
    /// What probes know of its backends.
    pub health: BTreeMap<TargetId, health::State>,
    /// The tables in the kernel, by service.
    pub held: HashMap<String, Held>,
    /// Drains made by command.
    pub drains: Vec<OperatorDrain>,
}

/// A service's table as it stands in the kernel.
#[derive(Debug, Clone)]
pub struct Held {
    /// With its slots.
    pub table: Table,
    /// Who the slots' indexes are.
    pub seats: Vec<Option<HeldSeat>>,
}

/// Who an index of a table is.
#[derive(Debug, Clone)]
pub struct HeldSeat {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its address.
    pub address: IpAddr,
    /// Whether new flows go to it.
    pub has_slots: bool,
    /// New flows in the last second; none for UDP, which has no sign of one.
    pub flows_per_second: Option<f64>,
}

impl Held {
    /// What a builder has of a service; `rate` gives the new flows a second of
    /// a counter.
    pub fn of(builder: &Builder, service: &Service, rate: impl Fn(u32) -> f64) -> Option<Self> {
        let is_tcp = service.protocol == Protocol::Tcp;
        let seats = builder.seats(&service.name).into_iter().map(|seat| {
            seat.map(|seat| HeldSeat {
                has_slots: seat.slot_count > 0,
                flows_per_second: is_tcp.then(|| rate(seat.counter)),
                backend: seat.backend,
                address: seat.address,
            })
        });
        Some(Self {
            table: builder.table(&service.name)?.clone(),
            seats: seats.collect(),
        })
    }
}

/// A backend that an operator drained by command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorDrain {
    /// Which.
    pub id: TargetId,
    /// How long ago, where that is known.
    pub age: Option<Duration>,
}

/// What `candidate` would do. A backend that was not probed is taken to
/// prove itself, one that failed is not.
pub fn make(base: &Base, candidate: &Config, proofs: &Proofs, tables: &TableMemo) -> Plan {
    let running = base.services();
    let table_size = candidate.node.table_size;
    let resized = base.is_resized(table_size);
    let mut steps = Vec::new();
    for service in &candidate.services {
        let before = running.get(service.name.as_str()).copied();
        let is_same = before.is_some_and(|before| !resized && before == service);
        if !is_same {
            steps.push(step(base, before, Some(service), table_size));
        }
    }
    let wanted: HashSet<&str> = candidate
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    let going = running_services(base).filter(|service| !wanted.contains(service.name.as_str()));
    let gone = going.map(|service| step(base, Some(service), None, table_size));
    steps.extend(gone);
    let steps = steps.iter().collect();
    let services = parallel::map(steps, |step: &service::Step<'_>| {
        step.plan(base, proofs, tables)
    });
    let services: Vec<ServicePlan> = services.into_iter().flatten().collect();
    let changed = services
        .iter()
        .filter(|it| it.fate != Fate::Removed)
        .count();
    let unchanged = candidate.services.len() - changed;
    let before = base.config.as_ref().map(|config| &config.node);
    let mut plan = Plan {
        summary: String::new(),
        has_changes: false,
        revision: base.revision,
        node: before.map_or_else(Vec::new, |before| {
            settings::of_nodes(before, &candidate.node)
        }),
        needs_restart: before.map_or_else(Vec::new, |before| {
            let keys = needs_restart(before, &candidate.node);
            keys.into_iter().map(ToOwned::to_owned).collect()
        }),
        apply: base.config.as_ref().map_or_else(Vec::new, |config| {
            settings::of_apply(&config.apply, &candidate.apply)
        }),
        drains_on: Vec::new(),
        services,
        unchanged_services: unchanged,
    };
    plan.has_changes = !plan.node.is_empty() || !plan.apply.is_empty() || !plan.services.is_empty();
    plan.summary = summary::of(&plan);
    plan
}

/// Backends that a revision's plan names; all revisions are in memory.
const MAX_RECORDED: usize = 10_000;

impl Plan {
    /// What a revision keeps of it: of more than 10,000 backends the services
    /// that are beyond are told without theirs. All is left as it was.
    pub fn for_record(&mut self) -> Self {
        let mut left = MAX_RECORDED;
        let mut beyond = Vec::new();
        for (at, service) in self.services.iter_mut().enumerate() {
            left = left.checked_sub(service.backends.len()).unwrap_or_else(|| {
                // Not copied: there may be a hundred thousand.
                beyond.push((at, std::mem::take(&mut service.backends)));
                0
            });
        }
        let kept = self.clone();
        for (at, backends) in beyond {
            self.services[at].backends = backends;
        }
        kept
    }

    /// The same of a file to which [`carry_drains`] added these.
    pub fn with_drains_on(mut self, drains: Vec<(String, String)>) -> Self {
        self.drains_on = drains;
        self.summary = summary::of(&self);
        self
    }
}

/// Drains in a file what a command drained, as a file that is brought into
/// force does: such a drain is ended by command only. Gives those of which
/// the file does not say so.
pub fn carry_drains(base: &Base, file: &mut Config) -> Vec<(String, String)> {
    let mut carried = Vec::new();
    for OperatorDrain { id, .. } in &base.drains {
        let service = file.service_mut(&id.service);
        let backend = service.and_then(|service| service.backend_mut(&id.backend));
        if let Some(backend) = backend.filter(|backend| !backend.drain) {
            backend.drain = true;
            carried.push((id.service.clone(), id.backend.clone()));
        }
    }
    carried
}

/// The backends of `candidate` that have to be proven before they get
/// traffic: what is known of the running ones is not known of them.
pub fn to_prove(base: &Base, candidate: &Config) -> Vec<TargetSpec> {
    to_prove_between(base.config.as_ref(), candidate)
}

/// The same between two configurations; the first may be none.
pub fn to_prove_between(before: Option<&Config>, after: &Config) -> Vec<TargetSpec> {
    let running = services_of(before);
    after
        .services
        .iter()
        .filter_map(|service| {
            let before = running.get(service.name.as_str()).copied();
            (before != Some(service)).then(|| unknown_targets(before, service))
        })
        .flatten()
        .collect()
}

/// The targets of a service of which nothing is known: new ones, those at
/// other addresses, and all if the probe asks for something else. One that
/// is to get no traffic need not be proven.
fn unknown_targets(before: Option<&Service>, after: &Service) -> Vec<TargetSpec> {
    let specs = |service: &Service| TargetSpec::from_services(std::slice::from_ref(service));
    let known: HashMap<TargetId, TargetSpec> = before
        .map(specs)
        .unwrap_or_default()
        .into_iter()
        .map(|spec| (spec.id.clone(), spec))
        .collect();
    let idle: HashSet<&str> = after
        .backends
        .iter()
        .filter(|backend| !is_wanted(backend))
        .map(|backend| backend.name.as_str())
        .collect();
    let mut specs = specs(after);
    specs.retain(|spec| {
        let is_known = known
            .get(&spec.id)
            .is_some_and(|known| known.is_same_server(spec));
        !is_known && !idle.contains(spec.id.backend.as_str())
    });
    specs
}

fn step<'a>(
    base: &'a Base,
    before: Option<&'a Service>,
    after: Option<&'a Service>,
    table_size: u32,
) -> service::Step<'a> {
    let name = after.or(before).map(|service| service.name.as_str());
    service::Step {
        before,
        after,
        held: name.and_then(|name| base.held.get(name)),
        table_size,
        resized: base.is_resized(table_size),
    }
}

fn running_services(base: &Base) -> impl Iterator<Item = &Service> {
    base.config.iter().flat_map(|config| &config.services)
}

fn services_of(config: Option<&Config>) -> HashMap<&str, &Service> {
    let services = config.into_iter().flat_map(|config| &config.services);
    services
        .map(|service| (service.name.as_str(), service))
        .collect()
}

impl Base {
    fn services(&self) -> HashMap<&str, &Service> {
        services_of(self.config.as_ref())
    }

    fn is_resized(&self, table_size: u32) -> bool {
        let is_other = |config: &Config| config.node.table_size != table_size;
        self.config.as_ref().is_some_and(is_other)
    }

    /// What is known of a service's backends now.
    fn world(&self, service: &Service) -> World {
        self.known(service, |id| self.health.get(id).copied())
    }

    /// What would be known of them, with `unknown` of them to be proven.
    fn world_after(
        &self,
        service: &Service,
        unknown: &HashSet<TargetId>,
        proofs: &Proofs,
    ) -> World {
        self.known(service, |id| {
            if !unknown.contains(id) {
                return self.health.get(id).copied();
            }
            match proofs.get(id) {
                None | Some(Ok(())) => Some(health::State::Up),
                Some(Err(_)) => Some(health::State::Unproven),
            }
        })
    }

    fn known(
        &self,
        service: &Service,
        state: impl Fn(&TargetId) -> Option<health::State>,
    ) -> World {
        let id = |backend: &Backend| TargetId {
            service: service.name.clone(),
            backend: backend.name.clone(),
        };
        let backends = service.backends.iter().map(id);
        World {
            health: backends
                .filter_map(|id| state(&id).map(|state| (id, state)))
                .collect(),
            ..World::default()
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
