//! Real servers, each a child process in a namespace; that for QUIC is a thread.
//!
//! A server is started when its constructor returns: its sockets are there. It
//! writes only into a directory of its own, runs in the foreground as one
//! process, and ends with the value that stands for it.

mod dnsmasq;
mod faulty;
mod grpc;
mod iperf3;
mod nginx;
mod ngtcp2;
mod quic;

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

pub use dnsmasq::{Dnsmasq, DnsmasqConfig};
pub use faulty::{Fault, FaultyNginx};
pub use grpc::{GrpcConfig, GrpcServer};
pub use iperf3::Iperf3Server;
pub use nginx::{Access, Nginx, NginxConfig, download_pattern};
pub use ngtcp2::Ngtcp2Server;
pub use quic::{QuicConfig, QuicServer};

use super::cleanup::Scratch;
use super::namespace::Namespace;
use super::process::Process;

/// How long a server may take to start or to end. Measured: some 10 ms; the rest
/// is for machines under load.
const LIMIT: Duration = Duration::from_secs(20);

type MakeCommand = Box<dyn Fn() -> Command + Send + Sync>;
type IsReady = Box<dyn Fn() -> bool + Send + Sync>;

/// What all servers have in common: they start, stop, crash, hang and restart.
pub struct Server {
    what: String,
    process: Process,
    scratch: Scratch,
    make_command: MakeCommand,
    is_ready: IsReady,
}

impl Server {
    /// Starts a server and waits until it is ready.
    fn start(
        what: String,
        scratch: Scratch,
        make_command: MakeCommand,
        is_ready: IsReady,
    ) -> Result<Self> {
        let process = launch(&what, &scratch, &make_command, &is_ready)?;
        Ok(Self {
            what,
            process,
            scratch,
            make_command,
            is_ready,
        })
    }

    /// The directory it writes to.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it runs; a paused server does.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// What it has written to its standard streams.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop(LIMIT).map(drop)
    }

    /// Ends it with SIGKILL, as a crash would: the kernel resets its connections
    /// and refuses new ones.
    ///
    /// # Errors
    /// When it is not gone in time.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Starts it again, after ending it if it runs, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not end or does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.process = launch(
            &self.what,
            &self.scratch,
            &self.make_command,
            &self.is_ready,
        )?;
        Ok(())
    }

    /// Makes it hang: connections are still accepted, by the kernel, and never
    /// answered.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets a paused server go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("what", &self.what)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

fn launch(
    what: &str,
    scratch: &Scratch,
    make_command: &MakeCommand,
    is_ready: &IsReady,
) -> Result<Process> {
    let log = scratch.path().join("output.log");
    let mut process = Process::spawn(what, make_command(), &log)?;
    process.wait_until(&format!("{what} to listen"), LIMIT, || {
        is_ready().then_some(())
    })?;
    Ok(process)
}

/// "nginx of blb12-0-backend1", for messages.
fn describe(program: &str, namespace: &Namespace) -> String {
    format!("{program} of {}", namespace.name())
}
