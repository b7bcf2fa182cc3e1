//! What the tests are made of: services as text, servers, loads, the API.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_tests::lab::client::{Curl, HttpLoad, Response, RunningLoad};
use balancer_tests::lab::server::{Dnsmasq, DnsmasqConfig, Nginx, NginxConfig};
use balancer_tests::lab::{Lab, LabConfig, Node, wait_for};
use balancer_user::api::client::Client;
use balancer_user::api::progress::Progress;
use balancer_user::api::types::{
    ApplyRequest, BackendStatus, Change, ChangeRequest, Changed, ExplainRequest, Explanation,
    History, PlanRequest, Planned, RollbackRequest, Status, StoredRevision, Verification,
};
use tokio::runtime::Runtime;

use crate::LIMIT;

/// Between two probes of a server.
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);
/// Bad probes in a row that make a server down.
pub(crate) const FALL: u32 = 3;
/// Asks a web server; times as [`INTERVAL`] and [`FALL`].
pub(crate) const HTTP_PROBE: &str = "kind = \"http\"\npath = \"/healthz\"\n\
    expect_status = [200]\nport = 80\ninterval = \"200ms\"\njitter = 0.0\n\
    timeout = \"190ms\"\nrise = 2\nfall = 3\n";

/// `/download` at a mebibyte a second.
pub(crate) const SLOW_DOWNLOAD: &str = "/slow";

/// A service as a table of the file.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: &'static str,
    pub(crate) forward: &'static str,
    /// What stands below `[service.health]`; no probes if empty.
    pub(crate) health: &'static str,
    /// Names and addresses, all of the same weight.
    pub(crate) backends: Vec<(String, IpAddr)>,
}

impl Service {
    /// A web service, probed, on these backends.
    pub(crate) fn web(
        address: impl Into<IpAddr>,
        forward: &'static str,
        backends: Vec<(String, IpAddr)>,
    ) -> Self {
        Self {
            name: "web",
            address: address.into(),
            port: 80,
            protocol: "tcp",
            forward,
            health: HTTP_PROBE,
            backends,
        }
    }

    /// The same service on all backends of a flat lab, by their IPv4 addresses.
    pub(crate) fn web_l2(lab: &Lab) -> Self {
        Self::web(lab.vip_v4(), "l2", v4(lab.backends()))
    }

    /// As it stands in the file.
    pub(crate) fn toml(&self) -> String {
        let Self {
            name,
            address,
            port,
            protocol,
            forward,
            health,
            backends,
        } = self;
        let mut text = format!(
            "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\n\
             protocol = \"{protocol}\"\nforward = \"{forward}\"\nfail_open_below = 0.0\n"
        );
        if !health.is_empty() {
            let _ = write!(text, "\n[service.health]\n{health}");
        }
        for (name, address) in backends {
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n"
            );
        }
        text
    }

    /// Where clients dial.
    pub(crate) fn dial(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// Names and IPv4 addresses of backends.
pub(crate) fn v4(nodes: &[Node]) -> Vec<(String, IpAddr)> {
    let named = |node: &Node| (node.name().to_owned(), node.v4().into());
    nodes.iter().map(named).collect()
}

/// Names and IPv6 addresses of backends.
pub(crate) fn v6(nodes: &[Node]) -> Vec<(String, IpAddr)> {
    let named = |node: &Node| (node.name().to_owned(), node.v6().into());
    nodes.iter().map(named).collect()
}

/// Everybody on one segment; the client has addresses enough for a load.
pub(crate) fn l2(backends: u8) -> Result<Lab> {
    Lab::l2(LabConfig {
        addresses_per_client: 20,
        vips: 3,
        ..LabConfig::backends(backends)
    })
}

/// A web server on every address of a backend, called as the backend.
pub(crate) fn web_server(node: &Node) -> Result<Nginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80),
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 80),
    ];
    config.directives =
        format!("location = {SLOW_DOWNLOAD} {{ set $limit_rate 1m; rewrite ^ /download last; }}");
    Nginx::start(node.namespace(), &config)
}

/// Web servers on all backends.
pub(crate) fn web_servers(lab: &Lab) -> Result<Vec<Nginx>> {
    lab.backends().iter().map(web_server).collect()
}

/// A DNS server on every backend, which tells its name; at the VIP and at the
/// backend's own addresses.
pub(crate) fn dns_servers(lab: &Lab, vip: IpAddr) -> Result<Vec<Dnsmasq>> {
    let start = |node: &Node| {
        let config = DnsmasqConfig {
            name: node.name().to_owned(),
            listen: [vec![vip], node.addresses().to_vec()].concat(),
            port: 53,
            records: Vec::new(),
            texts: Vec::new(),
        };
        Dnsmasq::start(node.namespace(), &config)
    };
    lab.backends().iter().map(start).collect()
}

/// The balancer of a lab, on its interface towards the clients. `text` is the
/// rest of the file; keys of `[node]` may stand before the first table.
pub(crate) fn balancer<'a>(lab: &'a Lab, text: &str) -> Result<Balancer<'a>> {
    Balancer::start(lab.balancer().namespace(), &["eth0"], text)
}

