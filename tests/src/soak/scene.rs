//! What a soak runs on: real web servers, the balancer, clients of three
//! services, and connections that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_user::api::types::Status;

use crate::balancer::{Balancer, service_of};
use crate::lab::client::{HeldConnections, HttpLoad, LoadReport, RunningLoad, Target};
use crate::lab::pass::Attached;
use crate::lab::server::{Nginx, NginxConfig};
use crate::lab::{BackendXdp, Lab, LabConfig, Node, SmallDisk, link, wait_for};

/// Servers of `web` and `six`, then those of `api`.
pub(super) const SHARED: usize = 4;
pub(super) const OF_API: usize = 2;
/// How long a condition may take that nothing is measured by.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Clients at a time of each service, and how long each rests between two
/// requests: some 300 requests a second each.
const CLIENTS: usize = 8;
const REST: Duration = Duration::from_millis(25);
/// How long a request may take, and how long none fails once all is well.
const PATIENCE: Duration = Duration::from_secs(3);
const QUIET: Duration = Duration::from_millis(3500);
/// Addresses that clients come from, and connections that stay.
const ADDRESSES: u8 = 20;
const HELD: usize = 60;
/// Where the daemon is scraped.
const METRICS_PORT: u16 = 9180;
/// Room for thousands of revisions.
const DISK: u64 = 256 << 20;
/// Where `api` sends from: on the segment, and nobody else's.
const POOL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 3, 1), Ipv4Addr::new(10, 1, 3, 2)];

/// A service under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// `l2` by IPv4, on four servers.
    Web,
    /// `l2` by IPv6, on the same.
    Six,
    /// `fullnat` by IPv4, on two servers of its own.
    Api,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Web, Self::Six, Self::Api];

    /// As the file has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Six => "six",
            Self::Api => "api",
        }
    }

    fn dial(self, lab: &Lab) -> SocketAddr {
        match self {
            Self::Web => SocketAddr::new(lab.vip_v4().into(), 80),
            Self::Six => SocketAddr::new(lab.vip_v6().into(), 80),
            Self::Api => SocketAddr::new(lab.vip_v4().into(), 8080),
        }
    }

    fn backends(self, lab: &Lab) -> impl Iterator<Item = (&str, IpAddr)> {
        let (shared, own) = lab.backends().split_at(SHARED);
        let nodes = if self == Self::Api { own } else { shared };
        nodes.iter().map(move |node| {
            let [v4, v6] = node.addresses();
            (node.name(), if self == Self::Six { v6 } else { v4 })
        })
    }

    fn toml(self, lab: &Lab, interval: &str) -> String {
        let dial = self.dial(lab);
        let forward = if self == Self::Api { "fullnat" } else { "l2" };
        let mut text = format!(
            "\n[[service]]\nname = \"{}\"\naddress = \"{}\"\nport = {}\nprotocol = \"tcp\"\n\
             forward = \"{forward}\"\nfail_open_below = 0.0\n\n[service.health]\nkind = \"http\"\n\
             path = \"/healthz\"\ninterval = \"{interval}\"\ntimeout = \"400ms\"\nrise = 2\nfall = 3\n\
             flap_hold = \"5s\"\nflap_hold_max = \"20s\"\n",
            self.name(),
            dial.ip(),
            dial.port(),
        );
        for (name, address) in self.backends(lab) {
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n"
            );
        }
        text
    }
}

/// The network of a soak.
pub(super) fn lab() -> Result<Lab> {
    let lab = Lab::l2(LabConfig {
        addresses_per_client: ADDRESSES,
        backend_xdp: BackendXdp::Pass,
        ..LabConfig::backends((SHARED + OF_API) as u8)
    })?;
    set_up_interface(&lab)?;
    for address in POOL {
        for backend in lab.backends() {
            let route = link::Route {
                to: address.into(),
                prefix_len: 32,
                via: None,
                interface: Some("eth0"),
                mtu: None,
            };
            link::add_route(backend.namespace(), &route)?;
        }
    }
    Ok(lab)
}

