//! Backends' shares: of the slots against the weights, and of the flows
//! against the slots.

use super::Candidate;
use super::report::{Difference, Rehearsal};
use super::script::Script;
use crate::desired::Standing;

/// A share of flows is off when it is farther from that of the slots than so
/// many standard deviations of as many draws: by chance less than once in
/// five hundred million.
const DEVIATIONS: f64 = 6.0;

/// Fills the shares of the service that was run last in, and compares them.
pub(super) fn check(rehearsal: &mut Rehearsal, candidate: &Candidate, script: &Script<'_>) {
    let service = script.service;
    let slots = slots(candidate, script);
    let Some(figures) = rehearsal.services.last_mut() else {
        return;
    };
    let all_slots: u64 = slots.iter().map(|count| u64::from(*count)).sum();
    let flows: u64 = figures.backends.iter().map(|it| it.flows).sum();
    let weights = weights(candidate, script);
    let all_weights: u64 = weights.iter().sum();
    let mut differences = Vec::new();
    let mut note = |backend: &str, what: &str, expected: String, seen: String| {
        differences.push(Difference {
            service: service.name.clone(),
            flow: format!("backend {backend}"),
            what: what.to_owned(),
            expected,
            seen,
        });
    };
    for ((backend, count), weight) in figures.backends.iter_mut().zip(slots).zip(&weights) {
        backend.slots = count;
        if all_slots > 0 {
            backend.share_expected = f64::from(count) / all_slots as f64;
        }
        if flows > 0 {
            backend.share_seen = backend.flows as f64 / flows as f64;
        }
        // Of the rule `table-share`: both sides times the sum of the weights.
        let due = all_slots * weight;
        let off = (u64::from(count) * all_weights).abs_diff(due);
        if all_weights > 0 && (off * 100 > due && off > 2 * all_weights) {
            let due = due as f64 / all_weights as f64;
            let expected = format!("{due:.1} of {all_slots} slots by its weight");
            note(&backend.backend, "slots", expected, count.to_string());
        }
        let (share, draws) = (backend.share_expected, flows as f64);
        let due = share * draws;
        let limit = DEVIATIONS * (due * (1.0 - share)).sqrt() + 1.0;
        if (backend.flows as f64 - due).abs() > limit {
            let expected = format!("{due:.0} of {flows} flows, give or take {limit:.0}");
            note(
                &backend.backend,
                "share",
                expected,
                backend.flows.to_string(),
            );
        }
    }
    for difference in differences {
        rehearsal.differ(difference);
    }
}

/// Slots of each backend in the candidate's table.
fn slots(candidate: &Candidate, script: &Script<'_>) -> Vec<u32> {
    let mut counts = vec![0; script.service.backends.len()];
    let names = &candidate.tables.names;
    let state = candidate.tables.state.services.get(&script.id);
    let of_members = state.map_or_else(Vec::new, |state| state.table.counts());
    for (member, count) in (0..).zip(of_members) {
        let name = names.backend(script.id, member);
        if let Some(at) = name.and_then(|name| script.place(name, member)) {
            counts[usize::from(at)] += count;
        }
    }
    counts
}

/// Weights of those that are to get new flows; all zero where the table stays
/// as it was.
fn weights(candidate: &Candidate, script: &Script<'_>) -> Vec<u64> {
    let (service, world) = (script.service, &candidate.world);
    let standing = Standing::of(service, world);
    let weight = |backend| match standing.takes(standing.state(service, backend, world)) {
        true => u64::from(backend.weight),
        false => 0,
    };
    service.backends.iter().map(weight).collect()
}
