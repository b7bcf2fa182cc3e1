//! Connections to the daemon, and HTTP answers as bytes.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::timeout;

use super::LONG;

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Socket(PathBuf),
    Http(SocketAddr),
}

pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

pub(super) type Stream = Box<dyn Duplex>;

impl Address {
    pub(super) async fn connect(&self) -> Result<Stream> {
        Ok(match self {
            Self::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Self::Http(address) => Box::new(TcpSocket::new_v4()?.connect(*address).await?),
        })
    }

    /// With little room for what comes.
    pub(super) async fn connect_narrowly(&self) -> Result<Stream> {
        Ok(match self {
            Self::Socket(_) => self.connect().await?,
            Self::Http(address) => {
                let socket = TcpSocket::new_v4()?;
                socket.set_recv_buffer_size(4096)?;
                Box::new(socket.connect(*address).await?)
            }
        })
    }
}

/// Sends all, reading all the while; what came until the daemon hung up. It
/// may do that before it has everything.
pub(super) async fn talk(stream: Stream, request: &[u8], then_shut: bool) -> Result<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async move {
        let sent = writer.write_all(request).await;
        if sent.is_ok() && then_shut {
            let _ = writer.shutdown().await;
        }
        // Kept open until the other side has enough.
        writer
    };
    let receive = async {
        let mut answer = Vec::new();
        let read = reader.read_to_end(&mut answer).await;
        (answer, read)
    };
    let both = timeout(LONG, async { tokio::join!(receive, send) }).await;
    let ((answer, read), _writer) = both.context("the daemon neither answers nor hangs up")?;
    match read {
        Ok(_) => Ok(answer),
        Err(error) if is_reset(&error) => Ok(answer),
        Err(error) => Err(error.into()),
    }
}

/// What is left of a connection that was closed with something unread.
pub(super) fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) head: &'a str,
    pub(super) body: Vec<u8>,
}

/// Takes answers apart, one after another, to the end or to where the
/// connection was cut.
pub(super) fn answers(mut bytes: &[u8]) -> Result<Vec<Answer<'_>>> {
    let mut found = Vec::new();
    while let Some(end) = find(bytes, b"\r\n\r\n") {
        let head = str::from_utf8(&bytes[..end])?;
        bytes = &bytes[end + 4..];
        let status = status(head.as_bytes()).with_context(|| format!("no answer: {head}"))?;
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        if status / 100 == 1 {
            continue;
        }
        let body = match field("content-length") {
            Some((_, len)) => {
                let len: usize = len.parse()?;
                let (body, rest) = bytes.split_at(len.min(bytes.len()));
                bytes = rest;
                body.to_vec()
            }
            None if field("transfer-encoding").is_some() => {
                let (body, rest) = chunks(bytes)?;
                bytes = rest;
                body
            }
            None => std::mem::take(&mut bytes).to_vec(),
        };
        found.push(Answer { status, head, body });
    }
    Ok(found)
}

/// The status in `HTTP/1.1 200 OK` (RFC 9112, 4).
pub(super) fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\r').next()?;
    let line = str::from_utf8(line).ok()?;
    let rest = line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    rest.get(..3)?.parse().ok()
}

/// RFC 9112, 7.1; the daemon sends no trailers.
fn chunks(mut bytes: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(bytes, b"\r\n") else {
            return Ok((body, &[]));
        };
        let len = usize::from_str_radix(str::from_utf8(&bytes[..end])?, 16)?;
        bytes = &bytes[end + 2..];
        if bytes.len() < len + 2 {
            return Ok((body, &[]));
        }
        body.extend_from_slice(&bytes[..len]);
        ensure!(&bytes[len..len + 2] == b"\r\n", "a chunk has no end");
        bytes = &bytes[len + 2..];
        if len == 0 {
            return Ok((body, bytes));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|it| it == what)
}

/// Insists that an answer is one, and blames nobody but the client.
pub(super) fn insist_on_proper(answer: &Answer<'_>, from_socket: bool) -> Result<()> {
    let proper = matches!(answer.status, 200 | 400..=499 | 501 | 503 | 505);
    if !proper {
        bail!("{}\n{}", answer.head, String::from_utf8_lossy(&answer.body));
    }
    // What the router sees on the socket; faults of the head have no body.
    if from_socket && answer.status != 200 && !answer.body.is_empty() {
        let problem: serde_json::Value = serde_json::from_slice(&answer.body)
            .with_context(|| String::from_utf8_lossy(&answer.body).into_owned())?;
        ensure!(problem["status"] == answer.status, "{problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(!detail.is_empty(), "{problem}");
        ensure!(answer.head.contains("application/problem+json"));
    }
    Ok(())
}
