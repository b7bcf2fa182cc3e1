//! `[service.health]` as types that cannot hold a fault the file could.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Protocol;

/// `[service.health]`: how backends are probed.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// What a probe does.
    pub kind: ProbeKind,
    /// Where a probe goes.
    pub via: Via,
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
    /// Time between two probes while a row that may change the state has
    /// begun; `None` means the interval.
    pub fast_interval: Option<Duration>,
    /// What is done with a backend that goes up and down.
    pub flap: Flap,
    /// Paths whose answers are compared with the siblings' while a change
    /// gives a backend traffic; only read with HTTP and TCP.
    pub compare: Vec<String>,
    /// A certificate that ends sooner than this is warned of; 0 warns of none.
    pub certificate_warning: Duration,
}

impl Health {
    /// What a probe is, in few words: `http`, or `http via vip`.
    pub fn summary(&self) -> String {
        match self.via {
            Via::Backend => self.kind.name().to_owned(),
            via @ Via::Vip => format!("{} via {via}", self.kind.name()),
        }
    }
}

/// Where a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// To the backend's own address, as the host's routes lead there.
    Backend,
    /// To the service's address, in the packets that forwarding would send to
    /// that one backend.
    Vip,
}

impl Via {
    /// All of them, with their words in the file.
    pub const ALL: &[(&'static str, Self)] = &[("backend", Self::Backend), ("vip", Self::Vip)];
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backend => "backend",
            Self::Vip => "vip",
        })
    }
}

/// How a backend that goes up and down is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flap {
    /// Falls in a row, each soon after the backend came up, that are taken
    /// without more ado; 0 holds nobody back.
    pub limit: u32,
    /// A fall after less time up than this is one of the row.
    pub window: Duration,
    /// How long the first fall too many keeps it out; each further one
    /// doubles that.
    pub hold: Duration,
    /// The longest that a fall keeps it out.
    pub hold_max: Duration,
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
    /// The same over HTTP/2 without TLS, begun with prior knowledge
    /// (RFC 9113, 3.3).
    H2c(HttpProbe),
    /// The same over HTTP/2 and TLS, which is negotiated by ALPN.
    H2(HttpProbe, TlsProbe),
    /// gRPC's health protocol over HTTP/2 without TLS.
    Grpc(GrpcProbe),
    /// The same over TLS.
    Grpcs(GrpcProbe, TlsProbe),
    /// A datagram and its answer.
    Udp(UdpProbe),
    /// A question to a DNS server, over UDP.
    Dns(DnsProbe),
    /// A program of the operator's.
    Command(CommandProbe),
}

impl ProbeKind {
    /// The word for it in the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https(..) => "https",
            Self::H2c(_) => "h2c",
            Self::H2(..) => "h2",
            Self::Grpc(_) => "grpc",
            Self::Grpcs(..) => "grpcs",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Command(_) => "command",
        }
    }

    /// The transport protocol that it speaks; a command's is its own affair.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Udp(_) | Self::Dns(_) => Some(Protocol::Udp),
            Self::Command(_) => None,
            _ => Some(Protocol::Tcp),
        }
    }

    /// What it asks over HTTP, of any version.
    pub fn http(&self) -> Option<&HttpProbe> {
        match self {
            Self::Http(http) | Self::Https(http, _) | Self::H2c(http) | Self::H2(http, _) => {
                Some(http)
            }
            _ => None,
        }
    }

    /// What it asks by gRPC.
    pub fn grpc(&self) -> Option<&GrpcProbe> {
        match self {
            Self::Grpc(grpc) | Self::Grpcs(grpc, _) => Some(grpc),
            _ => None,
        }
    }

    /// Its side of TLS.
    pub fn tls(&self) -> Option<&TlsProbe> {
        match self {
            Self::Https(_, tls) | Self::H2(_, tls) | Self::Grpcs(_, tls) => Some(tls),
            _ => None,
        }
    }

    /// What proves that it is the right server.
    pub fn identity(&self) -> Option<&Identity> {
        match (self.http(), self.grpc()) {
            (Some(http), _) => http.identity.as_ref(),
            (_, Some(grpc)) => grpc.identity.as_ref(),
            _ => None,
        }
    }
}

/// A call of `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcProbe {
    /// The service that is asked for; empty means the whole server.
    pub service: String,
    /// Value of `:authority`; `None` means the backend's address.
    pub host: Option<String>,
    /// What proves that it is the right server: a header or the certificate.
    pub identity: Option<Identity>,
}

/// A datagram and what must come back.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpProbe {
    /// What is sent.
    pub send: Payload,
    /// What the first answer must contain; `None` means that any will do.
    pub expect: Option<Payload>,
}

/// Bytes, as they stand in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// A text.
    Text(String),
    /// Hex digits.
    Hex(Vec<u8>),
}

impl Payload {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Hex(bytes) => bytes,
        }
    }
}

/// A question and what the answer must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsProbe {
    /// The name that is asked for, without the final dot; `.` is the root.
    pub name: String,
    /// The type that is asked for.
    pub record: DnsRecord,
    /// One of these must be among the answers; empty means that any record
    /// of the type will do.
    pub expect: Vec<String>,
}

/// Types of records that a probe can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the RFCs")]
pub enum DnsRecord {
    A,
    Aaaa,
    Cname,
    Mx,
    Ns,
    Ptr,
    Soa,
    Srv,
    Txt,
}

impl DnsRecord {
    /// All of them, with their names.
    pub const ALL: &[(&'static str, Self)] = &[
        ("A", Self::A),
        ("AAAA", Self::Aaaa),
        ("CNAME", Self::Cname),
        ("MX", Self::Mx),
        ("NS", Self::Ns),
        ("PTR", Self::Ptr),
        ("SOA", Self::Soa),
        ("SRV", Self::Srv),
        ("TXT", Self::Txt),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, record)| *record == self)
            .map_or("", |(name, _)| name)
    }
}

/// A program whose end with status 0 passes.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandProbe {
    /// The program's absolute path, and its arguments; never empty.
    pub command: Vec<String>,
    /// The user that it runs as.
    pub user: String,
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

/// TLS side of a probe.
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
    /// A regular expression finds something in the body, of which the first
    /// 64 KiB are searched.
    Pattern(String),
    /// The server's certificate carries this DNS name (TLS only).
    Certificate(String),
}
