//! Marks of blocks of slots, which packets of old flows leave.

use std::sync::atomic::Ordering;

use super::super::blocks::Region;
use super::super::{Error, ServiceId};
use super::{Memory, Tables};

impl<M: Memory> Tables<M> {
    /// For each block of a service's table, whether it was marked since this
    /// was last asked. A table that moves takes its marks along.
    pub fn take_marks(&mut self, id: ServiceId) -> Result<Vec<bool>, Error> {
        self.settle()?;
        let region = self.regions.get(&id).copied();
        let blocks = region.into_iter().flat_map(Region::blocks);
        let marks = self.memory.marks();
        Ok(blocks
            .map(|block| marks[block].swap(0, Ordering::Relaxed) != 0)
            .collect())
    }

    /// Marks every block in force, for want of knowledge.
    pub fn mark_all(&mut self) {
        let marks = self.memory.marks();
        for block in self.regions.values().copied().flat_map(Region::blocks) {
            marks[block].store(1, Ordering::Relaxed);
        }
    }

    /// Leaves a retired region without marks; those of a table of the same
    /// length go to the one that took its place. Nobody reads the old region
    /// any more.
    pub(super) fn move_marks(&mut self, id: ServiceId, old: Region) {
        let new = self.regions.get(&id).copied();
        let new = new.filter(|new| new.count == old.count);
        let marks = self.memory.marks();
        for (at, block) in old.blocks().enumerate() {
            let is_marked = marks[block].swap(0, Ordering::Relaxed) != 0;
            if let Some(new) = new
                && is_marked
            {
                marks[new.first as usize + at].store(1, Ordering::Relaxed);
            }
        }
    }
}
