//! What would become of one service.

use std::collections::{HashMap, HashSet};

use super::tables::{self, Comparison, Owner, part};
use super::{
    BackendPlan, Base, CapacityPlan, Fate, Held, Loss, Move, Proofs, ServicePlan, established,
    unknown_targets,
};
use crate::change::TableMemo;
use crate::config::capacity::{Load, ZoneLoss, in_use};
use crate::config::model::{Backend, Protocol, Service};
use crate::config::render::settings;
use crate::desired::{self, BackendState, World};
use crate::maglev;
use crate::probe::scheduler::TargetId;

/// Moves that a plan names; a service of many backends has thousands.
const MAX_MOVES: usize = 32;

/// A service before and after; one of both is there.
pub(super) struct Step<'a> {
    pub(super) before: Option<&'a Service>,
    pub(super) after: Option<&'a Service>,
    /// Its table in the kernel.
    pub(super) held: Option<&'a Held>,
    /// Slots of a table afterwards.
    pub(super) table_size: u32,
    /// Whether it was another number before.
    pub(super) resized: bool,
}

/// What a plan of one backend is made of, beyond the backend.
struct Known<'a> {
    comparison: &'a Comparison<'a>,
    world_now: World,
    world_after: World,
    unknown: HashSet<TargetId>,
    /// By position, were all up that are wanted.
    all_up: Vec<u32>,
    /// The service's present rate.
    rate: Option<f64>,
    /// By position: load and limit at the declared peak.
    peak: HashMap<usize, u64>,
}

