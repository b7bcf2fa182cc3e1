//! The command line's side of the control socket.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::capture::{CaptureRequest, CaptureStopRequest, Captured};
use super::progress::Progress;
use super::types::{
    ApplyRequest, ChangeRequest, Changed, ExplainRequest, Explanation, History, PlanRequest,
    Planned, Problem, RollbackRequest, Said, Status, StoredRevision, Verification,
};
use crate::watch::incident::Event;

/// A daemon that does not answer by then is taken for hung.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same of one that proves new backends, with slow probes.
const PLAN_TIMEOUT: Duration = Duration::from_secs(600);

/// Why there is no answer, or not the wanted one.
#[derive(Debug)]
pub enum Error {
    /// Nobody listens.
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The daemon refused; nothing changed.
    Refused(Problem),
    /// The conversation broke off.
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        cause: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { socket, cause } => write!(
                f,
                "no balancer answers at {}: {cause}; start one with `balancer run --config FILE`, \
                 or name its socket with --socket",
                socket.display()
            ),
            Self::Refused(problem) => f.write_str(&problem.detail),
            Self::Broken { socket, cause } => {
                write!(
                    f,
                    "the balancer at {} gave no answer: {cause}",
                    socket.display()
                )
            }
        }
    }
}

impl std::error::Error for Error {}

/// Gets the events of a change.
pub type Tell<'a> = &'a mut dyn FnMut(&Progress);

/// An answer whose head has come.
struct Answer {
    body: Incoming,
    _connection: Abort,
}

