//! A balancer with a load through it, and what must be as before at the end.

use std::fs;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::client::{Curl, HttpLoad, RunningLoad};
use balancer_tests::lab::process::status_kib;
use balancer_tests::lab::server::Nginx;
use balancer_tests::lab::{Lab, wait_for};
use balancer_tests::metrics::Samples;

use super::LONG;
use super::wire::Address;
use crate::LIMIT;
use crate::fixture::{Api, Service, l2, load_of, stop_unharmed, wait_answers, web_servers};
use crate::metrics::serving;

/// Once a second, and slow to give up: what is tested keeps the CPUs busy.
const PROBE: &str = "kind = \"http\"\npath = \"/healthz\"\nexpect_status = [200]\nport = 80\n\
    interval = \"1s\"\njitter = 0.0\ntimeout = \"900ms\"\nrise = 2\nfall = 8\n";

/// What may be left more than before: threads and descriptors of work that
/// comes and goes each second, memory that the allocator keeps.
const MOST_THREADS: usize = 12;
const MOST_FILES: usize = 16;
pub(super) const MOST_MEMORY: u64 = 96 << 20;

/// Threads, descriptors, and memory of its own in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) threads: usize,
    pub(super) files: usize,
    pub(super) memory: u64,
}

impl Taken {
    pub(super) fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            threads: fs::read_dir(format!("/proc/{pid}/task"))?.count(),
            files: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            memory: status_kib(pid, "RssAnon")? * 1024,
        })
    }
}

/// A lab with web servers on its backends.
pub(super) struct Ground {
    pub(super) lab: Lab,
    _servers: Vec<Nginx>,
}

impl Ground {
    pub(super) fn new() -> Result<Self> {
        let lab = l2(3)?;
        let servers = web_servers(&lab)?;
        Ok(Self {
            lab,
            _servers: servers,
        })
    }

    pub(super) fn service(&self) -> Service {
        Service {
            health: PROBE,
            ..Service::web_l2(&self.lab)
        }
    }
}

pub(super) struct Bed<'a> {
    pub(super) lab: &'a Lab,
    pub(super) balancer: Balancer<'a>,
    pub(super) api: Api,
    pub(super) pid: u32,
    pub(super) before: Taken,
    load: RunningLoad,
    config: String,
    revision: Option<u64>,
    revisions: usize,
}

impl<'a> Bed<'a> {
    /// With `more` at the end of the file.
    pub(super) fn start(ground: &'a Ground, more: &str) -> Result<Self> {
        Self::start_with(ground, "", more)
    }

    /// With more keys of the node, too.
    pub(super) fn start_with(ground: &'a Ground, node: &str, more: &str) -> Result<Self> {
        let lab = &ground.lab;
        let service = ground.service();
        let mut balancer = serving(lab, &format!("{node}{}\n{more}", service.toml()))?;
        let api = Api::new(&balancer)?;
        wait_for("backends that are up", LIMIT, || {
            let status = api.status().ok()?;
            let mut backends = status.services[0].backends.iter();
            backends.all(|it| it.state == "up").then_some(())
        })?;
        let load = HttpLoad {
            concurrency: 2,
            // A machine that is busy may take its time, and lose nothing.
            timeout: Duration::from_secs(30),
            pause: Duration::from_millis(2),
            ..load_of(lab, service.dial())
        };
        let load = load.start(lab.client(0).namespace())?;
        wait_answers(&load, 50)?;
        let status = api.status()?;
        let pid = balancer.process().pid();
        Ok(Self {
            lab,
            pid,
            before: Taken::of(pid)?,
            config: api.config()?,
            revision: status.revision,
            revisions: api.history()?.revisions.len(),
            load,
            api,
            balancer,
        })
    }

    pub(super) fn socket(&self) -> Address {
        Address::Socket(self.balancer.socket())
    }

    pub(super) fn http(&self) -> Address {
        Address::Http(SocketAddr::new(self.lab.balancer().v4().into(), 9180))
    }

    pub(super) fn path(&self) -> PathBuf {
        self.balancer.config()
    }

