//! What a mode asks of the network, and what the tests are made of.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use balancer_tests::balancer::{Balancer, Decap};
use balancer_tests::frames::hex;
use balancer_tests::lab::capture::Capture;
use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Lab, LabConfig, Node, Replies, link};

/// Asks a web server, and has patience: a server that is busy with the transfers
/// of a test, on a machine busy with others, is not dead. A flap here would break
/// flows that the tests count; how soon a death is seen is for `main_job`.
pub(crate) const HTTP_PROBE: &str = "kind = \"http\"\npath = \"/healthz\"\nport = 80\n\
    interval = \"1s\"\ntimeout = \"900ms\"\nrise = 1\nfall = 10\n";

/// Size of `/download`.
pub(crate) const DOWNLOAD_LEN: usize = 8 << 20;

/// The same at 64 KiB a second: it takes two minutes.
pub(crate) const SLOW_DOWNLOAD: &str = "/slow";

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub(crate) forward: Forward,
    /// The family of the service's address.
    pub(crate) vip: Family,
    /// The family by which the backends are known.
    pub(crate) backends: Family,
}

/// A forwarding mode, as the file has it in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forward {
    L2,
    Ipip,
    Gue,
    Nat,
    Fullnat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// An interface's first address of the family.
    pub(crate) fn of(self, node: &Node) -> IpAddr {
        let [v4, v6] = node.addresses();
        match self {
            Self::V4 => v4,
            Self::V6 => v6,
        }
    }

    fn of_address(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub(crate) fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            forward,
            vip,
            backends,
        } = self;
        write!(f, "{forward:?} of {vip:?} to {backends:?}")
    }
}

impl Mode {
    /// A network as the mode needs it: backends on the balancer's segment, or
    /// behind a router; what translates has backends that know of no service
    /// address, and whose way to the clients is through the balancer.
    pub(crate) fn lab(self, config: LabConfig) -> Result<Network> {
        let client_mtu = config.client_mtu;
        let lab = match self.forward {
            Forward::L2 => Lab::l2(config)?,
            Forward::Ipip | Forward::Gue => Lab::routed(config)?,
            Forward::Nat => Lab::routed(LabConfig {
                replies: Replies::ViaBalancer,
                vips_on_backends: false,
                ..config
            })?,
            Forward::Fullnat => Lab::l2(LabConfig {
                vips_on_backends: false,
                ..config
            })?,
        };
        let decaps = match self.forward {
            Forward::Ipip | Forward::Gue => decaps(&lab)?,
            Forward::Fullnat => {
                hold_pool(&lab, client_mtu)?;
                Vec::new()
            }
            Forward::L2 | Forward::Nat => Vec::new(),
        };
        Ok(Network {
            mode: self,
            lab,
            decaps,
        })
    }
}

impl Mode {
    /// Bytes that the mode adds to a packet.
    pub(crate) fn overhead_len(self) -> u32 {
        let outer = match self.backends {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        match self.forward {
            Forward::L2 | Forward::Nat | Forward::Fullnat => 0,
            Forward::Ipip => outer,
            Forward::Gue => outer + 8,
        }
    }
}

/// `balancer decap` on every backend.
fn decaps(lab: &Lab) -> Result<Vec<Decap>> {
    let backends = lab.backends().iter();
    backends.map(|backend| decap(lab, backend)).collect()
}

/// `balancer decap` on a backend, for tunnels of the lab's balancer alone.
pub(crate) fn decap(lab: &Lab, backend: &Node) -> Result<Decap> {
    let back = &lab.balancer().interfaces()[1];
    let from: [IpAddr; 2] = [back.v4[0].into(), back.v6[0].into()];
    Decap::start(backend.namespace(), "eth0", &from)
}

/// What `fullnat` sends from: on the segment, and nobody's else.
fn pool() -> Vec<IpAddr> {
    let v4 = (1..=4).map(|host| Ipv4Addr::new(10, 1, 3, host).into());
    let v6 = (1..=4).map(|host| Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0xf, 0, host).into());
    v4.chain(v6).collect()
}

