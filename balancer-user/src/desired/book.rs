//! What is kept of a service from one state to the next: who sits where, and
//! the slots in change.
//!
//! A slot that changes hands stays unsettled until the flows of its earlier
//! owners have been silent for the service's `drain_timeout`. Silence is
//! looked for in rounds of that length: at the end of one, what was in change
//! all the time and sent nothing to an earlier owner settles. See
//! `docs/flow-affinity.md`.

mod basis;
mod identity;
mod ramping;
mod rounds;
mod template;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balancer_common::layout::{MAX_MEMBERS, Member, Slot};

use basis::{Basis, Entries};
pub(super) use identity::Identity;
use rounds::Round;
pub(super) use template::{Template, Templates};

use super::staging::Blend;
use super::{World, eligible, fails_open, probed};
use crate::config::model::{Backend, Config, Protocol, Service};
use crate::dataplane::{ServiceId, Table};
use crate::member;

/// No round is shorter, so that a tiny `drain_timeout` keeps nobody busy.
const LEAST_ROUND: Duration = Duration::from_millis(100);

/// What is kept of a service.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) id: ServiceId,
    /// What flow records rest on.
    pub(super) identity: Option<Identity>,
    pub(super) seats: Vec<Option<Owner>>,
    /// How often each index has been given away.
    pub(super) incarnations: Vec<u16>,
    /// Indexes given up since the slots were last gone through: some may
    /// still name them.
    pub(super) vacated: BTreeSet<u16>,
    /// What the table was built from, and how often that was something else.
    built_from: Arc<Basis>,
    pub(super) moves: u32,
    pub(super) table: Table,
    /// The last table that was not one of the middle of a change.
    whole: Option<Template>,
    /// In the middle of a change: the one that it leads to, and the one
    /// that it comes from.
    coming: Option<Template>,
    going: Option<Template>,
    /// During a slow start: the table that it leads to, and the one without
    /// those that are in it. Each step asks for both.
    ramping: Vec<Template>,
    round: Option<Round>,
    /// Whether slots are asked for one by one, as a rehearsal does: the table
    /// is then kept packed.
    pub(super) is_asked_often: bool,
    /// Whether a seat may be in a drain that ends: mostly none is, and
    /// nobody has to look at all of them.
    may_drain: bool,
}

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) name: Arc<str>,
    pub(super) address: IpAddr,
    pub(super) counter: u32,
    pub(super) slot_count: u32,
    pub(super) drain: Drain,
}

/// How far a backend is with an operator's wish to take it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    /// There is no such wish.
    No,
    /// Keeps its flows until then.
    Until(Instant),
    /// Its time is over: no flow is its own any more.
    Over,
}

impl Book {
    /// A service nobody has seen yet.
    pub(super) fn new(id: ServiceId) -> Self {
        Self {
            id,
            identity: None,
            seats: Vec::new(),
            incarnations: Vec::new(),
            vacated: BTreeSet::new(),
            built_from: Arc::default(),
            moves: 0,
            table: Table::new(Arc::from(Vec::new())),
            whole: None,
            coming: None,
            going: None,
            ramping: Vec::new(),
            round: None,
            is_asked_often: false,
            may_drain: true,
        }
    }

    /// Whether the service is no longer the one that its records are of; it
    /// then has to [`Book::begin_anew`].
    pub(super) fn is_another(&mut self, service: &Service, table_size: u32) -> bool {
        let identity = Identity::of(service, table_size);
        self.identity
            .replace(identity)
            .is_some_and(|before| before != identity)
    }

    /// Under another number no record of the old one counts.
    pub(super) fn begin_anew(&mut self, id: ServiceId) {
        self.id = id;
        self.vacated.clear();
        self.built_from = Arc::default();
        self.whole = None;
        self.coming = None;
        self.going = None;
        self.ramping.clear();
        self.table = Table::new(Arc::from(Vec::new()));
        self.round = None;
    }

    /// Whether the seats are those of the service's backends, in their order:
    /// nearly always they are.
    pub(super) fn is_seated(&self, service: &Service) -> bool {
        let is_his = |(seat, backend): (&Option<Owner>, &Backend)| {
            let is_same = |it: &Owner| *it.name == *backend.name && it.address == backend.address;
            seat.as_ref().is_some_and(is_same)
        };
        self.seats.len() == service.backends.len()
            && self.seats.iter().zip(&service.backends).all(is_his)
    }

