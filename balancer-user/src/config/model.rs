//! The configuration as types that cannot hold a fault the file could.
//!
//! Pure data: parsing is [`super::parse`], the rules are [`super::check`],
//! and [`super::render`] writes a configuration back as a file. Durations are
//! `std::time::Duration`, addresses `std::net` types, all in host order.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

mod apply;
mod backends;
mod health;
mod packet_path;
mod ports;
mod webhook;

pub use apply::{Apply, Keep};
pub use backends::Backends;
pub use health::{
    CommandProbe, DnsProbe, DnsRecord, Flap, GrpcProbe, Health, HttpProbe, Identity, Payload,
    ProbeKind, TlsProbe, UdpProbe, Via,
};
pub use packet_path::{Affinity, MAX_HOST_BITS, Quic, ServerId, SourceLimit, TunnelSource};
pub use ports::Ports;
pub use webhook::{Webhook, WebhookKind};

/// A whole configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The revision that the file was written against, if it says so.
    pub based_on: Option<u64>,
    /// What concerns this host.
    pub node: Node,
    /// How changes come into force.
    pub apply: Apply,
    /// The services, in the file's order.
    pub services: Vec<Service>,
}

impl Config {
    /// Takes the memory of another configuration for the backends of services
    /// that are the same in it.
    pub fn share(&mut self, other: &Self) {
        let known: HashMap<&str, &Service> = other
            .services
            .iter()
            .map(|service| (service.name.as_str(), service))
            .collect();
        for service in &mut self.services {
            if let Some(same) = known.get(service.name.as_str()) {
                service.backends.share(&same.backends);
            }
        }
    }

    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The service of that name, to be changed.
    pub fn service_mut(&mut self, name: &str) -> Option<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.name == name)
    }
}

/// `[node]`: what concerns this host.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Interfaces the program is attached to, by name.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Key of the flow hash; `None` means one made at the first start and
    /// kept in the state directory.
    pub seed: Option<Seed>,
    /// Slots in each service's table; a prime.
    pub table_size: u32,
    /// Outer source of IPv4 tunnels; `None` means the address the kernel's
    /// route to the backend prefers.
    pub tunnel_source_v4: Option<TunnelSource<Ipv4Addr>>,
    /// As [`Node::tunnel_source_v4`], for IPv6 tunnels.
    pub tunnel_source_v6: Option<TunnelSource<Ipv6Addr>>,
    /// UDP port that GUE packets are sent to.
    pub gue_port: u16,
    /// Addresses that `fullnat` sends from to IPv4 backends, each once.
    pub fullnat_sources_v4: Vec<Ipv4Addr>,
    /// As [`Node::fullnat_sources_v4`], to IPv6 backends.
    pub fullnat_sources_v6: Vec<Ipv6Addr>,
    /// First and last port that `fullnat` sends from; 1024 of them or more.
    pub fullnat_ports: (u16, u16),
    /// A translation of `nat` or `fullnat` silent for that long is given up.
    pub nat_idle_timeout: Duration,
    /// The same for a TCP flow after a FIN or RST.
    pub nat_closed_timeout: Duration,
    /// Share (0 to 1) of TCP flows whose handshake is timed, at least.
    pub handshake_sample: f64,
    /// Records of flows that are kept during changes and for
    /// [`Affinity::Flow`].
    pub flow_table_size: u32,
    /// Where metrics and digests are served over TCP; `None` means nowhere.
    pub listen: Option<SocketAddr>,
    /// Serve the status page there as well.
    pub page: bool,
    /// Where the other balancers of the group serve theirs, each once.
    pub peers: Vec<SocketAddr>,
    /// Socket of the control API.
    pub socket: PathBuf,
    /// Group whose members may ask what is going on there.
    pub read_group: Option<String>,
    /// Group whose members may change everything there.
    pub change_group: Option<String>,
    /// Directory of the daemon's own files.
    pub state_dir: PathBuf,
    /// Directory on a bpffs where link and maps are pinned.
    pub pin_dir: PathBuf,
    /// Answer echo requests to the services' addresses.
    pub answer_echo: bool,
    /// Leave the program attached when the daemon is stopped.
    pub keep_forwarding: bool,
    /// How often all of the kernel's tables are read back and compared at
    /// once, and routes and neighbours are asked for again.
    pub resync_interval: Duration,
    /// Write anew what is found to have drifted in the kernel.
    pub repair_drift: bool,
    /// Who is told of incidents, each name once.
    pub webhooks: Vec<Webhook>,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver where it can, generic otherwise.
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

/// Sixteen secret bytes that key the flow hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 16]);

