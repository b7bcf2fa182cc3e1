//! One flow of a load test: a connection, and the requests in it.
//!
//! The connections end as those of ordinary clients do, by FIN and after the
//! server's, so that neither the servers nor the watch take a test for clients
//! that give up, and no local port is held by TIME_WAIT. Only a connection of
//! plain TCP, in which nobody but this side can end anything, is reset.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper_util::rt::TokioIo;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::tally::Sample;
use super::target::{Scheme, Target};
use crate::config::model::TlsProbe;
use crate::health::{Failure, Phase};
use crate::probe::load::{self, Deadline};

/// How load tests show in the servers' logs.
const AGENT: &str = concat!("balancer-loadtest/", env!("CARGO_PKG_VERSION"));

/// What flows have in common.
pub struct Client {
    scheme: Scheme,
    address: SocketAddr,
    path: String,
    host: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Those that pass; 200 to 399 where none are named.
    statuses: Vec<u16>,
    /// The field of an answer that says who gave it.
    answered_by: Option<HeaderName>,
    tls: Option<load::Tls>,
    timeout: Duration,
    requests: u32,
    sources: Vec<IpAddr>,
    next_source: AtomicUsize,
}

/// What is asked, and what passes.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The `Host` field; else the target's host.
    pub host: Option<String>,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Statuses that pass; 200 to 399 where none are named.
    pub statuses: Vec<u16>,
    /// The field of an answer that says who gave it.
    pub answered_by: Option<HeaderName>,
    /// Of TLS.
    pub tls: TlsProbe,
    /// For a connection, and for each request.
    pub timeout: Duration,
    /// Requests a connection.
    pub requests: u32,
    /// Addresses that flows come from in turn; the host's choice where none.
    pub sources: Vec<IpAddr>,
}

impl Client {
    /// Prepares flows to an address.
    ///
    /// # Errors
    /// What of it cannot be asked so.
    pub fn new(target: &Target, address: SocketAddr, ask: Ask) -> Result<Self, String> {
        let default_port = match target.scheme {
            Scheme::Https => 443,
            _ => 80,
        };
        let host = ask.host.unwrap_or_else(|| {
            let name = match target.host.contains(':') {
                true => format!("[{}]", target.host),
                false => target.host.clone(),
            };
            match target.port == default_port {
                true => name,
                false => format!("{name}:{}", target.port),
            }
        });
        let host = HeaderValue::try_from(&host)
            .map_err(|_| format!("`{host}` cannot stand in a Host field"))?;
        let is_other = |source: &&IpAddr| source.is_ipv4() != address.is_ipv4();
        if let Some(source) = ask.sources.iter().find(is_other) {
            return Err(format!("no flow can go from {source} to {}", address.ip()));
        }
        let tls = match target.scheme {
            Scheme::Https => Some(load::tls(&ask.tls).map_err(|error| error.to_string())?),
            _ => None,
        };
        Ok(Self {
            scheme: target.scheme,
            address,
            path: target.path.clone(),
            host,
            headers: ask.headers,
            statuses: ask.statuses,
            answered_by: ask.answered_by,
            tls,
            timeout: ask.timeout,
            requests: ask.requests.max(1),
            sources: ask.sources,
            next_source: AtomicUsize::new(0),
        })
    }

    /// Requests a flow makes.
    pub fn requests(&self) -> u32 {
        match self.scheme {
            Scheme::Http | Scheme::Https => self.requests,
            _ => 1,
        }
    }

    /// Makes a flow that was due at a moment of a test.
    pub async fn flow(&self, began: Instant, due: Duration) -> Vec<Sample> {
        let mut flow = Flow {
            due,
            start: began + due,
            connected: None,
            samples: Vec::new(),
        };
        if let Err(failure) = self.make(&mut flow).await {
            flow.end(Some(&failure), None);
            // What was to come in this connection never does.
            let made = flow.samples.len() as u32;
            for _ in made..self.requests() {
                flow.end(Some(&failure), None);
            }
        }
        flow.samples
    }

    async fn make(&self, flow: &mut Flow) -> Result<(), Failure> {
        let deadline = Deadline::after(self.timeout);
        let stream = self.connect(&deadline).await?;
        match (self.scheme, &self.tls) {
            (Scheme::Tcp, _) => {
                flow.connected = Some(flow.start.elapsed());
                flow.end(None, None);
                stream
                    .set_zero_linger()
                    .map_err(|error| deadline.io_failure(&error, Phase::Connect))
            }
            (_, None) => self.converse(stream, flow).await,
            (_, Some(tls)) => {
                let stream = tls.handshake(stream, self.address, &deadline).await?;
                self.converse(stream, flow).await
            }
        }
    }

