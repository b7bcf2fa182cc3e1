//! A service's table: who owns which slot.
//!
//! Tables are compared by their digests, and kept packed: there may be a
//! thousand of them, of a quarter of a megabyte each. Pure.

use std::sync::Arc;

use balancer_common::layout::Slot;

use super::packed::Packed;

/// A service's table, compared by its digest. One that was read back from
/// the kernel has no slots, only their digest: tables are large.
#[derive(Debug, Clone)]
pub struct Table {
    len: u32,
    digest: u64,
    slots: Option<Arc<Packed>>,
}

impl Table {
    /// A table of these slots; none means that no backend gets traffic.
    pub fn new(slots: Arc<[Slot]>) -> Self {
        Self::of(&slots)
    }

    /// As [`Table::new`], of slots that somebody else keeps.
    pub fn of(slots: &[Slot]) -> Self {
        Self {
            len: slots.len() as u32,
            digest: digest(slots),
            slots: Some(Arc::new(Packed::of(slots))),
        }
    }

    /// A table that is known by its digest only.
    pub fn read_back(slots: &[Slot]) -> Self {
        Self {
            len: slots.len() as u32,
            digest: digest(slots),
            slots: None,
        }
    }

    /// How many slots it has.
    pub fn slot_count(&self) -> u32 {
        self.len
    }

    /// The slots, unless the table was read back. They are unpacked for it:
    /// who wants one asks [`Table::slot`].
    pub fn slots(&self) -> Option<Vec<Slot>> {
        self.slots.as_ref().map(|slots| slots.unpack())
    }

    /// One slot, unless the table was read back or has no such.
    pub fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.as_ref()?.at(index as usize)
    }

    /// How many slots each member gets new flows of, by its index; members
    /// beyond have none, as have all of a table that was read back.
    pub fn counts(&self) -> Vec<u32> {
        self.slots
            .as_ref()
            .map_or_else(Vec::new, |slots| slots.counts())
    }

    /// Whether it has its slots and none was ever in change.
    pub fn is_pristine(&self) -> bool {
        self.slots.as_ref().is_some_and(|slots| slots.is_pristine())
    }

    /// Whether it has its slots.
    pub fn has_slots(&self) -> bool {
        self.slots.is_some()
    }

    /// Writes the slots to the beginning of `into`; `false` if the table was
    /// read back or does not fit.
    pub(super) fn write_to(&self, into: &mut [Slot]) -> bool {
        match &self.slots {
            Some(slots) if slots.len() <= into.len() => {
                slots.unpack_into(into);
                true
            }
            _ => false,
        }
    }

    /// Whether these are the slots, every one; a table that was read back is
    /// like none.
    pub(super) fn is(&self, slots: &[Slot]) -> bool {
        self.slots.as_ref().is_some_and(|packed| packed.is(slots))
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.digest) == (other.len, other.digest)
    }
}

impl Eq for Table {}

fn digest(slots: &[Slot]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytemuck::cast_slice(slots))
}
