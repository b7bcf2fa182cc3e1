//! A change of the configuration of which a part has happened.
//!
//! The slots that move do so a part at a time, always the same ones first, so
//! that a later stage only adds to an earlier one and the way back gives every
//! slot to whom it had. Everything else (addresses, probes, filters) cannot be
//! had in parts and comes with the first stage. Backends that go keep their
//! seats until the change is over, so that undoing it finds their flows. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::book::Identity;
use crate::config::model::{Config, Service};

/// A change, and how far it is.
#[derive(Debug, Clone)]
pub struct Staging {
    before: Config,
    after: Config,
    percent: u8,
    merged: Config,
    /// Services that are new and not to be seen yet.
    hidden: BTreeSet<String>,
    /// Places before and after of services that are in both and differ.
    differing: BTreeMap<String, (usize, usize)>,
}

/// How a service's slots are shared out between two configurations of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blend<'a> {
    pub(super) before: &'a Service,
    pub(super) after: &'a Service,
    pub(super) percent: u8,
}

impl Staging {
    /// The change from one configuration to another, `percent` of it. At 0
    /// new backends have seats and are probed, and nobody gets any traffic
    /// that did not get it before.
    pub fn new(before: Config, after: Config, percent: u8) -> Self {
        let mut staging = Self {
            merged: before.clone(),
            before,
            after,
            percent,
            hidden: BTreeSet::new(),
            differing: BTreeMap::new(),
        };
        let known = by_name(&staging.before);
        let after = staging.after.services.iter().enumerate();
        let differing = after.filter_map(|(at, service)| {
            let was = *known.get(service.name.as_str())?;
            let differs = staging.before.services[was] != *service;
            differs.then(|| (service.name.clone(), (was, at)))
        });
        staging.differing = differing.collect();
        staging.merge();
        staging
    }

    /// The same change, further or less far.
    pub fn set_percent(&mut self, percent: u8) {
        self.percent = percent;
        self.merge();
    }

    /// How much of the slots that move has moved, at most 100.
    pub fn percent(&self) -> u8 {
        self.percent
    }

    /// The configuration before the change.
    pub fn before(&self) -> &Config {
        &self.before
    }

    /// The configuration it leads to.
    pub fn after(&self) -> &Config {
        &self.after
    }

    /// All services and backends of both, as they are to be probed and
    /// reached at this stage.
    pub fn config(&self) -> &Config {
        &self.merged
    }

    /// Whether a service is not to be seen by clients yet.
    pub(super) fn hides(&self, service: &str) -> bool {
        self.hidden.contains(service)
    }

    /// How a service's slots are shared out; none where they are not, and
    /// where the change leaves the service as it is.
    pub(super) fn blend(&self, service: &str) -> Option<Blend<'_>> {
        let (was, is) = *self.differing.get(service)?;
        let (before, after) = (&self.before.services[was], &self.after.services[is]);
        self.moves_in_parts(before, after).then_some(Blend {
            before,
            after,
            percent: self.percent,
        })
    }

    /// Whether the slots of a service can move one by one: it is the same
    /// service to its clients' flows, and a name means the same server.
    fn moves_in_parts(&self, before: &Service, after: &Service) -> bool {
        let identity = |service, config: &Config| Identity::of(service, config.node.table_size);
        let same_server = |backend: &crate::config::model::Backend| {
            let was = before.backend(&backend.name);
            was.is_none_or(|was| was.address == backend.address)
        };
        identity(before, &self.before) == identity(after, &self.after)
            && self.before.node.table_size == self.after.node.table_size
            && after.backends.iter().all(same_server)
    }

    fn merge(&mut self) {
        let begun = self.percent > 0;
        let (from, to) = (&self.before, &self.after);
        let (known, wanted) = (by_name(from), by_name(to));
        let was = |name: &str| known.get(name).map(|at| &from.services[*at]);
        let services = to.services.iter().map(|after| match was(&after.name) {
            Some(_) if !self.differing.contains_key(&after.name) => after.clone(),
            Some(before) if self.moves_in_parts(before, after) => {
                merge_service(before, after, self.percent)
            }
            Some(before) if !begun => before.clone(),
            _ => after.clone(),
        });
        // A service that goes stays until the last stage.
        let going = from
            .services
            .iter()
            .filter(|service| !wanted.contains_key(service.name.as_str()) && self.percent < 100);
        let merged = Config {
            based_on: to.based_on,
            node: if begun {
                to.node.clone()
            } else {
                from.node.clone()
            },
            apply: to.apply.clone(),
            services: services.chain(going.cloned()).collect(),
        };
        let is_new = |service: &&Service| was(&service.name).is_none();
        self.hidden = to
            .services
            .iter()
            .filter(|service| !begun && is_new(service))
            .map(|service| service.name.clone())
            .collect();
        self.merged = merged;
    }
}

/// Places of services.
fn by_name(config: &Config) -> HashMap<&str, usize> {
    let services = config.services.iter().zip(0..);
    services
        .map(|(service, at)| (service.name.as_str(), at))
        .collect()
}

/// A service with the backends of both configurations.
fn merge_service(before: &Service, after: &Service, percent: u8) -> Service {
    let base = if percent > 0 { after } else { before };
    let mut backends = Vec::with_capacity(after.backends.len());
    for backend in &after.backends {
        let was = before.backend(&backend.name);
        let mut merged = match was {
            Some(was) if percent == 0 => was.clone(),
            _ => backend.clone(),
        };
        // Who is to drain has slots until the last stage; who drains no more
        // gets some with the first.
        if let Some(was) = was.filter(|_| percent < 100) {
            merged.drain = was.drain && (backend.drain || percent == 0);
        }
        backends.push(merged);
    }
    let going = before
        .backends
        .iter()
        .filter(|backend| after.backend(&backend.name).is_none());
    backends.extend(going.cloned());
    Service {
        backends: backends.into(),
        ..base.clone()
    }
}

impl Blend<'_> {
    /// Whether a slot has moved. The order is the same for every change, and
    /// scattered, so that every part of the slots has its share of each
    /// owner.
    pub(super) fn has_moved(&self, slot: usize) -> bool {
        is_among(slot, self.percent)
    }
}

/// Whether a slot is among the first so many percent, in an order that is
/// always the same, and scattered.
pub(super) fn is_among(slot: usize, percent: u8) -> bool {
    // The golden ratio's multiples spread evenly (Knuth, volume 3, 6.4).
    let place = (slot as u32).wrapping_mul(0x9e37_79b9);
    u64::from(place) * 100 < u64::from(percent) << 32
}

#[cfg(test)]
mod tests;
