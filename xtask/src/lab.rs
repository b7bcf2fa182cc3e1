//! `bench`, `demo`, `drill` and `soak`: programs of the tests crate that have
//! the balancer at work in a lab of network namespaces.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Scope};
use crate::workspace::{Workspace, require_root};
use crate::{build, process};

/// Arguments of these commands.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for the program; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Sets up what `scope` says, builds everything and becomes the program `name`
/// of the tests crate.
pub(crate) fn run(workspace: &Workspace, name: &str, scope: Scope, args: &Args) -> Result<()> {
    require_root(
        name,
        "makes network namespaces and loads a program into the kernel",
    )?;
    setup::ensure(workspace, scope)?;
    build::run(workspace, &build::Args::default())?;
    let mut cargo = workspace.cargo_in_target("build");
    process::run(cargo.args(["--release", "--package", "balancer-tests", "--bin", name]))?;
    let mut program = Command::new(workspace.path("target/release").join(name));
    program.env("BALANCER_BIN", workspace.balancer("release"));
    match process::exec(program.args(&args.args))? {}
}
