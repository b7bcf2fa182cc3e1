//! Probes: one look at one server, and who makes them when.
//!
//! A [`Prober`] is prepared once from the configuration (names parsed, the
//! authorities' file read) and then looks at any number of addresses. Every
//! failure has a name ([`Failure`]); what outcomes mean for a backend is
//! [`crate::health`], when probes are made is [`scheduler`].
//!
//! Invariants: one deadline covers a whole probe, so a server that drips or
//! never ends is caught as surely as one that hangs; a probe spawns no task,
//! so dropping it ends it; what is read is bounded; and each connection is
//! reset when it is done with, so that probes leave no TIME_WAIT behind (a
//! thousand backends a second would use up the local ports in a minute).

pub mod compare;
mod http;
pub mod prove;
pub mod scheduler;
mod tcp;
mod tls;

pub(crate) use tls::authorities;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::config::model::{Identity, ProbeKind};
use crate::health::{Failure, Outcome, Phase, shortened};

/// The most that a probe may take, so that the deadline can be reckoned.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a probe cannot be made from its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrepareError {
    /// The authorities' file cannot be read or holds something unusable.
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The authorities' file holds no certificate.
    CaFileEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The path is no request target.
    Path(String),
    /// The host cannot stand in a header field.
    Host(String),
    /// The name of the identity's header field is none.
    HeaderName(String),
    /// The server name is neither a DNS name nor an address.
    ServerName(String),
    /// The certificate identity is no DNS name.
    CertificateName(String),
    /// A certificate identity on a probe without TLS.
    CertificateWithoutTls,
    /// The TLS library refuses its own defaults.
    Tls(String),
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaFile { path, error } => {
                write!(f, "ca_file {} cannot be used: {error}", path.display())
            }
            Self::CaFileEmpty { path } => write!(
                f,
                "ca_file {} holds no certificate; it must hold at least one in PEM",
                path.display()
            ),
            Self::Path(path) => write!(f, "path {path:?} is no request target; try \"/\""),
            Self::Host(host) => write!(f, "host {host:?} cannot stand in a header field"),
            Self::HeaderName(name) => {
                write!(f, "identity header {name:?} is no name of a header field")
            }
            Self::ServerName(name) => {
                write!(
                    f,
                    "server_name {name:?} is neither a DNS name nor an address"
                )
            }
            Self::CertificateName(name) => write!(
                f,
                "identity certificate {name:?} is no DNS name; give one name without a wildcard"
            ),
            Self::CertificateWithoutTls => {
                f.write_str("identity certificate needs a probe of kind \"https\"")
            }
            Self::Tls(error) => write!(f, "TLS cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for PrepareError {}

/// Makes probes of one kind.
#[derive(Debug)]
pub struct Prober {
    prepared: Prepared,
}

#[derive(Debug)]
enum Prepared {
    Tcp,
    Http(http::Client),
    Https(http::Client, tls::Client),
}

impl Prober {
    /// Prepares probes of that kind. The `ca_file` is read here and never
    /// again: a prober keeps to the authorities it was made with.
    pub fn new(kind: &ProbeKind) -> Result<Self, PrepareError> {
        let prepared = match kind {
            ProbeKind::Tcp => Prepared::Tcp,
            ProbeKind::Http(http) => {
                if let Some(Identity::Certificate(_)) = http.identity {
                    return Err(PrepareError::CertificateWithoutTls);
                }
                Prepared::Http(http::Client::new(http, 80)?)
            }
            ProbeKind::Https(http, tls) => Prepared::Https(
                http::Client::new(http, 443)?,
                tls::Client::new(tls, http.identity.as_ref())?,
            ),
        };
        Ok(Self { prepared })
    }

    /// Looks at the server at `address`; is back after `timeout` at most.
    pub async fn probe(&self, address: SocketAddr, timeout: Duration) -> Outcome {
        let start = Instant::now();
        let timeout = timeout.min(MAX_TIMEOUT);
        let deadline = Deadline {
            at: start + timeout,
            limit: timeout,
        };
        let result = self.attempt(address, &deadline).await;
        let duration = start.elapsed();
        match result {
            Ok(()) => Outcome::Passed { duration },
            Err(reason) => Outcome::Failed { reason, duration },
        }
    }

    async fn attempt(&self, address: SocketAddr, deadline: &Deadline) -> Result<(), Failure> {
        let stream = tcp::connect(address, deadline).await?;
        match &self.prepared {
            Prepared::Tcp => Ok(()),
            Prepared::Http(http) => http.exchange(stream, address, deadline).await,
            Prepared::Https(http, tls) => {
                let stream = tls.handshake(stream, address, deadline).await?;
                http.exchange(stream, address, deadline).await
            }
        }
    }
}

/// The end of a whole probe; its phases share it.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// Waits for `work`, at most until the deadline.
    async fn within<T>(&self, phase: Phase, work: impl Future<Output = T>) -> Result<T, Failure> {
        timeout_at(self.at, work)
            .await
            .map_err(|_| self.timeout(phase))
    }

    fn timeout(&self, phase: Phase) -> Failure {
        Failure::Timeout {
            phase,
            limit: self.limit,
        }
    }

    /// Names an error of a socket. An error number that is not known to be
    /// the server's or the network's is taken as our own, since a failure of
    /// our own must never take a backend down. An error without a number comes
    /// from a library's reading of what the server sent, so it is the server's.
    fn io_failure(&self, error: &io::Error, phase: Phase) -> Failure {
        let Some(number) = error.raw_os_error() else {
            return match (error.kind(), phase) {
                (io::ErrorKind::UnexpectedEof, _) => Failure::Closed { phase },
                (io::ErrorKind::BrokenPipe, _) => Failure::Reset { phase },
                (_, Phase::Connect) => Failure::Local(error.to_string()),
                (_, Phase::Handshake) => Failure::Tls(shortened(error.to_string().as_bytes())),
                _ => Failure::BadHttp(shortened(error.to_string().as_bytes())),
            };
        };
        match number {
            libc::ECONNREFUSED => Failure::Refused,
            libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => Failure::Reset { phase },
            libc::ETIMEDOUT => self.timeout(phase),
            libc::EADDRNOTAVAIL => Failure::NoAddress,
            // What ICMP errors arrive as. EACCES is ICMPv6's "prohibited": a
            // firewall on the way, which is no fault of this host.
            libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EPROTO
            | libc::EACCES => Failure::Unreachable,
            _ => Failure::Local(error.to_string()),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_errors_are_local_and_the_servers_are_not() {
        let deadline = Deadline {
            at: Instant::now(),
            limit: Duration::from_millis(200),
        };
        let phase = Phase::Connect;
        let name = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            deadline.io_failure(&error, phase)
        };
        for errno in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOBUFS,
            libc::ENOMEM,
            libc::EPERM,
            libc::EAFNOSUPPORT,
            libc::EADDRNOTAVAIL,
            libc::ENETDOWN,
        ] {
            assert!(name(errno).is_local(), "{:?}", name(errno));
        }
        assert_eq!(name(libc::ECONNREFUSED), Failure::Refused);
        assert_eq!(name(libc::ECONNRESET), Failure::Reset { phase });
        assert_eq!(name(libc::EHOSTUNREACH), Failure::Unreachable);
        assert_eq!(name(libc::ENETUNREACH), Failure::Unreachable);
        assert_eq!(name(libc::EACCES), Failure::Unreachable);
        assert_eq!(name(libc::ETIMEDOUT), deadline.timeout(phase));
    }

    /// Libraries tell of a server's bad bytes as I/O errors without a number:
    /// taken as local they would keep a broken server up for ever.
    #[test]
    fn error_that_no_system_call_made_is_the_servers() {
        let deadline = Deadline {
            at: Instant::now(),
            limit: Duration::from_millis(200),
        };
        let error = io::Error::new(io::ErrorKind::InvalidData, "bad chunk");
        for phase in [Phase::Handshake, Phase::Answer, Phase::Body] {
            assert!(!deadline.io_failure(&error, phase).is_local());
        }
    }
}
