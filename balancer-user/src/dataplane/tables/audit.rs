//! Compares what stands in the memory with what was written there.
//!
//! Compared is the very memory that packets read, part by part: the head, the
//! keys with what they lead to, members, options, slots, prefixes, egress
//! interfaces. A pass over large tables is spread over many calls, each of
//! which looks at so many bytes; small tables are looked at whole each time.
//! What differs can be written anew, the way that any change is: into the
//! other generation and a fresh region, and then flipped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use balancer_common::hash;
use balancer_common::layout::{
    GenerationHead, LAYOUT_VERSION, Member, SLOTS_PER_BLOCK, Slot, Target,
};

use balancer_common::parse::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::super::blocks::Region;
use super::super::{Error, Plan, ServiceId, ServiceKey};
use super::keys::{all_keys, target_of};
use super::sources::SourceEntry;
use super::{Memory, Tables};

/// Prefixes that are read in every round; more of them, as each takes two
/// system calls, only in a whole audit.
const FEW_SOURCES: usize = 1024;
/// Runs of slots that are told of one service; the last one stands for the
/// rest.
const MOST_RUNS: usize = 16;

/// Something that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// What holds for all services, by name.
    Head {
        /// Which word.
        what: &'static str,
        /// As written.
        expected: String,
        /// As it stands there.
        seen: String,
    },
    /// A key of a service leads elsewhere, or nowhere.
    Key {
        /// The service.
        service: ServiceId,
        /// The key.
        key: ServiceKey,
        /// What it leads to.
        seen: Option<ServiceId>,
    },
    /// Keys that nobody wrote.
    ForeignKeys {
        /// How many.
        count: usize,
    },
    /// A backend's entry.
    Member {
        /// The service.
        service: ServiceId,
        /// Index of the member.
        member: u16,
        /// As written; `egress_port` is left out.
        expected: Box<Member>,
        /// As it stands there.
        seen: Box<Member>,
    },
    /// What the service asks for beyond its members.
    Options {
        /// The service.
        service: ServiceId,
    },
    /// A run of slots.
    Slots {
        /// The service.
        service: ServiceId,
        /// The first slot.
        first: u32,
        /// The last one.
        last: u32,
        /// As written, of the first.
        expected: Slot,
        /// As it stands there.
        seen: Slot,
    },
    /// Prefixes of sources: missing ones, and ones that nobody wrote.
    Sources {
        /// Not there.
        missing: usize,
        /// There, and of no set.
        foreign: usize,
    },
    /// An entry of the device map.
    Egress {
        /// Its index.
        port: u8,
        /// The interface that members leave by through it.
        expected: u32,
        /// What stands there.
        seen: Option<u32>,
    },
}

/// What a call found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// The differences.
    pub drifts: Vec<Drift>,
    /// Services that were looked at.
    pub services: usize,
    /// Slots of these.
    pub slots: u64,
    /// Whether all have been looked at since the round began.
    pub is_round_over: bool,
}

impl<M: Memory> Tables<M> {
    /// Goes on with the round for about so many bytes; `None` looks at all,
    /// prefixes included.
    pub fn audit(&mut self, budget: Option<usize>) -> Audit {
        let mut audit = Audit::default();
        self.audit_head(&mut audit.drifts);
        let begins = budget.is_none() || self.audited.is_none();
        let after = if begins { None } else { self.audited };
        let mut looked_at = 0;
        let targets = self.targets_in_force();
        if begins {
            looked_at += self.audit_keys(&targets, &mut audit.drifts);
            self.audit_sources(budget.is_none(), &mut audit.drifts);
        }
        let mut ports = BTreeSet::new();
        let ids: Vec<ServiceId> = self.state.services.keys().copied().collect();
        let rest = ids
            .iter()
            .filter(|id| after.is_none_or(|after| **id > after));
        audit.is_round_over = true;
        for id in rest {
            if budget.is_some_and(|budget| looked_at >= budget) {
                audit.is_round_over = false;
                break;
            }
            let Some(target) = targets.get(id) else {
                continue;
            };
            looked_at += self.audit_service(*id, *target, &mut ports, &mut audit.drifts);
            audit.services += 1;
            audit.slots += u64::from(target.table_len);
            self.audited = Some(*id);
        }
        if audit.is_round_over {
            self.audited = None;
        }
        for (port, expected) in ports {
            let seen = self.memory.interface_at(port);
            if seen != Some(expected) {
                audit.drifts.push(Drift::Egress {
                    port,
                    expected,
                    seen,
                });
            }
        }
        audit
    }

