//! Sets of prefixes in `SOURCES`, and which service uses which.
//!
//! A set is never changed while a packet may ask it: a service whose lists
//! change gets a set under a new number, and the old one is removed when all
//! packets have left it. Which numbers there are is read back from the maps,
//! so that the next controller goes on with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use balancer_common::layout::{ServiceOptions, SourceKey};

use super::super::{Error, Plan, ServiceId, ServiceState, SourceRules, State};
use super::{Memory, Tables};

/// A prefix of a set and whether it is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceEntry {
    /// Set and address.
    pub key: SourceKey,
    /// Bits of the address that count.
    pub prefix_len: u32,
    /// Allowed, or denied.
    pub is_allowed: bool,
}

/// One set in the kernel.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) number: u32,
    rules: Arc<SourceRules>,
}

impl Set {
    fn entries(&self) -> impl Iterator<Item = SourceEntry> {
        self.rules.iter().map(|(prefix, is_allowed)| SourceEntry {
            key: SourceKey {
                set: self.number,
                source: padded(prefix.network()),
            },
            prefix_len: u32::from(prefix.prefix_len()),
            is_allowed: *is_allowed,
        })
    }

    fn write(&self, memory: &mut impl Memory) -> Result<(), Error> {
        for entry in self.entries() {
            if let Err(error) = memory.add_source(&entry) {
                self.remove(memory);
                return Err(error);
            }
        }
        Ok(())
    }

    /// What cannot be removed is only asked for by a number that nobody has.
    fn remove(&self, memory: &mut impl Memory) {
        for entry in self.entries() {
            memory.remove_source(&entry);
        }
    }
}

/// All sets of one loaded program.
#[derive(Debug, Default)]
pub(super) struct Sets {
    of_service: BTreeMap<ServiceId, Set>,
    /// Prefixes that packets may still ask for, and nobody after them.
    retired: Vec<SourceEntry>,
    last: u32,
}

impl Sets {
    /// The sets that another controller left: those in force by service, and
    /// what else stands in the kernel, which nobody will ask for again.
    pub(super) fn adopt(
        state: &State,
        numbers: &BTreeMap<ServiceId, u32>,
        entries: Vec<SourceEntry>,
    ) -> Self {
        let of_service = state.services.iter().filter_map(|(id, service)| {
            let set = Set {
                number: *numbers.get(id).filter(|number| **number != 0)?,
                rules: Arc::clone(&service.sources),
            };
            Some((*id, set))
        });
        let of_service: BTreeMap<ServiceId, Set> = of_service.collect();
        let used: BTreeSet<u32> = of_service.values().map(|set| set.number).collect();
        let left = entries.iter().map(|entry| entry.key.set);
        let last = left.chain(used.iter().copied()).max().unwrap_or_default();
        let is_used = |entry: &SourceEntry| used.contains(&entry.key.set);
        Self {
            retired: entries
                .into_iter()
                .filter(|entry| !is_used(entry))
                .collect(),
            of_service,
            last,
        }
    }

    /// Number of a service's set; 0 is none.
    pub(super) fn number(
        &self,
        fresh: &BTreeMap<ServiceId, Set>,
        id: ServiceId,
        service: &ServiceState,
    ) -> u32 {
        if service.sources.is_empty() {
            return 0;
        }
        let set = fresh.get(&id).or_else(|| self.of_service.get(&id));
        set.map_or(0, |set| set.number)
    }

    /// Number of the set that a service uses now; 0 is none.
    pub(super) fn in_force(&self, id: ServiceId) -> u32 {
        self.of_service.get(&id).map_or(0, |set| set.number)
    }

    /// Every prefix of the sets in force.
    pub(super) fn all(&self) -> Vec<SourceEntry> {
        self.of_service.values().flat_map(Set::entries).collect()
    }

    /// Prefixes that may still stand there.
    pub(super) fn leaving(&self) -> &[SourceEntry] {
        &self.retired
    }

    /// Writes the sets that a plan needs anew.
    pub(super) fn write(
        &mut self,
        memory: &mut impl Memory,
        plan: &Plan,
    ) -> Result<BTreeMap<ServiceId, Set>, Error> {
        let mut fresh = BTreeMap::new();
        for (id, service) in &plan.upsert {
            let has = self.of_service.get(id);
            if service.sources.is_empty() || has.is_some_and(|has| has.rules == service.sources) {
                continue;
            }
            self.last = self.last.wrapping_add(1).max(1);
            let set = Set {
                number: self.last,
                rules: Arc::clone(&service.sources),
            };
            if let Err(error) = set.write(memory) {
                self.discard(memory, fresh);
                return Err(error);
            }
            fresh.insert(*id, set);
        }
        Ok(fresh)
    }

    /// Takes sets back that no packet has seen.
    pub(super) fn discard(&mut self, memory: &mut impl Memory, fresh: BTreeMap<ServiceId, Set>) {
        for set in fresh.into_values() {
            set.remove(memory);
        }
    }

    /// The plan is in force: packets come to the fresh sets, and may still be
    /// in those before.
    pub(super) fn commit(&mut self, plan: &Plan, fresh: BTreeMap<ServiceId, Set>) {
        let changed = plan.upsert.iter().filter_map(|(id, service)| {
            (service.sources.is_empty() || fresh.contains_key(id)).then_some(id)
        });
        for id in plan.remove.iter().chain(changed) {
            if let Some(set) = self.of_service.remove(id) {
                self.retired.extend(set.entries());
            }
        }
        self.of_service.extend(fresh);
    }

    /// No packet is left in the retired sets.
    pub(super) fn settle(&mut self, memory: &mut impl Memory) {
        for entry in self.retired.drain(..) {
            memory.remove_source(&entry);
        }
    }
}

impl<M: Memory> Tables<M> {
    /// Writes what each service asks for, its set of prefixes among it.
    pub(super) fn write_options(
        &mut self,
        next: &State,
        sets: &BTreeMap<ServiceId, Set>,
        generation: u32,
    ) {
        let half = self.memory.options().len() / 2;
        let options = &mut self.memory.options()[generation as usize * half..][..half];
        for (entry, (id, service)) in options.iter_mut().zip(&next.services) {
            *entry = ServiceOptions {
                sources: self.sets.number(sets, *id, service),
                ..service.options
            };
        }
    }
}

/// The address as [`SourceKey`] has it.
fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&address.octets());
            padded
        }
        IpAddr::V6(address) => address.octets(),
    }
}
