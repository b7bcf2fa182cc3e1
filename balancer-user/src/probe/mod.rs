//! Probes: one look at one server, and who makes them when.
//!
//! A [`Prober`] is prepared once from the configuration (names parsed, the
//! authorities' file read) and then looks at any number of addresses. Every
//! failure has a name ([`Failure`]); what outcomes mean for a backend is
//! [`crate::health`], when probes are made is [`scheduler`].
//!
//! Invariants: one deadline covers a whole probe, so a server that drips or
//! never ends is caught as surely as one that hangs; a probe spawns no task,
//! so dropping it ends it, and a command's processes with it; what is read is bounded; and each connection is
//! reset when it is done with, so that probes leave no TIME_WAIT behind (a
//! thousand backends a second would use up the local ports in a minute).

mod command;
pub mod compare;
mod deadline;
mod dns;
mod error;
mod grpc;
mod http;
mod http2;
pub mod prove;
pub mod scheduler;
mod tcp;
mod tls;
mod udp;
pub mod vip;

pub use error::PrepareError;

/// What a load test shares with probes: how connections fail, and TLS.
pub(crate) mod load {
    pub(crate) use super::deadline::Deadline;
    use super::error::PrepareError;
    pub(crate) use super::http::http_failure;
    use super::tls;
    pub(crate) use super::tls::Client as Tls;
    use crate::config::model::TlsProbe;

    /// The TLS of connections that ask by HTTP/1.
    pub(crate) fn tls(tls: &TlsProbe) -> Result<Tls, PrepareError> {
        Tls::new(tls, None, tls::Alpn::Http1)
    }
}

pub(crate) use http::regex;
pub(crate) use tls::authorities;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::deadline::Deadline;
use self::scheduler::TargetId;
use self::vip::Way;
use crate::config::model::{Identity, ProbeKind};
use crate::health::{Failure, Outcome};

/// Makes probes of one kind.
#[derive(Debug)]
pub struct Prober {
    prepared: Prepared,
}

#[derive(Debug)]
enum Prepared {
    Tcp,
    Http(http::Client, Option<tls::Client>),
    Http2(http::Client, Option<tls::Client>),
    Grpc(grpc::Client, Option<tls::Client>),
    Udp(udp::Client),
    Dns(dns::Client),
    Command(command::Client),
}

/// When a certificate ends that was shown.
type Ends = Option<SystemTime>;

impl Prober {
    /// Prepares probes of that kind. The `ca_file` is read here and never
    /// again: a prober keeps to the authorities it was made with.
    pub fn new(kind: &ProbeKind) -> Result<Self, PrepareError> {
        if let (Some(Identity::Certificate(_)), None) = (kind.identity(), kind.tls()) {
            return Err(PrepareError::CertificateWithoutTls);
        }
        let tls = |alpn| {
            let tls = kind.tls();
            tls.map(|tls| tls::Client::new(tls, kind.identity(), alpn))
                .transpose()
        };
        let prepared = match kind {
            ProbeKind::Tcp => Prepared::Tcp,
            ProbeKind::Http(http) => Prepared::Http(http::Client::new(http, 80)?, None),
            ProbeKind::Https(http, _) => {
                Prepared::Http(http::Client::new(http, 443)?, tls(tls::Alpn::Http1)?)
            }
            ProbeKind::H2c(http) => Prepared::Http2(http::Client::new(http, 80)?, None),
            ProbeKind::H2(http, _) => {
                Prepared::Http2(http::Client::new(http, 443)?, tls(tls::Alpn::Http2)?)
            }
            ProbeKind::Grpc(grpc) | ProbeKind::Grpcs(grpc, _) => {
                Prepared::Grpc(grpc::Client::new(grpc)?, tls(tls::Alpn::Http2)?)
            }
            ProbeKind::Udp(udp) => Prepared::Udp(udp::Client::new(udp)),
            ProbeKind::Dns(dns) => Prepared::Dns(dns::Client::new(dns)?),
            ProbeKind::Command(command) => Prepared::Command(command::Client::new(command)?),
        };
        Ok(Self { prepared })
    }

    /// Looks at the server that a way leads to; is back after `timeout` at most.
    pub async fn probe(&self, id: &TargetId, way: impl Into<Way>, timeout: Duration) -> Outcome {
        let way = way.into();
        let start = Instant::now();
        let deadline = Deadline::after(timeout);
        let result = self.attempt(id, &way, &deadline).await;
        let duration = start.elapsed();
        match result {
            Ok(certificate_ends) => Outcome::Passed {
                duration,
                certificate_ends,
            },
            Err(reason) => Outcome::Failed {
                reason: way.explain(reason),
                duration,
            },
        }
    }

    async fn attempt(
        &self,
        id: &TargetId,
        way: &Way,
        deadline: &Deadline,
    ) -> Result<Ends, Failure> {
        let address = way.address();
        match &self.prepared {
            // What is boxed leaves the futures of TCP and HTTP, of which there
            // are thousands a second, a third of the size.
            Prepared::Udp(udp) => Box::pin(udp.exchange(way, deadline)).await.map(|()| None),
            Prepared::Dns(dns) => Box::pin(dns.exchange(way, deadline)).await.map(|()| None),
            Prepared::Command(command) => {
                let run = Box::pin(command.run(id, address, deadline));
                run.await.map(|()| None)
            }
            Prepared::Tcp => tcp::connect(way, deadline).await.map(|_| None),
            Prepared::Http(_, tls) | Prepared::Http2(_, tls) | Prepared::Grpc(_, tls) => {
                let (stream, _ticket) = tcp::connect(way, deadline).await?;
                let Some(tls) = tls else {
                    return self
                        .ask(stream, ("http", address), deadline)
                        .await
                        .map(|()| None);
                };
                let secured = async {
                    let stream = tls.handshake(stream, address, deadline).await?;
                    let ends = tls::certificate_ends(&stream);
                    self.ask(stream, ("https", address), deadline).await?;
                    Ok(ends)
                };
                Box::pin(secured).await
            }
        }
    }

    /// Asks over a connection, of either scheme.
    async fn ask<S>(
        &self,
        stream: S,
        at: (&'static str, SocketAddr),
        deadline: &Deadline,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match &self.prepared {
            Prepared::Http(http, _) => http.exchange(stream, at.1, deadline).await,
            Prepared::Http2(http, _) => Box::pin(http2::exchange(http, stream, at, deadline)).await,
            Prepared::Grpc(grpc, _) => Box::pin(grpc.exchange(stream, at, deadline)).await,
            // Nothing is asked of these over a connection.
            Prepared::Tcp | Prepared::Udp(_) | Prepared::Dns(_) | Prepared::Command(_) => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
