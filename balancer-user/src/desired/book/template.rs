//! Tables that need not be built once more.
//!
//! A table depends on names, weights and its size; building it is most of
//! what a change costs. One that was built from the same is taken over,
//! whoever built it: this book before the change, or another builder.

use std::collections::BTreeMap;
use std::sync::Arc;

use balancer_common::layout::Slot;

use super::Book;
use super::basis::{self, Basis, Entries};
use crate::dataplane::{Recipe, Table};

/// A table, and what it was built from.
#[derive(Debug)]
pub(in crate::desired) struct Template {
    pub(super) built_from: Arc<Basis>,
    pub(super) table: Table,
}

impl Template {
    /// What these owners were built from; kept packed, as it is asked for in
    /// each stage of a change.
    pub(super) fn of(entries: &Entries, size: u32, owners: &[u16]) -> Self {
        let slots: Vec<Slot> = owners.iter().map(|owner| Slot::settled(*owner)).collect();
        Self {
            built_from: Arc::new(Basis {
                entries: entries.clone(),
                earlier: None,
                ramps: Vec::new(),
                size,
            }),
            table: Table::of(&slots),
        }
    }

    fn is_of(&self, entries: &Entries, size: u32) -> bool {
        let basis = &self.built_from;
        basis.is_plain() && basis.entries == *entries && basis.size == size
    }
}

/// By service.
pub(in crate::desired) type Templates = BTreeMap<String, Template>;

impl Book {
    /// A table that begins is a copy of one from the same basis.
    pub(super) fn taken_over(&self, basis: &Basis, template: Option<&Template>) -> Option<Table> {
        let template = template.filter(|it| basis.is_plain() && *it.built_from == *basis)?;
        let begins = self.table.slot_count() == 0;
        begins.then(|| template.table.fresh()).flatten()
    }

    /// Of slots of the owners that the basis gives.
    pub(super) fn table_of(&self, slots: &[Slot]) -> Table {
        if self.is_asked_often || !self.built_from.is_plain() {
            return Table::of(slots);
        }
        Table::made(Arc::clone(&self.built_from) as Arc<dyn Recipe>, slots)
    }

    /// In the middle of a change: each stage asks for the owners that it leads
    /// to and for those that it comes from.
    pub(super) fn keep_both(
        &mut self,
        after: (&Entries, &[u16]),
        before: (&Entries, &[u16]),
        size: u32,
    ) {
        let kept = [(&mut self.coming, after), (&mut self.going, before)];
        for (kept, (entries, owners)) in kept {
            if !kept.as_ref().is_some_and(|it| it.is_of(entries, size)) {
                *kept = Some(Template::of(entries, size, owners));
            }
        }
    }

    /// What another builder may take the table from; none in the middle of a
    /// change, and while nobody is wanted.
    pub(in crate::desired) fn template(&self) -> Option<Template> {
        let basis = &self.built_from;
        (basis.is_plain() && !basis.entries.is_empty()).then(|| Template {
            built_from: Arc::clone(basis),
            table: self.table.clone(),
        })
    }

    /// Who owns each slot, by one side of the basis: as it was built before,
    /// here or elsewhere, or built now.
    pub(super) fn owners(
        &self,
        entries: &Entries,
        size: u32,
        template: Option<&Template>,
        built: &mut usize,
    ) -> Vec<u16> {
        let own = [&self.coming, &self.going, &self.whole];
        let own = own.into_iter().flatten().chain(&self.ramping);
        let known = own.chain(template).find(|it| it.is_of(entries, size));
        if let Some(slots) = known.and_then(|it| it.table.slots()) {
            return slots.iter().map(|slot| slot.current()).collect();
        }
        *built += usize::from(!entries.is_empty());
        basis::owners(entries, size)
    }
}
