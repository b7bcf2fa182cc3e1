//! Rules about who gets how much traffic.
//!
//! All comparisons are between whole numbers, multiplied out: a limit is met
//! or it is not, without rounding.

use std::collections::HashMap;

use super::super::model::{Backend, Service};
use super::super::prime::{MAX_TABLE_SIZE, table_size_from};
use super::super::spans::Place;
use super::{Context, SlotCounts, rules, total_weight, weight_in_use};

/// Slots a backend should have at least.
const SLOTS_A_BACKEND: u64 = 100;

pub(super) fn check(context: &mut Context<'_>, tables: Option<&SlotCounts<'_>>) {
    for (index, service) in context.services() {
        let total = total_weight(service);
        if total == 0 {
            continue;
        }
        dominant_backend(context, index, service, total);
        weight_spread(context, index, service);
        table_size(context, index, service);
        if let Some(peak) = service.peak_flows_per_second {
            let overloaded = capacity(context, index, service, peak, total);
            let mut load = Load {
                service,
                peak,
                total,
                overloaded,
            };
            load.after_backend_loss(context, index);
            load.after_zone_loss(context, index);
        }
        if let Some(tables) = tables {
            let size = context.config.node.table_size;
            table_share(context, index, service, total, &tables(service, size));
        }
    }
}

/// The backends that take traffic, with their positions and weights.
fn in_use(service: &Service) -> impl Iterator<Item = (usize, &Backend, u64)> {
    service
        .backends
        .iter()
        .enumerate()
        .map(|(place, backend)| (place, backend, weight_in_use(backend)))
        .filter(|(.., weight)| *weight > 0)
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn dominant_backend(context: &mut Context<'_>, index: usize, service: &Service, total: u64) {
    let dominant = in_use(service).find(|(.., weight)| weight * 2 > total);
    let Some((place, backend, weight)) = dominant else {
        return;
    };
    let count = in_use(service).count();
    if count < 3 {
        return;
    }
    let message = format!(
        "service {}: backend {} gets {:.1} % of the traffic among {count} backends, limit 50 %",
        service.name,
        backend.name,
        percent(weight, total)
    );
    let place = Place::Backend(index, place, "weight");
    context.report(&rules::DOMINANT_BACKEND, place, message, |finding| {
        finding.help("check the weights for a slip")
    });
}

fn weight_spread(context: &mut Context<'_>, index: usize, service: &Service) {
    let least = in_use(service).min_by_key(|(.., weight)| *weight);
    let most = in_use(service).max_by_key(|(.., weight)| *weight);
    let (Some((least_place, least, low)), Some((place, most, high))) = (least, most) else {
        return;
    };
    if high <= low * 10 {
        return;
    }
    let message = format!(
        "service {}: weight {high} of backend {} is more than ten times weight {low} of backend {}",
        service.name, most.name, least.name
    );
    let related = context
        .spans
        .find(Place::Backend(index, least_place, "weight"));
    let label = format!("backend {} has the least", least.name);
    let place = Place::Backend(index, place, "weight");
    context.report(&rules::DOMINANT_BACKEND, place, message, |finding| {
        finding
            .help("check the weights for a slip")
            .related(related, label)
    });
}

fn table_size(context: &mut Context<'_>, index: usize, service: &Service) {
    let size = context.config.node.table_size;
    let count = in_use(service).count() as u64;
    if u64::from(size) >= count * SLOTS_A_BACKEND {
        return;
    }
    let message = format!(
        "service {}: table_size {size} gives {count} backends {} slots each, limit {SLOTS_A_BACKEND}",
        service.name,
        u64::from(size) / count
    );
    let wanted = u32::try_from(count * SLOTS_A_BACKEND).unwrap_or(MAX_TABLE_SIZE);
    let help = format!("set `table_size = {}` in `[node]`", table_size_from(wanted));
    let related = context.spans.find(Place::Node("table_size"));
    let place = Place::Service(index, "");
    context.report(&rules::TABLE_SIZE, place, message, |finding| {
        finding
            .level(super::super::diagnostic::Level::Warning)
            .help(help)
            .related(related, "table_size is set here, or left at 65537")
    });
}

/// Reports the backends that the declared peak overloads, and lists them.
fn capacity(
    context: &mut Context<'_>,
    index: usize,
    service: &Service,
    peak: u64,
    total: u64,
) -> Vec<usize> {
    let mut overloaded = Vec::new();
    for (place, backend, weight) in in_use(service) {
        let Some(limit) = backend.capacity_flows_per_second else {
            continue;
        };
        let load = u128::from(peak) * u128::from(weight);
        if load <= u128::from(limit) * u128::from(total) {
            continue;
        }
        overloaded.push(place);
        let message = format!(
            "service {}: backend {} would get {} new flows a second at peak, limit {limit}",
            service.name,
            backend.name,
            load.div_ceil(u128::from(total))
        );
        let related = context
            .spans
            .find(Place::Service(index, "peak_flows_per_second"));
        let place = Place::Backend(index, place, "capacity_flows_per_second");
        context.report(&rules::CAPACITY, place, message, |finding| {
            finding
                .help("lower its `weight` or add backends")
                .related(related, "the declared peak")
        });
    }
    overloaded
}

/// A service's peak, for asking what the loss of some backends does.
struct Load<'a> {
    service: &'a Service,
    peak: u64,
    total: u64,
    /// Backends overloaded even without a loss, in order: said already.
    overloaded: Vec<usize>,
}

