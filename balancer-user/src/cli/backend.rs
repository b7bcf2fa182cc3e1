//! `balancer backend`: the backends of a running balancer.

use std::net::IpAddr;

use anyhow::{Context, bail};
use serde::Serialize;

use super::change::{self, Options};
use super::table::{Column, Table};
use super::{Exit, block_on, output, units};
use crate::api::client::Client;
use crate::api::types::{BackendStatus, Change, ServiceStatus, Status};

/// List and change the backends of the running balancer
///
/// Changes take effect at once and outlive a restart, but stand in no file:
/// once the file is changed, the next `reload` or start undoes them, and says
/// so. Only drains are kept. Write into the file what is to stay.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    List(List),
    Add(Add),
    Remove(Named),
    Drain(Drain),
    Undrain(Undrain),
    Weight(Weight),
}

/// List the backends with their state and share
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only those of this service
    #[arg(value_name = "SERVICE")]
    service: Option<String>,

    /// Print them as JSON
    #[arg(long)]
    json: bool,
}

/// Add a backend to a service
///
/// It gets its share of new flows once its probes passed (at once, if the
/// service has no probe); the siblings' shares shrink accordingly. Flows
/// under way stay where they are.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,

    #[command(flatten)]
    backend: Backend,

    #[command(flatten)]
    options: Options,
}

/// A `[[service.backend]]` table, in the order it is written.
#[derive(Debug, Clone, PartialEq, Serialize, clap::Args)]
pub(super) struct Backend {
    /// Its name, unique in the service
    #[arg(value_name = "NAME")]
    pub(super) name: String,

    /// The server's address
    #[arg(value_name = "ADDRESS")]
    pub(super) address: IpAddr,

    /// Its port; `nat` and `fullnat` rewrite the service's only port to it
    ///
    /// In the other modes it can only be the service's own.
    #[arg(long, value_name = "PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<u16>,

    /// Share of new flows relative to the siblings; 0 is none [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u16>,

    /// Failure domain
    #[arg(long, value_name = "ZONE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,

    /// New flows a second that the server can take
    #[arg(long, value_name = "N")]
    #[serde(
        rename = "capacity_flows_per_second",
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) capacity: Option<u32>,

    /// The next hop's Ethernet address; without it the neighbour table is asked
    #[arg(long, value_name = "MAC")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<String>,

    /// Its id in QUIC connection ids, in hex, as its server makes them
    #[arg(long, value_name = "HEX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_id: Option<String>,
}

/// Remove a backend: its flows break
///
/// Its flows under way go to other backends, which do not know them and reset
/// them. To lose none, `drain` it first and remove it when its packets end.
#[derive(Debug, clap::Args)]
pub(super) struct Named {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    options: Options,
}

/// Send a backend no new flows and keep the old ones
///
/// Old TCP flows are kept for the service's `drain_timeout`, then they break.
/// A drain stays until `undrain`, also across restarts and reloads.
#[derive(Debug, clap::Args)]
pub(super) struct Drain {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    options: Options,
}

/// End a drain: the backend gets its share of new flows again
#[derive(Debug, clap::Args)]
pub(super) struct Undrain {
    #[command(flatten)]
    which: Which,

    #[command(flatten)]
    options: Options,
}

/// Set the weight of a backend
///
/// New flows are shared out by weight at once; flows under way are kept for
/// the service's `drain_timeout`.
#[derive(Debug, clap::Args)]
pub(super) struct Weight {
    #[command(flatten)]
    which: Which,

    /// Share of new flows relative to the siblings; 0 is none
    #[arg(value_name = "WEIGHT")]
    weight: u16,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,

    /// The backend
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) fn run(command: &Command, client: &Client) -> anyhow::Result<Exit> {
    let (change, options) = match command {
        Command::List(args) => return list(args, client),
        Command::Add(args) => {
            let service = args.service.clone();
            let toml = toml::to_string(&args.backend).context("writing the backend as TOML")?;
            (Change::BackendAdd { service, toml }, args.options)
        }
        Command::Remove(Named { which, options }) => {
            let (service, backend) = which.names();
            (Change::BackendRemove { service, backend }, *options)
        }
        Command::Drain(Drain { which, options }) => {
            let (service, backend) = which.names();
            (Change::BackendDrain { service, backend }, *options)
        }
        Command::Undrain(Undrain { which, options }) => {
            let (service, backend) = which.names();
            (Change::BackendUndrain { service, backend }, *options)
        }
        Command::Weight(args) => {
            let (service, backend) = args.which.names();
            let change = Change::BackendWeight {
                service,
                backend,
                weight: args.weight,
            };
            (change, args.options)
        }
    };
    change::make(change, options, client)
}

impl Which {
    fn names(&self) -> (String, String) {
        (self.service.clone(), self.name.clone())
    }
}

/// A backend with the name of its service.
#[derive(Serialize)]
struct Listed<'a> {
    service: &'a str,
    #[serde(flatten)]
    backend: &'a BackendStatus,
}

fn list(args: &List, client: &Client) -> anyhow::Result<Exit> {
    let status = block_on(client.status())??;
    let services = select(&status, args.service.as_deref())?;
    if args.json {
        let all: Vec<Listed<'_>> = services
            .iter()
            .flat_map(|service| {
                service.backends.iter().map(|backend| Listed {
                    service: &service.name,
                    backend,
                })
            })
            .collect();
        output::print_json(&all)?;
    } else {
        output::print(&render(&services))?;
    }
    Ok(Exit::Done)
}

fn select<'a>(status: &'a Status, name: Option<&str>) -> anyhow::Result<Vec<&'a ServiceStatus>> {
    let all = status.services.iter();
    let services: Vec<&ServiceStatus> = match name {
        Some(name) => all.filter(|service| service.name == name).collect(),
        None => all.collect(),
    };
    if let (Some(name), true) = (name, services.is_empty()) {
        bail!("service {name} does not exist; `balancer service list` names all");
    }
    Ok(services)
}

fn render(services: &[&ServiceStatus]) -> String {
    let columns = [
        Column::Text("service"),
        Column::Text("backend"),
        Column::Text("address"),
        Column::Number("weight"),
        Column::Text("state"),
        Column::Number("since"),
        Column::Number("share"),
        Column::Text("next hop"),
    ];
    let mut table = Table::new(&columns, false);
    for service in services {
        for backend in &service.backends {
            table.row([
                service.name.clone(),
                backend.name.clone(),
                backend.endpoint(),
                backend.weight.to_string(),
                backend.state.clone(),
                backend.since_seconds.map_or("-".to_owned(), units::ago),
                units::percent(backend.share_expected),
                backend.next_hop.clone(),
            ]);
        }
    }
    table.render("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_is_written_as_it_would_stand_in_the_file() {
        let backend = Backend {
            name: "a\"b\\".to_owned(),
            address: "2001:db8::1".parse().unwrap(),
            port: None,
            weight: Some(7),
            zone: None,
            capacity: Some(12_000),
            mac: Some("02:00:00:00:00:01".to_owned()),
            server_id: Some("0a1b".to_owned()),
        };
        let text = toml::to_string(&backend).unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["name"].as_str(), Some("a\"b\\"));
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "address = \"2001:db8::1\"",
                "weight = 7",
                "capacity_flows_per_second = 12000",
                "mac = \"02:00:00:00:00:01\"",
                "server_id = \"0a1b\"",
            ]
        );
    }
}
