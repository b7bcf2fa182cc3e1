//! The command line: one file a command.
//!
//! Results go to stdout and the rest to stderr. Exit codes are a contract:
//! 0 done, 1 failed or findings, 2 bad usage, and 3 where `plan` and `diff`
//! have changes; a closed pipe on stdout is no error. `anyhow` with context
//! stands here and in the daemon's outermost layer only.

mod apply;
mod backend;
mod capture;
mod change;
mod check;
mod completions;
mod decap;
mod events;
mod explain;
mod file;
mod follow;
mod history;
mod loadtest;
mod logging;
mod man;
mod output;
mod plan;
mod reload;
mod rollback;
mod run;
mod service;
mod shares;
mod status;
mod table;
mod top;
mod trace;
mod units;
mod unload;
mod verify;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::api::client::Client;
use output::Closed;

/// Where a daemon listens unless its file says otherwise.
const SOCKET: &str = "/run/balancer/balancer.sock";

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed or findings, 2 bad usage; `plan` and `diff`: 0 no change, 1 an \
error, 3 there are changes.
Results go to stdout, everything else to stderr. Colour appears only on a \
terminal and never when NO_COLOR is set.";

/// A layer-4 load balancer in the kernel's XDP hook, which cannot be
/// misconfigured quietly.
///
/// `check` a file, `trace` packets through it, then `run` it. A running
/// balancer is asked by `status`, and by `plan` what a file would do, and
/// changed by `service`, `backend` and
/// `reload`.
#[derive(Debug, Parser)]
#[command(name = "balancer", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    /// Control socket of the running balancer
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "BALANCER_SOCKET",
        default_value = SOCKET,
        help_heading = "Global options",
        display_order = 1000
    )]
    socket: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Plan(plan::Args),
    Apply(apply::Args),
    Confirm(rollback::ConfirmArgs),
    Rollback(rollback::Args),
    History(history::Args),
    Show(history::ShowArgs),
    Diff(history::DiffArgs),
    Status(status::Args),
    Top(top::Args),
    Events(events::Args),
    #[command(subcommand)]
    Service(service::Command),
    #[command(subcommand)]
    Backend(backend::Command),
    Reload(reload::Args),
    Explain(explain::Args),
    Trace(trace::Args),
    Capture(capture::Args),
    Loadtest(Box<loadtest::Args>),
    Verify(verify::Args),
    Decap(decap::Args),
    Unload(unload::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// How a command ended that could do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// 0.
    Done,
    /// 1: there are findings, which are printed already.
    Findings,
    /// 2: an argument makes no sense; why is printed already.
    Usage,
    /// 3: there are changes, which are printed already.
    Changes,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Findings => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Changes => Self::from(3),
        }
    }
}

/// Reads the arguments, does what they ask for and gives the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout, which may be closed; that is no error.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => Exit::Usage.into(),
            };
        }
    };
    match execute(cli) {
        Ok(exit) => exit.into(),
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::note(format_args!("error: {error:#}"));
            ExitCode::from(1)
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<Exit> {
    let client = Client::new(cli.socket);
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Plan(args) => plan::run(&args, &client),
        Command::Apply(args) => apply::run(&args, &client),
        Command::Confirm(args) => rollback::confirm(&args, &client),
        Command::Rollback(args) => rollback::run(&args, &client),
        Command::History(args) => history::run(&args, &client),
        Command::Show(args) => history::show(&args, &client),
        Command::Diff(args) => history::diff(&args, &client),
        Command::Status(args) => status::run(&args, &client),
        Command::Top(args) => top::run(&args, &client),
        Command::Events(args) => events::run(&args, &client),
        Command::Service(command) => service::run(&command, &client),
        Command::Backend(command) => backend::run(&command, &client),
        Command::Reload(args) => reload::run(&args, &client),
        Command::Explain(args) => explain::run(&args, &client),
        Command::Trace(args) => trace::run(&args),
        Command::Capture(args) => capture::run(&args, &client),
        Command::Loadtest(args) => loadtest::run(&args, &client),
        Command::Verify(args) => verify::run(&args, &client),
        Command::Decap(args) => decap::run(&args),
        Command::Unload(args) => unload::run(&args, &client),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Says what is wrong with the arguments, as clap does for what it can see.
fn bad_usage(kind: ErrorKind, message: impl std::fmt::Display) -> Exit {
    let _ = Cli::command().error(kind, message).print();
    Exit::Usage
}

/// Runs one conversation; commands need no threads.
fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    Ok(runtime.block_on(future))
}

/// Refuses to go on without root; `why` completes "`COMMAND` needs root".
fn require_root(command: &str, why: &str) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("`balancer {command}` needs root, as it {why}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_argument_is_declared_without_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_has_help() {
        fn look(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }

    #[test]
    fn socket_is_the_one_of_a_file_that_names_none() {
        let file = "[node]\ninterfaces = [\"eth0\"]\n";
        let config = config::examine("test", file, None).config.unwrap();
        assert_eq!(config.node.socket, PathBuf::from(SOCKET));
    }
}
