//! The rules about the step from what runs to a candidate.
//!
//! What goes has no place in the new text: it is named at the service it was
//! in, or at the file as a whole.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::established::covers;
use super::types::{Fate, Plan};
use super::{Base, Proofs, to_prove};
use crate::config::capacity::{is_wanted, total_weight, weight_in_use};
use crate::config::check::finding;
use crate::config::check::rules::{self, Rule};
use crate::config::diagnostic::Finding;
use crate::config::model::{Config, Service};
use crate::config::spans::{Place, Spans};
use crate::probe::scheduler::TargetId;
use crate::watch::drains;

/// Services in force that one change may touch.
const MAX_TOUCHED: usize = 10;
/// Of a service's backends or weight, one in so many may go at once.
const LEAST_LOST: u64 = 4;
/// Of a table's slots, one in so many may move without need.
const FEW: u64 = 100;

/// What the rules find about the step to `candidate`, whose plan is `plan`.
pub fn findings(
    base: &Base,
    candidate: &Config,
    spans: &Spans,
    plan: &Plan,
    proofs: &Proofs,
) -> Vec<Finding> {
    let mut rules = Rules {
        base,
        candidate,
        spans,
        positions: positions(candidate),
        found: Vec::new(),
    };
    rules.stale_base();
    rules.touched(plan);
    let running = base.services();
    for change in &plan.services {
        let before = running.get(change.name.as_str());
        match (before, rules.positions.get(change.name.as_str()).copied()) {
            (Some(before), None) => rules.removed(before),
            (Some(before), Some(at)) => {
                let after = &candidate.services[at];
                rules.left(at, before, after);
                rules.shrunk(at, before, after);
            }
            (None, _) => {}
        }
    }
    rules.churn(plan);
    rules.unproven(proofs);
    rules.drains();
    rules.found
}

fn positions(config: &Config) -> HashMap<&str, usize> {
    let services = config.services.iter().enumerate();
    services
        .map(|(at, service)| (service.name.as_str(), at))
        .collect()
}

struct Rules<'a> {
    base: &'a Base,
    candidate: &'a Config,
    spans: &'a Spans,
    positions: HashMap<&'a str, usize>,
    found: Vec<Finding>,
}