    fn audit_head(&mut self, drifts: &mut Vec<Drift>) {
        let node = *self.memory.node();
        let nat = self.memory.nat_settings()[self.generation as usize];
        let head = node.generations[self.generation as usize];
        let settings = self.state.settings;
        let mut compare = |what, expected: String, seen: String| {
            if expected != seen {
                drifts.push(Drift::Head {
                    what,
                    expected,
                    seen,
                });
            }
        };
        let number = |number: u32| number.to_string();
        compare(
            "layout version",
            number(LAYOUT_VERSION),
            number(node.layout_version),
        );
        compare(
            "generation in force",
            number(self.generation),
            number(node.active),
        );
        // The keys are a secret: that they differ is all that is said.
        let is_same = head.flow_keys == self.state.flow_keys;
        compare(
            "keys of the flow hash",
            "the seed's".to_owned(),
            match is_same {
                true => "the seed's".to_owned(),
                false => "others".to_owned(),
            },
        );
        compare(
            "answer_echo",
            settings.answer_echo.to_string(),
            (head.flags & GenerationHead::ANSWER_ECHO != 0).to_string(),
        );
        compare(
            "share of timed handshakes, in 2^32",
            number(settings.handshake_sample),
            number(head.handshake_sample),
        );
        if nat != settings.nat {
            compare(
                "settings of nat",
                "the file's".to_owned(),
                "others".to_owned(),
            );
        }
    }

    /// What the keys of each service lead to, as it was written.
    fn targets_in_force(&mut self) -> BTreeMap<ServiceId, Target> {
        let members = self.generation * (self.memory.members().len() / 2) as u32;
        let options = self.first_options(self.generation);
        let mut first_member = members;
        let mut targets = BTreeMap::new();
        for ((id, service), options) in self.state.services.iter().zip(options..) {
            let count = service.members.len() as u32;
            if let Some(region) = self.regions.get(id) {
                let target = Target {
                    service: *id,
                    table: region.first,
                    table_len: service.table.slot_count(),
                    members: first_member,
                    options,
                    member_count: count as u16,
                    flags: service.flags,
                };
                targets.insert(*id, target);
            }
            first_member += count;
        }
        targets
    }

    /// Looks every key up the way that the program does; gives the bytes of
    /// the buckets.
    fn audit_keys(
        &mut self,
        targets: &BTreeMap<ServiceId, Target>,
        drifts: &mut Vec<Drift>,
    ) -> usize {
        let generation = self.generation;
        let first_options = self.first_options(generation);
        let keys = all_keys(&self.state, first_options);
        let takes_any = keys
            .iter()
            .any(|(key, _)| key.port == 0 && matches!(key.protocol, PROTOCOL_TCP | PROTOCOL_UDP));
        let head = self.memory.node().generations[generation as usize];
        let is_said = head.flags & GenerationHead::ANY_PORT != 0;
        if is_said != takes_any {
            drifts.push(Drift::Head {
                what: "whether a service takes every port",
                expected: takes_any.to_string(),
                seen: is_said.to_string(),
            });
        }
        for (key, leads) in &keys {
            let expected = target_of(*leads, targets);
            let seen = self.look_up(&head, key);
            if seen != Some(expected) {
                drifts.push(Drift::Key {
                    service: expected.service,
                    key: *key,
                    seen: seen.map(|target| target.service),
                });
            }
        }
        let (half_v4, half_v6) = (
            self.memory.services_v4().len() / 2,
            self.memory.services_v6().len() / 2,
        );
        let at = generation as usize;
        let used_v4 = self.memory.services_v4()[at * half_v4..][..half_v4]
            .iter()
            .filter(|bucket| bucket.target.service != 0)
            .count();
        let used_v6 = self.memory.services_v6()[at * half_v6..][..half_v6]
            .iter()
            .filter(|bucket| bucket.target.service != 0)
            .count();
        let count = (used_v4 + used_v6).saturating_sub(keys.len());
        if count > 0 {
            drifts.push(Drift::ForeignKeys { count });
        }
        32 * half_v4 + 48 * half_v6
    }

    /// What a key leads to, by the seed and the masks that stand there.
    fn look_up(&mut self, head: &GenerationHead, key: &ServiceKey) -> Option<Target> {
        let port = key.port.to_be_bytes();
        let (seed, protocol) = (head.lookup_seed, key.protocol);
        match key.address {
            IpAddr::V4(address) => {
                let address = address.octets();
                let buckets = hash::buckets(seed, head.mask_v4, address, port, protocol);
                let first = self.generation * head.mask_v4.wrapping_add(1);
                let services = self.memory.services_v4();
                [buckets.0, buckets.1].iter().find_map(|bucket| {
                    let entry = services.get(first.wrapping_add(*bucket) as usize)?;
                    let found = entry.target.service != 0
                        && (entry.address, entry.port, entry.protocol) == (address, port, protocol);
                    found.then_some(entry.target)
                })
            }
            IpAddr::V6(address) => {
                let address = address.octets();
                let buckets = hash::buckets(seed, head.mask_v6, address, port, protocol);
                let first = self.generation * head.mask_v6.wrapping_add(1);
                let services = self.memory.services_v6();
                [buckets.0, buckets.1].iter().find_map(|bucket| {
                    let entry = services.get(first.wrapping_add(*bucket) as usize)?;
                    let found = entry.target.service != 0
                        && (entry.address, entry.port, entry.protocol) == (address, port, protocol);
                    found.then_some(entry.target)
                })
            }
        }
    }

