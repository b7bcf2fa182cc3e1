//! What is kept of a service from one state to the next: who sits where, and
//! the slots in change.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use balancer_common::layout::{MAX_MEMBERS, Member, Slot};

use super::{BackendState, World, backend_state, fails_open, probed};
use crate::config::model::{Backend, Config, Service};
use crate::dataplane::{ServiceId, Table};
use crate::health;
use crate::{maglev, member};

/// What is kept of a service.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) id: ServiceId,
    pub(super) seats: Vec<Option<Owner>>,
    /// How often each index has been given away.
    incarnations: Vec<u16>,
    /// What the table was built from.
    built_from: (Vec<(String, u16, u16)>, u32),
    pub(super) table: Table,
    pub(super) settle_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) counter: u32,
    pub(super) slot_count: u32,
}

impl Book {
    /// A service nobody has seen yet.
    pub(super) fn new(id: ServiceId) -> Self {
        Self {
            id,
            seats: Vec::new(),
            incarnations: Vec::new(),
            built_from: (Vec::new(), 0),
            table: Table::new(Arc::from(Vec::new())),
            settle_at: None,
        }
    }

    /// Seats an owner at one of the `free` indexes, or a new one. While
    /// slots are in change, an index that somebody had may still stand in
    /// them as `previous`, so no index is given away again until they settle.
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

    pub(super) fn free_seats(&mut self) -> Vec<usize> {
        // Churn without end must not run out of indexes: rather than that,
        // the flows of the longest gone are given up early.
        if self.seats.len() >= usize::from(MAX_MEMBERS) {
            self.settle();
        }
        if self.settle_at.is_some() {
            return Vec::new();
        }
        let free = |at: &usize| self.seats[*at].is_none();
        (0..self.seats.len()).rev().filter(free).collect()
    }

    /// Index of each backend that has a seat.
    pub(super) fn indexes(&self) -> HashMap<&str, u16> {
        let seats = self.seats.iter().zip(0u16..);
        seats
            .filter_map(|(seat, index)| Some((seat.as_ref()?.name.as_str(), index)))
            .collect()
    }

    pub(super) fn rebuild(&mut self, service: &Service, size: u32, world: &World, now: Instant) {
        let open = fails_open(service, world);
        let indexes = self.indexes();
        let entries: Vec<(String, u16, u16)> = service
            .backends
            .iter()
            .filter(|backend| match backend_state(service, backend, world) {
                BackendState::Up => true,
                BackendState::Unproven | BackendState::Down => open,
                BackendState::Draining | BackendState::Disabled => false,
            })
            .filter_map(|backend| {
                let index = *indexes.get(backend.name.as_str())?;
                Some((backend.name.clone(), index, backend.weight))
            })
            .collect();
        if self.settle_at.is_some_and(|at| at <= now) {
            self.settle();
        }
        if self.built_from.0 == entries && self.built_from.1 == size {
            return;
        }
        let owners = maglev::build(&maglev_entries(&entries), size);
        let slots = self.change_slots(&owners);
        if slots.iter().any(|slot| slot.is_unsettled()) {
            self.settle_at = Some(now + service.drain_timeout);
        }
        self.count_slots(&owners);
        self.built_from = (entries, size);
        self.table = Table::new(slots.into());
    }

    /// The past owners' time is over; seats at the end that nobody has are
    /// given up with it.
    fn settle(&mut self) {
        let slots: Vec<Slot> = self
            .table
            .slots()
            .unwrap_or_default()
            .iter()
            .map(|slot| slot.settle())
            .collect();
        self.table = Table::new(slots.into());
        self.settle_at = None;
        while self.seats.last().is_some_and(Option::is_none) {
            self.seats.pop();
        }
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
            .map(|(slot, owner)| slot.change_to(*owner))
            .collect()
    }

    fn count_slots(&mut self, owners: &[u16]) {
        let mut counts = vec![0; self.seats.len()];
        for owner in owners {
            counts[usize::from(*owner)] += 1;
        }
        for (seat, count) in self.seats.iter_mut().zip(counts) {
            if let Some(owner) = seat {
                owner.slot_count = count;
            }
        }
    }

    pub(super) fn members(&self, config: &Config, service: &Service, world: &World) -> Vec<Member> {
        let open = fails_open(service, world);
        let backends: HashMap<&str, &Backend> = service
            .backends
            .iter()
            .map(|backend| (backend.name.as_str(), backend))
            .collect();
        self.seats
            .iter()
            .zip(&self.incarnations)
            .map(|(seat, incarnation)| {
                let found = seat
                    .as_ref()
                    .and_then(|owner| Some((owner, *backends.get(owner.name.as_str())?)));
                let Some((owner, backend)) = found else {
                    return member::nobody(*incarnation);
                };
                let alive = open || probed(service, backend, world) == health::State::Up;
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

fn maglev_entries(entries: &[(String, u16, u16)]) -> Vec<maglev::Entry<'_>> {
    entries
        .iter()
        .map(|(identity, index, weight)| maglev::Entry {
            identity,
            index: *index,
            weight: *weight,
        })
        .collect()
}