    /// Takes an owner's seat; gives back its counter.
    pub(super) fn vacate(&mut self, stays: impl Fn(&Owner) -> bool) -> Vec<u32> {
        let mut counters = Vec::new();
        for (seat, index) in self.seats.iter_mut().zip(0..) {
            if let Some(owner) = seat.take_if(|owner| !stays(owner)) {
                counters.push(owner.counter);
                self.vacated.insert(index);
            }
        }
        counters
    }

    /// Seats an owner at one of the `free` indexes, or a new one.
    pub(super) fn give_seat(&mut self, owner: Owner, free: &mut Vec<usize>) {
        let index = free.pop().unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        if self.incarnations.len() <= index {
            self.incarnations.push(0);
        }
        self.incarnations[index] = self.incarnations[index].wrapping_add(1);
        self.seats[index] = Some(owner);
    }

    /// Indexes that nobody has and no slot names, the lowest last.
    pub(super) fn free_seats(&self) -> Vec<usize> {
        // One that was given up just now is taken only where there is no
        // other: the slots still name it until they are gone through.
        let is_full = self.seats.len() >= usize::from(MAX_MEMBERS);
        let free = |at: &usize| {
            self.seats[*at].is_none() && (is_full || !self.vacated.contains(&(*at as u16)))
        };
        (0..self.seats.len()).rev().filter(free).collect()
    }

    /// Index of each backend that has a seat.
    pub(super) fn indexes(&self) -> HashMap<&str, u16> {
        let seats = self.seats.iter().zip(0u16..);
        seats
            .filter_map(|(seat, index)| Some((&*seat.as_ref()?.name, index)))
            .collect()
    }

    /// Notes who is being drained, and since when.
    pub(super) fn follow_drains(&mut self, service: &Service, now: Instant) {
        let drained: Vec<&str> = service
            .backends
            .iter()
            .filter(|backend| backend.drain)
            .map(|backend| backend.name.as_str())
            .collect();
        self.may_drain = false;
        for owner in self.seats.iter_mut().flatten() {
            let is_wanted = drained.contains(&&*owner.name);
            owner.drain = match owner.drain {
                _ if !is_wanted => Drain::No,
                Drain::No if service.drain_timeout.is_zero() => Drain::Over,
                Drain::No => Drain::Until(now + service.drain_timeout),
                Drain::Until(end) if end <= now => Drain::Over,
                as_before => as_before,
            };
            self.may_drain |= matches!(owner.drain, Drain::Until(_));
        }
    }

    /// Makes the table that is wanted now; gives how many had to be built.
    pub(super) fn rebuild(
        &mut self,
        service: &Service,
        blend: Option<Blend<'_>>,
        template: Option<&Template>,
        (size, world, now): (u32, &World, Instant),
    ) -> usize {
        let basis = Basis {
            entries: self.entries(blend.map_or(service, |blend| blend.after), world),
            earlier: blend
                .filter(|blend| blend.percent < 100)
                .map(|blend| (self.entries(blend.before, world), blend.percent)),
            ramps: self.ramps(service, world),
            size,
        };
        let is_same = *self.built_from == basis;
        if is_same && self.vacated.is_empty() {
            return 0;
        }
        self.moves = self.moves.wrapping_add(1);
        if let Some(table) = self.taken_over(&basis, template) {
            self.built_from = Arc::new(basis);
            self.set_slot_counts(&table.counts());
            self.table = table;
            self.whole = self.template();
            return 0;
        }
        let mut built = 0;
        let after = self.owners(&basis.entries, size, template, &mut built);
        let mut owners = match (&basis.earlier, blend) {
            (Some((earlier, _)), Some(blend)) => {
                let before = self.owners(earlier, size, template, &mut built);
                self.keep_both((&basis.entries, &after), (earlier, &before), size);
                basis::blended(before, after, blend)
            }
            _ => {
                self.coming = None;
                self.going = None;
                after
            }
        };
        self.ramp(&basis, template, &mut owners, &mut built);
        self.count_slots(&owners);
        self.built_from = Arc::new(basis);
        self.change(service, &owners, now);
        if let Some(whole) = self.template() {
            self.whole = Some(whole);
        }
        built
    }

