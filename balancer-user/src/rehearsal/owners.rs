//! Who must get the packets of a slot, as the plan has it.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::IpAddr;

use balancer_common::layout::{Member, Slot};

use super::Candidate;
use super::names::Side;
use crate::config::model::Service;
use crate::dataplane::{ServiceId, Table};
use crate::desired::{Standing, keeps_flows};
use crate::maglev;

/// A slot that no backend of the file has.
pub(super) const NOBODY: u16 = u16::MAX;

/// Owners of slots, as places of backends in the file.
pub(super) struct Owners<'a> {
    /// Who gets new flows, where the table was made anew.
    built: Vec<u16>,
    /// The table, else.
    table: Seated<'a>,
    /// Who had the slots that are in change.
    before: Option<Seated<'a>>,
}

/// A table, and its members as places in the file.
struct Seated<'a> {
    table: Option<&'a Table>,
    /// Its slots, from the first time on that one of them is asked for.
    slots: OnceCell<Vec<Slot>>,
    places: Places,
}

impl<'a> Owners<'a> {
    /// After the change. With `is_built` the table is made anew from names
    /// and weights; without, the candidate's is taken, member by name.
    pub(super) fn planned(
        candidate: &'a Candidate,
        before: Option<&Side<'a>>,
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
        let built = if is_built && !entries.is_empty() {
            maglev::build(&entries, candidate.config.node.table_size)
        } else {
            Vec::new()
        };
        let mut owners = Self {
            built,
            table: Seated::of(service, &side),
            before: None,
        };
        // Flows that a slot in change has stay with who had it when it was
        // last settled, if that server is still there. Without a state before
        // there is only the candidate's own word.
        let before = before.map(|before| Seated::of(service, before));
        owners.before = before.filter(|before| before.len() == owners.len());
        owners
    }

    /// As they are now.
    pub(super) fn in_force(side: &Side<'a>, service: &Service) -> Self {
        Self {
            built: Vec::new(),
            table: Seated::of(service, side),
            before: None,
        }
    }

    /// Slots of the table.
    pub(super) fn len(&self) -> u32 {
        match self.built.len() {
            0 => self.table.len(),
            built => built as u32,
        }
    }

    /// Who gets new flows of a slot.
    pub(super) fn new_at(&self, slot: u32) -> u16 {
        if self.built.is_empty() {
            return self.table.owner(slot, Slot::current);
        }
        self.built.get(slot as usize).copied().unwrap_or(NOBODY)
    }

    /// Who gets flows of a slot that began before the change, where it lives.
    pub(super) fn old_at(&self, slot: u32, is_alive: impl Fn(u16) -> bool) -> u16 {
        let is_in_change = self.table.slot(slot).is_some_and(Slot::is_unsettled);
        if is_in_change {
            let before = self.before.as_ref().unwrap_or(&self.table);
            let old = before.owner(slot, Slot::previous);
            if old != NOBODY && is_alive(old) {
                return old;
            }
        }
        self.new_at(slot)
    }
}

impl<'a> Seated<'a> {
    fn of(service: &Service, side: &Side<'a>) -> Self {
        let state = side.of.state.services.get(&side.id);
        Self {
            table: state.map(|state| &state.table),
            slots: OnceCell::new(),
            places: Places::of(service, side),
        }
    }

    fn len(&self) -> u32 {
        self.table.map_or(0, Table::slot_count)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let table = self.table?;
        let slots = self.slots.get_or_init(|| table.slots().unwrap_or_default());
        slots.get(index as usize).copied()
    }

    fn owner(&self, index: u32, of: impl Fn(Slot) -> u16) -> u16 {
        let slot = self.slot(index);
        slot.map_or(NOBODY, |slot| self.places.of_member(of(slot)))
    }
}

/// Who is to get new flows; the index is the place in the file.
fn entries<'a>(candidate: &Candidate, service: &'a Service) -> Vec<maglev::Entry<'a>> {
    let world = &candidate.world;
    let standing = Standing::of(service, world);
    let backends = service.backends.iter().zip(0..);
    backends
        .filter(|(backend, _)| standing.takes(standing.state(service, backend, world)))
        .map(|(backend, index)| maglev::Entry {
            identity: &backend.name,
            index,
            weight: backend.weight,
        })
        .collect()
}

/// Members of a state as places in the file.
struct Places {
    /// Of each member.
    places: Vec<u16>,
}

impl Places {
    fn of(service: &Service, side: &Side<'_>) -> Self {
        let state = side.of.state.services.get(&side.id);
        let members = state.map_or(0, |state| state.members.len());
        let server = |member| side.of.names.server(side.id, member);
        let is_at = |at: u16| {
            let backend = service.backends.get(usize::from(at));
            backend.is_some_and(|it| server(at) == Some((it.name.as_str(), it.address)))
        };
        // Nearly always each has the index of its place.
        if (0..).take(members).all(is_at) {
            return Self {
                places: (0..).take(members).collect(),
            };
        }
        let backends = service.backends.iter().zip(0..);
        let known: HashMap<(&str, IpAddr), u16> = backends
            .map(|(it, at)| ((it.name.as_str(), it.address), at))
            .collect();
        let place = |member| {
            let place = server(member).and_then(|server| known.get(&server));
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
