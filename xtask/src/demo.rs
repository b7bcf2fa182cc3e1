//! `demo`: the balancer at work in a lab of network namespaces.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Scope};
use crate::workspace::{Workspace, require_root};
use crate::{build, process};

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for the demo: `--keep` leaves the lab up to look around in,
    /// `-- --help` lists the rest.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Sets up, builds, then executes the demo.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require_root(
        "demo",
        "makes network namespaces and loads a program into the kernel",
    )?;
    setup::ensure(workspace, Scope::Lab)?;
    exec_lab_program(workspace, "demo", &args.args)
}

/// Builds everything and becomes the program `name` of the tests crate.
pub(crate) fn exec_lab_program(workspace: &Workspace, name: &str, args: &[String]) -> Result<()> {
    build::run(workspace, &build::Args::default())?;
    let mut cargo = workspace.cargo_in_target("build");
    process::run(cargo.args(["--release", "--package", "balancer-tests", "--bin", name]))?;
    let mut program = Command::new(workspace.path("target/release").join(name));
    program.env("BALANCER_BIN", workspace.balancer("release"));
    match process::exec(program.args(args))? {}
}
