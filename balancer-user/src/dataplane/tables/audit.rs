//! Compares what stands in the memory with what was written there.
//!
//! Compared is the very memory that packets read, part by part: the head, the
//! keys with what they lead to, members, options, slots, prefixes, egress
//! interfaces. A pass over large tables is spread over many calls, each of
//! which looks at so many bytes; small tables are looked at whole each time.
//! What differs can be written anew, the way that any change is: into the
//! other generation and a fresh region, and then flipped.

mod keys;
mod repair;

use std::collections::BTreeSet;

use balancer_common::layout::{
    GenerationHead, LAYOUT_VERSION, Member, SLOTS_PER_BLOCK, Slot, Target,
};

use super::super::blocks::Region;
use super::super::{ServiceId, ServiceKey};
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
        let slot_count = service.table.slot_count() as usize;
        let region = Region {
            first: target.table,
            count: target.table_len.div_ceil(SLOTS_PER_BLOCK),
        };
        let blocks = self.memory.slots().get(region.blocks());
        let seen: &[Slot] = bytemuck::cast_slice(blocks.unwrap_or_default());
        let seen = seen.get(..slot_count).unwrap_or_default();
        if !service.table.is(seen) {
            let expected = service.table.slots().unwrap_or_default();
            drifts.extend(runs(id, &expected, seen));
        }
        slot_count * size_of::<Slot>() + size_of_val(service.members.as_slice())
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
