//! nginx as the web server of a backend.
//!
//! One process without a master: a SIGKILL then leaves no worker behind that
//! still holds the listening socket.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Server, describe};
use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;
use crate::lab::sockets;

/// What an nginx is to be.
#[derive(Clone, Debug)]
pub struct NginxConfig {
    /// What it calls itself in bodies and in the `X-Backend` header.
    pub name: String,
    /// Where it listens. Own and service addresses one by one, or a wildcard.
    pub listen: Vec<SocketAddr>,
    /// Size of the file `/download`.
    pub download_len: usize,
    /// Whether requests are logged; a benchmark does without.
    pub access_log: bool,
    /// More directives for the `server` block, such as a `location`.
    pub directives: String,
}

impl NginxConfig {
    /// A server that listens on one port of all the addresses.
    pub fn new(name: &str, addresses: &[IpAddr], port: u16) -> Self {
        Self {
            name: name.to_owned(),
            listen: addresses
                .iter()
                .map(|ip| SocketAddr::new(*ip, port))
                .collect(),
            download_len: 4 << 20,
            access_log: true,
            directives: String::new(),
        }
    }
}

/// A running nginx.
///
/// | request | answer |
/// |---|---|
/// | `GET /` | `<name> <client's address>` |
/// | `GET /healthz` | 200 `ok`, or 503 `down` after [`Nginx::set_healthy`] |
/// | `GET /download` | [`download_pattern`] |
/// | `PUT /upload/<file>` | 201; see [`Nginx::uploaded`] |
///
/// All carry the headers `X-Backend` and `X-Client`, the client's address as
/// the server sees it.
#[derive(Debug)]
pub struct Nginx {
    /// Stop, crash, hang and restart.
    pub server: Server,
}

/// A line of the access log: a request, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Who asked.
    pub client: SocketAddr,
    /// Which of the server's addresses was asked.
    pub server: SocketAddr,
    /// The method.
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// The status answered.
    pub status: u16,
    /// Bytes of body sent.
    pub body_len: u64,
}

impl Nginx {
    /// Starts nginx in a namespace.
    ///
    /// # Errors
    /// When it is not installed, cannot listen, or does not come up; its log is
    /// in the message.
    pub fn start(namespace: &Namespace, config: &NginxConfig) -> Result<Self> {
        let scratch = Scratch::create(&format!("nginx-{}", config.name))?;
        let directory = scratch.path().to_owned();
        prepare(&directory, config)
            .with_context(|| format!("cannot write to {}", directory.display()))?;
        let inside = namespace.clone();
        let make_command = move || {
            let mut command = inside.command("nginx");
            command
                .arg("-p")
                .arg(&directory)
                .arg("-e")
                .arg(directory.join("error.log"));
            command.arg("-c").arg(directory.join("nginx.conf"));
            command
        };
        let (inside, wanted) = (namespace.clone(), config.listen.clone());
        let is_ready = move || {
            sockets::tcp_listeners(&inside).is_ok_and(|listeners| {
                wanted
                    .iter()
                    .all(|address| sockets::covers(&listeners, *address))
            })
        };
        let what = describe("nginx", namespace);
        let server = Server::start(what, scratch, Box::new(make_command), Box::new(is_ready))?;
        Ok(Self { server })
    }

    /// Makes `/healthz` answer 200 or 503, from the next request on.
    ///
    /// # Errors
    /// When the file that tells nginx cannot be written or removed.
    pub fn set_healthy(&self, healthy: bool) -> Result<()> {
        let file = self.server.directory().join(HEALTHY);
        match healthy {
            true => fs::write(&file, ""),
            false if file.exists() => fs::remove_file(&file),
            false => Ok(()),
        }
        .with_context(|| format!("cannot change {}", file.display()))
    }

    /// The requests served so far, in the order in which they ended.
    ///
    /// # Errors
    /// When there is no log or a line of it cannot be read.
    pub fn accesses(&self) -> Result<Vec<Access>> {
        let file = self.server.directory().join(ACCESS_LOG);
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        text.lines()
            .map(|line| access(line).with_context(|| format!("strange log line: {line}")))
            .collect()
    }

    /// The contents of a file that a client has put under `/upload/`.
    ///
    /// # Errors
    /// When there is none.
    pub fn uploaded(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.server.directory().join("upload").join(name);
        fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
    }
}

