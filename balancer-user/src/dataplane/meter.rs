//! Reads what the program has counted, beside the daemon's loop.
//!
//! It opens the pinned maps by itself, so that who reads all of a hundred
//! thousand members keeps nobody else waiting. Where the daemon has gone over
//! to other tables meanwhile, opening fails or the counts stand still: who
//! reads asks for the tables in force each time.

use balancer_common::features::Features;
use balancer_common::layout::MemberCounters;
use balancer_common::verdict::Reason;

use super::handshakes::{self, Places};
use super::object::{AllCounts, add};
use super::shadow::Blueprint;
use super::{Counters, Error};

/// Reads the counters of one set of tables.
pub struct Meter {
    blueprint: Blueprint,
    counts: AllCounts,
    /// None where no handshake is timed.
    places: Option<Places>,
}

impl Meter {
    /// Of these tables.
    ///
    /// # Errors
    /// They have gone.
    pub fn open(blueprint: &Blueprint) -> Result<Self, Error> {
        let mut set = blueprint.set().clone();
        let is_timing = blueprint.features().contains(Features::HANDSHAKES);
        Ok(Self {
            counts: AllCounts::open(&mut set.clone(), Some(&set))?,
            places: is_timing.then(|| Places::open(&mut set)).transpose()?,
            blueprint: blueprint.clone(),
        })
    }

    /// Whether it is of these tables.
    pub fn is_of(&self, blueprint: &Blueprint) -> bool {
        self.blueprint.is_of_same_tables(blueprint)
    }

    /// Sums over all CPUs, at every index below `count`.
    ///
    /// # Errors
    /// A system call fails.
    pub fn read(&self, count: u32) -> Result<Counters, Error> {
        let all: Vec<u32> = (0..count).collect();
        let mut counters = Counters::default();
        let mut members = vec![MemberCounters::default(); all.len()];
        self.counts.members.for_each(&all, |index, counted| {
            if let Some(sum) = members.get_mut(index as usize) {
                add(sum, counted);
            }
        })?;
        counters.members = (0..).zip(members).collect();
        if let Some(places) = &self.places {
            counters.handshakes = handshakes::counters(places, &self.counts.handshakes, &all)?;
        }
        for reason in Reason::ALL {
            let values = self.counts.reasons.values(*reason as u32)?;
            counters.reasons.push((*reason, values.iter().sum()));
        }
        Ok(counters)
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Meter").field(&self.blueprint).finish()
    }
}
