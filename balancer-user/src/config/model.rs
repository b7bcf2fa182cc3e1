//! The configuration as types that cannot hold a fault the file could.
//!
//! Pure data: parsing is [`super::parse`], the rules are [`super::check`],
//! and [`super::render`] writes a configuration back as a file. Durations are
//! `std::time::Duration`, addresses `std::net` types, all in host order.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// A whole configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What concerns this host.
    pub node: Node,
    /// The services, in the file's order.
    pub services: Vec<Service>,
}

impl Config {
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
    /// Outer source address of IPv4 tunnels; `None` means the address the
    /// kernel's route to the backend prefers.
    pub tunnel_source_v4: Option<Ipv4Addr>,
    /// As [`Node::tunnel_source_v4`], for IPv6 tunnels.
    pub tunnel_source_v6: Option<Ipv6Addr>,
    /// Socket of the control API.
    pub socket: PathBuf,
    /// Directory of the daemon's own files.
    pub state_dir: PathBuf,
    /// Directory on a bpffs where link and maps are pinned.
    pub pin_dir: PathBuf,
    /// Answer echo requests to the services' addresses.
    pub answer_echo: bool,
    /// Leave the program attached when the daemon is stopped.
    pub keep_forwarding: bool,
    /// How often the kernel's tables are read back and compared.
    pub resync_interval: Duration,
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
    /// How long flows of a slot's old owner are kept after a change.
    pub drain_timeout: Duration,
    /// Declared peak of new flows a second.
    pub peak_flows_per_second: Option<u64>,
    /// Rules whose findings are allowed for this service.
    pub allow: Vec<String>,
    /// Why they are allowed.
    pub allow_reason: Option<String>,
    /// The probe; `None` means every backend counts as up.
    pub health: Option<Health>,
    /// The backends, in the file's order.
    pub backends: Vec<Backend>,
}

impl Service {
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

/// The ports of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port (`"any"`).
    Any,
    /// Inclusive ranges, sorted, neither touching nor overlapping; a single
    /// port is a range of one.
    Ranges(Vec<(u16, u16)>),
}

impl Ports {
    /// One port.
    pub fn one(port: u16) -> Self {
        Self::Ranges(vec![(port, port)])
    }

    /// How many ports these are.
    pub fn count(&self) -> usize {
        match self {
            Self::Any => 65_535,
            Self::Ranges(ranges) => ranges
                .iter()
                .map(|(first, last)| usize::from(*last) - usize::from(*first) + 1)
                .sum(),
        }
    }

    /// Every port in order; nothing for [`Ports::Any`].
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let ranges: &[(u16, u16)] = match self {
            Self::Any => &[],
            Self::Ranges(ranges) => ranges,
        };
        ranges.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The port probes use where the file names none: the only or lowest one.
    pub fn first(&self) -> Option<u16> {
        self.iter().next()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Ranges(ranges) => {
                for (index, (first, last)) in ranges.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{first}")?;
                    if last != first {
                        write!(f, "-{last}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// Rewrite the Ethernet addresses; backends are on the same link.
    L2,
    /// IP in IP, any pair of families (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::Ipip => "ipip",
        })
    }
}

/// `[service.health]`: how backends are probed.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// What a probe does.
    pub kind: ProbeKind,
    /// Port that is probed; `None` means the service's first.
    pub port: Option<u16>,
    /// Time between the starts of two probes.
    pub interval: Duration,
    /// Each interval is made shorter by up to this share of itself (0 to 0.5),
    /// at random, so that probes do not come in herds.
    pub jitter: f64,
    /// A probe without an answer by then has failed.
    pub timeout: Duration,
    /// Good probes in a row that make a backend up.
    pub rise: u32,
    /// Bad probes in a row that make a backend down.
    pub fall: u32,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeKind {
    /// Opens a TCP connection and resets it.
    Tcp,
    /// A GET request over HTTP/1.1.
    Http(HttpProbe),
    /// The same over TLS.
    Https(HttpProbe, TlsProbe),
}

/// The request of an HTTP probe and what its answer must be.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// Request target, begins with `/`.
    pub path: String,
    /// Value of the `Host` field; `None` means the backend's address.
    pub host: Option<String>,
    /// Statuses that pass; empty means unset, which passes 200 to 399.
    pub expect_status: Vec<u16>,
    /// What proves that it is the right server.
    pub identity: Option<Identity>,
}

/// TLS side of an HTTPS probe.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsProbe {
    /// Name sent as SNI and that the certificate must carry; `None` means
    /// the certificate's name is not looked at.
    pub server_name: Option<String>,
    /// PEM file of the authorities that are trusted; `None` means any chain
    /// is taken, as the probe asks for life and identity, not secrecy.
    pub ca_file: Option<PathBuf>,
}

/// Proof that a server is the right one, not only alive.
#[derive(Debug, Clone, PartialEq)]
pub enum Identity {
    /// A header field of the answer has this value.
    Header {
        /// Field name, compared without case.
        name: String,
        /// The whole value, compared exactly.
        value: String,
    },
    /// The first 64 KiB of the body contain this text.
    Body(String),
    /// The server's certificate carries this DNS name (HTTPS only).
    Certificate(String),
}

/// `[[service.backend]]`: one server.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Name, unique in its service.
    pub name: String,
    /// The server's address.
    pub address: IpAddr,
    /// Port, where it is stated; must equal the service's in the modes that
    /// cannot rewrite ports.
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
    /// An operator's wish: no new flows, old ones kept.
    pub drain: bool,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
