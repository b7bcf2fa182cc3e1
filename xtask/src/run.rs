//! `run`: builds, then becomes the daemon.

use std::process::Command;

use anyhow::Result;

use crate::workspace::{Workspace, require_root};
use crate::{build, process};

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for `balancer run`, such as `--config FILE`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Builds, then executes `balancer run ARGS`.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require_root("run", "attaches a program to network interfaces")?;
    build::run(workspace, &build::Args::default())?;
    let mut balancer = Command::new(workspace.balancer("release"));
    match process::exec(balancer.arg("run").args(&args.args))? {}
}