    /// An address of the client from which nothing else comes.
    fn other(&self) -> Result<IpAddr> {
        let addresses = &self.lab.client(0).interface().v4;
        let last = addresses.last().context("no address")?;
        Ok(IpAddr::V4(*last))
    }

    /// What Prometheus would get, from an address of its own; an error is what
    /// it would see, too.
    pub(super) fn scrape(&self) -> Result<Samples> {
        let Address::Http(server) = self.http() else {
            anyhow::bail!("no address");
        };
        let from = self.other()?.to_string();
        let curl = Curl::get(server, "/metrics").args(["--interface", from.as_str()]);
        let response = curl.run(self.lab.client(0).namespace())?;
        ensure!(response.status == 200, "{response:?}");
        Samples::read(&response.text())
    }

    /// Connections of an entrance that the daemon ended for this reason.
    pub(super) fn cut(&self, entrance: &str, reason: &str) -> Result<u64> {
        let name = format!(
            "balancer_api_connections_cut_total{{entrance=\"{entrance}\",reason=\"{reason}\"}}"
        );
        Ok(self.scrape()?.of(&name)? as u64)
    }

    pub(super) fn open(&self, entrance: &str) -> Result<u64> {
        let name = format!("balancer_api_connections{{entrance=\"{entrance}\"}}");
        Ok(self.scrape()?.of(&name)? as u64)
    }

    /// Runs this as a client of both addresses, on a thread of its own.
    pub(super) fn run<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T> {
        run(self.lab, work)
    }

    /// The daemon is the same, with the same tables, and has given back what it
    /// took; forwarding lost nothing.
    pub(super) fn end(mut self) -> Result<()> {
        let end = self.judge();
        end.with_context(|| format!("log:\n{}", tail(&self.balancer.log())))?;
        let answered = stop_unharmed(self.load)?;
        println!("{answered} requests by the VIP, and none failed");
        Ok(())
    }

    fn judge(&mut self) -> Result<()> {
        ensure!(
            self.balancer.process().is_running(),
            "the daemon ended: {:?}",
            self.balancer.process().exit_status()
        );
        let status = self.api.status()?;
        ensure!(status.pid == self.pid && status.revision == self.revision);
        ensure!(self.api.config()? == self.config, "another configuration");
        ensure!(self.api.history()?.revisions.len() == self.revisions);
        let verified = self.api.verify()?;
        ensure!(verified.is_right, "{verified:?}");
        for backend in &status.services[0].backends {
            ensure!(backend.state == "up", "{backend:?}");
        }
        let log = self.balancer.log();
        ensure!(!log.contains("panicked"), "a panic in the log");
        let is_of_web = |line: &&str| {
            let mut kinds = ["backend-down", "service-down"].iter();
            kinds.any(|it| line.contains(it)) && line.contains("service=web")
        };
        let down = log.lines().find(is_of_web);
        ensure!(down.is_none(), "{down:?}");
        self.wait_given_back()
    }

    fn wait_given_back(&self) -> Result<()> {
        let mut last = None;
        let given = wait_for("what was taken to be given back", LONG, || {
            let now = Taken::of(self.pid).ok()?;
            last = Some(now);
            let before = self.before;
            let is_given = now.threads <= before.threads + MOST_THREADS
                && now.files <= before.files + MOST_FILES
                && now.memory <= before.memory + MOST_MEMORY;
            is_given.then_some(())
        });
        println!("before {:?}, after {last:?}", self.before);
        given.with_context(|| format!("before {:?}, after {last:?}", self.before))
    }

    /// The revision in force is meant to be another one from now on.
    pub(super) fn expect_changes(&mut self) -> Result<()> {
        self.config = self.api.config()?;
        self.revision = self.api.status()?.revision;
        self.revisions = self.api.history()?.revisions.len();
        Ok(())
    }
}

/// The end of a log.
pub(super) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

pub(super) fn run<T: Send, F: Future<Output = Result<T>>>(
    lab: &Lab,
    work: impl FnOnce() -> F + Send,
) -> Result<T> {
    lab.client(0).namespace().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(work())
    })?
}
