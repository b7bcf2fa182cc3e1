//! Tables in which some backends have a part of their slots only.

use super::Book;
use super::basis::{self, Basis, Entries, Ramps};
use super::template::Template;
use crate::config::model::Service;
use crate::desired::World;
use crate::desired::world::ramp;

impl Book {
    /// Who is in its slow start or relieved, and how far.
    pub(super) fn ramps(&self, service: &Service, world: &World) -> Ramps {
        if world.ramps.is_empty() && world.relieved.is_empty() {
            return Ramps::new();
        }
        let indexes = self.indexes();
        let backends = service.backends.iter();
        backends
            .filter_map(|backend| {
                let percent = ramp(service, backend, world)?;
                Some((*indexes.get(backend.name.as_str())?, percent))
            })
            .collect()
    }

    /// Gives those in their slow start the part of their slots that they are
    /// to have. Where there is nobody else, they have all of them.
    pub(super) fn ramp(
        &mut self,
        basis: &Basis,
        template: Option<&Template>,
        owners: &mut [u16],
        built: &mut usize,
    ) {
        let is_ramping = |index: u16| basis.ramps.iter().any(|(it, _)| *it == index);
        let others = basis.entries.iter().filter(|it| !is_ramping(it.1));
        let others: Entries = others.cloned().collect();
        if basis.ramps.is_empty() || others.is_empty() {
            self.ramping.clear();
            return;
        }
        let without = self.owners(&others, basis.size, template, built);
        if basis.earlier.is_none() {
            let whole = Template::of(&basis.entries, basis.size, owners);
            self.ramping = vec![whole, Template::of(&others, basis.size, &without)];
        }
        basis::ramped(owners, &without, &basis.ramps);
    }
}