    /// Gives the bytes that were compared.
    fn audit_service(
        &mut self,
        id: ServiceId,
        target: Target,
        ports: &mut BTreeSet<(u8, u32)>,
        drifts: &mut Vec<Drift>,
    ) -> usize {
        let Some(service) = self.state.services.get(&id) else {
            return 0;
        };
        let members = self.memory.members().iter();
        let members = members.skip(target.members as usize);
        for ((seen, expected), index) in members.zip(&service.members).zip(0..) {
            let comparable = Member {
                egress_port: 0,
                ..*seen
            };
            if comparable != *expected {
                drifts.push(Drift::Member {
                    service: id,
                    member: index,
                    expected: Box::new(*expected),
                    seen: Box::new(comparable),
                });
            } else if seen.egress != 0 {
                ports.insert((seen.egress_port, seen.egress));
            }
        }
        let written = balancer_common::layout::ServiceOptions {
            sources: self.sets.in_force(id),
            ..service.options
        };
        if self.memory.options().get(target.options as usize) != Some(&written) {
            drifts.push(Drift::Options { service: id });
        }
        let expected = service.table.slots().unwrap_or_default();
        let region = Region {
            first: target.table,
            count: target.table_len.div_ceil(SLOTS_PER_BLOCK),
        };
        let blocks = self.memory.slots().get(region.blocks());
        let seen: &[Slot] = bytemuck::cast_slice(blocks.unwrap_or_default());
        let seen = seen.get(..expected.len()).unwrap_or_default();
        if seen != expected {
            drifts.extend(runs(id, expected, seen));
        }
        size_of_val(expected) + size_of_val(service.members.as_slice())
    }

    fn audit_sources(&mut self, is_whole: bool, drifts: &mut Vec<Drift>) {
        let expected = self.sets.all();
        if expected.len() > FEW_SOURCES && !is_whole {
            return;
        }
        let seen = self.memory.sources();
        let missing = expected.iter().filter(|it| !seen.contains(it)).count();
        let foreign = foreign(&seen, &expected, self.sets.leaving()).count();
        if missing + foreign > 0 {
            drifts.push(Drift::Sources { missing, foreign });
        }
    }

    /// Writes what differs anew. What holds it is first made to be what was
    /// written last, so that packets see as little of it as can be.
    ///
    /// # Errors
    /// As for a change.
    pub fn repair(&mut self, drifts: &[Drift]) -> Result<(), Error> {
        self.memory.node().layout_version = LAYOUT_VERSION;
        if self.memory.node().active != self.generation {
            self.memory.flip(self.generation);
        }
        let mut plan = Plan {
            flow_keys: None,
            settings: None,
            upsert: BTreeMap::new(),
            remove: Vec::new(),
        };
        for drift in drifts {
            match drift {
                Drift::Slots { service, .. } => {
                    if let Some(state) = self.state.services.get(service) {
                        plan.upsert.insert(*service, state.clone());
                    }
                }
                Drift::Egress { port, expected, .. } => {
                    self.memory.set_interface(*port, *expected)?;
                }
                Drift::Sources { .. } => self.repair_sources()?,
                _ => {}
            }
        }
        self.apply(&plan)
    }

    fn repair_sources(&mut self) -> Result<(), Error> {
        let expected = self.sets.all();
        let seen = self.memory.sources();
        let foreign: Vec<SourceEntry> = foreign(&seen, &expected, self.sets.leaving())
            .copied()
            .collect();
        for entry in &foreign {
            self.memory.remove_source(entry);
        }
        for entry in expected.iter().filter(|it| !seen.contains(it)) {
            self.memory.add_source(entry)?;
        }
        Ok(())
    }
}

/// Prefixes that nobody wrote.
fn foreign<'a>(
    seen: &'a [SourceEntry],
    expected: &'a [SourceEntry],
    leaving: &'a [SourceEntry],
) -> impl Iterator<Item = &'a SourceEntry> {
    let is_foreign = |it: &&SourceEntry| !expected.contains(it) && !leaving.contains(it);
    seen.iter().filter(is_foreign)
}

/// The slots that differ, in runs of the same owners.
fn runs(service: ServiceId, expected: &[Slot], seen: &[Slot]) -> Vec<Drift> {
    let mut runs: Vec<Drift> = Vec::new();
    for (at, (was, is)) in expected.iter().zip(seen).enumerate() {
        if was == is {
            continue;
        }
        let at = at as u32;
        let is_full = runs.len() >= MOST_RUNS;
        if let Some(Drift::Slots {
            last,
            expected,
            seen,
            ..
        }) = runs.last_mut()
            && (is_full || *last + 1 == at && (*expected, *seen) == (*was, *is))
        {
            *last = at;
            continue;
        }
        runs.push(Drift::Slots {
            service,
            first: at,
            last: at,
            expected: *was,
            seen: *is,
        });
    }
    if seen.len() < expected.len() {
        runs.push(Drift::Slots {
            service,
            first: seen.len() as u32,
            last: expected.len() as u32 - 1,
            expected: expected[seen.len()],
            seen: Slot(0),
        });
    }
    runs
}

#[cfg(test)]
mod tests;
