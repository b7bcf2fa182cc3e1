//! Where a drill is played: real web servers, the balancer, a crowd of clients.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use balancer_user::watch::incident::{Event, Incident};

use super::LIMIT;
use super::script::{Script, Setting, Target, own};
use crate::balancer::{Balancer, binary};
use crate::lab::client::{HttpLoad, LoadReport, RunningLoad};
use crate::lab::server::{FaultyNginx, Nginx, NginxConfig};
use crate::lab::{BackendXdp, Lab, LabConfig, Node, wait_for};

/// Clients at a time, and how long each rests between two requests: some 1,000
/// requests a second.
const CLIENTS: usize = 64;
const REST: Duration = Duration::from_millis(50);
/// Addresses that they come from.
const ADDRESSES: u8 = 20;
/// An answer that came later than that was not as usual.
const SLOW: Duration = Duration::from_millis(250);

/// The network of a drill.
pub(super) fn lab(setting: &Setting) -> Result<Lab> {
    Lab::l2(LabConfig {
        addresses_per_client: ADDRESSES,
        backend_xdp: BackendXdp::Pass,
        ..LabConfig::backends(setting.backends + setting.others.0)
    })
}

/// A web server of that service, on every address of its host.
pub(super) fn server(name: &str, service: &str) -> NginxConfig {
    let mut config = NginxConfig::new(name, &[], 80);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)];
    config.directives = format!("add_header X-Service {service} always;");
    config.access_log = false;
    config
}

/// All that runs.
pub struct Scene<'a> {
    pub(super) script: &'a Script,
    pub(super) lab: &'a Lab,
    /// Those of the service, in its order.
    pub(super) servers: Vec<FaultyNginx>,
    /// Those of other services.
    pub(super) others: Vec<Nginx>,
    pub(super) balancer: Balancer<'a>,
}

impl<'a> Scene<'a> {
    /// Starts everything; revision 1 is in force and all backends are up.
    pub(super) fn start(script: &'a Script, lab: &'a Lab) -> Result<Self> {
        let setting = &script.setting;
        let (own_nodes, other_nodes) = lab.backends().split_at(usize::from(setting.backends));
        let start = |(number, node): (usize, &Node)| {
            let config = server(&name(setting, number), setting.service);
            FaultyNginx::start(node.namespace(), config)
        };
        let servers = own_nodes.iter().enumerate().map(start);
        let servers = servers.collect::<Result<_>>()?;
        let mut others = Vec::new();
        if !setting.others.1.is_empty() {
            for (number, node) in other_nodes.iter().enumerate() {
                let config = foreign(setting.others.1, number);
                others.push(Nginx::start(node.namespace(), &config)?);
            }
        }
        let text = text(setting, lab, &good(setting));
        Ok(Self {
            script,
            lab,
            servers,
            others,
            balancer: Balancer::start(lab.balancer().namespace(), &["eth0"], &text)
                .context("starting the balancer")?,
        })
    }

    /// Writes the file that somebody gets wrong.
    pub(super) fn write_wrong_file(&self) -> Result<()> {
        let wrong = text(&self.script.setting, self.lab, self.script.change.backends);
        self.balancer.write_services(&["eth0"], &wrong)
    }

    /// Lets clients come.
    pub(super) fn clients(&self) -> Result<Crowd> {
        let server = SocketAddr::new(self.lab.vip_v4().into(), 80);
        let client = self.lab.client(0);
        let load = HttpLoad {
            concurrency: CLIENTS,
            pause: REST,
            sources: client
                .interface()
                .v4
                .iter()
                .map(|it| IpAddr::V4(*it))
                .collect(),
            ..HttpLoad::new(server, "/")
        };
        let service = self.script.setting.service;
        Ok(Crowd {
            own: format!("{service}-"),
            load: load.start(client.namespace())?,
        })
    }

    /// Everything that happened to incidents so far.
    pub(super) fn events(&self) -> Result<Vec<Event>> {
        let text = self.balancer.succeed(&["events", "--json"])?;
        let events = text.lines().map(serde_json::from_str);
        Ok(events.collect::<Result<_, _>>()?)
    }

    /// Incidents that were opened after that one.
    pub(super) fn opened_since(&self, number: u64) -> Result<Vec<Incident>> {
        let opened = self.events()?.into_iter().filter_map(|it| match it {
            Event::Opened { incident } if incident.number > number => Some(incident),
            _ => None,
        });
        Ok(opened.collect())
    }

    /// The number of the last incident.
    pub(super) fn last_incident(&self) -> Result<u64> {
        let numbers = self.events()?.into_iter();
        Ok(numbers.map(|it| it.incident().number).max().unwrap_or(0))
    }

    /// Waits until nothing is wrong any more.
    pub(super) fn wait_quiet(&self) -> Result<()> {
        self.balancer
            .wait_status("the end of all incidents", LIMIT, |status| {
                status.incidents.is_empty().then_some(())
            })
    }

