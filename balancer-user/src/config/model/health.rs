//! `[service.health]` as types that cannot hold a fault the file could.

use std::path::PathBuf;
use std::time::Duration;

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
    /// Time between two probes while a row that may change the state has
    /// begun; `None` means the interval.
    pub fast_interval: Option<Duration>,
    /// What is done with a backend that goes up and down.
    pub flap: Flap,
    /// Paths whose answers are compared with the siblings' while a change
    /// gives a backend traffic; only read with HTTP and TCP.
    pub compare: Vec<String>,
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
