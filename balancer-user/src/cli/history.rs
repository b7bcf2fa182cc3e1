//! `balancer history`, `show` and `diff`: revisions.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::anyhow;

use super::table::{Column, Table};
use super::{Exit, block_on, change, output, units};
use crate::api::client::Client;
use crate::api::types::History;
use crate::revision::diff as meaning;
use crate::revision::{Answers, Figures, Outcome, Revision, UnixSeconds};

/// List the revisions: every configuration that was to come into force
///
/// The newest first, with who made it, when, and what became of it. The one
/// in force has a star.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// At most so many
    #[arg(long, short = 'n', default_value_t = 20)]
    number: usize,

    /// Print all revisions whole, as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let history = change::refused(block_on(client.history())?)?;
    if args.json {
        output::print_json(&history)?;
        return Ok(Exit::Done);
    }
    output::print(&render(&history, args.number))?;
    for (number, why) in &history.damaged {
        output::note(format_args!("revision {number} is damaged: {why}"));
    }
    Ok(Exit::Done)
}

fn render(history: &History, limit: usize) -> String {
    let mut table = Table::new(
        &[
            Column::Number("revision"),
            Column::Text(""),
            Column::Text("made at"),
            Column::Text("by"),
            Column::Text("outcome"),
            Column::Text("what"),
        ],
        output::stdout_has_color(),
    );
    for revision in history.revisions.iter().rev().take(limit) {
        let is_in_force = history.in_force == Some(revision.number);
        let mut what = revision.summary.clone();
        if let Some(reason) = &revision.reason {
            let _ = write!(what, " ({reason})");
        }
        if let Outcome::Undone { why, .. } = &revision.outcome {
            let _ = write!(what, "; undone: {why}");
        }
        table.row([
            revision.number.to_string(),
            if is_in_force { "*" } else { "" }.to_owned(),
            moment(revision.made_at),
            revision.author.to_string(),
            revision.outcome.name().to_owned(),
            what,
        ]);
    }
    table.render("")
}

/// UTC, as in `2026-05-17 08:30:00`.
pub(super) fn moment(at: UnixSeconds) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(at);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace('T', " ").trim_end_matches('Z').to_owned()
}

/// Show a revision: who, when, why, its stages and its configuration
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Its number; left out, the one in force
    revision: Option<u64>,

    /// Print only the configuration, as a file
    #[arg(long, conflicts_with = "json")]
    config: bool,

    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn show(args: &ShowArgs, client: &Client) -> anyhow::Result<Exit> {
    let number = in_force_unless(args.revision, client)?;
    let stored = change::refused(block_on(client.revision(number))?)?;
    if args.json {
        output::print_json(&stored)?;
    } else if args.config {
        output::print(&stored.config)?;
    } else {
        output::print(&format!("{}\n{}", about(&stored.revision), stored.config))?;
    }
    Ok(Exit::Done)
}

fn in_force_unless(number: Option<u64>, client: &Client) -> anyhow::Result<u64> {
    if let Some(number) = number {
        return Ok(number);
    }
    let history = change::refused(block_on(client.history())?)?;
    history
        .in_force
        .ok_or_else(|| anyhow!("no revision is in force; name one, `balancer history` lists them"))
}

fn about(revision: &Revision) -> String {
    let mut text = format!(
        "revision  {} ({}), {}\nmade      {} by {}\nwhat      {}\ndigest    {}\n",
        revision.number,
        revision.cause.name(),
        ending(&revision.outcome),
        moment(revision.made_at),
        revision.author,
        revision.summary,
        revision.config_digest,
    );
    let mut lines = Vec::new();
    if let Some(parent) = revision.parent {
        lines.push(("after", format!("revision {parent}")));
    }
    lines.extend(revision.reason.clone().map(|reason| ("why", reason)));
    let changes = revision.origin.changes.iter();
    lines.extend(changes.map(|change| ("changed", change.to_string())));
    for drain in &revision.origin.drains {
        let since = moment(drain.since);
        let text = format!("service {}: {} since {since}", drain.service, drain.backend);
        lines.push(("drains", text));
    }
    for allowed in &revision.allowed {
        let text = format!("{}: {} ({})", allowed.rule, allowed.message, allowed.reason);
        lines.push(("allowed", text));
    }
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<9} {value}");
    }
    for stage in &revision.stages {
        let verdict = match stage.good {
            Some(true) => "good",
            Some(false) => "bad",
            None => "no verdict",
        };
        let began = moment(stage.began_at);
        let _ = writeln!(text, "stage     {} % at {began}: {verdict}", stage.percent);
        text.push_str(&figures(&stage.figures));
    }
    text
}

fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Pending => "pending".to_owned(),
        Outcome::Committed { at } => format!("committed at {}", moment(*at)),
        Outcome::Undone { at, why } => format!("undone at {}: {why}", moment(*at)),
        Outcome::Interrupted { at } => {
            format!(
                "never in force: the daemon ended meanwhile, noticed at {}",
                moment(*at)
            )
        }
    }
}

fn figures(figures: &[Figures]) -> String {
    let mut table = Table::new(
        &[
            Column::Text("service"),
            Column::Text("backend"),
            Column::Number("slots"),
            Column::Number("new flows"),
            Column::Number("seen"),
            Column::Number("bad handshakes"),
            Column::Number("time"),
            Column::Number("answers"),
            Column::Number("errors"),
            Column::Number("in"),
        ],
        false,
    );
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), units::percent);
    let time = |micros: Option<u64>| micros.map_or_else(|| "-".to_owned(), units::took);
    for it in figures {
        let said = |count: fn(Answers) -> u64| {
            let answers = it.answers.map(|answers| count(answers).to_string());
            answers.unwrap_or_else(|| "-".to_owned())
        };
        table.row([
            it.service.clone(),
            it.backend.clone(),
            units::percent(it.share_expected),
            it.flows.to_string(),
            percent(it.share_seen),
            percent(it.handshakes_bad),
            time(it.handshake_micros),
            said(|answers| answers.asked),
            said(|answers| answers.errors),
            time(it.answers.and_then(|answers| answers.median_micros)),
        ]);
    }
    table.render("          ")
}

/// Show what differs between two revisions, by meaning and not by text
///
/// A line a difference: `+` is new, `-` is gone, `~` is another value. Exit
/// code 0 if nothing differs, 3 if something does.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The earlier revision
    before: u64,

    /// The later one; left out, the one in force
    after: Option<u64>,

    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn diff(args: &DiffArgs, client: &Client) -> anyhow::Result<Exit> {
    let after = in_force_unless(args.after, client)?;
    let config = |number| -> anyhow::Result<String> {
        Ok(change::refused(block_on(client.revision(number))?)?.config)
    };
    let differences =
        meaning::diff(&config(args.before)?, &config(after)?).map_err(anyhow::Error::msg)?;
    if args.json {
        output::print_json(&differences)?;
    } else {
        let lines: String = differences.iter().map(|it| format!("{it}\n")).collect();
        output::print(&lines)?;
    }
    Ok(if differences.is_empty() {
        Exit::Done
    } else {
        Exit::Changes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_utc_and_to_the_second() {
        assert_eq!(moment(0), "1970-01-01 00:00:00");
        assert_eq!(moment(1_779_006_600), "2026-05-17 08:30:00");
    }
}
