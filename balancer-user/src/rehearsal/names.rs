//! What the numbers of a state mean: services and backends by name.
//!
//! Two states that were built apart number services and members otherwise;
//! by their names they can be compared.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use balancer_common::layout::{Member, Slot};

use crate::dataplane::{ServiceId, ServiceState, State, Table};
use crate::desired::Builder;

/// Names of the services and members of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    services: BTreeMap<ServiceId, Named>,
}

/// A backend's name and its address.
type Server = (Arc<str>, IpAddr);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    members: Vec<Option<Server>>,
}

/// A state and what its numbers mean.
#[derive(Debug, Clone)]
pub struct NamedState {
    /// The state, its tables with their slots.
    pub state: State,
    /// Its names.
    pub names: Names,
}

impl Names {
    /// The names of the states that a builder makes.
    pub fn of(builder: &Builder, state: &State) -> Self {
        let of_ids: BTreeMap<ServiceId, &str> = builder.service_names().collect();
        let named = |id: &ServiceId| {
            let name = (*of_ids.get(id)?).to_owned();
            let seats = builder.seats(&name).into_iter();
            let members = seats.map(|seat| seat.map(|seat| (seat.backend, seat.address)));
            let members = members.collect();
            Some((*id, Named { name, members }))
        };
        Self {
            services: state.services.keys().filter_map(named).collect(),
        }
    }

    /// The name of a service.
    pub fn service(&self, id: ServiceId) -> Option<&str> {
        self.services.get(&id).map(|named| named.name.as_str())
    }

    /// The name of a service's member.
    pub fn backend(&self, id: ServiceId, member: u16) -> Option<&str> {
        self.server(id, member).map(|(name, _)| name)
    }

    /// Name and address of a service's member.
    pub(super) fn server(&self, id: ServiceId, member: u16) -> Option<(&str, IpAddr)> {
        let seat = self.services.get(&id)?.members.get(usize::from(member))?;
        seat.as_ref().map(|(name, address)| (&**name, *address))
    }

    /// The number of a service.
    pub fn id(&self, name: &str) -> Option<ServiceId> {
        let mut services = self.services.iter();
        services.find_map(|(id, named)| (named.name == name).then_some(*id))
    }

    /// Numbers of all services by name.
    pub(super) fn ids(&self) -> BTreeMap<&str, ServiceId> {
        let services = self.services.iter();
        services
            .map(|(id, named)| (named.name.as_str(), *id))
            .collect()
    }
}

/// A service of a state that is compared with one of another state.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) of: &'a NamedState,
    pub(super) id: ServiceId,
}

impl Side<'_> {
    fn service(&self) -> Option<&ServiceState> {
        self.of.state.services.get(&self.id)
    }

    fn backends(&self) -> Option<&[Option<Server>]> {
        let named = self.of.names.services.get(&self.id)?;
        Some(&named.members)
    }
}

/// Whether packets of a service fare otherwise under the one state than under
/// the other. Which numbers a member, its counters and its incarnation have
/// makes no difference.
pub(super) fn differ(one: &Side<'_>, other: &Side<'_>) -> bool {
    let (Some(a), Some(b)) = (one.service(), other.service()) else {
        return true;
    };
    if one.of.state.flow_keys != other.of.state.flow_keys {
        return true;
    }
    let (Some(names_a), Some(names_b)) = (one.backends(), other.backends()) else {
        return true;
    };
    if a == b && names_a == names_b {
        return false;
    }
    if (&a.keys, a.flags, a.options, &a.sources) != (&b.keys, b.flags, b.options, &b.sources) {
        return true;
    }
    let same_indexes = names_a == names_b;
    let places = |server: &Option<Server>| {
        let server = server.as_ref()?;
        let at = names_b.iter().position(|it| it.as_ref() == Some(server))?;
        u16::try_from(at).ok()
    };
    let to_b: Vec<Option<u16>> = names_a.iter().map(places).collect();
    let seated = |names: &[Option<_>]| names.iter().flatten().count();
    if seated(names_a) != seated(names_b) || seated(names_a) != to_b.iter().flatten().count() {
        return true;
    }
    let in_b = |index: u16| to_b.get(usize::from(index)).copied().flatten();
    members_differ(a, b, &in_b) || ids_differ(a, b, &in_b) || {
        if same_indexes && (a.table == b.table || a.table.is_settled_like(&b.table)) {
            return false;
        }
        slots_differ(&a.table, &b.table, &in_b)
    }
}

fn members_differ(a: &ServiceState, b: &ServiceState, in_b: &impl Fn(u16) -> Option<u16>) -> bool {
    let anonymous = |member: &Member| Member {
        incarnation: 0,
        counter: 0,
        egress_port: 0,
        ..*member
    };
    a.members.iter().zip(0..).any(|(member, index)| {
        member.kind != Member::NONE
            && in_b(index)
                .and_then(|at| b.members.get(usize::from(at)))
                .is_none_or(|other| anonymous(member) != anonymous(other))
    })
}

fn ids_differ(a: &ServiceState, b: &ServiceState, in_b: &impl Fn(u16) -> Option<u16>) -> bool {
    let ids = a.server_ids.iter().map(|(id, at)| (*id, in_b(*at)));
    let others = b.server_ids.iter().map(|(id, at)| (*id, Some(*at)));
    !ids.eq(others)
}

/// Ends at the first slot that differs: where one does, many do.
fn slots_differ(a: &Table, b: &Table, in_b: &impl Fn(u16) -> Option<u16>) -> bool {
    let differ = |(a, b): (Slot, Slot)| {
        in_b(a.current()) != Some(b.current())
            || a.is_unsettled() != b.is_unsettled()
            || a.is_unsettled() && in_b(a.previous()) != Some(b.previous())
    };
    let (Some(a), Some(b)) = (a.slots(), b.slots()) else {
        return true;
    };
    a.len() != b.len() || a.into_iter().zip(b).any(differ)
}
