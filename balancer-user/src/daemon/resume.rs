//! Going on with what an earlier daemon left in the kernel.
//!
//! Its maps say all but names and addresses; those are in the state
//! directory, written before the maps were (see [`Seating`]). What does not
//! fit together is not guessed: the tables are then begun anew, which is said.

use std::path::Path;

use anyhow::Context;

use super::store::Store;
use crate::dataplane::attach::Attached;
use crate::dataplane::aya::{Adopted, KernelDataplane, Placement};
use crate::desired::{Builder, Built, Seating};

/// What the numbers in the tables mean, and whether the disk knows.
pub(super) struct Seats {
    instance: u64,
    in_force: Seating,
    /// What comes into force with the change that was prepared last.
    next: Option<Seating>,
    is_stored: bool,
    /// Why the last try to store it failed.
    failure: Option<String>,
}

/// What to begin with.
pub(super) struct Left {
    tables: Option<Adopted>,
    seats: Seats,
}

/// What is in force from now on.
pub(super) struct Begun {
    pub(super) dataplane: KernelDataplane,
    /// How the program got onto each interface.
    pub(super) attached: Vec<(String, Attached)>,
    pub(super) seats: Seats,
}

/// Looks at what is pinned, and at what is known of it.
pub(super) fn look(store: &Store, pin_dir: &Path) -> (Builder, Left) {
    match adopt(store, pin_dir) {
        Ok(Some(adopted)) => return adopted,
        Ok(None) => {}
        Err(error) => tracing::warn!(
            error = %format!("{error:#}"),
            "what an earlier balancer left cannot be gone on with: tables, flow records and \
             counters begin anew"
        ),
    }
    let seats = Seats {
        instance: 0,
        in_force: Seating::default(),
        next: None,
        is_stored: false,
        failure: None,
    };
    let left = Left {
        tables: None,
        seats,
    };
    (Builder::default(), left)
}

fn adopt(store: &Store, pin_dir: &Path) -> anyhow::Result<Option<(Builder, Left)>> {
    let Some(tables) = Adopted::find(pin_dir)? else {
        return Ok(None);
    };
    let stored = store.load_seating(tables.instance())?;
    let builder = Builder::adopt(&stored, tables.state()).map_err(anyhow::Error::msg)?;
    tracing::info!(
        services = tables.state().services.len(),
        "going on with the tables, flow records and counters of an earlier balancer"
    );
    let seats = Seats {
        instance: tables.instance(),
        in_force: stored,
        next: None,
        is_stored: true,
        failure: None,
    };
    let left = Left {
        tables: Some(tables),
        seats,
    };
    Ok(Some((builder, left)))
}

impl Left {
    /// Brings the first state into force.
    pub(super) fn begin(
        self,
        store: &Store,
        placement: Placement,
        builder: &Builder,
        built: &Built,
    ) -> anyhow::Result<Begun> {
        let Self { tables, mut seats } = self;
        if tables.is_none() {
            seats.instance = getrandom::u64().context("drawing a number for the tables")?;
        }
        seats.prepare(store, builder);
        let (dataplane, attached) = match tables {
            Some(tables) => {
                KernelDataplane::take_over(placement, tables, &built.state, &built.fresh_counters)
            }
            None => KernelDataplane::start(placement, seats.instance, &built.state),
        }?;
        seats.commit();
        Ok(Begun {
            dataplane,
            attached,
            seats,
        })
    }
}

impl Seats {
    /// Stores what a coming state may leave in force, where it is new. A disk
    /// that fails must not keep a dead backend in the tables: then the next
    /// daemon will begin anew.
    pub(super) fn prepare(&mut self, store: &Store, builder: &Builder) {
        let next = builder.seating();
        if !self.is_stored || next != self.in_force {
            match self.store(store, &next) {
                Ok(()) => self.failure = None,
                Err(error) => {
                    let failure = Some(error.to_string());
                    // It is tried again each second.
                    if self.failure != failure {
                        tracing::error!(%error, "not stored who sits where; a restart would begin anew");
                    }
                    self.failure = failure;
                }
            }
        }
        self.next = Some(next);
    }

    /// Whether a restart would find who sits where.
    pub(super) fn is_stored(&self) -> bool {
        self.is_stored
    }

    /// Why the last try to store it failed; none if it is stored.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn store(&mut self, store: &Store, next: &Seating) -> std::io::Result<()> {
        self.is_stored = false;
        store.save_seating(self.instance, &self.in_force.with(next))?;
        self.is_stored = true;
        Ok(())
    }

    /// Notes that what was prepared last is in force.
    pub(super) fn commit(&mut self) {
        if let Some(next) = self.next.take() {
            self.in_force = next;
        }
    }
}
