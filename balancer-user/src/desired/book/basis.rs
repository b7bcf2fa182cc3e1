//! What a service's table is built from: who gets new flows, and in the
//! middle of a change who got them before.

use super::Blend;
use crate::maglev;

/// Who gets new flows: name, index and weight of each.
pub(super) type Entries = Vec<(String, u16, u16)>;

/// What a table is built from.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Basis {
    /// Who gets new flows.
    pub(super) entries: Entries,
    /// In the middle of a change: who got them before, and the percentage of
    /// the slots that have moved.
    pub(super) earlier: Option<(Entries, u8)>,
    pub(super) size: u32,
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

fn maglev_entries(entries: &[(String, u16, u16)]) -> Vec<maglev::Entry<'_>> {
    entries
        .iter()
        .map(|(identity, index, weight)| maglev::Entry {
            identity,
            index: *index,
            weight: *weight,
        })
        .collect()
}
