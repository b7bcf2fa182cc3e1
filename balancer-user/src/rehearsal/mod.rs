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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use balancer_common::layout::SLOTS_PER_BLOCK;

use crate::config::model::{Config, Seed, Service};
use crate::dataplane::capacity::Capacity;
use crate::dataplane::trial::Trial;
use crate::dataplane::{Error, ServiceId, State, Table, features};
use crate::desired::World;
use crate::parallel;

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
/// Services whose tables a copy of the program holds at a time: more take
/// turns in it, as all tables of a large configuration take as much memory as
/// those that forward.
const AT_A_TIME: usize = 128;
/// Copies that are run at the same time, at most, a CPU each.
const MOST_COPIES: usize = 4;
/// Flows on record in a copy, at most: each is asked for right after it began.
const MOST_RECORDS: u32 = 1 << 16;

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
    let jobs = jobs(in_force, candidate);
    let turns: Vec<&[Job<'_>]> = jobs.chunks(AT_A_TIME).collect();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let copies = turns.len().clamp(1, cpus.min(MOST_COPIES));
    // A copy gets every so-and-so-manieth turn: those that change come first.
    let of_copy = |copy| -> Vec<&[Job<'_>]> {
        let turns = turns.iter().skip(copy).step_by(copies);
        turns.copied().collect()
    };
    let of_copies: Vec<Vec<&[Job<'_>]>> = (0..copies).map(of_copy).collect();
    let ran = parallel::map_each(of_copies, |turns| play(candidate, &turns));
    let mut rehearsal = Rehearsal::default();
    for part in ran {
        rehearsal.add(part?);
    }
    rehearsal.tables_built = jobs.iter().filter(|job| job.is_built).count();
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
    rehearsal.duration_millis = began.elapsed().as_millis() as u64;
    Ok(rehearsal)
}

/// A service, and how it is to be rehearsed.
struct Job<'a> {
    service: &'a Service,
    id: ServiceId,
    /// As it is now, if it is.
    before: Option<Side<'a>>,
    flows: usize,
    is_changed: bool,
    is_built: bool,
}

/// All that change, and some of the others.
fn jobs<'a>(in_force: Option<&'a NamedState>, candidate: &'a Candidate) -> Vec<Job<'a>> {
    let (changed, unchanged) = split(in_force, candidate);
    let most = FLOWS_UNCHANGED_IN_ALL / FLOWS_UNCHANGED;
    // Evenly among all, so that it is not always the same ones.
    let stride = unchanged.len().div_ceil(most).max(1);
    let flows = (FLOWS_CHANGED_IN_ALL / changed.len().max(1)).clamp(FLOWS_LEAST, FLOWS_CHANGED);
    let changed = changed.into_iter().zip(0..);
    let changed = changed.map(|((service, id, before), at)| Job {
        service,
        id,
        before,
        flows,
        is_changed: true,
        is_built: at < TABLES_BUILT,
    });
    let sampled = unchanged.into_iter().step_by(stride);
    let sampled = sampled.map(|(service, id, before)| Job {
        service,
        id,
        before: Some(before),
        flows: FLOWS_UNCHANGED,
        is_changed: false,
        is_built: false,
    });
    changed.chain(sampled).collect()
}

/// Does jobs in one copy of the program, one turn after the other.
fn play(candidate: &Candidate, turns: &[&[Job<'_>]]) -> Result<Rehearsal, Error> {
    let mut rehearsal = Rehearsal::default();
    let mut stage: Option<Stage<'_>> = None;
    for turn in turns.iter().copied() {
        let state = with_tables(candidate, turn);
        let stage = match &mut stage {
            Some(stage) => {
                stage.change(&state)?;
                stage
            }
            None => stage.insert(Stage::new(load(&state, turns, candidate)?, candidate)?),
        };
        for job in turn {
            let (service, id) = (job.service, job.id);
            let owners = match (&job.before, job.is_changed) {
                (Some(before), false) => Owners::in_force(before, service),
                (before, _) => {
                    Owners::planned(candidate, before.as_ref(), service, id, job.is_built)
                }
            };
            let script = Script::new(candidate, service, id, owners);
            let before = job.before.filter(|_| job.is_changed);
            let before = before.map(|before| Owners::in_force(&before, service));
            stage.run(&mut rehearsal, &script, before.as_ref(), job.flows)?;
            if let Some(figures) = rehearsal.services.last_mut() {
                figures.is_changed = job.is_changed;
            }
            if job.is_changed {
                shares::check(&mut rehearsal, candidate, &script);
            }
        }
    }
    Ok(rehearsal)
}

/// A copy that has room for what the largest turn needs, and for the tables of
/// the next turn beside those of this one.
fn load(state: &State, turns: &[&[Job<'_>]], candidate: &Candidate) -> Result<Trial, Error> {
    let mut capacity = Capacity::for_state(state);
    let needs = |turn: &&[Job<'_>]| {
        let states = turn
            .iter()
            .filter_map(|job| candidate.tables.state.services.get(&job.id));
        let sizes = states.map(|it| {
            let blocks = it.table.slot_count().div_ceil(SLOTS_PER_BLOCK);
            (blocks, it.members.len() as u32)
        });
        sizes.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    let first = turns.first().map_or(0, |turn| needs(turn).0);
    let blocks = turns.iter().map(|turn| needs(turn).0).max();
    let members = turns.iter().map(|turn| needs(turn).1).max();
    if turns.len() > 1 {
        capacity.blocks += blocks.unwrap_or_default() * 2 - first;
    }
    let counters = members.unwrap_or_default().max(1);
    capacity.counters = counters;
    capacity.handshake_counters = capacity.handshake_counters.min(counters);
    capacity.flows = capacity.flows.min(MOST_RECORDS);
    Trial::with(capacity, features::needed(state), state)
}

/// The candidate's state with the slots of these services only, and with
/// counters for their members. All else of the others is in it: their keys,
/// too, have to lead nobody astray.
fn with_tables(candidate: &Candidate, turn: &[Job<'_>]) -> State {
    let wanted: BTreeSet<ServiceId> = turn.iter().map(|job| job.id).collect();
    let mut state = candidate.tables.state.clone();
    let mut counters = 0..;
    for (id, service) in &mut state.services {
        let is_wanted = wanted.contains(id);
        if !is_wanted {
            service.table = Table::of(&[]);
        }
        for member in &mut service.members {
            let next = if is_wanted { counters.next() } else { None };
            member.counter = next.unwrap_or_default();
        }
    }
    state
}

type Changed<'a> = Vec<(&'a Service, ServiceId, Option<Side<'a>>)>;
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
            there => changed.push((service, id, there)),
        }
    }
    (changed, unchanged)
}
