//! iperf3 as the receiving end of throughput measurements, TCP and UDP.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::{Server, describe};
use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;
use crate::lab::sockets;

/// A running `iperf3 -s`. It serves one client at a time.
///
/// A client opens a control connection and then one for the data, to the same
/// port. Through a balancer the two may reach different backends, so measure
/// with one backend.
#[derive(Debug)]
pub struct Iperf3Server {
    /// Stop, crash, hang and restart.
    pub server: Server,
}

impl Iperf3Server {
    /// Starts it on one address. For UDP through a service that must be the
    /// service address: on a wildcard it would answer from the host's own.
    ///
    /// # Errors
    /// When it is not installed or cannot listen.
    pub fn start(namespace: &Namespace, address: IpAddr, port: u16) -> Result<Self> {
        let inside = namespace.clone();
        let make_command = move || {
            let mut command = inside.command("iperf3");
            command.args(["--server", "--forceflush", "--bind", &address.to_string()]);
            command.args(["--port", &port.to_string()]);
            command
        };
        let inside = namespace.clone();
        let is_ready = move || {
            let wanted = SocketAddr::new(address, port);
            sockets::tcp_listeners(&inside).is_ok_and(|found| sockets::covers(&found, wanted))
        };
        let scratch = Scratch::create("iperf3")?;
        let what = describe("iperf3", namespace);
        let server = Server::start(what, scratch, Box::new(make_command), Box::new(is_ready))?;
        Ok(Self { server })
    }
}
