//! The HTTP/1.1 side of a probe: one GET, its status, and the proof that the
//! right server answered.
//!
//! The connection is driven inside the probe's own future, beside the
//! request, so no task outlives the probe. The body is read only where the
//! identity is looked for in it, or the whole answer is waited for, and 64 KiB
//! at most. The end is a reset, also where a server is still sending: the
//! probe has seen what it came for.

mod judge;

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::TryFutureExt;
use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use self::judge::regex;
pub(super) use self::judge::{Chunks, judge_header};
use self::judge::{judge_body, judge_pattern, read_body};
use super::{Deadline, PrepareError, tls};
use crate::config::model::{HttpProbe, Identity};
use crate::health::{Failure, Phase};

/// The most of an answer's header that a probe reads.
pub(super) const HEADER_LIMIT: usize = 16 * 1024;
/// How probes show in the servers' logs.
pub(super) const AGENT: &str = concat!("balancer-probe/", env!("CARGO_PKG_VERSION"));

/// A request and what its answer must be, ready to be sent to any address.
#[derive(Debug)]
pub(super) struct Client {
    target: Uri,
    host: Option<HeaderValue>,
    default_port: u16,
    expect_status: Vec<u16>,
    proof: Option<Proof>,
}

/// The identities that an answer proves; a certificate's is [`tls`]'s.
#[derive(Debug)]
enum Proof {
    Header { name: HeaderName, value: String },
    Body(String),
    Pattern(Regex),
}

impl Chunks for Incoming {
    async fn next(&mut self, deadline: &Deadline) -> Result<Option<Bytes>, Failure> {
        match deadline.within(Phase::Body, self.frame()).await? {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(http_failure(&error, Phase::Body, deadline)),
        }
    }
}

impl Client {
    /// Prepares the request. `default_port` is the scheme's, which the `Host`
    /// field leaves out.
    pub(super) fn new(probe: &HttpProbe, default_port: u16) -> Result<Self, PrepareError> {
        let bad_path = || PrepareError::Path(probe.path.clone());
        if !probe.path.starts_with('/') {
            return Err(bad_path());
        }
        let target = probe.path.parse().map_err(|_| bad_path())?;
        let host = match &probe.host {
            None => None,
            Some(host) => {
                Some(HeaderValue::from_str(host).map_err(|_| PrepareError::Host(host.clone()))?)
            }
        };
        let proof = match &probe.identity {
            Some(Identity::Header { name, value }) => Some(Proof::Header {
                name: name
                    .parse()
                    .map_err(|_| PrepareError::HeaderName(name.clone()))?,
                value: value.clone(),
            }),
            Some(Identity::Body(text)) => Some(Proof::Body(text.clone())),
            Some(Identity::Pattern(pattern)) => Some(Proof::Pattern(
                regex(pattern).map_err(PrepareError::Pattern)?,
            )),
            Some(Identity::Certificate(_)) | None => None,
        };
        Ok(Self {
            target,
            host,
            default_port,
            expect_status: probe.expect_status.clone(),
            proof,
        })
    }

    /// Sends the request over a connection and judges the answer.
    pub(super) async fn exchange<S>(
        &self,
        stream: S,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = open(stream, deadline).await?;
        let answer = async {
            let (head, body) = self.send(&mut sender, address, deadline).await?;
            self.judge(&head, body, deadline).await
        };
        let named = |error| http_failure(&error, Phase::Answer, deadline);
        drive(connection.map_err(named), answer).await
    }

    /// Sends the request over a connection, waits for the whole answer and
    /// gives its status, whatever that is.
    pub(super) async fn ask<S>(
        &self,
        stream: S,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> Result<u16, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = open(stream, deadline).await?;
        let answer = async {
            let (head, body) = self.send(&mut sender, address, deadline).await?;
            read_body(body, deadline).await?;
            Ok(head.status.as_u16())
        };
        let named = |error| http_failure(&error, Phase::Answer, deadline);
        drive(connection.map_err(named), answer).await
    }

