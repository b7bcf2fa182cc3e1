//! gRPC's health protocol: one call of `grpc.health.v1.Health/Check`.
//!
//! The two messages have one field each (health.proto: `string service = 1`,
//! `ServingStatus status = 1`), so they are written and read here. Nothing is
//! compressed: the call says so by leaving `grpc-accept-encoding` out.

use std::net::SocketAddr;

use futures_util::TryFutureExt;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http::{self, Chunks, drive};
use super::{Deadline, PrepareError, http2};
use crate::config::model::{GrpcProbe, Identity};
use crate::health::{Failure, Phase, shortened};

/// What is called.
const METHOD: &str = "/grpc.health.v1.Health/Check";
/// The most of an answer's message that is read; a right one has 7 bytes.
const MESSAGE_LIMIT: usize = 4096;
/// In front of a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `SERVING` of health.proto.
const SERVING: u64 = 1;

/// The names of gRPC's statuses, from 0 on.
const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A call, ready to be made to any address.
#[derive(Debug)]
pub(super) struct Client {
    authority: Option<Authority>,
    message: Bytes,
    proof: Option<(HeaderName, String)>,
}

impl Client {
    pub(super) fn new(probe: &GrpcProbe) -> Result<Self, PrepareError> {
        let authority = match &probe.host {
            None => None,
            Some(host) => Some(host.parse().map_err(|_| PrepareError::Host(host.clone()))?),
        };
        let proof = match &probe.identity {
            Some(Identity::Header { name, value }) => {
                let bad = |_| PrepareError::HeaderName(name.clone());
                Some((name.parse().map_err(bad)?, value.clone()))
            }
            // The certificate is looked at by TLS.
            _ => None,
        };
        Ok(Self {
            authority,
            message: framed(&question(&probe.service)),
            proof,
        })
    }

    /// Makes the call over a connection and judges the answer.
    pub(super) async fn exchange<S>(
        &self,
        stream: S,
        (scheme, address): (&str, SocketAddr),
        deadline: &Deadline,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let request = self.request(scheme, address)?;
        let (sender, connection) = http2::open(stream, deadline).await?;
        let answer = async {
            let message = Some(self.message.clone());
            let (head, body) = http2::send(sender, request, message, deadline).await?;
            judge_head(head.status.as_u16(), &head.headers)?;
            if let Some((name, value)) = &self.proof {
                http::judge_header(&head.headers, name, value)?;
            }
            let mut body = http2::Body(body);
            let message = read(&mut body, deadline).await?;
            let trailers = deadline.within(Phase::Body, body.0.trailers()).await?;
            let named = |error| http2::failure(&error, Phase::Body, deadline);
            judge_end(trailers.map_err(named)?.as_ref())?;
            judge_message(&message)
        };
        let named = |error| http2::failure(&error, Phase::Answer, deadline);
        drive(connection.map_err(named), answer).await
    }

    fn request(&self, scheme: &str, address: SocketAddr) -> Result<Request<()>, Failure> {
        let authority = match &self.authority {
            Some(authority) => authority.to_string(),
            None => address.to_string(),
        };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(METHOD);
        let uri = uri
            .build()
            .map_err(|error| Failure::Local(error.to_string()))?;
        let mut request = http2::request(Method::POST, uri);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        Ok(request)
    }
}

fn judge_head(status: u16, headers: &HeaderMap) -> Result<(), Failure> {
    if status != 200 {
        let expected = "200".to_owned();
        return Err(Failure::BadStatus {
            got: status,
            expected,
        });
    }
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    match kind {
        Some(kind) if kind.starts_with(b"application/grpc") => {}
        kind => {
            let kind = shortened(kind.unwrap_or(b"missing"));
            let text = format!("content-type is {kind}, wanted application/grpc");
            return Err(Failure::BadGrpc(text));
        }
    }
    // An error comes without a message, in a header that is the end as well.
    match headers.contains_key("grpc-status") {
        true => judge_end(Some(headers)),
        false => Ok(()),
    }
}

async fn read(body: &mut http2::Body, deadline: &Deadline) -> Result<Vec<u8>, Failure> {
    let mut message = Vec::new();
    while let Some(data) = body.next(deadline).await? {
        if message.len() + data.len() > MESSAGE_LIMIT {
            let text = format!("message is longer than {MESSAGE_LIMIT} bytes");
            return Err(Failure::BadGrpc(text));
        }
        message.extend_from_slice(&data);
    }
    Ok(message)
}

/// Judges the status of the call.
fn judge_end(trailers: Option<&HeaderMap>) -> Result<(), Failure> {
    let field = |name| trailers.and_then(|trailers| trailers.get(name));
    let status = field("grpc-status").and_then(|status| status.to_str().ok());
    let Some(code) = status.and_then(|status| status.parse::<u32>().ok()) else {
        return Err(Failure::BadGrpc("it ends without a grpc-status".into()));
    };
    if code == 0 {
        return Ok(());
    }
    let name = STATUSES.get(code as usize).unwrap_or(&"unknown to gRPC");
    let text = match field("grpc-message") {
        Some(message) => format!("{name}: {}", shortened(message.as_bytes())),
        None => (*name).to_owned(),
    };
    Err(Failure::GrpcStatus { code, text })
}

fn judge_message(bytes: &[u8]) -> Result<(), Failure> {
    let bad = |text: &str| Failure::BadGrpc(text.to_owned());
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else {
        return Err(bad("it holds no message"));
    };
    let [compressed, len @ ..] = *prefix;
    if compressed != 0 {
        return Err(bad("its message is compressed, which nobody asked for"));
    }
    if u32::from_be_bytes(len) as usize != message.len() {
        return Err(bad("its message has another length than it says"));
    }
    match status(message) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(Failure::NotServing {
            status: match status {
                0 => "UNKNOWN".to_owned(),
                2 => "NOT_SERVING".to_owned(),
                3 => "SERVICE_UNKNOWN".to_owned(),
                other => other.to_string(),
            },
        }),
        None => Err(bad("its message is no HealthCheckResponse")),
    }
}

/// `HealthCheckRequest` for a service.
fn question(service: &str) -> Vec<u8> {
    // A field that is empty is left out.
    if service.is_empty() {
        return Vec::new();
    }
    // Field 1, of the kind that has a length.
    let mut message = vec![0x0a];
    let mut len = service.len();
    while len >= 0x80 {
        message.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    message.push(len as u8);
    message.extend_from_slice(service.as_bytes());
    message
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

/// The `status` of a `HealthCheckResponse`: the last field 1 counts, other
/// fields are passed over, and one that is left out is 0.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let (field, kind) = (tag >> 3, tag & 7);
        let len = match kind {
            0 => {
                let number = varint(&mut message)?;
                if field == 1 {
                    status = number;
                }
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(len..)?;
    }
    Some(status)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests;
