//! Checks how the parts of a configuration fit together.
//!
//! Pure, and linear in the file's length but for sorting: nothing here looks
//! at the host, the network or the running revision. What a single value may
//! be is settled by [`super::parse`] before.

mod distribution;
mod packet_path;
mod probes;
pub mod rules;
mod shape;

use super::diagnostic::Finding;
use super::model::{Config, Service};
use super::parse::Parsed;
use super::spans::{Place, Spans};
use rules::Rule;

/// Tells how many slots each backend of a service, in the file's order,
/// would get in a table of that size.
pub type SlotCounts<'a> = dyn Fn(&Service, u32) -> Vec<u32> + 'a;

/// All findings of the shape and distribution rules; where the text has
/// faults, of the services without one. Without `tables` the rule
/// `table-share` does not run.
pub fn check(parsed: &Parsed, tables: Option<&SlotCounts<'_>>) -> Vec<Finding> {
    match (&parsed.config, &parsed.sound) {
        (Some(config), _) => check_config(config, &parsed.spans, tables),
        (None, Some((config, spans))) => check_config(config, spans, tables),
        (None, None) => Vec::new(),
    }
}

/// As [`check`], for a configuration that did not come from a text; with
/// empty `spans` the findings have paths but no places.
pub fn check_config(
    config: &Config,
    spans: &Spans,
    tables: Option<&SlotCounts<'_>>,
) -> Vec<Finding> {
    let mut context = Context::new(config, spans, ());
    shape::check(&mut context);
    distribution::check(&mut context, tables);
    context.findings
}

/// A finding of `rule` at a place, allowed if the file allows it there. For
/// the rules that live elsewhere, such as those that look at a plan.
pub fn finding(
    config: &Config,
    spans: &Spans,
    rule: &'static Rule,
    place: Place,
    message: impl Into<String>,
) -> Finding {
    let mut finding = Finding::new(rule, place.path(config), message).at(spans.find(place));
    let service = place.service().and_then(|index| config.services.get(index));
    if let Some(service) = service {
        finding.allowed = allowed(service, rule);
    }
    finding
}

/// The reason for which a service allows a rule's findings.
fn allowed(service: &Service, rule: &Rule) -> Option<String> {
    let listed = rule.allowable && service.allow.iter().any(|id| id == rule.id);
    listed.then(|| service.allow_reason.clone().unwrap_or_default())
}

/// What rules read, and where they leave their findings. `H` is what they know
/// of the host; those of this module look at the configuration alone.
pub(crate) struct Context<'a, H = ()> {
    pub(crate) config: &'a Config,
    pub(crate) spans: &'a Spans,
    pub(crate) host: H,
    pub(crate) findings: Vec<Finding>,
}

impl<'a, H> Context<'a, H> {
    pub(crate) fn new(config: &'a Config, spans: &'a Spans, host: H) -> Self {
        Self {
            config,
            spans,
            host,
            findings: Vec::new(),
        }
    }

    /// The services with their positions.
    pub(crate) fn services(&self) -> impl Iterator<Item = (usize, &'a Service)> + use<'a, H> {
        self.config.services.iter().enumerate()
    }

    /// Leaves a finding of `rule` at a place, allowed if the file allows it
    /// there; `adjust` adds to it what it has beyond the usual.
    pub(crate) fn report(
        &mut self,
        rule: &'static Rule,
        place: Place,
        message: impl Into<String>,
        adjust: impl FnOnce(Finding) -> Finding,
    ) {
        let finding = finding(self.config, self.spans, rule, place, message);
        self.findings.push(adjust(finding));
    }
}

#[cfg(test)]
mod tests;
