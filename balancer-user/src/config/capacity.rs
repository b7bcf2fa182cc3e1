//! Declared capacity against declared peak: as all is, and after a loss.
//!
//! Backups have no share while all is well. What is lost may bring them in,
//! and then they bear a part.
//!
//! All comparisons are between whole numbers, multiplied out: a limit is met
//! or it is not, without rounding.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::model::{Backend, Pool, Service};

/// Whether a backend may take new flows, always or as a backup.
pub fn is_wanted(backend: &Backend) -> bool {
    backend.weight > 0 && !backend.drain
}

/// The weight that takes new flows while all is well; 0 for a drained backend
/// and for a backup.
pub fn weight_in_use(backend: &Backend) -> u64 {
    match backend.pool {
        Pool::Primary if !backend.drain => u64::from(backend.weight),
        Pool::Primary | Pool::Backup => 0,
    }
}

/// The weight that a backup takes once it is needed.
fn weight_in_reserve(backend: &Backend) -> u64 {
    match backend.pool {
        Pool::Backup if !backend.drain => u64::from(backend.weight),
        Pool::Primary | Pool::Backup => 0,
    }
}

/// The sum of the weights that take new flows.
pub fn total_weight(service: &Service) -> u64 {
    service.backends.iter().map(weight_in_use).sum()
}

/// The backends that take traffic, with their positions and weights.
pub fn in_use(service: &Service) -> impl Iterator<Item = (usize, &Backend, u64)> {
    service
        .backends
        .iter()
        .enumerate()
        .map(|(place, backend)| (place, backend, weight_in_use(backend)))
        .filter(|(.., weight)| *weight > 0)
}

/// New flows a second that a backend gets at the declared peak, and can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strain {
    /// The backend's position.
    pub backend: usize,
    /// What it would get, rounded up.
    pub load: u128,
    /// What it can take, as declared.
    pub limit: u64,
    /// Whether that is too much.
    pub exceeds: bool,
}

/// What the loss of a zone does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneLoss<'a> {
    /// Nobody is left.
    All {
        /// The zone.
        zone: &'a str,
    },
    /// Another backend gets its share.
    Strained {
        /// The zone.
        zone: &'a str,
        /// The survivor with the least to spare.
        survivor: Strain,
    },
}

/// A service's declared peak, for asking who can bear it.
pub struct Load<'a> {
    service: &'a Service,
    peak: u64,
    total: u64,
    /// Backends overloaded even without a loss, in order.
    overloaded: Vec<usize>,
}

impl<'a> Load<'a> {
    /// Of a service that declares its peak and has a backend in use.
    pub fn of(service: &'a Service) -> Option<Self> {
        let mut load = Self {
            service,
            peak: service.peak_flows_per_second?,
            total: total_weight(service),
            overloaded: Vec::new(),
        };
        if load.total == 0 {
            return None;
        }
        let strains = load.strains();
        let overloaded = strains.iter().filter(|strain| strain.exceeds);
        load.overloaded = overloaded.map(|strain| strain.backend).collect();
        Some(load)
    }

    /// The backends with a declared capacity while nobody is lost, in order.
    pub fn strains(&self) -> Vec<Strain> {
        in_use(self.service)
            .filter_map(|(backend, found, weight)| {
                let limit = found.capacity_flows_per_second?;
                Some(self.strain(backend, weight, limit, self.total))
            })
            .collect()
    }

    /// The load of a backend where `left` weight bears the peak.
    fn strain(&self, backend: usize, weight: u64, limit: u64, left: u64) -> Strain {
        let left = u128::from(left);
        let load = u128::from(self.peak) * u128::from(weight);
        Strain {
            backend,
            load: load.div_ceil(left.max(1)),
            limit,
            exceeds: load > u128::from(limit) * left,
        }
    }

