//! `balancer events`: incidents, as they open, change and end.

use super::history::moment;
use super::{Exit, block_on, change, output, units};
use crate::api::client::Client;
use crate::watch::incident::{Event, Incident};

/// Show what went wrong: incidents, with cause and way out
///
/// An incident opens once and ends once. It says what was expected and seen,
/// the likely cause, the revision in force, and the command that helps. While
/// it is open, and what is seen changes, it is told again once a minute. The
/// daemon keeps the last 1,000 of these events, and of an incident's changes
/// the latest, until it is restarted; its log has them all.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on with what happens, until interrupted
    #[arg(long, short)]
    follow: bool,

    /// Print each event as JSON, one a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let mut printed = Ok(());
    let heard = block_on(client.events(args.follow, |event| {
        printed = match args.json {
            true => output::print_line(&event),
            false => output::print(&render(&event)),
        };
        printed.is_ok()
    }))?;
    printed?;
    change::refused(heard)?;
    Ok(Exit::Done)
}

fn render(event: &Event) -> String {
    match event {
        Event::Opened { incident } => format!(
            "{} #{} {}: {incident}\n{}    try `{}`\n",
            moment(incident.opened_at),
            incident.number,
            incident.kind.name(),
            since(incident),
            incident.command
        ),
        Event::Updated { at, incident } => format!(
            "{} #{} {}: now: {incident}\n",
            moment(*at),
            incident.number,
            incident.kind.name()
        ),
        Event::Closed { incident } => format!(
            "{} #{} {}: over after {}\n",
            moment(incident.closed_at.unwrap_or(incident.opened_at)),
            incident.number,
            incident.kind.name(),
            units::ago(incident.seconds().unwrap_or_default())
        ),
    }
}

fn since(incident: &Incident) -> String {
    let Some(since) = &incident.since else {
        return String::new();
    };
    format!(
        "    revision {} by {}, in force for {} then: {}\n",
        since.revision,
        since.author,
        units::ago(since.seconds_before),
        since.summary
    )
}
