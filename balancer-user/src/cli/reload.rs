//! `balancer reload`: the daemon reads its file again.

use super::follow::Follow;
use super::{Exit, block_on, change};
use crate::api::client::Client;

/// Have the running balancer read its file again
///
/// The file is checked first; with an error in it nothing changes and the
/// running configuration stays in force. Otherwise it comes into force as
/// `apply` would bring it: in stages, watched, and undone if it does harm.
/// Flows of backends that stay are kept, flows of backends that the file no
/// longer names break, and services and backends that were added by command
/// are gone unless the file has them. Drains made by command are kept.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print every event as JSON, one a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let mut follow = Follow::new(args.json, false);
    let last = block_on(client.reload(&mut |event| follow.tell(event)))?;
    follow.finish(&change::refused(last)?)
}
