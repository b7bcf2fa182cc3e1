//! The front door: `cargo xtask COMMAND` for everything a plain cargo command
//! cannot do.
//!
//! One file a command; [`lab`] has those that are programs of the tests crate.
//! What they share stands in [`workspace`] (paths, a cargo whose environment is
//! known) and [`process`] (running programs, errors that name the command).
//! Results and progress go to stdout, errors to stderr; the exit code is 0 for
//! done, 1 for failed, 2 for bad usage.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use setup::Scope;
use workspace::Workspace;

mod build;
mod check;
mod fuzz;
mod lab;
mod package;
mod process;
mod run;
mod setup;
mod test;
mod tidy;
mod workspace;

/// Sets up, builds, runs, tests and checks the balancer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Finds or installs all that build, lab and tests need, one line an item.
    ///
    /// Installs Debian packages as root and removes none; no service is left
    /// enabled or running that was not before. bpf-linker goes under
    /// `target/tools`. Mounts bpffs at /sys/fs/bpf. Run a second time it only
    /// looks.
    Setup(setup::Args),
    /// Builds the kernel program, then the `balancer` binary that carries it.
    ///
    /// Needs no root. Installs nothing: what is missing is named.
    Build(build::Args),
    /// Makes a Debian package of the binary and all that goes with it.
    ///
    /// Needs no root. The package goes to `target/package`.
    Package(package::Args),
    /// Builds, then runs the daemon: `cargo xtask run -- --config FILE`.
    ///
    /// Attaches to the interfaces that the file names and forwards real
    /// traffic until it is stopped. Needs root.
    Run(run::Args),
    /// Shows the balancer at work in a lab of network namespaces.
    ///
    /// Sets up, builds, makes the lab, and removes the lab at the end, unless
    /// `--keep` says to leave it. Touches no real interface. Needs root.
    Demo(lab::Args),
    /// Plays drills: five real outages, prevented, undone and explained.
    ///
    /// `cargo xtask drill NAME` plays one, `--list` says which there are.
    /// Reports and charts go to `target/drills`, or where `--out DIR` says. Sets
    /// up and builds before; touches no real interface. Needs root.
    Drill(lab::Args),
    /// Soaks the balancer: random faults and changes under load, for 20 minutes.
    ///
    /// `--minutes N` and `--seed N` say otherwise. The report goes to
    /// `target/soak`. Exits with 1 when a request failed that no fault ate, or
    /// when something grew. Sets up and builds before. Needs root.
    Soak(lab::Args),
    /// Runs all tests: unit and property first, then those that need root.
    ///
    /// Sets up and builds before. The suites that need root make network
    /// namespaces and load programs into this kernel, and clean up after
    /// themselves.
    Test(test::Args),
    /// Fuzzes what reads bytes from outside: packets, the file, the API.
    ///
    /// Needs no root but for installing: cargo-fuzz goes under `target/tools`.
    /// Keeps what it learnt in `target/fuzz/corpus`; the inputs it begins with
    /// are in `fuzz/seeds`. Exits with 1 when an input breaks a target, and
    /// says which and how to run it again.
    Fuzz(fuzz::Args),
    /// Everything that must hold before a change goes in, but the tests.
    ///
    /// Format, clippy, documentation and tidy; needs neither root nor a BPF
    /// tool, and changes no source file.
    Check,
    /// Enforces the conventions that a text search can see.
    Tidy,
    /// Measures the data path in the lab; arguments go to the benchmark.
    ///
    /// Installs nftables and HAProxy to compare with. Needs root, and an idle
    /// machine for figures that mean something.
    Bench(lab::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    let workspace = Workspace::find()?;
    match command {
        Command::Setup(args) => setup::run(&workspace, &args),
        Command::Build(args) => build::run(&workspace, &args),
        Command::Package(args) => package::run(&workspace, &args),
        Command::Run(args) => run::run(&workspace, &args),
        Command::Demo(args) => lab::run(&workspace, "demo", Scope::Lab, &args),
        Command::Drill(args) => lab::run(&workspace, "drill", Scope::Lab, &args),
        Command::Soak(args) => lab::run(&workspace, "soak", Scope::Lab, &args),
        Command::Test(args) => test::run(&workspace, &args),
        Command::Fuzz(args) => fuzz::run(&workspace, &args),
        Command::Check => check::run(&workspace),
        Command::Tidy => tidy::run(&workspace),
        Command::Bench(args) => lab::run(&workspace, "bench", Scope::Bench, &args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_after_the_command_reach_the_program() {
        let cli = Cli::try_parse_from(["x", "run", "--", "--config", "f.toml"]);
        let Ok(Cli {
            command: Command::Run(args),
        }) = cli
        else {
            panic!("`run -- --config f.toml` must parse");
        };
        assert_eq!(args.args, ["--config", "f.toml"]);
    }

    #[test]
    fn drill_takes_names_and_flags() {
        let cli = Cli::try_parse_from(["x", "drill", "wrong-servers", "--out", "d"]);
        let Ok(Cli {
            command: Command::Drill(args),
        }) = cli
        else {
            panic!("`drill wrong-servers --out d` must parse");
        };
        assert_eq!(args.args, ["wrong-servers", "--out", "d"]);
    }

    #[test]
    fn demo_takes_flags_it_does_not_know() {
        let cli = Cli::try_parse_from(["x", "demo", "--keep"]);
        let Ok(Cli {
            command: Command::Demo(args),
        }) = cli
        else {
            panic!("`demo --keep` must parse");
        };
        assert_eq!(args.args, ["--keep"]);
    }
}
