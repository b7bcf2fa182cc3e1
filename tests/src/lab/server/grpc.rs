//! A server of gRPC's own stack, from a package, which answers the health
//! protocol as it is told to.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{Server, describe};
use crate::lab::certificate::Certificate;
use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;
use crate::lab::sockets;

/// The system's own: packages install modules for no other.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = include_str!("health_server.py");
/// Not `grpc.py`: Python would import that as the module.
const PROGRAM: &str = "health_server.py";
const STATES: &str = "states.json";

/// What a gRPC server is to be.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What it shows over TLS; without one it speaks none.
    pub certificate: Option<Certificate>,
    /// Whether it has the service `grpc.health.v1.Health`. The whole server,
    /// which is service "", is `SERVING` then, and it knows no other; see
    /// [`GrpcServer::set`].
    pub has_health: bool,
}

/// A running gRPC server.
#[derive(Debug)]
pub struct GrpcServer {
    /// Stop, crash, hang and restart.
    pub server: Server,
}

impl GrpcServer {
    /// Starts it in a namespace.
    ///
    /// # Errors
    /// When its modules are not installed or it cannot listen.
    pub fn start(namespace: &Namespace, config: &GrpcConfig) -> Result<Self> {
        let listen = config.listen;
        let scratch = Scratch::create("grpc")?;
        let directory = scratch.path().to_owned();
        let mut arguments = vec![
            directory.join(PROGRAM).into_os_string(),
            listen.to_string().into(),
            directory.join(STATES).into_os_string(),
        ];
        let mut files = vec![(PROGRAM, SCRIPT)];
        if config.has_health {
            files.push((STATES, r#"{"": "SERVING"}"#));
        }
        if let Some(certificate) = &config.certificate {
            for (name, pem) in [
                ("key.pem", &certificate.key_pem),
                ("certificate.pem", &certificate.pem),
            ] {
                files.push((name, pem));
                arguments.push(directory.join(name).into_os_string());
            }
        }
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let inside = namespace.clone();
        let make_command = move || {
            let mut command = inside.command(PYTHON);
            command.args(&arguments);
            command
        };
        let inside = namespace.clone();
        let is_ready =
            move || sockets::tcp_listeners(&inside).is_ok_and(|it| sockets::covers(&it, listen));
        let what = describe("gRPC server", namespace);
        let server = Server::start(what, scratch, Box::new(make_command), Box::new(is_ready))?;
        Ok(Self { server })
    }

    /// Has these services, each in a state of health.proto, and no others, from
    /// the next call on.
    ///
    /// # Errors
    /// When the file that tells the server cannot be replaced.
    pub fn set(&self, states: &[(&str, &str)]) -> Result<()> {
        let states: BTreeMap<&str, &str> = states.iter().copied().collect();
        let file = self.server.directory().join(STATES);
        let new = file.with_extension("new");
        // In one step: a call may come at any time.
        fs::write(&new, serde_json::to_vec(&states)?)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("cannot replace {}", file.display()))
    }
}
