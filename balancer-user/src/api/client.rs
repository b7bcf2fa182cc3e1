//! The command line's side of the control socket.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::{
    ChangeRequest, Changed, ExplainRequest, Explanation, PlanRequest, Planned, Problem, Status,
};

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
        let asked = self.exchange(Method::POST, "/v1/plan", Some(request));
        self.read(self.within(PLAN_TIMEOUT, asked).await?)
    }

    /// Has the file read again.
    pub async fn reload(&self) -> Result<Changed, Error> {
        self.json(Method::POST, "/v1/reload", None::<&()>).await
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
        self.within(TIMEOUT, self.exchange(method, path, body))
            .await
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

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, Error> {
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
        let connection = tokio::spawn(connection);
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
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(|error| self.broken(error))?
            .to_bytes();
        connection.abort();
        if status.is_success() {
            return Ok(bytes);
        }
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
