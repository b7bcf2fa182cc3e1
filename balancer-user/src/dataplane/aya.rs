//! The dataplane in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use balancer_common::features::Features;
use balancer_common::layout::MemberCounters;
use balancer_common::verdict::Reason;

use super::attach::{self, Attached};
use super::capacity::Capacity;
use super::object::{KernelMemory, Object, Purpose};
use super::tables::Tables;
use super::{Counters, Dataplane, Error, Plan, ServiceId, State, features, plan};
use crate::config::model::XdpMode;

/// Where the program is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Interfaces by name.
    pub interfaces: Vec<String>,
    /// How.
    pub mode: XdpMode,
    /// Where links are pinned.
    pub pin_dir: PathBuf,
}

/// The program in force and its tables.
pub struct KernelDataplane {
    object: Object,
    tables: Tables<KernelMemory>,
    features: Features,
    placement: Placement,
    /// What copies before this one had counted.
    base: Counters,
}

impl KernelDataplane {
    /// Loads the program with this state and attaches it; one that an
    /// earlier controller left under the same `pin_dir` is replaced while it
    /// forwards. On failure nothing new stays attached.
    pub fn start(
        placement: Placement,
        state: &State,
    ) -> Result<(Self, Vec<(String, Attached)>), Error> {
        attach::prepare_pin_dir(&placement.pin_dir)?;
        let (object, tables) = load(Capacity::for_state(state), state)?;
        let mut dataplane = Self {
            object,
            tables,
            features: features::needed(state),
            placement,
            base: Counters::default(),
        };
        let attached = dataplane.attach_all()?;
        dataplane.detach_others()?;
        Ok((dataplane, attached))
    }

    fn attach_all(&mut self) -> Result<Vec<(String, Attached)>, Error> {
        let Placement {
            interfaces,
            mode,
            pin_dir,
        } = &self.placement;
        let mut done: Vec<(String, Attached)> = Vec::new();
        for interface in interfaces {
            let attached = self
                .object
                .program()
                .and_then(|program| attach::attach(program, interface, *mode, pin_dir));
            match attached {
                Ok(attached) => done.push((interface.clone(), attached)),
                Err(error) => {
                    for (interface, attached) in done {
                        if attached != Attached::Replaced {
                            attach::detach(pin_dir, &interface)?;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    /// Interfaces that an earlier configuration named and this one does not.
    fn detach_others(&self) -> Result<(), Error> {
        let Placement {
            interfaces,
            pin_dir,
            ..
        } = &self.placement;
        for interface in attach::pinned(pin_dir)? {
            if !interfaces.contains(&interface) {
                attach::detach(pin_dir, &interface)?;
                tracing::warn!(%interface, "detached: the configuration names it no more");
            }
        }
        Ok(())
    }
}

impl Dataplane for KernelDataplane {
    fn read_state(&mut self) -> Result<State, Error> {
        Ok(self.tables.read())
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        features::check(self.features, &self.tables.after(plan)?)?;
        self.tables.apply(plan)
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.tables.settle()
    }

    fn take_marks(&mut self, service: ServiceId) -> Result<Vec<bool>, Error> {
        self.tables.take_marks(service)
    }

    fn replace(&mut self, capacity: Capacity, state: &State) -> Result<(), Error> {
        let (object, mut tables) = load(capacity, state)?;
        // What the old copy saw of old flows is lost with it.
        tables.mark_all();
        let old_object = std::mem::replace(&mut self.object, object);
        let old_tables = std::mem::replace(&mut self.tables, tables);
        if let Err(error) = self.attach_all() {
            self.object = old_object;
            self.tables = old_tables;
            self.attach_all()?;
            return Err(error);
        }
        self.features = features::needed(state);
        super::mapping::wait_for_readers()?;
        let used: BTreeSet<u32> = state
            .services
            .values()
            .flat_map(|service| &service.members)
            .map(|member| member.counter)
            .chain(self.base.members.keys().copied())
            .filter(|index| *index < old_object.counter_count())
            .collect();
        let used: Vec<u32> = used.into_iter().collect();
        let counted = old_object.counters(&used)?;
        self.base = add(std::mem::take(&mut self.base), counted);
        Ok(())
    }

    fn counters(&mut self, members: &[u32]) -> Result<Counters, Error> {
        let counted = self.object.counters(members)?;
        let base = Counters {
            members: members
                .iter()
                .filter_map(|index| Some((*index, *self.base.members.get(index)?)))
                .collect(),
            reasons: self.base.reasons.clone(),
        };
        Ok(add(base, counted))
    }

    fn reset_counters(&mut self, members: &[u32]) -> Result<(), Error> {
        for index in members {
            self.base.members.remove(index);
            if *index < self.object.counter_count() {
                self.object
                    .set_counters(*index, MemberCounters::default())?;
            }
        }
        Ok(())
    }

    fn attach(&mut self, interface: &str) -> Result<(), Error> {
        let Placement { mode, pin_dir, .. } = &self.placement;
        attach::attach(self.object.program()?, interface, *mode, pin_dir)?;
        Ok(())
    }

    fn detach(&mut self) -> Result<(), Error> {
        for interface in &self.placement.interfaces {
            attach::detach(&self.placement.pin_dir, interface)?;
        }
        Ok(())
    }
}

fn load(capacity: Capacity, state: &State) -> Result<(Object, Tables<KernelMemory>), Error> {
    let mut object = Object::load(capacity, features::needed(state), Purpose::Forward)?;
    let mut tables = Tables::new(object.map_memory(capacity)?);
    tables.apply(&plan(state, &State::empty()))?;
    Ok((object, tables))
}

fn add(mut base: Counters, more: Counters) -> Counters {
    for (index, counters) in more.members {
        let sum = base.members.entry(index).or_default();
        sum.packets += counters.packets;
        sum.bytes += counters.bytes;
        sum.flows += counters.flows;
        sum.resets += counters.resets;
    }
    let mut reasons: BTreeMap<u8, u64> = BTreeMap::new();
    for (reason, count) in base.reasons.into_iter().chain(more.reasons) {
        *reasons.entry(reason as u8).or_default() += count;
    }
    base.reasons = Reason::ALL
        .iter()
        .map(|reason| (*reason, reasons.get(&(*reason as u8)).copied().unwrap_or(0)))
        .collect();
    base
}
