//! The model's flow records, and who owns a flow.
//!
//! From the table in the documentation of `balancer_common::affinity`, row by
//! row. The tables here never evict anybody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use balancer_common::layout::{Slot, Target};
use balancer_user::dataplane::{ServiceId, ServiceState};

use super::alive;
use super::parse::{Flow, Opening};

/// What a flow record is found by: the service number stands for VIP and
/// protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowName {
    /// Number of the service.
    pub service: ServiceId,
    /// The client's address.
    pub client: IpAddr,
    /// Source and destination port.
    pub ports: [u16; 2],
}

impl FlowName {
    /// The name of a packet's flow.
    pub fn of(service: ServiceId, flow: &Flow) -> Self {
        Self {
            service,
            client: flow.source,
            ports: flow.ports,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    member: u16,
    incarnation: u16,
    era: u8,
    /// Of the SYN that opened the flow.
    sequence: u32,
    seen: Instant,
}

/// Both tables.
#[derive(Debug, Clone, Default)]
pub struct Records {
    protected: HashMap<FlowName, Record>,
    probation: HashMap<FlowName, Record>,
}

impl Records {
    /// How many records there are in the larger table.
    pub fn count(&self) -> usize {
        self.protected.len().max(self.probation.len())
    }
}

/// Who owns a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Index of the member in its service.
    pub member: u16,
    /// Whether this made the flow known, in a service that records all.
    pub is_first: bool,
    /// What is written once the packet may leave.
    write: Option<Write>,
}

impl Owner {
    /// The member that a translation or a first fragment holds, whatever the
    /// flow's records say.
    pub fn of(member: u16) -> Self {
        Self {
            member,
            is_first: false,
            write: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Protected,
    Probation,
    Time,
}

impl Records {
    /// The member a packet goes to.
    pub fn owner(
        &self,
        service: &ServiceState,
        slot: Slot,
        opening: Opening,
        id: ServiceId,
        flow: &Flow,
    ) -> Owner {
        let name = &FlowName::of(id, flow);
        if service.flags & Target::AFFINITY_FLOW != 0 {
            return self.of_recorded(service, slot, name);
        }
        let (member, write) = match (slot.is_unsettled(), opening) {
            (false, _) | (true, Opening::None) => (slot.current(), None),
            (true, _) => self.in_change(service, slot, (opening, flow.initial_sequence), name),
        };
        Owner {
            member,
            is_first: false,
            write,
        }
    }

    fn in_change(
        &self,
        service: &ServiceState,
        slot: Slot,
        (opening, sequence): (Opening, u32),
        name: &FlowName,
    ) -> (u16, Option<Write>) {
        // A SYN follows a record of its own SYN alone; another packet any.
        let counts = |record: &Record| {
            alive(service, record.member) == Some(record.incarnation)
                && (opening != Opening::Syn || record.sequence == sequence)
        };
        let of_era = |table: &HashMap<FlowName, Record>| {
            let record = table.get(name).copied();
            record.filter(|record| record.era == slot.era())
        };
        let (protected, probation) = (of_era(&self.protected), of_era(&self.probation));
        if let Some(record) = protected.filter(counts) {
            return (record.member, None);
        }
        if let Some(record) = probation.filter(counts) {
            let is_promoted = opening == Opening::Established || protected.is_some();
            return (record.member, is_promoted.then_some(Write::Protected));
        }
        let passed_over = match (protected, probation) {
            (Some(_), _) => Some(Write::Protected),
            (None, Some(_)) => Some(Write::Probation),
            (None, None) => None,
        };
        if opening == Opening::Established && alive(service, slot.previous()).is_some() {
            return (slot.previous(), passed_over);
        }
        (slot.current(), passed_over.or(Some(Write::Probation)))
    }

    fn of_recorded(&self, service: &ServiceState, slot: Slot, name: &FlowName) -> Owner {
        let idle = Duration::from_nanos(service.options.flow_idle_ns);
        // The program keeps time once a second, and so gives a record up late
        // by as much; the tests of the model let no flow come near to that.
        let counts = |record: &&Record| {
            record.seen.elapsed() < idle
                && alive(service, record.member) == Some(record.incarnation)
        };
        let protected = self.protected.get(name);
        let probation = self.probation.get(name);
        let (member, write, is_first) = if let Some(record) = protected.filter(counts) {
            (record.member, Write::Time, false)
        } else if let Some(record) = probation.filter(counts) {
            (record.member, Write::Protected, false)
        } else if protected.is_some() {
            (slot.current(), Write::Protected, true)
        } else {
            (slot.current(), Write::Probation, true)
        };
        Owner {
            member,
            is_first,
            write: Some(write),
        }
    }

    /// Writes what follows from a packet that nothing stopped.
    pub fn keep(
        &mut self,
        service: &ServiceState,
        slot: Slot,
        (id, flow): (ServiceId, &Flow),
        owner: Owner,
    ) {
        let name = FlowName::of(id, flow);
        let Some(incarnation) = alive(service, owner.member) else {
            return;
        };
        let record = Record {
            member: owner.member,
            incarnation,
            era: slot.era(),
            sequence: flow.initial_sequence,
            seen: Instant::now(),
        };
        match owner.write {
            None => {}
            Some(Write::Protected) => {
                self.protected.insert(name, record);
            }
            Some(Write::Probation) => {
                self.probation.insert(name, record);
            }
            Some(Write::Time) => {
                if let Some(known) = self.protected.get_mut(&name) {
                    known.seen = record.seen;
                }
            }
        }
    }
}