impl Step<'_> {
    /// The plan; none if nothing differs but the order of backends.
    pub(super) fn plan(
        &self,
        base: &Base,
        proofs: &Proofs,
        tables: &TableMemo,
    ) -> Option<ServicePlan> {
        let unknown: HashSet<TargetId> = self
            .after
            .map(|after| unknown_targets(self.before, after))
            .unwrap_or_default()
            .into_iter()
            .map(|spec| spec.id)
            .collect();
        let world_after = self.after.map_or_else(World::default, |after| {
            base.world_after(after, &unknown, proofs)
        });
        let slots = self.after.map_or_else(Vec::new, |after| {
            slots_after(after, &world_after, self.table_size)
        });
        let comparison = tables::compare(self.held, self.after, &slots);
        let all_up = self.after.map_or_else(Vec::new, |after| {
            self.all_up(after, &world_after, &slots, tables)
        });
        let known = Known {
            rate: self.rate(&comparison),
            world_now: self.before.map_or_else(World::default, |it| base.world(it)),
            world_after,
            unknown,
            all_up,
            peak: self.after.map_or_else(HashMap::new, peak),
            comparison: &comparison,
        };
        let settings = match (self.before, self.after) {
            (Some(before), Some(after)) => settings::of_services(before, after),
            _ => Vec::new(),
        };
        let backends = self.backends(&known);
        let is_same = |backend: &BackendPlan| backend.fate == Fate::Kept;
        let differs = !settings.is_empty() || self.resized || !backends.iter().all(is_same);
        let fate = match (self.before, self.after) {
            (None, _) => Fate::Added,
            (_, None) => Fate::Removed,
            _ if differs => Fate::Changed,
            _ => return None,
        };
        let (moves, left_out) = moves(&comparison);
        let share_moved = self.share_moved(&comparison);
        Some(ServicePlan {
            name: self.after.or(self.before)?.name.clone(),
            fate,
            settings,
            slots_now: comparison.len_now,
            slots_after: comparison.len_after,
            slots_moved: in_slots(&comparison, comparison.moved()),
            slots_required: comparison.required(),
            share_moved,
            flows_per_second_moved: self.rate_moved(&comparison, share_moved, known.rate),
            moves,
            moves_left_out: left_out,
            established: established::of(self, &comparison),
            backends,
            capacity: self.after.and_then(capacity),
        })
    }

    /// Slots of each backend, were all up that are wanted. Where they are,
    /// this is the table that was just built: a second one would double what
    /// a plan of many services costs.
    fn all_up(
        &self,
        after: &Service,
        world: &World,
        slots: &[u16],
        tables: &TableMemo,
    ) -> Vec<u32> {
        let eligible = desired::eligible(after, world).map(|(position, _)| position);
        if eligible.eq(in_use(after).map(|(position, ..)| position)) {
            let mut counts = vec![0; after.backends.len()];
            for position in slots {
                counts[usize::from(*position)] += 1;
            }
            tables.remember(after, self.table_size, counts);
        }
        tables.slot_counts(after, self.table_size)
    }

    /// Whether the same flow asks another slot.
    pub(super) fn is_rehashed(&self) -> bool {
        use crate::config::model::Affinity::Source;
        let by_source = |service: &Service| service.affinity == Source;
        match (self.before, self.after) {
            (Some(before), Some(after)) => by_source(before) != by_source(after),
            _ => false,
        }
    }

    /// Share of new flows that get another backend. Where another hash finds
    /// the slot, it is as if by lot who gets a flow.
    pub(super) fn share_moved(&self, comparison: &Comparison<'_>) -> f64 {
        if !self.is_rehashed() {
            return comparison.share(comparison.moved());
        }
        let stays = |owner: &Owner<'_>| {
            part(owner.slots_now, comparison.len_now)
                * part(owner.slots_after, comparison.len_after)
        };
        let staying: f64 = comparison.owners.iter().map(stays).sum();
        (1.0 - staying).max(0.0)
    }

    /// The service's new flows a second.
    fn rate(&self, comparison: &Comparison<'_>) -> Option<f64> {
        let is_tcp = |service: &Service| service.protocol == Protocol::Tcp;
        if !self.before.is_some_and(is_tcp) {
            return None;
        }
        let seats = comparison.owners.iter().filter_map(|owner| owner.seat);
        Some(seats.filter_map(|seat| seat.flows_per_second).sum())
    }

    fn rate_moved(
        &self,
        comparison: &Comparison<'_>,
        share_moved: f64,
        rate: Option<f64>,
    ) -> Option<f64> {
        if self.is_rehashed() {
            return rate.map(|rate| rate * share_moved);
        }
        let of_pairs = comparison
            .pairs
            .iter()
            .filter_map(|pair| rate_of(comparison, pair.from?, pair.count));
        rate.map(|_| of_pairs.sum())
    }

    /// Those of the new configuration, then those that go.
    fn backends(&self, known: &Known<'_>) -> Vec<BackendPlan> {
        let owners: HashMap<(&str, std::net::IpAddr), &Owner<'_>> = known
            .comparison
            .owners
            .iter()
            .map(|owner| ((owner.name, owner.address), owner))
            .collect();
        let before: HashMap<&str, &Backend> = by_name(self.before);
        let after: HashMap<&str, &Backend> = by_name(self.after);
        let staying = self
            .after
            .iter()
            .flat_map(|it| it.backends.iter().enumerate());
        let mut plans: Vec<BackendPlan> = staying
            .map(|(position, backend)| {
                let was = before.get(backend.name.as_str()).copied();
                let owner = |backend: &Backend| {
                    owners
                        .get(&(backend.name.as_str(), backend.address))
                        .copied()
                };
                let now = was.and_then(owner);
                self.backend(known, was, now, Some((position, backend, owner(backend))))
            })
            .collect();
        let going = self.before.iter().flat_map(|it| &it.backends);
        for backend in going.filter(|it| !after.contains_key(it.name.as_str())) {
            let owner = owners.get(&(backend.name.as_str(), backend.address));
            plans.push(self.backend(known, Some(backend), owner.copied(), None));
        }
        plans
    }

    fn backend(
        &self,
        known: &Known<'_>,
        was: Option<&Backend>,
        now: Option<&Owner<'_>>,
        next: Option<(usize, &Backend, Option<&Owner<'_>>)>,
    ) -> BackendPlan {
        let comparison = known.comparison;
        let backend = next.map(|(_, backend, _)| backend);
        let settings = match (was, backend) {
            (Some(was), Some(backend)) => settings::of_backends(was, backend),
            _ => Vec::new(),
        };
        let fate = match (was, backend) {
            (None, _) => Fate::Added,
            (_, None) => Fate::Removed,
            (Some(was), Some(backend)) if was.address != backend.address => Fate::Replaced,
            _ if settings.is_empty() => Fate::Kept,
            _ => Fate::Changed,
        };
        let slots_now = was.map(|_| now.map_or(0, |owner| owner.slots_now));
        let slots_after = next.map(|(.., owner)| owner.map_or(0, |owner| owner.slots_after));
        let all_up = next.map(|(position, ..)| known.all_up.get(position).copied().unwrap_or(0));
        let state = |service: Option<&Service>, backend: Option<&Backend>, world: &World| {
            let state = desired::backend_state(service?, backend?, world);
            Some(BackendState::name(state).to_owned())
        };
        let share_after = slots_after.map(|slots| part(slots, comparison.len_after));
        let name = backend.or(was).map_or("", |it| it.name.as_str());
        let name_of_service = self.after.or(self.before).map_or("", |it| it.name.as_str());
        BackendPlan {
            name: name.to_owned(),
            address: backend
                .or(was)
                .map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |it| it.address),
            fate,
            settings,
            must_prove: known.unknown.contains(&TargetId {
                service: name_of_service.to_owned(),
                backend: name.to_owned(),
            }),
            state_now: state(self.before, was, &known.world_now),
            state_after: state(self.after, backend, &known.world_after),
            slots_now,
            slots_after,
            slots_all_up: all_up,
            share_now: slots_now.map(|slots| part(slots, comparison.len_now)),
            share_after,
            share_all_up: all_up.map(|slots| part(slots, known.all_up.iter().sum())),
            flows_per_second_now: now
                .and_then(|owner| owner.seat)
                .and_then(|seat| seat.flows_per_second)
                .filter(|_| known.rate.is_some()),
            flows_per_second_after: share_after.and_then(|share| Some(share * known.rate?)),
            peak_flows_per_second: next
                .and_then(|(position, ..)| known.peak.get(&position).copied()),
            capacity_flows_per_second: backend.and_then(|it| it.capacity_flows_per_second),
        }
    }
}