    /// The weight that is left once `lost` weight of the primary pool is gone,
    /// with that of the backups that are `there`, if that brings them in.
    fn left(&self, lost: u64, there: impl Fn(&Backend) -> bool) -> (u64, bool) {
        let left = self.total - lost;
        let service = self.service;
        let threshold = service
            .backup_below
            .max(service.fail_open_below.unwrap_or(0.0));
        let is_short = left == 0 || (left as f64) < threshold * self.total as f64;
        let backups = service.backends.iter().filter(|it| is_short && there(it));
        let reserve: u64 = backups.map(weight_in_reserve).sum();
        (left + reserve, reserve > 0)
    }

    /// The backends that could be overloaded by a loss, the worst first.
    /// Whatever is lost, the survivors' loads grow by the same factor, so
    /// the first survivor in this order is the first to be overloaded.
    fn by_strain(&self) -> Vec<(usize, &'a Backend, u64, u64)> {
        let reserve = self.service.backends.iter().enumerate();
        let reserve = reserve
            .map(|(place, backend)| (place, backend, weight_in_reserve(backend)))
            .filter(|(.., weight)| *weight > 0);
        let mut strained: Vec<_> = in_use(self.service)
            .chain(reserve)
            .filter(|(place, ..)| self.overloaded.binary_search(place).is_err())
            .filter_map(|(place, backend, weight)| {
                let limit = backend.capacity_flows_per_second?;
                Some((place, backend, weight, limit))
            })
            .collect();
        let strain = |one: u64, other_limit: u64| u128::from(one) * u128::from(other_limit);
        strained.sort_by(|(_, _, weight_a, limit_a), (_, _, weight_b, limit_b)| {
            strain(*weight_b, *limit_a).cmp(&strain(*weight_a, *limit_b))
        });
        strained
    }

    /// What the loss of one backend does at worst: who is lost, and the
    /// survivor with the least to spare of those that bear the peak without
    /// a loss. The loss of the heaviest other backend is the worst for
    /// everyone.
    pub fn after_backend_loss(&self) -> Option<(&'a Backend, Strain)> {
        let mut by_weight: Vec<_> = in_use(self.service).collect();
        by_weight.sort_by_key(|(.., weight)| Reverse(*weight));
        let strains: Vec<_> = self
            .by_strain()
            .into_iter()
            .filter_map(|(place, backend, weight, limit)| {
                let (_, lost, lost_weight) =
                    by_weight.iter().find(|(other, ..)| *other != place)?;
                let (left, with_backups) = self.left(*lost_weight, |_| true);
                let bears = backend.pool == Pool::Primary || with_backups;
                bears.then(|| (*lost, self.strain(place, weight, limit, left)))
            })
            .collect();
        let exceeding = strains.iter().find(|(_, strain)| strain.exceeds);
        exceeding.or(strains.first()).copied()
    }

    /// What the loss of one zone does at worst.
    pub fn after_zone_loss(&self) -> Option<ZoneLoss<'a>> {
        let mut zones: HashMap<&str, u64> = HashMap::new();
        for (_, backend, weight) in in_use(self.service) {
            if let Some(zone) = &backend.zone {
                *zones.entry(zone).or_default() += weight;
            }
        }
        let mut zones: Vec<_> = zones.into_iter().collect();
        // The heaviest first, then by name, so that the answer is stable.
        zones.sort_by_key(|(zone, weight)| (Reverse(*weight), *zone));
        let strained = self.by_strain();
        let mut worst = None;
        for (zone, lost) in zones {
            let is_elsewhere = |backend: &Backend| backend.zone.as_deref() != Some(zone);
            let (left, with_backups) = self.left(lost, is_elsewhere);
            if left == 0 {
                return Some(ZoneLoss::All { zone });
            }
            let bears = |backend: &Backend| backend.pool == Pool::Primary || with_backups;
            let survivor = strained
                .iter()
                .find(|(_, backend, ..)| is_elsewhere(backend) && bears(backend));
            let Some((place, _, weight, limit)) = survivor else {
                continue;
            };
            let survivor = self.strain(*place, *weight, *limit, left);
            if survivor.exceeds || worst.is_none() {
                worst = Some(ZoneLoss::Strained { zone, survivor });
            }
            if survivor.exceeds {
                break;
            }
        }
        worst
    }
}
