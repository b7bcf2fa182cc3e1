//! `balancer service`: the services of a running balancer.

use std::path::PathBuf;

use super::change::{self, Options};
use super::table::{Column, Table};
use super::{Exit, block_on, file, output};
use crate::api::client::Client;
use crate::api::types::{Change, ServiceStatus};

mod fragment;

use fragment::Fragment;

/// List and change the services of the running balancer
///
/// Changes take effect at once and outlive a restart, but stand in no file:
/// once the file is changed, the next `reload` or start undoes them, and says
/// so. Write into the file what is to stay.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(List),
    Add(Box<Add>),
    Remove(Remove),
}

/// List the services with their state
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

/// Add a service
///
/// It is given as a `[[service]]` table with `--file`, or by its name with
/// `--address`, `--port`, `--protocol`, `--forward` and a `--backend` for each
/// server.
///
/// From then on packets for its address, ports and protocol go to its
/// backends instead of up the host's stack, as soon as the first of them
/// passed its probes; until then they are dropped. The service is checked as
/// one in the file is, and an error leaves everything as it was.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Read a `[[service]]` table from this file; `-` reads stdin
    #[arg(long, value_name = "FILE", conflicts_with = "fragment")]
    file: Option<PathBuf>,

    #[command(flatten)]
    fragment: Fragment,

    #[command(flatten)]
    options: Options,
}

/// Remove a service with all its backends: its flows break
///
/// Packets for its address pass up the host's own stack again, which resets
/// flows that it does not know.
#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// The service
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    options: Options,
}

pub(super) fn run(command: &Command, client: &Client) -> anyhow::Result<Exit> {
    let (change, options) = match command {
        Command::List(args) => return list(args, client),
        Command::Add(args) => {
            let toml = match &args.file {
                Some(path) => file::read_text(path)?,
                None => args.fragment.to_toml()?,
            };
            (Change::ServiceAdd { toml }, args.options)
        }
        Command::Remove(args) => {
            let service = args.name.clone();
            (Change::ServiceRemove { service }, args.options)
        }
    };
    change::make(change, options, client)
}

fn list(args: &List, client: &Client) -> anyhow::Result<Exit> {
    let status = block_on(client.status())??;
    if args.json {
        output::print_json(&status.services)?;
    } else {
        output::print(&render(&status.services))?;
    }
    Ok(Exit::Done)
}

fn render(services: &[ServiceStatus]) -> String {
    let columns = [
        Column::Text("service"),
        Column::Text("address"),
        Column::Text("port"),
        Column::Text("protocol"),
        Column::Text("forward"),
        Column::Text("state"),
        Column::Number("backends up"),
    ];
    let mut table = Table::new(&columns, false);
    for service in services {
        let up = service.backends.iter().filter(|it| it.is_up());
        table.row([
            service.name.clone(),
            service.address.to_string(),
            service.ports.clone(),
            service.protocol.clone(),
            service.forward.clone(),
            service.state.clone(),
            format!("{} of {}", up.count(), service.backends.len()),
        ]);
    }
    table.render("")
}