impl<'a> Load<'a> {
    /// The backends that could be overloaded by a loss, the worst first.
    /// Whatever is lost, the survivors' loads grow by the same factor, so
    /// the first survivor in this order is the first to be overloaded.
    fn by_strain(&self) -> Vec<(usize, &'a Backend, u64, u64)> {
        let mut strained: Vec<_> = in_use(self.service)
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

    /// The load of a backend once `lost` weight is gone, if it is too much.
    fn excess(&self, weight: u64, limit: u64, lost: u64) -> Option<u128> {
        let left = u128::from(self.total - lost);
        let load = u128::from(self.peak) * u128::from(weight);
        (load > u128::from(limit) * left).then(|| load.div_ceil(left.max(1)))
    }

    /// The loss of the heaviest other backend is the worst for everyone.
    fn after_backend_loss(&mut self, context: &mut Context<'_>, index: usize) {
        let mut by_weight: Vec<_> = in_use(self.service).collect();
        by_weight.sort_by_key(|(.., weight)| std::cmp::Reverse(*weight));
        if by_weight.len() < 2 {
            return;
        }
        let worst = self
            .by_strain()
            .into_iter()
            .filter_map(|(place, backend, weight, limit)| {
                let (_, lost, lost_weight) =
                    by_weight.iter().find(|(other, ..)| *other != place)?;
                let load = self.excess(weight, limit, *lost_weight)?;
                Some((place, backend, lost, load, limit))
            })
            .next();
        if let Some((place, backend, lost, load, limit)) = worst {
            let cause = format!("backend {}", lost.name);
            self.report(context, (index, place), backend, &cause, load, limit);
        }
    }

    fn after_zone_loss(&mut self, context: &mut Context<'_>, index: usize) {
        let mut zones: HashMap<&str, u64> = HashMap::new();
        for (_, backend, weight) in in_use(self.service) {
            if let Some(zone) = &backend.zone {
                *zones.entry(zone).or_default() += weight;
            }
        }
        let mut zones: Vec<_> = zones.into_iter().collect();
        // The heaviest first, then by name, so that the answer is stable.
        zones.sort_by_key(|(zone, weight)| (std::cmp::Reverse(*weight), *zone));
        let strained = self.by_strain();
        for (zone, lost) in zones {
            if lost == self.total {
                self.report_only_zone(context, index, zone);
                return;
            }
            let survivor = strained
                .iter()
                .find(|(_, backend, ..)| backend.zone.as_deref() != Some(zone));
            let Some((place, backend, weight, limit)) = survivor else {
                continue;
            };
            if let Some(load) = self.excess(*weight, *limit, lost) {
                let cause = format!("zone {zone}");
                self.report(context, (index, *place), backend, &cause, load, *limit);
                return;
            }
        }
    }

    fn report_only_zone(&self, context: &mut Context<'_>, index: usize, zone: &str) {
        // One backend in one zone is what `single-backend` is about.
        if in_use(self.service).count() < 2 {
            return;
        }
        let message = format!(
            "service {}: without zone {zone} no backend is left",
            self.service.name
        );
        let place = Place::Service(index, "peak_flows_per_second");
        context.report(&rules::CAPACITY_N_1, place, message, |finding| {
            finding.help("add backends in another zone")
        });
    }

    fn report(
        &self,
        context: &mut Context<'_>,
        (index, place): (usize, usize),
        backend: &Backend,
        cause: &str,
        load: u128,
        limit: u64,
    ) {
        let message = format!(
            "service {}: without {cause}, backend {} would get {load} new flows a second at peak, limit {limit}",
            self.service.name, backend.name
        );
        let place = Place::Backend(index, place, "capacity_flows_per_second");
        context.report(&rules::CAPACITY_N_1, place, message, |finding| {
            finding.help("add backends, in several zones, until one can be missing")
        });
    }
}

/// Compares the slots of the table that would be installed with the weights.
fn table_share(
    context: &mut Context<'_>,
    index: usize,
    service: &Service,
    total: u64,
    slots: &[u32],
) {
    let size: u64 = slots.iter().map(|count| u64::from(*count)).sum();
    let mut wrong = 0_usize;
    let mut worst: Option<(u64, usize)> = None;
    for (place, backend) in service.backends.iter().enumerate() {
        let weight = weight_in_use(backend);
        let count = u64::from(slots.get(place).copied().unwrap_or(0));
        // Both sides times `total`: the share is size * weight / total.
        let share = size * weight;
        let off = (count * total).abs_diff(share);
        let starved = weight > 0 && count == 0;
        if starved || (off * 100 > share && off > 2 * total) {
            wrong += 1;
            let badness = if starved { u64::MAX } else { off };
            if worst.is_none_or(|(most, _)| badness > most) {
                worst = Some((badness, place));
            }
        }
    }
    let Some((_, place)) = worst else {
        return;
    };
    let backend = &service.backends[place];
    let mut message = format!(
        "service {}: backend {} has {} of {size} slots, its weight's share is {:.1}",
        service.name,
        backend.name,
        slots.get(place).copied().unwrap_or(0),
        size as f64 * weight_in_use(backend) as f64 / total as f64
    );
    if wrong > 1 {
        message.push_str(&format!("; {} more are off", wrong - 1));
    }
    let place = Place::Backend(index, place, "weight");
    context.report(&rules::TABLE_SHARE, place, message, |finding| {
        finding.help("use a larger `table_size` in `[node]`, or weights that are less uneven")
    });
}
