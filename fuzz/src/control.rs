//! The daemon's control socket, in memory.
//!
//! hyper, the router and the handlers are the daemon's own, on a stream that
//! is a buffer. Behind them stands the part of the controller that has no
//! kernel in it: the running configuration, edited and checked by `change` and
//! planned by `plan`. What an edit came to is judged here; an answer is for the
//! target to judge.

use std::sync::Arc;

use balancer_user::api::access::Doors;
use balancer_user::api::connections::Entrance;
use balancer_user::api::peer::{Accept, Peer};
use balancer_user::api::progress::Progress;
use balancer_user::api::server::{self, Command};
use balancer_user::api::types::{
    Change, ChangeRequest, Changed, PlanRequest, Planned, Problem, Status,
};
use balancer_user::change::{self, Edit, TableMemo};
use balancer_user::config::model::{Config, Service};
use balancer_user::config::{self, render};
use balancer_user::plan::{self, Base, Plan, Proofs};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task;

use crate::findings;

/// Two services, one probed, with tables small enough to be built often.
pub const RUNNING: &str = include_str!("running.toml");

/// Bytes under way in each direction.
const BUFFER_LEN: usize = 64 << 10;

/// Turns of the runtime without a byte after which no answer comes: a request
/// passes four tasks.
const QUIET_TURNS: usize = 64;

/// What is sent to the socket before the client waits, then closes; the bytes
/// that come back.
///
/// # Panics
/// When something that must hold of a change does not.
pub fn exchange(request: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without a driver for sockets needs nothing of the system");
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(BUFFER_LEN);
        let (commands, receiver) = mpsc::channel(1);
        let mut control = Control::new();
        tokio::select! {
            answer = talk(client, request) => answer,
            never = server::serve(
                OneConnection(Some(server)),
                commands,
                Doors::default(),
                Arc::new(Entrance::new("socket", 2)),
            ) => match never {},
            () = control.run(receiver) => panic!("the server hung up"),
        }
    })
}

async fn talk(client: DuplexStream, request: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(client);
    let send = async move {
        // An error is the server's: it closes when it cannot go on.
        let _ = writer.write_all(request).await;
        for _ in 0..QUIET_TURNS {
            task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let receive = async {
        let mut answer = Vec::new();
        reader
            .read_to_end(&mut answer)
            .await
            .expect("a buffer in memory has no errors");
        answer
    };
    tokio::join!(send, receive).1
}

/// A listener that one client comes to.
struct OneConnection(Option<DuplexStream>);

impl Accept for OneConnection {
    type Io = DuplexStream;

    async fn accept(&mut self) -> (DuplexStream, Peer) {
        match self.0.take() {
            Some(stream) => (
                stream,
                Peer {
                    uid: 0,
                    gid: 0,
                    pid: None,
                },
            ),
            None => std::future::pending().await,
        }
    }
}

/// The controller without kernel, disk and network.
struct Control {
    config: Config,
    tables: TableMemo,
    changes: Vec<Edit>,
}

impl Control {
    fn new() -> Self {
        Self {
            config: running(),
            tables: TableMemo::default(),
            changes: Vec::new(),
        }
    }

    async fn run(&mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            // A client that went away needs no answer.
            match command {
                Command::Status(reply) => drop(reply.send(self.status())),
                Command::Change(request, _, reply) => drop(reply.send(self.change(&request))),
                Command::Reload(_, reply) => drop(reply.send(Ok(self.reload()))),
                Command::Config(reply) => drop(reply.send(render::render(&self.config))),
                Command::Plan(request, reply) => drop(reply.send(Ok(self.plan(request)))),
                // They want a kernel, a disk or a clock; the answer is that there is none.
                Command::Apply(..)
                | Command::Rollback(..)
                | Command::Confirm(..)
                | Command::History(..)
                | Command::Revision(..)
                | Command::Verify(..)
                | Command::Repair(..)
                | Command::Events(..)
                | Command::Blueprint(..)
                | Command::Capture(..)
                | Command::CaptureStop(..)
                | Command::Explain(..) => {}
            }
        }
    }

    fn change(&mut self, request: &ChangeRequest) -> Result<Changed, Problem> {
        let edited = change::edit(&self.config, &request.change, &self.tables);
        let edited = edited.map_err(|detail| {
            assert!(!detail.is_empty(), "{request:?} refused without a word");
            Problem {
                title: "change refused".to_owned(),
                status: 409,
                detail,
            }
        })?;
        findings::check(&edited.report);
        assert!(!edited.report.has_errors(), "{request:?}");
        assert_changed_only(&self.config, &edited.config, &request.change);
        assert_reads_back(&edited.config);
        assert!(self.planned(&edited.config).has_changes, "{request:?}");
        let shares = change::share_changes(&self.config, &edited.config, &self.tables);
        for share in shares.iter().flat_map(|it| [it.before, it.after]).flatten() {
            assert!((0.0..=1.0).contains(&share), "{shares:?}");
        }
        if !request.dry_run {
            self.config = edited.config;
            edited.edit.clone().join(&mut self.changes);
            // However many came: a few of each thing that there was and is.
            let things =
                |it: &Config| -> usize { it.services.iter().map(|it| 1 + it.backends.len()).sum() };
            let most = 5 * (things(&running()) + things(&self.config));
            assert!(self.changes.len() <= most, "{:?}", self.changes);
        }
        Ok(Changed {
            summary: edited.edit.to_string(),
            dry_run: request.dry_run,
            shares,
            warnings: Vec::new(),
            duration_micros: None,
            revision: None,
        })
    }

    fn plan(&self, request: PlanRequest) -> Planned {
        let counts = |service: &Service, size: u32| self.tables.slot_counts(service, size);
        let mut examined = config::examine(request.name, request.text, Some(&counts));
        let plan = examined.config.map(|config| {
            let plan = self.planned(&config);
            let proofs = Proofs::new();
            let found = plan::findings(&self.base(), &config, &examined.spans, &plan, &proofs);
            examined.report.extend(found);
            plan
        });
        findings::check(&examined.report);
        Planned {
            plan,
            errors: examined.report.errors(),
            warnings: examined.report.warnings(),
            allowed: examined.report.allowed(),
            report: examined.report.to_json(),
            text: examined.report.render(request.color),
            // There is no kernel to ask.
            recorded: None,
            captured: None,
        }
    }

    /// The plan of a step, with what must hold of any.
    fn planned(&self, next: &Config) -> Plan {
        let plan = plan::make(&self.base(), next, &Proofs::new(), &self.tables);
        assert_eq!(plan.has_changes, plan.summary != "nothing changes");
        for service in &plan.services {
            let shares = service.backends.iter().filter_map(|it| it.share_after);
            let sum: f64 = shares.sum();
            let expected = if service.slots_after == 0 { 0.0 } else { 1.0 };
            assert!((sum - expected).abs() < 1e-6, "{service:?}");
        }
        plan
    }

    fn base(&self) -> Base {
        Base {
            config: Some(self.config.clone()),
            ..Base::default()
        }
    }

    fn reload(&mut self) -> mpsc::Receiver<Progress> {
        *self = Self::new();
        let (sender, receiver) = mpsc::channel(1);
        let summary = "the file is in force".to_owned();
        drop(sender.try_send(Progress::Nothing { summary }));
        receiver
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            config_file: "running.toml".to_owned(),
            runtime_changes: self.changes.iter().map(Edit::to_string).collect(),
            ..Status::default()
        }
    }
}

