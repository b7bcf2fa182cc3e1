//! curl, for single requests: what a person would type.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::namespace::Namespace;
use crate::lab::process;

/// Stands before what curl reports, after messages of its own.
const MARK: &str = "\n@@lab@@\n";

/// A request for curl.
#[derive(Clone, Debug)]
pub struct Curl {
    url: String,
    arguments: Vec<String>,
    limit: Duration,
}

/// How a request went.
#[derive(Clone, Debug)]
pub struct Response {
    /// curl's exit code: 0 if there was an answer, 7 if the connection was
    /// refused, 28 if the time ran out, 56 if it was reset.
    pub exit_code: i32,
    /// The status, 0 without an answer.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The client's end of the connection, if there was one.
    pub local: Option<SocketAddr>,
    /// The server's end.
    pub remote: Option<SocketAddr>,
    /// From the start to the last byte.
    pub took: Duration,
    /// curl's own words on what went wrong.
    pub message: String,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The backend that answered, by its `X-Backend` header.
    pub fn backend(&self) -> Option<&str> {
        self.header("x-backend")
    }
}

impl Curl {
    /// A GET that may take five seconds.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            arguments: Vec::new(),
            limit: Duration::from_secs(5),
        }
    }

    /// A GET of a path from a server.
    pub fn get(server: SocketAddr, path: &str) -> Self {
        Self::new(format!("http://{server}{path}"))
    }

    /// More arguments for curl.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes the request.
    ///
    /// # Errors
    /// When curl is not there or does not report; a request that fails is a
    /// response with an exit code.
    pub fn run(&self, namespace: &Namespace) -> Result<Response> {
        let mut command = namespace.command("curl");
        // No file of the user's, no proxy of the environment.
        command.args([
            "--disable",
            "--noproxy",
            "*",
            "--silent",
            "--show-error",
            "--globoff",
        ]);
        command.args(["--max-time", &format!("{:.3}", self.limit.as_secs_f64())]);
        // The report goes to standard error, away from the body.
        let report = format!("%{{stderr}}{MARK}%{{json}}{MARK}%{{header_json}}");
        command
            .args(["--write-out", &report])
            .args(&self.arguments)
            .arg(&self.url);
        // curl keeps its own time; this one is for a curl that hangs.
        let output = process::run(command, self.limit + Duration::from_secs(10))?;
        let written = String::from_utf8_lossy(&output.stderr);
        response(output.status.code().unwrap_or(-1), output.stdout, &written)
            .with_context(|| format!("curl {} did not report: {written}", self.url))
    }
}

/// Gets a URL and insists on an answer, of whatever status.
///
/// # Errors
/// When there is none.
pub fn fetch(namespace: &Namespace, url: impl Into<String>) -> Result<Response> {
    let curl = Curl::new(url);
    let response = curl.run(namespace)?;
    let Response {
        exit_code, message, ..
    } = &response;
    ensure!(
        *exit_code == 0,
        "no answer from {}: {message} (curl {exit_code})",
        curl.url
    );
    Ok(response)
}

fn response(exit_code: i32, body: Vec<u8>, written: &str) -> Result<Response> {
    let mut parts = written.split(MARK);
    let message = parts.next().unwrap_or_default().trim().to_owned();
    let mut json = || -> Result<Value> {
        Ok(serde_json::from_str(
            parts.next().context("the report is incomplete")?,
        )?)
    };
    let (transfer, headers) = (json()?, json()?);
    let headers = headers
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, values)| {
            // A list, for a header may come more than once; the last one stands.
            let value = values.as_array()?.last()?.as_str()?;
            Some((name.clone(), value.to_owned()))
        });
    let status = transfer["response_code"].as_u64().unwrap_or_default();
    let took = transfer["time_total"].as_f64().unwrap_or_default();
    Ok(Response {
        exit_code,
        status: u16::try_from(status)?,
        body,
        headers: headers.collect(),
        local: end(&transfer, "local_ip", "local_port"),
        remote: end(&transfer, "remote_ip", "remote_port"),
        took: Duration::try_from_secs_f64(took)?,
        message,
    })
}

fn end(transfer: &Value, ip: &str, port: &str) -> Option<SocketAddr> {
    let ip: IpAddr = transfer[ip].as_str()?.parse().ok()?;
    Some(SocketAddr::new(
        ip,
        u16::try_from(transfer[port].as_u64()?).ok()?,
    ))
}
