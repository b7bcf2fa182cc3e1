//! `balancer man`: the manual pages.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::{Cli, Exit, output};

/// Print the manual page, or write all of them to a directory
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write one page a command to this directory, replacing what has their
    /// names, instead of printing the main page
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("writing manual pages to {}", dir.display()))?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .context("writing the manual page")?;
    output::print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Done)
}