    async fn send(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> Result<(Parts, Incoming), Failure> {
        let request = self.request(address)?;
        let response = deadline
            .within(Phase::Answer, sender.send_request(request))
            .await?
            .map_err(|error| http_failure(&error, Phase::Answer, deadline))?;
        Ok(response.into_parts())
    }

    fn request(&self, address: SocketAddr) -> Result<Request<Empty<Bytes>>, Failure> {
        let host = match &self.host {
            Some(host) => host.clone(),
            None => {
                let text = host_of(address, self.default_port);
                HeaderValue::try_from(text).map_err(|error| Failure::Local(error.to_string()))?
            }
        };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }

    /// Judges an answer, of any version of HTTP.
    pub(super) async fn judge(
        &self,
        head: &Parts,
        body: impl Chunks,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        self.judge_status(head.status.as_u16())?;
        match &self.proof {
            None => Ok(()),
            Some(Proof::Header { name, value }) => judge_header(&head.headers, name, value),
            Some(Proof::Body(text)) => judge_body(body, text, deadline).await,
            Some(Proof::Pattern(pattern)) => judge_pattern(body, pattern, deadline).await,
        }
    }

    /// The target of a request over HTTP/2, whose authority says what the
    /// `Host` field does.
    pub(super) fn uri(&self, scheme: &str, address: SocketAddr) -> Result<Uri, Failure> {
        let local = |error: &dyn std::fmt::Display| Failure::Local(error.to_string());
        let authority = match &self.host {
            Some(host) => host.to_str().map_err(|error| local(&error))?.to_owned(),
            None => host_of(address, self.default_port),
        };
        Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(self.target.to_string())
            .build()
            .map_err(|error| local(&error))
    }

    fn judge_status(&self, got: u16) -> Result<(), Failure> {
        if self.expect_status.is_empty() {
            return match got {
                200..=399 => Ok(()),
                _ => Err(Failure::BadStatus {
                    got,
                    expected: "200 to 399".into(),
                }),
            };
        }
        if self.expect_status.contains(&got) {
            return Ok(());
        }
        let expected: Vec<_> = self.expect_status.iter().map(u16::to_string).collect();
        Err(Failure::BadStatus {
            got,
            expected: expected.join(" or "),
        })
    }
}

async fn open<S>(
    stream: S,
    deadline: &Deadline,
) -> Result<
    (
        SendRequest<Empty<Bytes>>,
        Connection<TokioIo<Endless<S>>, Empty<Bytes>>,
    ),
    Failure,
>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEADER_LIMIT)
        .handshake(TokioIo::new(Endless(stream)))
        .await
        .map_err(|error| http_failure(&error, Phase::Answer, deadline))
}

/// A stream without an orderly end. The library closes the connection once it
/// has the answer; the packets of that are in vain where a reset follows.
struct Endless<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Endless<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Endless<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The `Host` field for an address: RFC 9110, 7.2 leaves out a default port
/// and puts an IPv6 address in brackets.
pub(super) fn host_of(address: SocketAddr, default_port: u16) -> String {
    match address {
        _ if address.port() != default_port => address.to_string(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

/// Runs the connection until the answer has been judged.
pub(super) async fn drive<T>(
    connection: impl Future<Output = Result<(), Failure>>,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match select(pin!(answer), pin!(connection)).await {
        Either::Left((judged, _)) => judged,
        // A connection that ended may have left a whole answer behind. If it
        // ended in an error that the request did not get, the error it keeps
        // is the cause and the request's only says that it was given up.
        Either::Right((ended, answer)) => match (answer.await, ended) {
            (Err(_), Err(error)) => Err(error),
            (judged, _) => judged,
        },
    }
}

/// Names an error of the HTTP library by its cause.
pub(crate) fn http_failure(error: &hyper::Error, phase: Phase, deadline: &Deadline) -> Failure {
    if let Some(cause) = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>())
    {
        return tls::io_failure(cause, phase, deadline);
    }
    if error.is_parse_too_large() {
        return Failure::HeaderTooLarge {
            limit: HEADER_LIMIT,
        };
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::Closed { phase };
    }
    Failure::BadHttp(match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
