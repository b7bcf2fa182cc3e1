//! The HTTP/2 side of a probe (RFC 9113): one stream on a connection of its
//! own, begun with prior knowledge or after ALPN.
//!
//! As over HTTP/1.1, the connection is driven inside the probe's own future,
//! what is read is bounded, and the end is a reset. What a server does wrong
//! with frames, the h2 crate finds; here it gets its name.

use std::io;
use std::net::SocketAddr;

use futures_util::TryFutureExt;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, USER_AGENT};
use hyper::http::response::Parts;
use hyper::{Method, Request, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Deadline;
use super::http::{self, AGENT, Chunks, HEADER_LIMIT, drive};
use crate::health::{Failure, Phase, shortened};

/// The library tells a header that is too large from one that is malformed by
/// no error of its own, so it takes more than is judged here.
const LIBRARY_HEADER_LIMIT: u32 = 4 * HEADER_LIMIT as u32;

/// Makes the request of an HTTP probe and judges the answer.
pub(super) async fn exchange<S>(
    client: &http::Client,
    stream: S,
    (scheme, address): (&str, SocketAddr),
    deadline: &Deadline,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let request = request(Method::GET, client.uri(scheme, address)?);
    let (sender, connection) = open(stream, deadline).await?;
    let answer = async {
        let (head, body) = send(sender, request, None, deadline).await?;
        client.judge(&head, Body(body), deadline).await
    };
    let named = |error| failure(&error, Phase::Answer, deadline);
    drive(connection.map_err(named), answer).await
}

pub(super) fn request(method: Method, uri: Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, hyper::header::HeaderValue::from_static(AGENT));
    request
}

/// Begins HTTP/2 on a connection.
pub(super) async fn open<S>(
    stream: S,
    deadline: &Deadline,
) -> Result<(SendRequest<Bytes>, Connection<S, Bytes>), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .max_header_list_size(LIBRARY_HEADER_LIMIT);
    deadline
        .within(Phase::Answer, builder.handshake(stream))
        .await?
        .map_err(|error| failure(&error, Phase::Answer, deadline))
}

/// Sends a request with what may be its body, and waits for the header of
/// the answer.
pub(super) async fn send(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Bytes>,
    deadline: &Deadline,
) -> Result<(Parts, RecvStream), Failure> {
    let named = |error: h2::Error| failure(&error, Phase::Answer, deadline);
    let mut sender = deadline
        .within(Phase::Answer, sender.ready())
        .await?
        .map_err(named)?;
    let (response, mut stream) = sender
        .send_request(request, body.is_none())
        .map_err(named)?;
    if let Some(body) = body {
        stream.send_data(body, true).map_err(named)?;
    }
    let response = deadline.within(Phase::Answer, response).await?;
    let (head, body) = response.map_err(named)?.into_parts();
    if size(&head.headers) > HEADER_LIMIT {
        let limit = HEADER_LIMIT;
        return Err(Failure::HeaderTooLarge { limit });
    }
    Ok((head, body))
}

/// The size of a header as RFC 9113, 6.5.2 counts it.
fn size(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// The body of an answer.
pub(super) struct Body(pub(super) RecvStream);

impl Chunks for Body {
    async fn next(&mut self, deadline: &Deadline) -> Result<Option<Bytes>, Failure> {
        let Some(data) = deadline.within(Phase::Body, self.0.data()).await? else {
            return Ok(None);
        };
        let named = |error: h2::Error| failure(&error, Phase::Body, deadline);
        let data = data.map_err(named)?;
        // The server may send as much more.
        let window = self.0.flow_control();
        window.release_capacity(data.len()).map_err(named)?;
        Ok(Some(data))
    }
}

/// Names an error of the HTTP/2 library by its cause.
pub(super) fn failure(error: &h2::Error, phase: Phase, deadline: &Deadline) -> Failure {
    if let Some(cause) = error.get_io() {
        // The library keeps the kind of an error and its text, no more.
        return match cause.kind() {
            // So it calls a connection that ended under a stream.
            io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => Failure::Closed { phase },
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
                Failure::Reset { phase }
            }
            io::ErrorKind::TimedOut => deadline.timeout(phase),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Failure::Unreachable
            }
            _ => Failure::BadHttp2(shortened(cause.to_string().as_bytes())),
        };
    }
    let reason = error.reason();
    let reason = match &reason {
        Some(reason) => reason.description(),
        None => "without a reason",
    };
    Failure::BadHttp2(match (error.is_go_away(), error.is_remote()) {
        (true, true) => format!("server gave the connection up, {reason}"),
        (false, true) => format!("server gave the request up, {reason}"),
        _ if error.reason() == Some(Reason::PROTOCOL_ERROR) => {
            format!("{reason}, or a header of more than {LIBRARY_HEADER_LIMIT} bytes")
        }
        _ => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
