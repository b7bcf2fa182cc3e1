//! `bench`: figures for the data path, taken in the lab.

use anyhow::Result;

use crate::demo;
use crate::setup::{self, Scope};
use crate::workspace::{Workspace, require_root};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments for the benchmark; `-- --help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Sets up, builds, then executes the benchmark.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    require_root(
        "bench",
        "makes network namespaces and loads a program into the kernel",
    )?;
    setup::ensure(workspace, Scope::Bench)?;
    demo::exec_lab_program(workspace, "bench", &args.args)
}