/// What an operator's manager of networks sees to whenever it is there.
fn set_up_interface(lab: &Lab) -> Result<()> {
    let balancer = lab.balancer().namespace();
    // One that goes down for a moment keeps its addresses.
    balancer.set_sysctls(&[("net.ipv6.conf.eth0.keep_addr_on_down", "1")])?;
    for address in POOL {
        link::add_address(balancer, "eth0", address.into(), 32)?;
    }
    Ok(())
}

/// All that runs.
pub(super) struct Scene<'a> {
    pub(super) lab: &'a Lab,
    pub(super) servers: Vec<Nginx>,
    pub(super) balancer: Balancer<'a>,
    /// Where the state directory is.
    pub(super) disk: SmallDisk,
    held: HeldConnections,
    /// What lets the switch take the balancer's frames, where its interface
    /// was made anew.
    port: Option<Attached>,
    /// Of which interval the file speaks.
    intervals: [&'static str; 2],
}

impl<'a> Scene<'a> {
    /// Starts everything; all backends are up.
    pub(super) fn start(lab: &'a Lab) -> Result<Self> {
        let servers = lab.backends().iter().map(server);
        let servers = servers.collect::<Result<_>>()?;
        let intervals = ["500ms", "600ms"];
        let namespace = lab.balancer().namespace();
        let mut balancer = Balancer::start(namespace, &["eth0"], &text(lab, intervals[0]))?;
        let disk = balancer.move_state_to_disk(DISK)?;
        for service in Service::ALL {
            for (backend, _) in service.backends(lab) {
                balancer.wait_backend(service.name(), backend, "up")?;
            }
        }
        Ok(Self {
            lab,
            servers,
            balancer,
            disk,
            held: hold(lab)?,
            port: None,
            intervals,
        })
    }

    /// Writes the file with other probes than before.
    pub(super) fn write_other_file(&mut self) -> Result<()> {
        self.intervals.swap(0, 1);
        let text = text(self.lab, self.intervals[0]);
        self.balancer.write_services(&["eth0"], &text)
    }

    /// Makes an interface in place of one that was deleted.
    pub(super) fn make_interface(&mut self) -> Result<()> {
        self.port = Some(self.lab.plug_balancer_again()?);
        set_up_interface(self.lab)
    }

    /// A whole file in which one server of `web` has nearly all of the weight.
    pub(super) fn wrong_file(&self) -> Result<String> {
        let text = fs::read_to_string(self.balancer.config())?;
        let first = "[[service.backend]]\nname = \"backend0\"\n";
        ensure!(text.contains(first), "no backend0 in {text}");
        Ok(text
            .replacen(first, &format!("{first}weight = 1000\n"), 1)
            .replace(
                "[[service.backend]]\nname = \"backend1\"\n",
                "[[service.backend]]\nname = \"backend1\"\nweight = 1\n",
            ))
    }

    /// Lets clients of all services come.
    pub(super) fn clients(&self) -> Result<Crowd> {
        let client = self.lab.client(0);
        let loads = Service::ALL.into_iter().map(|service| {
            let v4 = client.interface().v4.iter().map(|ip| IpAddr::V4(*ip));
            let v6 = client.interface().v6.iter().map(|ip| IpAddr::V6(*ip));
            let load = HttpLoad {
                concurrency: CLIENTS,
                pause: REST,
                timeout: PATIENCE,
                sources: match service {
                    Service::Six => v6.collect(),
                    Service::Web | Service::Api => v4.collect(),
                },
                ..HttpLoad::new(service.dial(self.lab), "/")
            };
            Ok((service, load.start(client.namespace())?))
        });
        let loads = loads.collect::<Result<_>>()?;
        Ok(Crowd { loads })
    }

    /// Waits until every backend takes its share, but those that drain, and
    /// those that are kept out for having come and gone too often.
    pub(super) fn wait_all_up(&self) -> Result<()> {
        let is_well = |status: &Status| {
            Service::ALL.into_iter().all(|service| {
                service_of(status, service.name()).is_some_and(|it| {
                    let mut backends = it.backends.iter();
                    backends
                        .all(|it| it.is_up() || it.state == "held" || it.state.starts_with("drain"))
                })
            })
        };
        self.balancer
            .wait_status("all backends up", LIMIT, |status| {
                is_well(status).then_some(())
            })
    }

