//! A copy of the program with its maps, and the one that takes its place.

use std::collections::BTreeSet;

use balancer_common::features::Features;

use super::Error;
use super::capacity::Capacity;
use super::maps::{self, Sizes};
use super::object::{Object, Purpose};
use super::set::MapSet;

/// A copy of the program and the set in which its maps are pinned.
pub(super) struct Loaded {
    pub(super) object: Object,
    pub(super) set: MapSet,
    pub(super) sizes: Sizes,
    pub(super) features: Features,
    pub(super) purpose: Purpose,
}

impl Loaded {
    /// A copy over the maps that are pinned in the set, and fresh ones for
    /// the others.
    pub(super) fn new(
        set: MapSet,
        sizes: Sizes,
        features: Features,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        Ok(Self {
            object: Object::load(&sizes, features, purpose, Some(&set))?,
            set,
            sizes,
            features,
            purpose,
        })
    }

    /// The copy that takes this one's place.
    pub(super) fn successor(
        &self,
        wanted: &Capacity,
        features: Features,
        fresh_tables: bool,
    ) -> Result<Self, Error> {
        let succession = maps::succession(&self.sizes, wanted, fresh_tables);
        Self::after(&self.set, succession, features, self.purpose)
    }

    /// The same for another purpose.
    pub(super) fn again(&self, purpose: Purpose) -> Result<Self, Error> {
        Self::after(
            &self.set,
            maps::unchanged(&self.sizes),
            self.features,
            purpose,
        )
    }

    /// The copy that takes the place of one with this set, and goes on with
    /// what of its maps stays.
    pub(super) fn after(
        old: &MapSet,
        (sizes, kept): (Sizes, BTreeSet<&'static str>),
        features: Features,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        let set = old.next()?;
        undoing(&set, || {
            old.hand_on(&set, &kept)?;
            if purpose == Purpose::Capture {
                old.hand_on_capture(&set)?;
            }
            let mut next = Self::new(set.clone(), sizes, features, purpose)?;
            next.object.succeed(old)?;
            Ok(next)
        })
    }
}

/// Removes a new set where what was to be done with it fails.
pub(super) fn undoing<T>(
    set: &MapSet,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let result = work();
    if result.is_err()
        && let Err(error) = set.remove()
    {
        tracing::error!(%error, "pins are left; the next start removes them");
    }
    result
}
