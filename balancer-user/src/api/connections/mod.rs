//! HTTP/1.1 connections of both addresses, each within limits that have names.
//!
//! There is a place for so many at a time. Where all are taken, the connection
//! that asks nothing for longest gives way; where all of them ask, the new one
//! is refused. So nobody is kept out by connections that do nothing, and
//! descriptors are left for probes. Who sends its request too slowly, or does
//! not take its answer, loses its connection. All of that is counted
//! ([`Entrance::seen`]), and none of it has a line in the log.

mod patient;
mod places;
mod whole;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::response::Response;
use axum::serve::Listener;
use futures_util::FutureExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use self::patient::Patient;
use self::places::{Busy, Place};
pub use self::places::{Cut, Entrance, Seen, Who};
pub(super) use self::whole::{SMALL_BODY_LEN, whole};
use super::types::{Problem, TypedProblem};

/// Connections of `node.listen` at a time, and of one address among them.
pub const MAX_HTTP: usize = 256;
/// Connections of the control socket at a time. Users other than root have
/// half of them each.
pub const MAX_SOCKET: usize = 128;
/// A request's head is there by then, from the connection's begin or from the
/// answer before it on.
pub const HEAD_TIME: Duration = Duration::from_secs(20);
/// A request's body is there by then, from its head on.
pub const BODY_TIME: Duration = Duration::from_secs(20);
/// Longest head of a request, and the most header fields of one.
pub const MAX_HEAD_LEN: usize = 64 << 10;
/// Header fields of a request.
pub const MAX_FIELDS: usize = 100;

/// Share of the descriptors that connections of one address may have.
const DESCRIPTOR_SHARE: u64 = 8;
/// What a client still sends after the last answer is read for that long,
/// and as far as that: a reset would take the answer from it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_LEN: usize = 4 << 20;

/// Sent where there is no place.
static FULL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let detail = "every place for a connection is taken, and on each something is asked; ask \
                  again in a while";
    bare_answer(
        "too many connections",
        StatusCode::SERVICE_UNAVAILABLE,
        detail,
    )
});
/// Sent to who has not sent its request by [`HEAD_TIME`].
static TOO_SLOW: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let limit = HEAD_TIME.as_secs();
    let detail = format!("the head of the request did not come within {limit} s");
    bare_answer("request too slow", StatusCode::REQUEST_TIMEOUT, &detail)
});

/// An answer where no request is, and the last one (RFC 9112, 6.3).
fn bare_answer(title: &str, status: StatusCode, detail: &str) -> Vec<u8> {
    let problem = TypedProblem::from(Problem::new(title, status.as_u16(), detail));
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 5\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The ways in.
#[derive(Debug, Clone)]
pub struct Entrances {
    /// The control socket.
    pub socket: Arc<Entrance>,
    /// `node.listen`.
    pub http: Arc<Entrance>,
}

impl Default for Entrances {
    /// With room as the limit of open files allows.
    fn default() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let share = usize::try_from(files / DESCRIPTOR_SHARE).unwrap_or(usize::MAX);
        let entrance = |name, max: usize| Arc::new(Entrance::new(name, max.min(share).max(2)));
        Self {
            socket: entrance("socket", MAX_SOCKET),
            http: entrance("http", MAX_HTTP),
        }
    }
}

impl Entrances {
    /// Both, the socket first.
    pub fn seen(&self) -> [Seen; 2] {
        [self.socket.seen(), self.http.seen()]
    }
}

/// Who is at the other end of a connection.
pub(super) trait Client: Clone + Send + Sync + Unpin + 'static {
    /// As far as places are shared.
    fn who(&self) -> Who;
}

/// Serves until the future is dropped. Handlers find the client in
/// [`ConnectInfo`].
pub(super) async fn serve<L>(mut listener: L, router: Router, entrance: Arc<Entrance>) -> Infallible
where
    L: Listener,
    L::Addr: Client,
{
    loop {
        let (mut io, client) = listener.accept().await;
        match entrance.admit(client.who()) {
            Some(place) => {
                tokio::spawn(attend(io, client, router.clone(), place));
            }
            // Its buffer is empty: this goes at once, or never.
            None => drop(io.write(&FULL).now_or_never()),
        }
    }
}

async fn attend<I, C>(io: I, client: C, router: Router, place: Place)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: Client,
{
    let place = Arc::new(place);
    let io = TokioIo::new(Patient::new(io, Arc::clone(&place)));
    let router = TowerToHyperService::new(router);
    let asked = Arc::clone(&place);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let busy = asked.busy();
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(client.clone()));
        request.extensions_mut().insert(Arc::clone(&asked));
        let answer = router.call(request);
        async move {
            let answer: Result<Response, Infallible> = answer.await;
            answer.map(|answer| answer.map(|body| Held { body, _busy: busy }))
        }
        .boxed()
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD_LEN)
        .serve_connection(io, service);
    let ended = tokio::select! {
        ended = poll_fn(|context| connection.poll_without_shutdown(context)) => ended,
        () = place.is_to_leave() => return,
    };
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner().into_inner();
    let is_slow = ended.is_err_and(|error| error.is_timeout());
    // Nothing was asked: it is only idle.
    if is_slow && !parts.read_buf.is_empty() {
        place.count(Cut::SlowHead);
        drop(io.write(&TOO_SLOW).now_or_never());
    }
    tokio::select! {
        _ = timeout(LINGER, linger(&mut io)) => {}
        () = place.is_to_leave() => {}
    }
}

async fn linger(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    io.shutdown().await?;
    let mut rest = vec![0; 16 << 10];
    let mut len = 0;
    while len < LINGER_LEN {
        match io.read(&mut rest).await? {
            0 => break,
            read => len += read,
        }
    }
    Ok(())
}

/// An answer's body, whose connection is busy until it is written.
struct Held {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
