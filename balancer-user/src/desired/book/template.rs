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
use crate::dataplane::Table;

/// A table, and what it was built from.
#[derive(Debug)]
pub(in crate::desired) struct Template {
    pub(super) built_from: Arc<Basis>,
    pub(super) table: Table,
}

impl Template {
    /// What these owners were built from.
    pub(super) fn of(entries: &Entries, size: u32, owners: &[u16]) -> Self {
        let slots: Vec<Slot> = owners.iter().map(|owner| Slot::settled(*owner)).collect();
        Self {
            built_from: Arc::new(Basis {
                entries: entries.clone(),
                earlier: None,
                size,
            }),
            table: Table::of(&slots),
        }
    }
}

/// By service.
pub(in crate::desired) type Templates = BTreeMap<String, Template>;

impl Book {
    /// What another builder may take the table from; none in the middle of a
    /// change, and while nobody is wanted.
    pub(in crate::desired) fn template(&self) -> Option<Template> {
        let basis = &self.built_from;
        (basis.earlier.is_none() && !basis.entries.is_empty()).then(|| Template {
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
        let fits = |it: &&Template| {
            let basis = &it.built_from;
            basis.earlier.is_none() && basis.entries == *entries && basis.size == size
        };
        let own = [&self.whole, &self.coming];
        let mut own = own.into_iter().flatten().chain(template);
        let known = own.find(fits);
        if let Some(slots) = known.and_then(|it| it.table.slots()) {
            return slots.iter().map(|slot| slot.current()).collect();
        }
        *built += usize::from(!entries.is_empty());
        basis::owners(entries, size)
    }
}
