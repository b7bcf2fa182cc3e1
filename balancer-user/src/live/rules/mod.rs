//! The live rules over a snapshot. Pure: no file, no socket, no clock.

mod answers;
mod by_vip;
mod interfaces;
mod peers;
mod ways;

use super::host::Host;
use crate::config::capacity::is_wanted;
use crate::config::check::finding;
use crate::config::check::rules::Rule;
use crate::config::diagnostic::Finding;
use crate::config::model::Config;
use crate::config::spans::{Place, Spans};

/// All findings of the live rules; with empty `spans` they have paths but no
/// places.
pub fn check(config: &Config, spans: &Spans, host: &Host) -> Vec<Finding> {
    let mut context = Context {
        config,
        spans,
        host,
        findings: Vec::new(),
    };
    interfaces::check(&mut context);
    ways::check(&mut context);
    by_vip::check(&mut context);
    answers::check(&mut context);
    peers::check(&mut context);
    context.findings
}

/// What the rules read, and where they leave their findings.
struct Context<'a> {
    config: &'a Config,
    spans: &'a Spans,
    host: &'a Host,
    findings: Vec<Finding>,
}

impl Context<'_> {
    /// Leaves a finding; `adjust` adds to it what it has beyond the usual.
    fn report(
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
