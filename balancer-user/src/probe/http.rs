//! The HTTP/1.1 side of a probe: one GET, its status, and the proof that the
//! right server answered.
//!
//! The connection is driven inside the probe's own future, beside the
//! request, so no task outlives the probe. The body is read only where the
//! identity is looked for in it, or the whole answer is waited for, and 64 KiB
//! at most. The end is a reset, also where a server is still sending: the
//! probe has seen what it came for.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;

use futures_util::future::{Either, select};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Deadline, PrepareError, tls};
use crate::config::model::{HttpProbe, Identity};
use crate::health::{Failure, Phase, shortened};

/// The most of an answer's header that a probe reads.
const HEADER_LIMIT: usize = 16 * 1024;
/// The most of an answer's body that a probe reads.
const BODY_LIMIT: usize = 64 * 1024;
/// How probes show in the servers' logs.
const AGENT: &str = concat!("balancer-probe/", env!("CARGO_PKG_VERSION"));

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
            self.judge_status(head.status.as_u16())?;
            match &self.proof {
                None => Ok(()),
                Some(Proof::Header { name, value }) => judge_header(&head.headers, name, value),
                Some(Proof::Body(text)) => judge_body(body, text, deadline).await,
            }
        };
        drive(connection, answer, deadline).await
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
        drive(connection, answer, deadline).await
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
        Connection<TokioIo<S>, Empty<Bytes>>,
    ),
    Failure,
>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEADER_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http_failure(&error, Phase::Answer, deadline))
}

/// The `Host` field for an address: RFC 9110, 7.2 leaves out a default port
/// and puts an IPv6 address in brackets.
fn host_of(address: SocketAddr, default_port: u16) -> String {
    match address {
        _ if address.port() != default_port => address.to_string(),
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

/// Runs the connection until the answer has been judged.
async fn drive<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = Result<T, Failure>>,
    deadline: &Deadline,
) -> Result<T, Failure> {
    match select(pin!(answer), pin!(connection)).await {
        Either::Left((judged, _)) => judged,
        // A connection that ended may have left a whole answer behind. If it
        // ended in an error that the request did not get, the error it keeps
        // is the cause and the request's only says that it was given up.
        Either::Right((ended, answer)) => match (answer.await, ended) {
            (Err(_), Err(error)) => Err(http_failure(&error, Phase::Answer, deadline)),
            (judged, _) => judged,
        },
    }
}

fn judge_header(headers: &HeaderMap, name: &HeaderName, value: &str) -> Result<(), Failure> {
    let mut values = headers.get_all(name).iter().peekable();
    let first = values.peek().map(|first| shortened(first.as_bytes()));
    if values.any(|one| one.as_bytes() == value.as_bytes()) {
        return Ok(());
    }
    Err(Failure::IdentityMismatch {
        expected: format!("{name}: {}", shortened(value.as_bytes())),
        got: match first {
            Some(first) => format!("{name}: {first}"),
            None => format!("no {name} field"),
        },
    })
}

async fn judge_body<B>(body: B, text: &str, deadline: &Deadline) -> Result<(), Failure>
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    let mut body = pin!(body);
    let mut read = Vec::new();
    let wanted = text.as_bytes();
    loop {
        // Only what came last can complete the text: searching all of it
        // again for each byte of a drip would cost a minute of CPU.
        let unsearched = read.len().saturating_sub(wanted.len().saturating_sub(1));
        let frame = deadline.within(Phase::Body, body.frame()).await?;
        let ended = frame.is_none();
        if let Some(frame) = frame {
            let frame = frame.map_err(|error| http_failure(&error, Phase::Body, deadline))?;
            let data = frame.data_ref().map_or(&[][..], |data| data.as_ref());
            let room = BODY_LIMIT - read.len();
            read.extend_from_slice(&data[..data.len().min(room)]);
        }
        if contains(&read[unsearched..], wanted) {
            return Ok(());
        }
        if ended || read.len() == BODY_LIMIT {
            return Err(Failure::IdentityMismatch {
                expected: format!("a body with \"{}\"", shortened(wanted)),
                got: format!("one of {}", describe(&read, ended)),
            });
        }
    }
}

/// Waits for the end of a body, or for as much of it as is read.
async fn read_body<B>(body: B, deadline: &Deadline) -> Result<(), Failure>
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    let mut body = pin!(body);
    let mut len = 0;
    while let Some(frame) = deadline.within(Phase::Body, body.frame()).await? {
        let frame = frame.map_err(|error| http_failure(&error, Phase::Body, deadline))?;
        len += frame.data_ref().map_or(0, Bytes::len);
        if len >= BODY_LIMIT {
            break;
        }
    }
    Ok(())
}

fn describe(read: &[u8], ended: bool) -> String {
    let more = if ended { "" } else { " or more" };
    format!("{} bytes{more}: {}", read.len(), shortened(read))
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|window| window == wanted)
}

/// Names an error of the HTTP library by its cause.
fn http_failure(error: &hyper::Error, phase: Phase, deadline: &Deadline) -> Failure {
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