impl Rules<'_> {
    fn report(&mut self, rule: &'static Rule, place: Place, message: String, help: &str) {
        let found = finding(self.candidate, self.spans, rule, place, message).help(help);
        self.found.push(found);
    }

    fn stale_base(&mut self) {
        let (Some(based_on), Some(running)) = (self.candidate.based_on, self.base.revision) else {
            return;
        };
        if based_on == running {
            return;
        }
        let message = format!("the file is based on revision {based_on}, and {running} is running");
        let help = format!(
            "take up what changed since (`balancer diff {based_on} {running}`), then set \
             `based_on = {running}`"
        );
        self.report(&rules::STALE_BASE, Place::Top("based_on"), message, &help);
    }

    /// Services that did not exist are touched by nobody.
    fn touched(&mut self, plan: &Plan) {
        let touched = plan.services.iter().filter(|it| it.fate != Fate::Added);
        let count = touched.clone().count();
        if count <= MAX_TOUCHED {
            return;
        }
        let first = touched
            .filter_map(|service| self.positions.get(service.name.as_str()))
            .min()
            .copied();
        let place = first.map_or(Place::File, |at| Place::Service(at, ""));
        let message = format!(
            "the change touches {count} services, limit {MAX_TOUCHED}; the first one is here"
        );
        let message = match first {
            Some(_) => message,
            None => format!("the change touches {count} services, limit {MAX_TOUCHED}"),
        };
        let help = "make it in steps of a few services, or allow `blast-radius` for this change";
        self.report(&rules::BLAST_RADIUS, place, message, help);
    }

    fn removed(&mut self, before: &Service) {
        let message = format!(
            "service {} is removed, and all its flows break",
            before.name
        );
        let mut found = finding(
            self.candidate,
            self.spans,
            &rules::BLAST_RADIUS,
            Place::File,
            message,
        )
        .help("leave it in the file, or allow `blast-radius` for this change");
        found.path = format!("service.{}", before.name);
        self.found.push(found);
    }

    /// A service that clients find no more where it was is as good as gone.
    fn left(&mut self, at: usize, before: &Service, after: &Service) {
        let (key, what) = if before.address != after.address {
            ("address", format!("the address {}", before.address))
        } else if before.protocol != after.protocol {
            ("protocol", before.protocol.to_string())
        } else if !covers(after, before) {
            ("port", "some of its ports".to_owned())
        } else {
            return;
        };
        let message = format!(
            "service {}: {what} is no longer served, and flows to it break",
            before.name
        );
        let help = "add a service beside the old one, and remove that once clients have moved";
        let place = Place::Service(at, key);
        self.report(&rules::BLAST_RADIUS, place, message, help);
    }

    /// Backends that go, or whose weight is lowered. What counts is their
    /// share: where all weights are halved, nothing is lost.
    fn shrunk(&mut self, at: usize, before: &Service, after: &Service) {
        let stays: HashMap<(&str, IpAddr), u64> = after
            .backends
            .iter()
            .map(|it| ((it.name.as_str(), it.address), weight_in_use(it)))
            .collect();
        let weight_after = |name: &str, address| stays.get(&(name, address)).copied();
        let (all, total) = (before.backends.len() as u64, total_weight(before));
        let total_after = total_weight(after);
        // Both sides times both totals, so that all is between whole numbers.
        let whole = u128::from(total) * u128::from(total_after.max(1));
        let (mut gone, mut lost) = (0, 0_u128);
        for backend in &before.backends {
            let after = weight_after(&backend.name, backend.address);
            gone += u64::from(after.is_none());
            let (had, has) = (weight_in_use(backend), after.unwrap_or(0));
            if has < had {
                let share_before = u128::from(had) * u128::from(total_after.max(1));
                lost += share_before.saturating_sub(u128::from(has) * u128::from(total));
            }
        }
        let what = if gone * LEAST_LOST > all {
            format!("{gone} of its {all} backends are removed")
        } else if lost * u128::from(LEAST_LOST) > whole {
            let share = lost as f64 * 100.0 / whole as f64;
            format!("{share:.1} % of its traffic is taken from backends")
        } else {
            return;
        };
        let message = format!("service {}: {what}, limit 25 %", before.name);
        let help = "take them out in several changes, or allow `blast-radius` for this one";
        self.report(&rules::BLAST_RADIUS, Place::Service(at, ""), message, help);
    }

    fn churn(&mut self, plan: &Plan) {
        for service in &plan.services {
            let (Some(required), Some(at)) = (
                service.slots_required,
                self.positions.get(service.name.as_str()),
            ) else {
                continue;
            };
            let moved = service.slots_moved;
            let limit = u64::from(required) * 2;
            let is_few = u64::from(moved) * FEW <= u64::from(service.slots_after);
            if u64::from(moved) <= limit || is_few {
                continue;
            }
            let message = format!(
                "service {}: {moved} of {} slots move, limit {limit}: twice what the weights ask for",
                service.name, service.slots_after
            );
            let help = "keep the backends' names, as these say who gets which slots; or use a \
                        larger `table_size` in `[node]`";
            let place = Place::Service(*at, "");
            self.report(&rules::CHURN, place, message, help);
        }
    }

    fn unproven(&mut self, proofs: &Proofs) {
        for spec in to_prove(self.base, self.candidate) {
            let why = match proofs.get(&spec.id) {
                Some(Ok(())) => continue,
                Some(Err(why)) => why.as_str(),
                None => "it was not probed",
            };
            let Some((service, backend)) = self.place(&spec.id) else {
                continue;
            };
            let message = format!("{} at {} is not proven: {why}", spec.id, spec.address);
            let help = "mend the server or the probe; with the rule allowed, it gets traffic \
                        once it is proven";
            let place = Place::Backend(service, backend, "address");
            self.report(&rules::UNPROVEN_BACKEND, place, message, help);
        }
    }

    fn drains(&mut self) {
        let mut seen = HashSet::new();
        for drain in &self.base.drains {
            let Some((service, backend)) = self.place(&drain.id) else {
                continue;
            };
            if !seen.insert(&drain.id) {
                continue;
            }
            let place = Place::Backend(service, backend, "drain");
            let found = &self.candidate.services[service].backends[backend];
            if is_wanted(found) {
                let message = format!("{} gets new flows, and was drained by command", drain.id);
                let help = "add `drain = true`, or make sure that the drain is over";
                self.report(&rules::UNDRAINS, place, message, help);
            } else if let Some(overdue) = drain.age.and_then(drains::overdue) {
                let message = format!("{} {overdue}", drain.id);
                let help = "remove it, or undrain it with `balancer backend undrain`";
                self.report(&rules::OLD_DRAIN, place, message, help);
            }
        }
    }

    /// Where a backend stands in the candidate.
    fn place(&self, id: &TargetId) -> Option<(usize, usize)> {
        let service = *self.positions.get(id.service.as_str())?;
        let mut backends = self.candidate.services[service].backends.iter();
        let backend = backends.position(|backend| backend.name == id.backend)?;
        Some((service, backend))
    }
}

#[cfg(test)]
mod tests;
