//! `drill`: real outages, rebuilt in the lab.

use anyhow::Result;

use crate::demo;
use crate::setup::{self, Scope};
use crate::workspace::{Workspace, require_root};

/// Arguments of `cargo xtask drill`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Drills to play, all of them if none is named: `--list` says which there
    /// are, `--out DIR` where reports go, `-- --help` the rest.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Sets up, builds, then executes the drills.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require_root(
        "drill",
        "makes network namespaces and loads a program into the kernel",
    )?;
    setup::ensure(workspace, Scope::Lab)?;
    demo::exec_lab_program(workspace, "drill", &args.args)
}