/// The balancer's kernel answers ARP and neighbour discovery for the pool. The
/// backends' link takes longer packets than the clients', and they have to know.
fn hold_pool(lab: &Lab, client_mtu: u32) -> Result<()> {
    for address in pool() {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 };
        let balancer = lab.balancer().namespace();
        link::add_address(balancer, "eth0", address, prefix_len)?;
        for backend in lab.backends() {
            let route = link::Route {
                to: address,
                prefix_len,
                via: None,
                interface: Some("eth0"),
                mtu: Some(client_mtu),
            };
            link::add_route(backend.namespace(), &route)?;
        }
    }
    Ok(())
}

/// A lab with what a mode needs on its backends.
pub(crate) struct Network {
    pub(crate) mode: Mode,
    pub(crate) lab: Lab,
    /// Those of the backends, where the mode has any.
    pub(crate) decaps: Vec<Decap>,
}

impl Network {
    pub(crate) fn vip(&self) -> IpAddr {
        match self.mode.vip {
            Family::V4 => self.lab.vip_v4().into(),
            Family::V6 => self.lab.vip_v6().into(),
        }
    }

    /// What backends take for a client's address.
    pub(crate) fn seen_as(&self, client: &Node) -> IpAddr {
        self.mode.vip.of(client)
    }

    /// Where a server on that backend gets the packets of clients.
    pub(crate) fn served(&self, backend: &Node) -> IpAddr {
        match self.mode.forward {
            Forward::L2 | Forward::Ipip | Forward::Gue => self.vip(),
            Forward::Nat | Forward::Fullnat => self.mode.backends.of(backend),
        }
    }

    /// Where clients dial a port of the service's address.
    pub(crate) fn dial(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip(), port)
    }

    /// The first client's first address of the family it dials with.
    pub(crate) fn client(&self) -> IpAddr {
        self.mode.vip.of(self.lab.client(0))
    }

    /// All of the first client's addresses of that family.
    pub(crate) fn sources(&self) -> Vec<IpAddr> {
        let interface = self.lab.client(0).interface();
        match self.mode.vip {
            Family::V4 => interface.v4.iter().map(|ip| (*ip).into()).collect(),
            Family::V6 => interface.v6.iter().map(|ip| (*ip).into()).collect(),
        }
    }

    /// A service of this mode on all backends, without probes.
    pub(crate) fn service(&self, name: &'static str, protocol: &'static str, port: u16) -> Service {
        let named = |node: &Node| (node.name().to_owned(), self.mode.backends.of(node));
        Service {
            name,
            protocol,
            port,
            forward: format!("{:?}", self.mode.forward).to_lowercase(),
            address: self.vip(),
            backends: self.lab.backends().iter().map(named).collect(),
            health: "",
            server_ids: None,
        }
    }

    /// The service `web`, probed.
    pub(crate) fn web(&self) -> Service {
        Service {
            health: HTTP_PROBE,
            ..self.service("web", "tcp", 80)
        }
    }

    /// A balancer with these services.
    pub(crate) fn balancer(&self, services: &[Service]) -> Result<Balancer<'_>> {
        let text = self.file("", services);
        let balancer = self.lab.balancer().namespace();
        Balancer::start(balancer, self.interfaces(), &text)
    }

    /// What its file says, with more keys of `[node]`.
    pub(crate) fn file(&self, node: &str, services: &[Service]) -> String {
        let mut text = vec![node.to_owned(), self.pool()];
        text.extend(services.iter().map(Service::toml));
        text.join("\n")
    }

    /// What `[node]` says of the pool. A closed flow's port is soon another's,
    /// as many short ones follow each other here.
    fn pool(&self) -> String {
        if self.mode.forward != Forward::Fullnat {
            return String::new();
        }
        let list = |family| {
            let pool = pool()
                .into_iter()
                .filter(|ip| Family::of_address(*ip) == family);
            let quoted: Vec<String> = pool.map(|ip| format!("\"{ip}\"")).collect();
            quoted.join(", ")
        };
        format!(
            "fullnat_sources_v4 = [{}]\nfullnat_sources_v6 = [{}]\n\
             fullnat_ports = \"1024-65535\"\nnat_closed_timeout = \"2s\"\n",
            list(Family::V4),
            list(Family::V6)
        )
    }

    /// Whether a server may see a client at that address.
    pub(crate) fn is_seen_as(&self, client: IpAddr, seen: IpAddr) -> bool {
        match self.mode.forward {
            Forward::Fullnat => pool().contains(&seen),
            _ => seen == client,
        }
    }

    /// Where packets come in that the balancer has to see: of clients; from
    /// behind, errors about what it sent and, if it translates, replies.
    pub(crate) fn interfaces(&self) -> &'static [&'static str] {
        match self.mode.forward {
            Forward::L2 | Forward::Fullnat => &["eth0"],
            Forward::Ipip | Forward::Gue | Forward::Nat => &["eth0", "eth1"],
        }
    }

    /// Web servers on all backends.
    pub(crate) fn web_servers(&self) -> Result<Vec<Nginx>> {
        self.lab.backends().iter().map(web_server).collect()
    }

    /// Watches the checksums at clients and backends, and of outer headers
    /// where they arrive at the router.
    pub(crate) fn watch(&self) -> Result<Watch> {
        let ends = self.lab.clients().iter().chain(self.lab.backends());
        let ends = ends.map(|node| (node, "eth0"));
        let router = self.lab.router().map(|node| (node, "back"));
        let start = |(node, name): (&Node, &str)| Capture::start(node.namespace(), name, "");
        Ok(Watch {
            mode: self.mode,
            captures: ends.chain(router).map(start).collect::<Result<_>>()?,
        })
    }
}

