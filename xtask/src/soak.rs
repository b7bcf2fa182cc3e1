//! `soak`: random faults and changes under load, in the lab.

use anyhow::Result;

use crate::demo;
use crate::setup::{self, Scope};
use crate::workspace::{Workspace, require_root};

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `--minutes N` for how long, `--seed N` for what comes when, `--out DIR`
    /// for where the report goes, `-- --help` for all.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Sets up, builds, then executes the soak.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require_root(
        "soak",
        "makes network namespaces and loads a program into the kernel",
    )?;
    setup::ensure(workspace, Scope::Lab)?;
    demo::exec_lab_program(workspace, "soak", &args.args)
}
