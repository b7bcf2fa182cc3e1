//! The live rules over a snapshot. Pure: no file, no socket, no clock.

mod answers;
mod by_vip;
mod interfaces;
mod peers;
mod ways;

use super::host::Host;
use crate::config::capacity::is_wanted;
use crate::config::check;
use crate::config::diagnostic::Finding;
use crate::config::model::Config;
use crate::config::spans::Spans;

/// All findings of the live rules; with empty `spans` they have paths but no
/// places.
pub fn check(config: &Config, spans: &Spans, host: &Host) -> Vec<Finding> {
    let mut context = Context::new(config, spans, host);
    interfaces::check(&mut context);
    ways::check(&mut context);
    by_vip::check(&mut context);
    answers::check(&mut context);
    peers::check(&mut context);
    context.findings
}

type Context<'a> = check::Context<'a, &'a Host>;

#[cfg(test)]
mod tests;
