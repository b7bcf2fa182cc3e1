//! `balancer reload`: the daemon reads its file again.

use super::{Exit, block_on, change};
use crate::api::client::Client;

/// Have the running balancer read its file again
///
/// The file is checked first; with an error in it nothing changes and the
/// running configuration stays in force. Otherwise the file replaces the
/// running configuration at once: flows of backends that stay are kept,
/// flows of backends that the file no longer names break, and services and
/// backends that were added by command are gone unless the file has them.
/// Drains made by command are kept.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let changed = change::refused(block_on(client.reload())?)?;
    change::print(&changed, args.json)?;
    Ok(Exit::Done)
}