impl fmt::Debug for Seed {
    /// The seed is a secret: logs and panics must not show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// `[[service]]`: an address, ports and a protocol that clients dial.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Unique name.
    pub name: String,
    /// The VIP.
    pub address: IpAddr,
    /// The ports clients dial.
    pub ports: Ports,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// How a packet reaches its backend.
    pub forward: Forward,
    /// Networks that backends must be in; empty means any.
    pub allowed_backends: Vec<IpNet>,
    /// Share of healthy weight (0 to 1) below which all enabled backends are
    /// used, healthy or not; `None` is unset, which acts as 0.
    pub fail_open_below: Option<f64>,
    /// Share of healthy weight (0 to 1) of the primary pool below which
    /// backups are used as well; at 0 they are where no primary is healthy.
    pub backup_below: f64,
    /// The time in which a backend that comes up gets its whole share; zero
    /// gives it at once.
    pub slow_start: Duration,
    /// What is done with a backend whose clients' handshakes do not finish.
    pub unfinished_handshakes: Unfinished,
    /// How long flows of a slot's old owner are kept after a change.
    pub drain_timeout: Duration,
    /// Declared peak of new flows a second.
    pub peak_flows_per_second: Option<u64>,
    /// What makes packets stay with a backend; only UDP has
    /// [`Affinity::Flow`].
    pub affinity: Affinity,
    /// TCP only: a larger maximum segment size in a SYN is lowered to this.
    pub mss_clamp: Option<u16>,
    /// Networks of clients that may pass, of the service's family, each once.
    /// The longest prefix of both lists that holds a client decides; where
    /// none does, the client passes if this list is empty.
    pub allow_sources: Vec<IpNet>,
    /// Networks of clients whose packets are dropped; none is in
    /// [`Service::allow_sources`] as well.
    pub deny_sources: Vec<IpNet>,
    /// Limit of new flows of a source prefix; only where new flows can be
    /// told: for TCP, and UDP with [`Affinity::Flow`].
    pub source_limit: Option<SourceLimit>,
    /// UDP only: connection ids name the backend by its
    /// [`Backend::server_id`].
    pub quic: Option<Quic>,
    /// Rules whose findings are allowed for this service.
    pub allow: Vec<String>,
    /// Why they are allowed.
    pub allow_reason: Option<String>,
    /// The probe; `None` means every backend counts as up.
    pub health: Option<Health>,
    /// The backends, in the file's order.
    pub backends: Backends,
}

impl Service {
    /// The port that a backend's probes dial: a mode that translates dials the
    /// backend's own. None without a probe, or any port to probe.
    pub fn probed_port(&self, backend: &Backend) -> Option<u16> {
        let port = self.health.as_ref()?.port.or(backend.port);
        port.or_else(|| self.ports.first())
    }

    /// The backend of that name.
    pub fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.name == name)
    }

    /// The backend of that name, to be changed.
    pub fn backend_mut(&mut self, name: &str) -> Option<&mut Backend> {
        self.backends
            .iter_mut()
            .find(|backend| backend.name == name)
    }
}

/// Transport protocol of a service.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How a packet reaches its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Forward {
    /// Rewrite the Ethernet addresses; backends are on the same link.
    L2,
    /// IP in IP, any pair of families (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
    /// IP in UDP, any pair of families (variant 1 of draft-ietf-intarea-gue).
    Gue,
    /// Rewrite the destination; replies come back through the balancer.
    Nat,
    /// Rewrite destination and source; backends need no set-up.
    Fullnat,
}

impl Forward {
    /// Whether the packet goes to the backend inside another one.
    pub fn is_tunnel(self) -> bool {
        match self {
            Self::Ipip | Self::Gue => true,
            Self::L2 | Self::Nat | Self::Fullnat => false,
        }
    }

    /// Whether addresses, and with them ports, are rewritten.
    pub fn is_translation(self) -> bool {
        match self {
            Self::Nat | Self::Fullnat => true,
            Self::L2 | Self::Ipip | Self::Gue => false,
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
            Self::Fullnat => "fullnat",
        })
    }
}

/// `[[service.backend]]`: one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Name, unique in its service.
    pub name: String,
    /// The server's address.
    pub address: IpAddr,
    /// Port, where it is stated. A mode that translates rewrites the
    /// service's only port to it; in the others it equals that port.
    pub port: Option<u16>,
    /// Share of new flows relative to the siblings, 0 to 65535.
    pub weight: u16,
    /// Failure domain.
    pub zone: Option<String>,
    /// New flows a second that the server can take.
    pub capacity_flows_per_second: Option<u64>,
    /// The next hop's Ethernet address; `None` means the kernel's neighbour
    /// table is asked.
    pub mac: Option<Mac>,
    /// The id that QUIC connection ids name it by; every backend of a service
    /// with [`Service::quic`] has one of its own, no other has any.
    pub server_id: Option<ServerId>,
    /// Whether it is used always, or only while too few of the others are
    /// healthy.
    pub pool: Pool,
    /// An operator's wish: no new flows, old ones kept.
    pub drain: bool,
}

/// When a backend is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Always.
    Primary,
    /// While too few of the primary pool are healthy.
    Backup,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        })
    }
}

/// What is done with a backend whose probes pass and whose clients' handshakes
/// do not finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// It is named, and gets its share.
    Named,
    /// It gets a small part of its share until it is well again.
    Trickle,
    /// It gets nothing for a while, then a small part.
    Out,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => "named",
            Self::Trickle => "trickle",
            Self::Out => "out",
        })
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