/// Captures everywhere that packets arrive.
pub(crate) struct Watch {
    mode: Mode,
    captures: Vec<Capture>,
}

impl Watch {
    /// Insists that every checksum was right, at every place.
    pub(crate) fn judge(self) -> Result<()> {
        let (mut frames, mut missed) = (0, 0);
        for capture in self.captures {
            let judged = capture.judge()?;
            frames += judged.frames;
            missed += judged.missed;
        }
        println!(
            "{}: {frames} frames without a wrong checksum, {missed} not seen",
            self.mode
        );
        // A watch that slept through the test is none.
        ensure!(missed * 10 < frames, "{missed} frames were not seen");
        Ok(())
    }
}

/// A service as a table of the file.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
    pub(crate) forward: String,
    pub(crate) address: IpAddr,
    pub(crate) backends: Vec<(String, IpAddr)>,
    /// What stands below `[service.health]`; no probes if empty.
    pub(crate) health: &'static str,
    /// For QUIC: where in connection ids, and each backend's.
    pub(crate) server_ids: Option<(usize, Vec<[u8; 2]>)>,
}

impl Service {
    fn toml(&self) -> String {
        let Self {
            name,
            protocol,
            port,
            forward,
            address,
            backends,
            health,
            server_ids,
        } = self;
        let mut text = format!(
            "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {port}\n\
             protocol = \"{protocol}\"\nforward = \"{forward}\"\nfail_open_below = 0.0\n"
        );
        if !health.is_empty() {
            text += &format!("\n[service.health]\n{health}");
        }
        if let Some((offset, _)) = server_ids {
            text +=
                &format!("\n[service.quic]\nserver_id_offset = {offset}\nserver_id_length = 2\n");
        }
        for (index, (name, address)) in backends.iter().enumerate() {
            text += &format!("\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
            if let Some((_, ids)) = server_ids {
                text += &format!("server_id = \"{}\"\n", hex(&ids[index]));
            }
        }
        text
    }
}

/// A web server on every address of a backend, called as the backend.
fn web_server(node: &Node) -> Result<Nginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = [Family::V4, Family::V6]
        .map(|family| SocketAddr::new(family.any(), 80))
        .to_vec();
    config.download_len = DOWNLOAD_LEN;
    // Idle connections are left alone.
    config.directives = format!(
        "keepalive_timeout 1h;\n\
         location = {SLOW_DOWNLOAD} {{ set $limit_rate 64k; rewrite ^ /download last; }}"
    );
    Nginx::start(node.namespace(), &config)
}