    /// Types a line at a shell of an operator, whose `balancer` is the one
    /// under test.
    pub(super) fn type_in(&self, line: &str) -> Result<Output> {
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                &format!("balancer() {{ \"$PROGRAM\" \"$@\"; }}\n{line}"),
            ])
            .env("PROGRAM", binary())
            .env("BALANCER_SOCKET", self.balancer.socket());
        shell.output().with_context(|| format!("typing {line:?}"))
    }

    /// The name of a backend.
    pub(super) fn name(&self, number: usize) -> String {
        name(&self.script.setting, number)
    }
}

/// A web server of another service.
pub(super) fn foreign(service: &str, number: usize) -> NginxConfig {
    server(&format!("{service}-{}", number + 1), service)
}

/// Clients that come all the time.
pub(super) struct Crowd {
    own: String,
    load: RunningLoad,
}

impl Crowd {
    /// Waits until so many more were answered.
    pub(super) fn wait_answers(&self, more: u64) -> Result<()> {
        let wanted = self.load.answered() + more;
        wait_for(&format!("{more} more answers"), LIMIT, || {
            (self.load.answered() >= wanted).then_some(())
        })
    }

    /// Sends them away, and tells how they fared.
    pub(super) fn leave(self) -> Result<Fared> {
        let report = self.load.stop()?;
        Ok(Fared::of(&report, &self.own))
    }
}

/// How clients fared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fared {
    /// Requests.
    pub requests: u64,
    /// Requests without a whole answer, and why the first one was.
    pub failed: u64,
    /// Why the first of those was.
    pub first_failure: Option<String>,
    /// Answers of a status other than 200.
    pub errors: u64,
    /// Answers of servers that are not the service's.
    pub foreign: u64,
    /// Answers that took longer than 250 ms.
    pub slow: u64,
}

impl Fared {
    fn of(report: &LoadReport, own: &str) -> Self {
        let errors = report
            .by_status
            .iter()
            .filter(|(status, _)| **status != 200);
        let foreign = report.by_backend.iter();
        let foreign = foreign.filter(|(name, _)| !name.starts_with(own));
        Self {
            requests: report.requests(),
            failed: report.failed,
            first_failure: report.failures.first().map(|it| it.error.clone()),
            errors: errors.map(|(_, count)| count).sum(),
            foreign: foreign.map(|(_, count)| count).sum(),
            slow: report.slower_than(SLOW),
        }
    }

    /// Requests that did not get what they were to get.
    pub fn harmed(&self) -> u64 {
        self.failed + self.errors.max(self.foreign)
    }
}

impl std::fmt::Display for Fared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} requests failed", self.failed, self.requests)?;
        for (count, what) in [
            (self.errors, "answered with an error"),
            (self.foreign, "answered by a wrong server"),
            (self.slow, "answered after more than 250 ms"),
        ] {
            if count > 0 {
                write!(f, ", {count} were {what}")?;
            }
        }
        Ok(())
    }
}

/// When something happened, on the clock that the daemon's log goes by.
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

fn name(setting: &Setting, number: usize) -> String {
    format!("{}-{}", setting.service, number + 1)
}

/// The backends as they should be.
fn good(setting: &Setting) -> Vec<Target> {
    let numbers = 0..usize::from(setting.backends);
    numbers.map(|number| own(number, 100)).collect()
}

/// The rest of the file, keys of `[node]` first.
fn text(setting: &Setting, lab: &Lab, backends: &[Target]) -> String {
    let Setting {
        service,
        node_keys,
        service_keys,
        ..
    } = setting;
    let mut text = format!(
        "{node_keys}\n[[service]]\nname = \"{service}\"\naddress = \"{}\"\nport = 80\n\
         protocol = \"tcp\"\nforward = \"l2\"\nfail_open_below = 0.0\n{service_keys}",
        lab.vip_v4()
    );
    if setting.has_pool {
        let own = lab.backends().iter().take(usize::from(setting.backends));
        let own: Vec<String> = own.map(|it| format!("{}/32", it.v4())).collect();
        let _ = writeln!(text, "allowed_backends = {own:?}");
    }
    let _ = write!(
        text,
        "\n[service.health]\nkind = \"http\"\npath = \"/\"\nexpect_status = [200]\n\
         identity = {{ header = {{ name = \"x-service\", value = \"{service}\" }} }}\n\
         interval = \"700ms\"\ntimeout = \"650ms\"\nrise = 2\nfall = 3\n"
    );
    for target in backends {
        let _ = write!(
            text,
            "\n[[service.backend]]\nname = \"{}\"\naddress = \"{}\"\nweight = {}\n",
            name(setting, target.number),
            lab.backend(target.host).v4(),
            target.weight
        );
        if let Some(capacity) = setting.capacity {
            let _ = writeln!(text, "capacity_flows_per_second = {capacity}");
        }
    }
    text
}