    /// Brings the owners of the slots into the table.
    fn change(&mut self, service: &Service, owners: &[u16], now: Instant) {
        // While nobody is wanted the slots stay as they are: flows of those
        // who still live go on, and what has a dead owner is dropped.
        if owners.is_empty() {
            return;
        }
        let slots = self.change_slots(owners);
        self.vacated.clear();
        while self.seats.last().is_some_and(Option::is_none) {
            self.seats.pop();
        }
        // UDP has no old flows that could be told, and without a time to
        // drain nobody waits for any.
        if service.protocol == Protocol::Udp || service.drain_timeout.is_zero() {
            self.round = None;
            let settled: Vec<Slot> = slots.iter().map(|slot| slot.settle()).collect();
            self.table = self.table_of(&settled);
            return;
        }
        self.note_round(&slots, service.drain_timeout.max(LEAST_ROUND), now);
        self.table = self.table_of(&slots);
    }

    /// Who gets new flows: name, index and weight.
    fn entries(&self, service: &Service, world: &World) -> Entries {
        if self.is_seated(service) {
            return eligible(service, world)
                .filter_map(|(at, backend)| {
                    let owner = self.seats.get(at)?.as_ref()?;
                    Some((Arc::clone(&owner.name), at as u16, backend.weight))
                })
                .collect();
        }
        let indexes = self.indexes();
        eligible(service, world)
            .filter_map(|(_, backend)| {
                let index = *indexes.get(backend.name.as_str())?;
                let owner = self.seats.get(usize::from(index))?.as_ref()?;
                Some((Arc::clone(&owner.name), index, backend.weight))
            })
            .collect()
    }

    /// Every slot that gets another owner keeps the one it had when it was
    /// last settled, until the change settles.
    fn change_slots(&self, owners: &[u16]) -> Vec<Slot> {
        let before = self.table.slots().unwrap_or_default();
        if before.len() != owners.len() {
            return owners.iter().map(|owner| Slot::settled(*owner)).collect();
        }
        before
            .iter()
            .zip(owners)
            .map(|(slot, owner)| self.change_slot(*slot, *owner))
            .collect()
    }

    /// Who has gone for good owes nothing: its flows are `current`'s. No
    /// other flow is in a slot that was settled at it.
    fn change_slot(&self, slot: Slot, owner: u16) -> Slot {
        let changed = slot.change_to(owner);
        if !changed.is_unsettled() || !self.vacated.contains(&changed.previous()) {
            changed
        } else if slot.is_unsettled() {
            changed.without_previous()
        } else {
            changed.settle()
        }
    }

    fn count_slots(&mut self, owners: &[u16]) {
        let mut counts = vec![0; self.seats.len()];
        for owner in owners {
            counts[usize::from(*owner)] += 1;
        }
        self.set_slot_counts(&counts);
    }

    /// By index; those beyond have none.
    fn set_slot_counts(&mut self, counts: &[u32]) {
        let counts = counts.iter().copied().chain(std::iter::repeat(0));
        for (seat, count) in self.seats.iter_mut().zip(counts) {
            if let Some(owner) = seat {
                owner.slot_count = count;
            }
        }
    }

    pub(super) fn members(&self, config: &Config, service: &Service, world: &World) -> Vec<Member> {
        let open = fails_open(service, world);
        let mut backends: HashMap<&str, &Backend> = HashMap::new();
        if !self.is_seated(service) {
            let named = service.backends.iter();
            backends.extend(named.map(|backend| (backend.name.as_str(), backend)));
        }
        // Without names in it, each has the seat of its place in the file.
        let backend_of = |at: usize, owner: &Owner| match backends.is_empty() {
            true => service.backends.get(at),
            false => backends.get(&*owner.name).copied(),
        };
        self.seats
            .iter()
            .zip(&self.incarnations)
            .enumerate()
            .map(|(at, (seat, incarnation))| {
                let found = seat
                    .as_ref()
                    .and_then(|owner| Some((owner, backend_of(at, owner)?)));
                let Some((owner, backend)) = found else {
                    return member::nobody(*incarnation);
                };
                let proven = open || probed(service, backend, world).is_alive();
                let alive = proven && owner.drain != Drain::Over;
                let hop = world.hops.get(&backend.address);
                member::build(
                    &config.node,
                    service,
                    backend,
                    hop,
                    alive,
                    *incarnation,
                    owner.counter,
                )
            })
            .collect()
    }
}