const HEALTHY: &str = "healthy";
const ACCESS_LOG: &str = "access.log";

/// What `/download` holds: its own offset in every eight bytes, so that a piece
/// lost or repeated shows.
pub fn download_pattern(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len as u64)
        .step_by(8)
        .flat_map(u64::to_be_bytes)
        .collect();
    bytes.truncate(len);
    bytes
}

fn prepare(directory: &Path, config: &NginxConfig) -> std::io::Result<()> {
    for name in ["upload", "temporary"] {
        fs::create_dir(directory.join(name))?;
    }
    fs::write(directory.join(HEALTHY), "")?;
    fs::write(
        directory.join("download"),
        download_pattern(config.download_len),
    )?;
    fs::write(
        directory.join("nginx.conf"),
        configuration(directory, config),
    )
}

fn configuration(directory: &Path, config: &NginxConfig) -> String {
    let path = |name: &str| -> PathBuf { directory.join(name) };
    let mut listen = String::new();
    for address in &config.listen {
        let only = if address.is_ipv6() {
            " ipv6only=on"
        } else {
            ""
        };
        // Bursts of new connections must not overflow the accept queue.
        let _ = writeln!(listen, "    listen {address} backlog=4096{only};");
    }
    let access_log = match config.access_log {
        true => format!("access_log {} lab", path(ACCESS_LOG).display()),
        false => "access_log off".to_owned(),
    };
    format!(
        r#"daemon off;
master_process off;
pid {pid};
events {{ worker_connections 8192; }}
http {{
  log_format lab '$remote_addr $remote_port $server_addr $server_port '
                 '$request_method $request_uri $status $body_bytes_sent';
  {access_log};
  default_type text/plain;
  sendfile on;
  keepalive_requests 1000000000;
  client_max_body_size 1g;
  client_body_temp_path {temporary}/body;
  proxy_temp_path {temporary}/proxy;
  fastcgi_temp_path {temporary}/fastcgi;
  uwsgi_temp_path {temporary}/uwsgi;
  scgi_temp_path {temporary}/scgi;
  server {{
{listen}    add_header X-Backend "{name}" always;
    add_header X-Client $remote_addr always;
    location = / {{ return 200 "{name} $remote_addr\n"; }}
    location = /healthz {{
      if (!-f {healthy}) {{ return 503 "down\n"; }}
      return 200 "ok\n";
    }}
    location = /download {{ root {root}; }}
    location /upload/ {{ root {root}; dav_methods PUT; }}
{directives}
  }}
}}
"#,
        pid = path("nginx.pid").display(),
        temporary = path("temporary").display(),
        healthy = path(HEALTHY).display(),
        root = directory.display(),
        name = config.name,
        directives = config.directives,
    )
}

fn access(line: &str) -> Option<Access> {
    let mut words = line.split(' ');
    let mut next = || words.next();
    let client = SocketAddr::new(next()?.parse().ok()?, next()?.parse().ok()?);
    let server = SocketAddr::new(next()?.parse().ok()?, next()?.parse().ok()?);
    let (method, path) = (next()?.to_owned(), next()?.to_owned());
    let (status, body_len) = (next()?.parse().ok()?, next()?.parse().ok()?);
    Some(Access {
        client,
        server,
        method,
        path,
        status,
        body_len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_access_log_are_read() {
        let read = access("fd00::7 40000 2001:db8::1 80 GET /download?x=1 200 4096").unwrap();
        assert_eq!(read.client, "[fd00::7]:40000".parse().unwrap());
        assert_eq!(read.server, "[2001:db8::1]:80".parse().unwrap());
        assert_eq!(
            (read.method.as_str(), read.path.as_str()),
            ("GET", "/download?x=1")
        );
        assert_eq!((read.status, read.body_len), (200, 4096));
        assert_eq!(access("fd00::7 40000 GET /"), None);
    }

    #[test]
    fn the_pattern_has_the_length_asked_for_and_tells_offsets_apart() {
        assert!(download_pattern(0).is_empty());
        let bytes = download_pattern(21);
        assert_eq!(bytes.len(), 21);
        assert_eq!(bytes[8..16], 8u64.to_be_bytes());
    }
}
