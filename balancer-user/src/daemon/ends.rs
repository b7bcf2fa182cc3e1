//! The signals that end the daemon, and how it leaves the kernel.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::controller::Controller;

/// How the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// SIGTERM or SIGINT: as the file wants it.
    Stop,
    /// SIGUSR2, or a fault: another daemon comes, and forwarding goes on
    /// until it is there, whatever the file says.
    HandOver,
}

/// The signals that end the daemon.
pub(super) struct Ends {
    terminate: Signal,
    interrupt: Signal,
    hand_over: Signal,
}

impl Ends {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
            hand_over: signal(SignalKind::user_defined2()).context("listening for SIGUSR2")?,
        })
    }

    pub(super) async fn wait(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Stop,
            _ = self.interrupt.recv() => End::Stop,
            _ = self.hand_over.recv() => End::HandOver,
        }
    }
}

impl Controller {
    /// Leaves the kernel as the configuration, or who ends us, wants it left.
    pub(super) fn stop(&mut self, end: End) {
        self.leave_capture();
        if end == End::HandOver || self.config.node.keep_forwarding {
            let said = "stopped; forwarding goes on, `balancer unload` ends it";
            tracing::info!("{said}");
            self.supervisor.stopping(said);
            return;
        }
        self.supervisor.stopping("detaching");
        match self.dataplane.detach() {
            Ok(()) => tracing::info!("stopped and detached"),
            Err(error) => tracing::error!(%error, "not detached; `balancer unload` may help"),
        }
    }
}
