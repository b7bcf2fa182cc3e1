//! Writes anew what an audit found.

use std::collections::BTreeMap;

use balancer_common::layout::LAYOUT_VERSION;

use super::super::super::{Error, Plan};
use super::super::sources::SourceEntry;
use super::super::{Memory, Tables};
use super::{Drift, foreign};

impl<M: Memory> Tables<M> {
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
