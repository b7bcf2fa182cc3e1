//! `balancer plan`: what a file would do to the running balancer.

mod existing;
mod render;

pub(super) use existing::ExistingArgs;
pub(super) use render::render;

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use clap::error::ErrorKind;

use super::{Exit, bad_usage, block_on, change, file, output};
use crate::api::client::Client;
use crate::api::types::{PlanRequest, Planned};
use crate::config::check::rules;

/// Show what a configuration file would change
///
/// Asks the running balancer to compare the file with what is in force: the
/// share of each backend before and after, what moves from whom to whom, what
/// becomes of established flows, and what the rules say of the step. The last
/// line sums it up. Nothing changes; new backends are probed, as they would
/// have to be proven before they get traffic.
///
/// Exits with 0 if nothing would change, 3 if something would, and 1 if the
/// file or the step has an error, or a warning with `--deny warnings`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print the plan and all findings as JSON
    #[arg(long)]
    json: bool,

    /// Findings of this kind count as errors for the exit code
    #[arg(long, value_name = "KIND", value_enum)]
    deny: Option<Deny>,

    /// Let findings of this rule pass; may be repeated
    ///
    /// Only for this plan: nothing is remembered of it.
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,

    #[command(flatten)]
    existing: ExistingArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deny {
    /// Warnings too
    Warnings,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let refusal = args
        .allow
        .iter()
        .find_map(|id| rules::find_allowable(id).err());
    if let Some((message, help)) = refusal {
        return Ok(bad_usage(
            ErrorKind::InvalidValue,
            format!("{message}; {help}"),
        ));
    }
    let (name, text) = file::read_source(&args.file)?;
    let mut request = PlanRequest {
        text,
        name,
        allow: args.allow.clone(),
        color: !args.json && output::stdout_has_color(),
        ..PlanRequest::default()
    };
    args.existing.add_to(&mut request)?;
    let planned = change::refused(block_on(client.plan(&request))?).context("not planned")?;
    if args.json {
        output::print_json(&planned)?;
    } else {
        output::print(&render(&planned))?;
    }
    let exit = exit(&planned, args.deny.is_some());
    // The process ends: to free a hundred thousand backends first takes longer.
    std::mem::forget(planned);
    Ok(exit)
}

/// A change that only a restart takes cannot be made, as little as one with
/// an error.
pub(super) fn exit(planned: &Planned, deny_warnings: bool) -> Exit {
    let denied = planned.errors > 0 || deny_warnings && planned.warnings > 0;
    match &planned.plan {
        Some(plan) if !denied && plan.needs_restart.is_empty() => match plan.has_changes {
            true => Exit::Changes,
            false => Exit::Done,
        },
        _ => Exit::Findings,
    }
}

#[cfg(test)]
mod tests;
