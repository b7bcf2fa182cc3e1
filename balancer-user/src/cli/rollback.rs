//! `balancer rollback` and `balancer confirm`: the two ends of a change.

use std::time::Duration;

use super::apply::{HowArgs, ask};
use super::follow::Follow;
use super::{Exit, block_on, change, output};
use crate::api::client::Client;
use crate::api::types::RollbackRequest;

/// Bring an earlier configuration into force again
///
/// Without a number: while a change is under way, that one is undone at once;
/// otherwise it goes back to the last good revision before the one in force.
/// A rollback is a change like any other, with stages and a watch, and gets a
/// revision of its own; `--now` moves all at once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of the revision; `balancer history` lists them
    revision: Option<u64>,

    /// Move all slots at once, without holds
    #[arg(long, conflicts_with_all = ["stages", "hold"])]
    now: bool,

    #[command(flatten)]
    how: HowArgs,

    /// Do not ask; needed where stdin is no terminal
    #[arg(long, short)]
    yes: bool,

    /// Print every event as JSON, one a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let mut how = args.how.how()?;
    if args.now {
        how.stages = Some(vec![100]);
        how.hold_millis = Some(Duration::ZERO.as_millis() as u64);
    }
    let history = change::refused(block_on(client.history())?)?;
    let question = match (args.revision, &history.change_under_way) {
        (Some(number), _) => format!("go back to revision {number}?"),
        (None, Some(change)) => format!("undo this change? {change}"),
        (None, None) => "go back to the last good revision?".to_owned(),
    };
    if !args.yes && !ask(&question)? {
        output::note(format_args!("nothing changed"));
        return Ok(Exit::Findings);
    }
    let request = RollbackRequest {
        revision: args.revision,
        how,
    };
    let is_undoing = args.revision.is_none() && history.change_under_way.is_some();
    let mut follow = Follow::new(args.json, false);
    let last = block_on(client.rollback(&request, &mut |event| follow.tell(event)))?;
    let exit = follow.finish(&change::refused(last)?)?;
    // Who wants a change undone has what he wants when it is.
    Ok(if is_undoing { Exit::Done } else { exit })
}

/// Say that the change under way is good
///
/// Ends the wait of `--confirm-within`; typed before the last stage, the
/// change goes on and waits for nobody.
#[derive(Debug, clap::Args)]
pub(super) struct ConfirmArgs {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn confirm(args: &ConfirmArgs, client: &Client) -> anyhow::Result<Exit> {
    let said = change::refused(block_on(client.confirm())?)?;
    if args.json {
        output::print_json(&said)?;
    } else {
        output::print(&format!("{}\n", said.summary))?;
    }
    Ok(Exit::Done)
}
