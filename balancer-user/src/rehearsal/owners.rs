//! Who must get the packets of a slot, as the plan has it.

use std::collections::HashMap;
use std::net::IpAddr;

use balancer_common::layout::{Member, Slot};

use super::Candidate;
use super::names::{NamedState, Side};
use crate::config::model::Service;
use crate::dataplane::ServiceId;
use crate::desired::{BackendState, backend_state, fails_open, keeps_flows};
use crate::maglev;

/// A slot that no backend of the file has.
pub(super) const NOBODY: u16 = u16::MAX;

/// Owners of slots, as places of backends in the file.
pub(super) struct Owners {
    /// Of each slot: who gets new flows.
    new: Vec<u16>,
    /// Who gets flows of which nothing is recorded, where that is another.
    old: HashMap<u32, u16>,
}

impl Owners {
    /// After the change. With `is_built` the table is made anew from names
    /// and weights; without, the candidate's is taken, member by name.
    pub(super) fn planned(
        candidate: &Candidate,
        in_force: Option<&NamedState>,
        service: &Service,
        id: ServiceId,
        is_built: bool,
    ) -> Self {
        let side = Side {
            of: &candidate.tables,
            id,
        };
        let entries = entries(candidate, service);
        // While nobody is wanted the table stays as it was.
        let new = if is_built && !entries.is_empty() {
            maglev::build(&entries, candidate.config.node.table_size)
        } else {
            let slots = candidate.tables.slots(id);
            let place = Places::of(service, &side);
            let slots = slots.iter();
            slots.map(|slot| place.of_member(slot.current())).collect()
        };
        let old = keepers(candidate, in_force, service, &side, &new);
        Self { new, old }
    }

    /// As they are now.
    pub(super) fn in_force(side: &Side<'_>, service: &Service) -> Self {
        let places = Places::of(service, side);
        let slots = side.of.slots(side.id);
        let owners = slots.iter().map(|slot| places.of_member(slot.current()));
        let new: Vec<u16> = owners.collect();
        let old = (0..)
            .zip(&slots)
            .filter(|(_, slot)| slot.is_unsettled())
            .map(|(at, slot)| (at, places.of_member(slot.previous())));
        Self {
            old: old.collect(),
            new,
        }
    }

    /// Slots of the table.
    pub(super) fn len(&self) -> u32 {
        self.new.len() as u32
    }

    /// Who gets new flows of a slot.
    pub(super) fn new_at(&self, slot: u32) -> u16 {
        self.new.get(slot as usize).copied().unwrap_or(NOBODY)
    }

    /// Who gets flows of a slot that began before the change, where it lives.
    pub(super) fn old_at(&self, slot: u32, is_alive: impl Fn(u16) -> bool) -> u16 {
        let old = self.old.get(&slot).copied().filter(|it| is_alive(*it));
        old.unwrap_or_else(|| self.new_at(slot))
    }
}

/// Who is to get new flows; the index is the place in the file.
fn entries<'a>(candidate: &Candidate, service: &'a Service) -> Vec<maglev::Entry<'a>> {
    let world = &candidate.world;
    let is_open = fails_open(service, world);
    let backends = service.backends.iter().zip(0..);
    backends
        .filter(
            |(backend, _)| match backend_state(service, backend, world) {
                BackendState::Up => true,
                BackendState::Unproven | BackendState::Down => is_open,
                BackendState::Draining | BackendState::Disabled => false,
            },
        )
        .map(|(backend, index)| maglev::Entry {
            identity: &backend.name,
            index,
            weight: backend.weight,
        })
        .collect()
}

/// Slots in change, and who keeps the flows that they have: who had the slot
/// when it was last settled, if that server is still there.
fn keepers(
    candidate: &Candidate,
    in_force: Option<&NamedState>,
    service: &Service,
    side: &Side<'_>,
    new: &[u16],
) -> HashMap<u32, u16> {
    let before = in_force.and_then(|of| {
        let id = of.names.id(&service.name)?;
        Some(Side { of, id })
    });
    // Without a state before there is only the candidate's own word.
    let before = before.filter(|before| before.of.slots(before.id).len() == new.len());
    let (slots, places): (Vec<Slot>, Places) = match &before {
        Some(before) => (before.of.slots(before.id), Places::of(service, before)),
        None => (candidate.tables.slots(side.id), Places::of(service, side)),
    };
    let after = candidate.tables.slots(side.id);
    let in_change = after.iter().zip(&slots).zip(0..);
    in_change
        .filter(|((slot, _), _)| slot.is_unsettled())
        .map(|((_, before), at)| (at, places.of_member(before.previous())))
        .filter(|(_, owner)| *owner != NOBODY)
        .collect()
}

/// Members of a state as places in the file.
struct Places {
    /// Of each member.
    places: Vec<u16>,
}

impl Places {
    fn of(service: &Service, side: &Side<'_>) -> Self {
        let backends = service.backends.iter().zip(0..);
        let known: HashMap<(&str, IpAddr), u16> = backends
            .map(|(it, at)| ((it.name.as_str(), it.address), at))
            .collect();
        let state = side.of.state.services.get(&side.id);
        let members = state.map_or(0, |state| state.members.len());
        let place = |member| {
            let server = side.of.names.server(side.id, member);
            let place = server.and_then(|server| known.get(&server));
            place.copied().unwrap_or(NOBODY)
        };
        Self {
            places: (0..).take(members).map(place).collect(),
        }
    }

    fn of_member(&self, member: u16) -> u16 {
        let place = self.places.get(usize::from(member));
        place.copied().unwrap_or(NOBODY)
    }
}

/// Of each backend, whether flows may be sent to it. That the time of a drain
/// is over is nowhere but in the state.
pub(super) fn alive(candidate: &Candidate, service: &Service, id: ServiceId) -> Vec<bool> {
    let state = candidate.tables.state.services.get(&id);
    let members = state.map_or(&[][..], |it| it.members.as_slice());
    let names = &candidate.tables.names;
    let drains_on = |name: &str| {
        let mut of_name = (0..)
            .zip(members)
            .filter(|(index, _)| names.backend(id, *index) == Some(name));
        of_name.any(|(_, member)| member.flags & Member::ALIVE != 0)
    };
    let backends = service.backends.iter();
    backends
        .map(|backend| {
            keeps_flows(service, backend, &candidate.world)
                && (!backend.drain || drains_on(&backend.name))
        })
        .collect()
}