    /// Insists that connections are whole that stayed through all this, but
    /// those of servers that something was done to; what broke is opened anew.
    pub(super) fn insist_on_held(&mut self, hurt: &BTreeSet<String>) -> Result<usize> {
        let broken = self.held.ask_again()?;
        let others: Vec<_> = broken
            .iter()
            .filter(|it| !hurt.contains(&it.backend))
            .collect();
        ensure!(
            others.is_empty(),
            "{} connections that stayed broke, with nothing done to their servers: {:?}",
            others.len(),
            others[0]
        );
        if !broken.is_empty() {
            self.held = hold(self.lab)?;
        }
        Ok(broken.len())
    }
}

fn hold(lab: &Lab) -> Result<HeldConnections> {
    let client = lab.client(0);
    let target = Target {
        server: Service::Web.dial(lab),
        sources: client
            .interface()
            .v4
            .iter()
            .map(|ip| (*ip).into())
            .collect(),
    };
    HeldConnections::open(client.namespace(), &target, HELD)
}

fn text(lab: &Lab, interval: &str) -> String {
    let listen = SocketAddr::new(lab.balancer().v4().into(), METRICS_PORT);
    let services = Service::ALL.map(|service| service.toml(lab, interval));
    let pool = POOL.map(|address| address.to_string());
    format!(
        "keep_forwarding = true\nlisten = \"{listen}\"\nflow_table_size = 1048576\nfullnat_sources_v4 = {pool:?}\n\
         fullnat_ports = \"1024-65535\"\nnat_closed_timeout = \"2s\"\n{}",
        services.concat()
    )
}

/// A web server of all services, called as its host.
fn server(node: &Node) -> Result<Nginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80),
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 80),
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 8080),
    ];
    config.access_log = false;
    config.directives = "keepalive_timeout 1h;".to_owned();
    Nginx::start(node.namespace(), &config)
}

/// Clients of all services.
pub(super) struct Crowd {
    loads: BTreeMap<Service, RunningLoad>,
}

impl Crowd {
    /// Waits until so many more were answered of each service.
    pub(super) fn wait_answers(&self, more: u64) -> Result<()> {
        self.wait_answers_of(&Service::ALL, more)
    }

    /// The same of some.
    pub(super) fn wait_answers_of(&self, services: &[Service], more: u64) -> Result<()> {
        for service in services {
            let load = &self.loads[service];
            let wanted = load.answered() + more;
            let what = format!("{more} more answers of {}", service.name());
            wait_for(&what, LIMIT, || (load.answered() >= wanted).then_some(()))?;
        }
        Ok(())
    }

    /// Requests that failed so far.
    pub(super) fn failed(&self) -> BTreeMap<Service, u64> {
        let loads = self.loads.iter();
        loads
            .map(|(service, load)| (*service, load.failed()))
            .collect()
    }

    /// Waits until no request has failed for longer than one may take, and
    /// many were answered meanwhile.
    pub(super) fn wait_unharmed(&self) -> Result<()> {
        let answered = || self.loads.values().map(RunningLoad::answered);
        let mut failed = self.failed();
        let mut since = (Instant::now(), answered().collect::<Vec<_>>());
        wait_for("requests to succeed", LIMIT, || {
            let now = self.failed();
            if now != failed {
                (failed, since) = (now, (Instant::now(), answered().collect()));
            }
            let (quiet, before) = (since.0.elapsed(), &since.1);
            let is_well = answered()
                .zip(before)
                .all(|(now, before)| now >= before + 100);
            (quiet > QUIET && is_well).then_some(())
        })
    }

    /// Sends them away.
    pub(super) fn leave(self) -> Result<BTreeMap<Service, LoadReport>> {
        let loads = self.loads.into_iter();
        loads
            .map(|(service, load)| Ok((service, load.stop()?)))
            .collect::<Result<_>>()
            .context("the load")
    }
}