/// A GET from the first client.
pub(crate) fn get(lab: &Lab, server: SocketAddr) -> Result<Response> {
    Curl::get(server, "/").run(lab.client(0).namespace())
}

/// As [`get`], and insists on 200.
pub(crate) fn get_well(lab: &Lab, server: SocketAddr) -> Result<Response> {
    let response = get(lab, server)?;
    ensure!(response.status == 200, "{server}: {response:?}");
    Ok(response)
}

/// New connections from the first client without an end, as fast as they go.
pub(crate) fn load(lab: &Lab, server: SocketAddr) -> Result<RunningLoad> {
    load_of(lab, server).start(lab.client(0).namespace())
}

/// So many new connections, and insists that none failed.
pub(crate) fn burst(lab: &Lab, server: SocketAddr, requests: u64) -> Result<()> {
    let mut load = load_of(lab, server);
    load.requests = Some(requests);
    let report = load.run(lab.client(0).namespace())?;
    ensure!(report.failed == 0, "{:?}", report.failures);
    Ok(())
}

pub(crate) fn load_of(lab: &Lab, server: SocketAddr) -> HttpLoad {
    let interface = lab.client(0).interface();
    let sources = if server.is_ipv4() {
        interface.v4.iter().map(|ip| IpAddr::V4(*ip)).collect()
    } else {
        interface.v6.iter().map(|ip| IpAddr::V6(*ip)).collect()
    };
    HttpLoad {
        concurrency: 8,
        sources,
        ..HttpLoad::new(server, "/")
    }
}

/// Waits until a load has got so many more answers.
pub(crate) fn wait_answers(load: &RunningLoad, more: u64) -> Result<()> {
    let wanted = load.answered() + more;
    wait_for(&format!("{more} more answers"), LIMIT, || {
        (load.answered() >= wanted).then_some(())
    })
}

/// Ends a load and insists that nothing failed; gives the answers.
pub(crate) fn stop_unharmed(load: RunningLoad) -> Result<u64> {
    let report = load.stop()?;
    ensure!(
        report.failed == 0,
        "{} of {} requests failed: {:?}",
        report.failed,
        report.requests(),
        report.failures
    );
    Ok(report.answered)
}

/// The control socket without a process for each question.
pub(crate) struct Api {
    client: Client,
    runtime: Runtime,
}

impl Api {
    pub(crate) fn new(balancer: &Balancer<'_>) -> Result<Self> {
        Self::at(balancer.socket())
    }

    /// For a thread of its own.
    pub(crate) fn at(socket: PathBuf) -> Result<Self> {
        Ok(Self {
            client: Client::new(socket),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        })
    }

    pub(crate) fn status(&self) -> Result<Status> {
        Ok(self.runtime.block_on(self.client.status())?)
    }

    pub(crate) fn config(&self) -> Result<String> {
        Ok(self.runtime.block_on(self.client.config())?)
    }

    pub(crate) fn change(&self, change: Change) -> Result<Changed> {
        let request = ChangeRequest {
            change,
            dry_run: false,
        };
        Ok(self.runtime.block_on(self.client.change(&request))?)
    }

    pub(crate) fn plan(&self, request: &PlanRequest) -> Result<Planned> {
        Ok(self.runtime.block_on(self.client.plan(request))?)
    }

    pub(crate) fn roll_back(&self, request: &RollbackRequest) -> Result<Progress> {
        let mut deaf = |_: &Progress| {};
        let rolling = self.client.rollback(request, &mut deaf);
        Ok(self.runtime.block_on(rolling)?)
    }

    /// Brings a file into force; `tell` hears of each step.
    pub(crate) fn apply(
        &self,
        request: &ApplyRequest,
        tell: &mut dyn FnMut(&Progress),
    ) -> Result<Progress> {
        Ok(self.runtime.block_on(self.client.apply(request, tell))?)
    }

    /// Has the daemon read its file again.
    pub(crate) fn reload(&self) -> Result<Progress> {
        let mut deaf = |_: &Progress| {};
        Ok(self.runtime.block_on(self.client.reload(&mut deaf))?)
    }

    pub(crate) fn history(&self) -> Result<History> {
        Ok(self.runtime.block_on(self.client.history())?)
    }

    pub(crate) fn revision(&self, number: u64) -> Result<StoredRevision> {
        Ok(self.runtime.block_on(self.client.revision(number))?)
    }

    pub(crate) fn verify(&self) -> Result<Verification> {
        Ok(self.runtime.block_on(self.client.verify())?)
    }

    pub(crate) fn explain(&self, request: &ExplainRequest) -> Result<Explanation> {
        Ok(self.runtime.block_on(self.client.explain(request))?)
    }

    /// What is known of a backend of service `web`.
    pub(crate) fn backend(&self, service: &str, name: &str) -> Result<BackendStatus> {
        let status = self.status()?;
        let found = backend_of(&status, service, name).cloned();
        found.ok_or_else(|| anyhow::anyhow!("no backend {name} in service {service}"))
    }

    /// TCP connections that a backend was given.
    pub(crate) fn flows(&self, service: &str, name: &str) -> Result<u64> {
        Ok(self.backend(service, name)?.flows)
    }
}
