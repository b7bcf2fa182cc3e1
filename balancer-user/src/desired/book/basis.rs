//! What a service's table is built from: who gets new flows, who of them has
//! only a part of its share yet, and in the middle of a change who got them
//! before.

use std::sync::Arc;

use super::super::staging::is_among;
use super::Blend;
use crate::dataplane::Recipe;
use crate::maglev;

/// Who gets new flows: name, index and weight of each.
pub(super) type Entries = Vec<(Arc<str>, u16, u16)>;

/// Index and percentage of each backend in its slow start.
pub(super) type Ramps = Vec<(u16, u8)>;

/// What a table is built from.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Basis {
    /// Who gets new flows.
    pub(super) entries: Entries,
    /// In the middle of a change: who got them before, and the percentage of
    /// the slots that have moved.
    pub(super) earlier: Option<(Entries, u8)>,
    /// Indexes of those in their slow start, and the percentage of their
    /// slots that they have.
    pub(super) ramps: Ramps,
    pub(super) size: u32,
}

impl Basis {
    /// Whether a table of it is one of its entries and of nothing else.
    pub(super) fn is_plain(&self) -> bool {
        self.earlier.is_none() && self.ramps.is_empty()
    }
}

/// Of a plain basis only.
impl Recipe for Basis {
    fn owners(&self) -> Vec<u16> {
        owners(&self.entries, self.size)
    }
}

/// The owner of each slot; none if nobody is wanted.
pub(super) fn owners(entries: &Entries, size: u32) -> Vec<u16> {
    maglev::build(&maglev_entries(entries), size)
}

/// The owners in the middle of a change.
pub(super) fn blended(before: Vec<u16>, after: Vec<u16>, blend: Blend<'_>) -> Vec<u16> {
    // Where one side has nobody to give a slot to, the other decides.
    if before.is_empty() || after.is_empty() {
        return if after.is_empty() { before } else { after };
    }
    let pairs = before.into_iter().zip(after).enumerate();
    pairs
        .map(|(slot, (before, after))| if blend.has_moved(slot) { after } else { before })
        .collect()
}

/// Leaves to `others`, the owners without those in their slow start, the
/// slots that these do not have yet. No other slot is touched.
pub(super) fn ramped(owners: &mut [u16], others: &[u16], ramps: &Ramps) {
    for (slot, (owner, other)) in owners.iter_mut().zip(others).enumerate() {
        let ramp = ramps.iter().find(|(index, _)| index == owner);
        if ramp.is_some_and(|(_, percent)| !is_among(slot, *percent)) {
            *owner = *other;
        }
    }
}

fn maglev_entries(entries: &[(Arc<str>, u16, u16)]) -> Vec<maglev::Entry<'_>> {
    entries
        .iter()
        .map(|(identity, index, weight)| maglev::Entry {
            identity,
            index: *index,
            weight: *weight,
        })
        .collect()
}