fn by_name(service: Option<&Service>) -> HashMap<&str, &Backend> {
    let backends = service.into_iter().flat_map(|service| &service.backends);
    backends
        .map(|backend| (backend.name.as_str(), backend))
        .collect()
}

/// The table that the kernel would get: slots name backends by position.
fn slots_after(service: &Service, world: &World, table_size: u32) -> Vec<u16> {
    let entries: Vec<maglev::Entry<'_>> = desired::eligible(service, world)
        .map(|(position, backend)| maglev::Entry {
            identity: &backend.name,
            index: position as u16,
            weight: backend.weight,
        })
        .collect();
    maglev::build(&entries, table_size)
}

/// A count of what was compared, as slots of the table.
fn in_slots(comparison: &Comparison<'_>, count: u32) -> u32 {
    let slots = match comparison.len_after {
        0 => comparison.len_now,
        len => len,
    };
    // Rounded: it is a share of at most 1 of a `u32`.
    (comparison.share(count) * f64::from(slots)).round() as u32
}

/// New flows a second in some of an owner's slots.
fn rate_of(comparison: &Comparison<'_>, owner: usize, count: u32) -> Option<f64> {
    let owner = &comparison.owners[owner];
    let has = part(owner.slots_now, comparison.len_now);
    let rate = owner.seat?.flows_per_second?;
    (has > 0.0).then(|| rate * comparison.share(count) / has)
}

fn moves(comparison: &Comparison<'_>) -> (Vec<Move>, usize) {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for owner in &comparison.owners {
        *counts.entry(owner.name).or_default() += 1;
    }
    let name = |at: usize| {
        let owner = &comparison.owners[at];
        match counts.get(owner.name) {
            Some(2..) => format!("{} at {}", owner.name, owner.address),
            _ => owner.name.to_owned(),
        }
    };
    let moves = comparison.pairs.iter().take(MAX_MOVES).map(|pair| Move {
        from: pair.from.map(name),
        to: pair.to.map(name),
        slots: in_slots(comparison, pair.count),
        share: comparison.share(pair.count),
        flows_per_second: pair
            .from
            .and_then(|from| rate_of(comparison, from, pair.count)),
    });
    let moves: Vec<Move> = moves.collect();
    let left_out = comparison.pairs.len() - moves.len();
    (moves, left_out)
}

/// New flows a second at the declared peak, by position.
fn peak(service: &Service) -> HashMap<usize, u64> {
    let strains = Load::of(service).map(|load| load.strains());
    let strains = strains.unwrap_or_default().into_iter();
    strains
        .map(|strain| (strain.backend, saturated(strain.load)))
        .collect()
}

fn saturated(load: u128) -> u64 {
    u64::try_from(load).unwrap_or(u64::MAX)
}

fn capacity(service: &Service) -> Option<CapacityPlan> {
    let load = Load::of(service)?;
    let strains = load.strains();
    if strains.is_empty() {
        return None;
    }
    let name = |position: usize| service.backends[position].name.clone();
    let without_backend = load.after_backend_loss().map(|(lost, strain)| Loss {
        lost: lost.name.clone(),
        survivor: Some(name(strain.backend)),
        load: saturated(strain.load),
        limit: strain.limit,
        exceeds: strain.exceeds,
    });
    let without_zone = load.after_zone_loss().map(|loss| match loss {
        ZoneLoss::All { zone } => Loss {
            lost: zone.to_owned(),
            survivor: None,
            load: 0,
            limit: 0,
            exceeds: true,
        },
        ZoneLoss::Strained { zone, survivor } => Loss {
            lost: zone.to_owned(),
            survivor: Some(name(survivor.backend)),
            load: saturated(survivor.load),
            limit: survivor.limit,
            exceeds: survivor.exceeds,
        },
    });
    Some(CapacityPlan {
        peak_flows_per_second: service.peak_flows_per_second?,
        overloaded: strains
            .iter()
            .filter(|strain| strain.exceeds)
            .map(|strain| name(strain.backend))
            .collect(),
        without_backend,
        without_zone,
    })
}
