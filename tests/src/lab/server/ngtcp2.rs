//! ngtcp2's HTTP/3 server as the QUIC server of a backend: another
//! implementation than the lab's own, from a package. Its connection ids are
//! random, 18 bytes long, and carry no server id.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{Server, describe, download_pattern};
use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;
use crate::lab::{quic, sockets};

/// A running `gtlsserver`. It serves `/download`, [`download_pattern`].
#[derive(Debug)]
pub struct Ngtcp2Server {
    /// Stop, crash, hang and restart.
    pub server: Server,
}

impl Ngtcp2Server {
    /// Starts it on one address.
    ///
    /// # Errors
    /// When it is not installed or cannot listen.
    pub fn start(namespace: &Namespace, listen: SocketAddr, download_len: usize) -> Result<Self> {
        let scratch = Scratch::create("ngtcp2")?;
        let directory = scratch.path().to_owned();
        let identity = quic::identity()?;
        let documents = directory.join("documents");
        fs::create_dir(&documents)?;
        for (path, bytes) in [
            (documents.join("download"), download_pattern(download_len)),
            (directory.join("key"), identity.key_pem.clone().into_bytes()),
            (
                directory.join("certificate"),
                identity.certificate_pem.clone().into_bytes(),
            ),
        ] {
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let inside = namespace.clone();
        let make_command = move || {
            let mut command = inside.command("gtlsserver");
            command.arg("--quiet").arg("--htdocs").arg(&documents);
            // It looks for a file of the system's otherwise.
            command.arg("--mime-types-file=/dev/null");
            command.args([listen.ip().to_string(), listen.port().to_string()]);
            command.arg(directory.join("key"));
            command.arg(directory.join("certificate"));
            command
        };
        let inside = namespace.clone();
        let is_ready =
            move || sockets::udp_listeners(&inside).is_ok_and(|it| sockets::covers(&it, listen));
        let what = describe("gtlsserver", namespace);
        let server = Server::start(what, scratch, Box::new(make_command), Box::new(is_ready))?;
        Ok(Self { server })
    }
}