/// Ends a connection's task with the connection.
struct Abort(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A client of one daemon; each request is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon behind this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What is going on.
    pub async fn status(&self) -> Result<Status, Error> {
        self.json(Method::GET, "/v1/status", None::<&()>).await
    }

    /// Makes a change.
    pub async fn change(&self, request: &ChangeRequest) -> Result<Changed, Error> {
        self.json(Method::POST, "/v1/changes", Some(request)).await
    }

    /// Asks what a file would do; new backends are probed for it.
    pub async fn plan(&self, request: &PlanRequest) -> Result<Planned, Error> {
        let asked = async {
            let mut answer = self.ask(Method::POST, "/v1/plan", Some(request)).await?;
            self.rest(&mut answer).await
        };
        self.read(self.within(PLAN_TIMEOUT, asked).await?)
    }

    /// Brings a file into force; `tell` gets every event, the last one of
    /// which is given back.
    pub async fn apply(&self, request: &ApplyRequest, tell: Tell<'_>) -> Result<Progress, Error> {
        self.follow("/v1/apply", Some(request), tell).await
    }

    /// Has the daemon read its file again; as [`Client::apply`].
    pub async fn reload(&self, tell: Tell<'_>) -> Result<Progress, Error> {
        self.follow("/v1/reload", None::<&()>, tell).await
    }

    /// Brings an earlier configuration into force; as [`Client::apply`].
    pub async fn rollback(
        &self,
        request: &RollbackRequest,
        tell: Tell<'_>,
    ) -> Result<Progress, Error> {
        self.follow("/v1/rollback", Some(request), tell).await
    }

    /// Says that the change under way is good.
    pub async fn confirm(&self) -> Result<Said, Error> {
        self.json(Method::POST, "/v1/confirm", None::<&()>).await
    }

    /// All revisions.
    pub async fn history(&self) -> Result<History, Error> {
        self.json(Method::GET, "/v1/revisions", None::<&()>).await
    }

    /// One revision.
    pub async fn revision(&self, number: u64) -> Result<StoredRevision, Error> {
        let path = format!("/v1/revisions/{number}");
        self.json(Method::GET, &path, None::<&()>).await
    }

    /// What happened, and with `follow` what happens, until `each` wants no
    /// more.
    pub async fn events(&self, follow: bool, each: impl FnMut(Event) -> bool) -> Result<(), Error> {
        let path = format!("/v1/events?follow={follow}");
        let asked = self.ask(Method::GET, &path, None::<&()>);
        let mut answer = self.within(TIMEOUT, asked).await?;
        self.lines(&mut answer, each).await
    }

    /// The running configuration as TOML text.
    pub async fn config(&self) -> Result<String, Error> {
        let bytes = self.send(Method::GET, "/v1/config", None::<&()>).await?;
        String::from_utf8(bytes.to_vec()).map_err(|error| self.broken(error))
    }

    /// Which backend a flow gets, and why.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Error> {
        self.json(Method::POST, "/v1/explain", Some(request)).await
    }

    /// Compares what the kernel holds with what was written there.
    pub async fn verify(&self) -> Result<Verification, Error> {
        self.json(Method::POST, "/v1/verify", None::<&()>).await
    }

    /// As [`Client::verify`], and has what differs written anew.
    pub async fn repair(&self) -> Result<Verification, Error> {
        self.json(Method::POST, "/v1/repair", None::<&()>).await
    }

    /// Captures live packets, until it is over or `each` wants no more.
    pub async fn capture(
        &self,
        request: &CaptureRequest,
        each: impl FnMut(Captured) -> bool,
    ) -> Result<(), Error> {
        let asked = self.ask(Method::POST, "/v1/capture", Some(request));
        let mut answer = self.within(TIMEOUT, asked).await?;
        self.lines(&mut answer, each).await
    }

    /// Ends a capture.
    pub async fn capture_stop(&self, request: &CaptureStopRequest) -> Result<Said, Error> {
        self.json(Method::POST, "/v1/capture/stop", Some(request))
            .await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Error> {
        self.read(self.send(method, path, body).await?)
    }

    fn read<T: DeserializeOwned>(&self, bytes: Bytes) -> Result<T, Error> {
        serde_json::from_slice(&bytes).map_err(|error| self.broken(error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, Error> {
        let exchange = async {
            let mut answer = self.ask(method, path, body).await?;
            self.rest(&mut answer).await
        };
        self.within(TIMEOUT, exchange).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| self.broken(format!("nothing came within {} s", limit.as_secs())))?
    }

    async fn rest(&self, answer: &mut Answer) -> Result<Bytes, Error> {
        let collected = (&mut answer.body).collect().await;
        Ok(collected.map_err(|error| self.broken(error))?.to_bytes())
    }

    /// Reads events, a line each, until the last one.
    async fn follow(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
        tell: Tell<'_>,
    ) -> Result<Progress, Error> {
        let mut answer = self
            .within(TIMEOUT, self.ask(Method::POST, path, body))
            .await?;
        let mut last = None;
        // Some wait for a person, and say nothing meanwhile.
        let whole = self.lines(&mut answer, |event: Progress| {
            tell(&event);
            last = event.is_last().then_some(event);
            true
        });
        whole.await?;
        let lost = "it ended before the change was over; see `balancer history`";
        last.ok_or_else(|| self.broken(lost))
    }

    /// Reads an answer of a JSON object a line, until its end or until `each`
    /// wants no more.
    async fn lines<T: DeserializeOwned>(
        &self,
        answer: &mut Answer,
        mut each: impl FnMut(T) -> bool,
    ) -> Result<(), Error> {
        let mut rest = Vec::new();
        while let Some(frame) = answer.body.frame().await {
            let frame = frame.map_err(|error| self.broken(error))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                // An empty one says that there is nothing to tell.
                if line.len() == 1 {
                    continue;
                }
                if !each(serde_json::from_slice(&line).map_err(|error| self.broken(error))?) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Asks, and waits for the head of the answer; a refusal is an error.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, Error> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|cause| Error::NotRunning {
                    socket: self.socket.clone(),
                    cause,
                })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        let connection = Abort(tokio::spawn(connection));
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.broken(error))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "balancer")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(error))?;
        let status = response.status();
        let mut answer = Answer {
            body: response.into_body(),
            _connection: connection,
        };
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = self.rest(&mut answer).await?;
        match serde_json::from_slice(&bytes) {
            Ok(problem) => Err(Error::Refused(problem)),
            Err(_) => Err(self.broken(format!("HTTP status {status}"))),
        }
    }

    fn broken(&self, cause: impl fmt::Display) -> Error {
        Error::Broken {
            socket: self.socket.clone(),
            cause: cause.to_string(),
        }
    }
}
