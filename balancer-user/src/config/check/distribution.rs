//! Rules about who gets how much traffic.
//!
//! All comparisons are between whole numbers, multiplied out: a limit is met
//! or it is not, without rounding.

use super::super::capacity::{Load, Strain, ZoneLoss, in_use, total_weight, weight_in_use};
use super::super::model::Service;
use super::super::prime::{MAX_TABLE_SIZE, table_size_from};
use super::super::spans::Place;
use super::{Context, SlotCounts, rules};

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
        if let Some(load) = Load::of(service) {
            capacity(context, index, service, &load);
            after_backend_loss(context, index, service, &load);
            after_zone_loss(context, index, service, &load);
        }
        if let Some(tables) = tables {
            let size = context.config.node.table_size;
            table_share(context, index, service, total, &tables(service, size));
        }
    }
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

/// Reports the backends that the declared peak overloads.
fn capacity(context: &mut Context<'_>, index: usize, service: &Service, load: &Load<'_>) {
    for strain in load.strains().into_iter().filter(|it| it.exceeds) {
        let message = format!(
            "service {}: backend {} would get {} new flows a second at peak, limit {}",
            service.name, service.backends[strain.backend].name, strain.load, strain.limit
        );
        let related = context
            .spans
            .find(Place::Service(index, "peak_flows_per_second"));
        let place = Place::Backend(index, strain.backend, "capacity_flows_per_second");
        context.report(&rules::CAPACITY, place, message, |finding| {
            finding
                .help("lower its `weight` or add backends")
                .related(related, "the declared peak")
        });
    }
}

fn after_backend_loss(context: &mut Context<'_>, index: usize, service: &Service, load: &Load<'_>) {
    if let Some((lost, strain)) = load.after_backend_loss() {
        let cause = format!("backend {}", lost.name);
        after_loss(context, index, service, &cause, strain);
    }
}

fn after_zone_loss(context: &mut Context<'_>, index: usize, service: &Service, load: &Load<'_>) {
    match load.after_zone_loss() {
        None => {}
        Some(ZoneLoss::Strained { zone, survivor }) => {
            after_loss(context, index, service, &format!("zone {zone}"), survivor);
        }
        // One backend in one zone is what `single-backend` is about.
        Some(ZoneLoss::All { .. }) if in_use(service).count() < 2 => {}
        Some(ZoneLoss::All { zone }) => {
            let message = format!(
                "service {}: without zone {zone} no backend is left",
                service.name
            );
            let place = Place::Service(index, "peak_flows_per_second");
            context.report(&rules::CAPACITY_N_1, place, message, |finding| {
                finding.help("add backends in another zone")
            });
        }
    }
}

fn after_loss(
    context: &mut Context<'_>,
    index: usize,
    service: &Service,
    cause: &str,
    strain: Strain,
) {
    if !strain.exceeds {
        return;
    }
    let message = format!(
        "service {}: without {cause}, backend {} would get {} new flows a second at peak, limit {}",
        service.name, service.backends[strain.backend].name, strain.load, strain.limit
    );
    let place = Place::Backend(index, strain.backend, "capacity_flows_per_second");
    context.report(&rules::CAPACITY_N_1, place, message, |finding| {
        finding.help("add backends, in several zones, until one can be missing")
    });
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
