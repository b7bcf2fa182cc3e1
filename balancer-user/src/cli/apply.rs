//! `balancer apply`: brings a file into force, in stages.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::follow::Follow;
use super::{Exit, block_on, change, file, output, plan};
use crate::api::client::Client;
use crate::api::types::{ApplyRequest, How, PlanRequest};
use crate::config::parse::apply::check_stages;

/// Bring a file into force in stages, and undo it if it does harm
///
/// The file is checked, and what would change is shown and asked about. Then
/// the change is stored as a revision, new backends have to pass their
/// probes, and the slots that move do so in stages. After each stage the
/// balancer looks at what its kernel program counts of the services that
/// change: handshakes that do not finish, handshakes that are slow, resets,
/// shares that are not those of the slots, one backend that gets most of the
/// traffic, a backend that goes down. A stage that does harm is undone at
/// once, flows included, and the command says why and exits with 1.
///
/// A command that is interrupted leaves the change to the daemon, which goes
/// on with it. `balancer rollback` undoes a change under way.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration file; `-` is stdin
    file: PathBuf,

    #[command(flatten)]
    how: HowArgs,

    #[command(flatten)]
    existing: plan::ExistingArgs,

    /// Do not ask; needed where stdin is no terminal
    #[arg(long, short)]
    yes: bool,

    /// Only show what would change, as `plan` does
    #[arg(long)]
    dry_run: bool,

    /// Print every event as JSON, one a line
    #[arg(long)]
    json: bool,
}

/// How a change comes into force.
#[derive(Debug, clap::Args)]
pub(super) struct HowArgs {
    /// Percent of the slots that move after each stage, such as 1,10,50,100
    ///
    /// Left out, the file's `[apply]` says it.
    #[arg(long, value_name = "PERCENTS", value_delimiter = ',')]
    stages: Option<Vec<u8>>,

    /// How long each stage is watched, such as 10s; 0s does not watch
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    hold: Option<Duration>,

    /// Undo the change unless `balancer confirm` is typed within that time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    confirm_within: Option<Duration>,

    /// Why the change is made, for the history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    /// Allow what a rule finds, for this change; the history keeps it
    ///
    /// What the watch sees is not allowed with it.
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
}

impl HowArgs {
    pub(super) fn how(&self) -> anyhow::Result<How> {
        if let Some(stages) = &self.stages
            && let Err(fault) = check_stages(stages)
        {
            bail!("--stages {fault}; write ascending percents up to 100, such as 1,10,50,100");
        }
        let millis = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
        Ok(How {
            allow: self.allow.clone(),
            reason: self.reason.clone(),
            stages: self.stages.clone(),
            hold_millis: self.hold.map(millis),
            confirm_within_millis: self.confirm_within.map(millis),
        })
    }
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let how = args.how.how()?;
    // What is planned is what is applied, whatever becomes of the file.
    let (name, text) = file::read_source(&args.file)?;
    let mut request = PlanRequest {
        text: text.clone(),
        name: name.clone(),
        allow: how.allow.clone(),
        color: !args.json && output::stdout_has_color(),
        ..PlanRequest::default()
    };
    args.existing.add_to(&mut request)?;
    let planned = change::refused(block_on(client.plan(&request))?)?;
    if args.json {
        output::print_line(&planned)?;
    } else {
        output::print(&plan::render(&planned))?;
    }
    let exit = plan::exit(&planned, false);
    if args.dry_run || exit != Exit::Changes {
        return Ok(exit);
    }
    if !args.yes && !ask("bring it into force?")? {
        output::note(format_args!("nothing changed"));
        return Ok(Exit::Findings);
    }
    let request = ApplyRequest { name, text, how };
    let mut follow = Follow::new(args.json, true);
    let last = block_on(client.apply(&request, &mut |event| follow.tell(event)))?;
    follow.finish(&change::refused(last)?)
}

/// Asks a person; where there is none, nothing may happen.
pub(super) fn ask(question: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("stdin is no terminal, so nobody can be asked; `--yes` says that it is meant");
    }
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} [y/N] ").context("asking")?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("reading the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