    async fn connect(&self, deadline: &Deadline) -> Result<TcpStream, Failure> {
        let named = |error: io::Error| deadline.io_failure(&error, Phase::Connect);
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = socket.map_err(named)?;
        if !self.sources.is_empty() {
            let turn = self.next_source.fetch_add(1, Ordering::Relaxed);
            let source = self.sources[turn % self.sources.len()];
            // The port is chosen with the destination known, so that each
            // source has all of them for each destination.
            setsockopt(&socket, IpBindAddressNoPort, &true).map_err(|error| named(error.into()))?;
            socket.bind(SocketAddr::new(source, 0)).map_err(named)?;
        }
        deadline
            .within(Phase::Connect, socket.connect(self.address))
            .await?
            .map_err(named)
    }

    /// Makes the requests of a connection, and waits until the server ends it.
    async fn converse<S>(&self, stream: S, flow: &mut Flow) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        flow.connected = Some(flow.start.elapsed());
        let deadline = Deadline::after(self.timeout);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| load::http_failure(&error, Phase::Answer, &deadline))?;
        let mut connection = pin!(connection.without_shutdown());
        let talk = async {
            for number in 1..=self.requests {
                if number > 1 {
                    flow.start = Instant::now();
                }
                let is_last = number == self.requests;
                let answered_by = self.ask(&mut sender, is_last).await?;
                flow.end(None, answered_by);
            }
            drop(sender);
            Ok(())
        };
        let ended = match select(pin!(talk), connection.as_mut()).await {
            Either::Left((Err(failure), _)) => return Err(failure),
            Either::Left((Ok(()), connection)) => {
                let deadline = Deadline::after(self.timeout);
                deadline.within(Phase::Body, connection).await?
            }
            // What the connection died of is the cause, and what the request
            // says only that it was given up.
            Either::Right((ended, talk)) => match (talk.await, &ended) {
                (Err(_), Err(error)) => {
                    return Err(load::http_failure(error, Phase::Answer, &deadline));
                }
                (Err(failure), Ok(_)) => return Err(failure),
                (Ok(()), _) => ended,
            },
        };
        // The server said that it would close: its FIN comes first. All is
        // answered, so whatever else comes of it is nobody's failure.
        if let Ok(parts) = ended {
            let mut stream = parts.io.into_inner();
            let deadline = Deadline::after(self.timeout);
            let mut rest = [0; 64];
            let _ = deadline.within(Phase::Body, stream.read(&mut rest)).await;
        }
        Ok(())
    }

    /// Makes a request and reads the whole answer; gives who it is from.
    async fn ask(
        &self,
        sender: &mut http1::SendRequest<Empty<Bytes>>,
        is_last: bool,
    ) -> Result<Option<String>, Failure> {
        let deadline = Deadline::after(self.timeout);
        let request = self.request(is_last)?;
        let answer = deadline
            .within(Phase::Answer, sender.send_request(request))
            .await?
            .map_err(|error| load::http_failure(&error, Phase::Answer, &deadline))?;
        let (head, mut body) = answer.into_parts();
        while let Some(frame) = deadline.within(Phase::Body, body.frame()).await? {
            frame.map_err(|error| load::http_failure(&error, Phase::Body, &deadline))?;
        }
        let got = head.status.as_u16();
        let passes = match self.statuses.is_empty() {
            true => (200..=399).contains(&got),
            false => self.statuses.contains(&got),
        };
        if !passes {
            return Err(Failure::BadStatus {
                got,
                expected: match self.statuses.is_empty() {
                    true => "200 to 399".to_owned(),
                    false => {
                        let statuses: Vec<_> = self.statuses.iter().map(u16::to_string).collect();
                        statuses.join(" or ")
                    }
                },
            });
        }
        let name = self.answered_by.as_ref().map(|field| {
            let value = head.headers.get(field);
            value.map_or_else(
                || format!("(no {field})"),
                |value| String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        });
        Ok(name)
    }

    fn request(&self, is_last: bool) -> Result<Request<Empty<Bytes>>, Failure> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self
            .path
            .parse()
            .map_err(|_| Failure::Local(format!("`{}` is no path", self.path)))?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if is_last {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(request)
    }
}

/// A flow under way.
struct Flow {
    due: Duration,
    /// When the request was due that is made now.
    start: Instant,
    connected: Option<Duration>,
    samples: Vec<Sample>,
}

impl Flow {
    /// Notes a request that is over.
    fn end(&mut self, failure: Option<&Failure>, answered_by: Option<String>) {
        self.samples.push(Sample {
            due: self.due,
            took: self.start.elapsed(),
            connected: self.connected.take(),
            failure: failure.map(ToString::to_string),
            answered_by,
        });
    }
}
