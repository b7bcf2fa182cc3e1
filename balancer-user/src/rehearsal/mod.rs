//! A change, rehearsed: the candidate's tables in a private copy of the real
//! kernel program, and tens of thousands of synthetic flows through it.
//!
//! Nothing is attached, nothing is pinned and nothing is sent. What the
//! program does with each packet is compared with what the file, the next
//! hops and the tables in force say must become of it: verdict, service,
//! backend, slot, every byte that leaves, and the backends' shares. Services
//! that the change does not touch are sampled and have to go where they go
//! now. It takes a thread for a second or two: never the loop's.

pub(crate) mod flows;
mod moves;
mod names;
mod outgoing;
mod owners;
pub(crate) mod packet;
mod random;
mod report;
mod run;
mod script;
mod shares;

use std::collections::BTreeMap;
use std::time::Instant;

use crate::config::model::{Config, Seed, Service};
use crate::dataplane::trial::Trial;
use crate::dataplane::{Error, ServiceId, State, Table};
use crate::desired::World;

pub use moves::{FiveTuple, FlowMove, Moves, five_tuple, moves, recorded};
pub use names::{NamedState, Names};
pub use report::{BackendRehearsal, Difference, MAX_DIFFERENCES, Rehearsal, ServiceRehearsal};

use names::Side;
use owners::Owners;
use run::Stage;
use script::Script;

/// Flows that are run for each changed service.
pub const FLOWS_CHANGED: usize = 20_000;
/// Flows that all changed services share where there are many; none gets
/// less than [`FLOWS_LEAST`].
pub const FLOWS_CHANGED_IN_ALL: usize = 240_000;
/// See [`FLOWS_CHANGED_IN_ALL`].
pub const FLOWS_LEAST: usize = 200;
/// Flows that are run for each service that does not change.
pub const FLOWS_UNCHANGED: usize = 200;
/// Flows that these share; what is over is not sampled.
pub const FLOWS_UNCHANGED_IN_ALL: usize = 20_000;
/// Changed services whose table is built anew, to compare slot by slot.
pub const TABLES_BUILT: usize = 64;

/// What is to be rehearsed.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The configuration.
    pub config: Config,
    /// What the flow hash is keyed with.
    pub seed: Seed,
    /// Who is up, and the ways to the backends, as the tables were built.
    pub world: World,
    /// The tables, and what their numbers mean.
    pub tables: NamedState,
}

/// Runs the candidate's tables in a private copy of the program. `in_force`
/// is what forwards now; without it all services count as new.
///
/// # Errors
/// The copy could not be loaded or run. A program that does not do as planned
/// is no error: see [`Rehearsal::is_as_planned`].
pub fn rehearse(in_force: Option<&NamedState>, candidate: &Candidate) -> Result<Rehearsal, Error> {
    let began = Instant::now();
    let mut rehearsal = Rehearsal::default();
    let (changed, unchanged) = split(in_force, candidate);
    let most = FLOWS_UNCHANGED_IN_ALL / FLOWS_UNCHANGED;
    // Evenly among all, so that it is not always the same ones.
    let stride = unchanged.len().div_ceil(most).max(1);
    let others = (0..).zip(&unchanged).filter(|(at, _)| at % stride != 0);
    let state = without_tables(candidate, others.map(|(_, (_, id, _))| *id));
    let mut stage = Stage::new(Trial::load(&state)?, candidate)?;
    let flows = (FLOWS_CHANGED_IN_ALL / changed.len().max(1)).clamp(FLOWS_LEAST, FLOWS_CHANGED);
    for (at, (service, id)) in changed.iter().enumerate() {
        let is_built = at < TABLES_BUILT;
        rehearsal.tables_built += usize::from(is_built);
        let owners = Owners::planned(candidate, in_force, service, *id, is_built);
        let script = Script::new(candidate, service, *id, owners);
        let before = in_force.and_then(|of| now(of, service));
        stage.run(&mut rehearsal, &script, before.as_ref(), flows)?;
        shares::check(&mut rehearsal, candidate, &script);
    }
    for (service, id, before) in unchanged.iter().step_by(stride) {
        let script = Script::new(candidate, service, *id, Owners::in_force(before, service));
        stage.run(&mut rehearsal, &script, None, FLOWS_UNCHANGED)?;
    }
    let order: BTreeMap<&str, usize> = candidate
        .config
        .services
        .iter()
        .zip(0..)
        .map(|(service, at)| (service.name.as_str(), at))
        .collect();
    rehearsal
        .services
        .sort_by_key(|it| order.get(it.service.as_str()).copied());
    let changes: Vec<&str> = changed.iter().map(|(it, _)| it.name.as_str()).collect();
    for service in &mut rehearsal.services {
        service.is_changed = changes.contains(&service.service.as_str());
    }
    rehearsal.duration_millis = began.elapsed().as_millis() as u64;
    Ok(rehearsal)
}

/// Who gets the flows of a service now.
fn now(in_force: &NamedState, service: &Service) -> Option<Owners> {
    let id = in_force.names.id(&service.name)?;
    let side = Side { of: in_force, id };
    Some(Owners::in_force(&side, service))
}

/// The candidate's state without the slots of services that no flow is run
/// to: of a thousand tables the copy would take as much memory as the program
/// that forwards. All else of them is in it: their keys, too, have to lead
/// nobody astray.
fn without_tables(candidate: &Candidate, ids: impl Iterator<Item = ServiceId>) -> State {
    let mut state = candidate.tables.state.clone();
    for id in ids {
        if let Some(service) = state.services.get_mut(&id) {
            service.table = Table::of(&[]);
        }
    }
    state
}

type Changed<'a> = Vec<(&'a Service, ServiceId)>;
type Unchanged<'a> = Vec<(&'a Service, ServiceId, Side<'a>)>;

/// The services that fare otherwise than now, and the others.
fn split<'a>(
    in_force: Option<&'a NamedState>,
    candidate: &'a Candidate,
) -> (Changed<'a>, Unchanged<'a>) {
    let after = candidate.tables.names.ids();
    let before = in_force.map(|of| of.names.ids()).unwrap_or_default();
    let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
    for service in &candidate.config.services {
        let Some(id) = after.get(service.name.as_str()).copied() else {
            continue;
        };
        let here = Side {
            of: &candidate.tables,
            id,
        };
        let there = before
            .get(service.name.as_str())
            .zip(in_force)
            .map(|(id, of)| Side { of, id: *id });
        match there {
            Some(there) if !names::differ(&there, &here) => unchanged.push((service, id, there)),
            _ => changed.push((service, id)),
        }
    }
    (changed, unchanged)
}