fn running() -> Config {
    let examined = config::examine("running.toml", RUNNING, None);
    let shown = examined.report.render(false);
    assert!(examined.report.findings().is_empty(), "{shown}");
    examined.config.expect("a text without an error is one")
}

/// What a restart would read from the disk is what was taken.
fn assert_reads_back(config: &Config) {
    let text = render::render(config);
    let again = config::examine("running.json", text.as_str(), None);
    assert_eq!(again.config.as_ref(), Some(config), "{text}");
    assert!(!again.report.has_errors(), "{}", again.report.render(false));
}

/// A change touches what it names, and nothing that it says is left out.
fn assert_changed_only(before: &Config, after: &Config, change: &Change) {
    assert_eq!(before.node, after.node, "{change:?}");
    let named = match change {
        Change::ServiceAdd { toml } => {
            assert_eq!(keys(toml), ["service"], "{change:?}");
            assert!(after.services.starts_with(&before.services), "{change:?}");
            return;
        }
        Change::BackendAdd { service, toml } => {
            let unheard = keys(toml)
                .into_iter()
                .find(|key| key == "service" || key == "node");
            assert_eq!(unheard, None, "{change:?}");
            service
        }
        Change::ServiceRemove { service }
        | Change::BackendRemove { service, .. }
        | Change::BackendDrain { service, .. }
        | Change::BackendUndrain { service, .. }
        | Change::BackendWeight { service, .. } => service,
    };
    let others = |config: &Config| -> Vec<_> {
        let others = config.services.iter().filter(|it| it.name != *named);
        others.cloned().collect()
    };
    assert_eq!(others(before), others(after), "{change:?}");
}

/// The keys at the top of a fragment that was taken.
fn keys(toml: &str) -> Vec<String> {
    match toml.parse::<toml::Table>() {
        Ok(table) => table.into_iter().map(|(key, _)| key).collect(),
        Err(error) => panic!("taken, but no TOML: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_that_is_not_served_is_refused_with_a_problem() {
        let request = b"DELETE /v1/changes HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
        let answer = String::from_utf8(exchange(request)).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
        // RFC 9110, 15.5.6: the answer lists what is allowed.
        assert!(head.to_lowercase().contains("\nallow: post"), "{head}");
        let problem: Problem = serde_json::from_str(body).expect("a problem");
        assert_eq!(problem.status, 405);
        assert!(problem.detail.starts_with("DELETE is not served"));
    }
}
