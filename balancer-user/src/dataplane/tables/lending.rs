//! Tables of what is in force, read where packets read them.
//!
//! Who plans or rehearses a change of many services asks for the slots of all
//! of them. Making each anew takes ten times as long.

use super::super::{ServiceId, Table};
use super::{Memory, Tables};

impl<M: Memory> Tables<M> {
    /// From now on whoever has a table of what is in force reads its slots in
    /// this memory. Not for private copies: they go before their tables do.
    pub(in crate::dataplane) fn lend_slots(&mut self) {
        self.shelf = self.memory.shelf();
        for (id, service) in &self.state.services {
            self.lend(*id, &service.table);
        }
    }

    pub(super) fn lend(&self, id: ServiceId, table: &Table) {
        if let (Some(shelf), Some(region)) = (&self.shelf, self.regions.get(&id)) {
            table.stands_at(shelf, region.first);
        }
    }
}
