//! Each fault that people search for in the wrong place: how long until the
//! balancer names it, with the right service, backend and cause, at default
//! settings and under load.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::client::{HttpLoad, RunningLoad};
use balancer_tests::lab::server::{Fault, FaultyNginx, Nginx, NginxConfig};
use balancer_tests::lab::slow_way::SlowWay;
use balancer_tests::lab::{Lab, Node, link, wait_for};
use balancer_user::watch::Kind;
use balancer_user::watch::incident::{Event, Incident};

use crate::fixture::{Service, balancer, l2, load_of, wait_answers};
use crate::incidents::events;
use crate::verify::Kernel;

/// Until a fault is named. At rest it takes a few seconds, which are printed;
/// a busy machine may take longer and is not to be judged by it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until nothing is wrong any more.
const RECOVERY: Duration = Duration::from_secs(180);
/// The backend that has the fault, where one has.
const BAD: usize = 2;
const BAD_NAME: &str = "backend2";

/// A server that says of which service it is.
fn config(node: &Node, service: &str) -> NginxConfig {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)];
    config.directives = format!("add_header X-Service {service} always;");
    config
}

struct Stage<'a> {
    lab: &'a Lab,
    balancer: &'a Balancer<'a>,
    service: Service,
    rows: Vec<(&'static str, Duration, String)>,
}

impl Stage<'_> {
    /// Brings a fault about and waits for its incident, which has to be of
    /// that kind and backend and say these words.
    fn name(
        &mut self,
        fault: &'static str,
        (kind, backend): (Kind, Option<&str>),
        words: &[&str],
        bring: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = self.last()?;
        let began = Instant::now();
        bring().context(fault)?;
        let incident = wait_for(&format!("{fault}: {kind:?} {backend:?}"), PATIENCE, || {
            let opened = self.opened_since(before).ok()?;
            opened
                .into_iter()
                .find(|it| it.kind == kind && it.backend.as_deref() == backend)
        })
        .with_context(|| self.balancer.log())?;
        let took = began.elapsed();
        ensure!(incident.service == "web", "{fault}: {incident:?}");
        let text = format!("{incident}; try `{}`", incident.command);
        for word in words {
            ensure!(text.contains(word), "{fault}: no {word:?} in {text}");
        }
        let since = incident.since.as_ref().context("no revision")?;
        ensure!(since.revision == 1, "{fault}: {since:?}");
        println!("{fault}: after {took:.1?}: {text}");
        self.rows.push((fault, took, text));
        Ok(())
    }

    fn last(&self) -> Result<u64> {
        let numbers = events(self.balancer)?.into_iter();
        Ok(numbers.map(|it| it.incident().number).max().unwrap_or(0))
    }

    fn opened_since(&self, number: u64) -> Result<Vec<Incident>> {
        let opened = events(self.balancer)?
            .into_iter()
            .filter_map(|it| match it {
                Event::Opened { incident } if incident.number > number => Some(incident),
                _ => None,
            });
        Ok(opened.collect())
    }

    /// Waits until nothing is wrong any more, and then for a while of good
    /// answers, so that the watch knows what is usual.
    fn recover(&self, load: &RunningLoad) -> Result<()> {
        let is_quiet = || {
            let status = self.balancer.status().ok()?;
            // So many flows fill the table while slots are in change: that is
            // one to be told, and not over soon.
            let mut open = status.incidents.iter();
            open.all(|it| it.kind == Kind::MapCapacity).then_some(())
        };
        wait_for("the end of all incidents", RECOVERY, is_quiet)
            .with_context(|| self.balancer.log())?;
        wait_answers(load, 3000)
    }

    fn load(&self) -> Result<RunningLoad> {
        let mut load = load_of(self.lab, self.service.dial());
        load.concurrency = 64;
        load.timeout = Duration::from_secs(2);
        load.pause = Duration::from_millis(50);
        load.start(self.lab.client(0).namespace())
    }

    /// As much as one address can ask for.
    fn hog(&self) -> Result<HttpLoad> {
        let client = self.lab.client(0);
        let address = client.interface().v4.last().context("no address")?;
        Ok(HttpLoad {
            concurrency: 64,
            timeout: Duration::from_secs(2),
            sources: vec![IpAddr::V4(*address)],
            ..HttpLoad::new(self.service.dial(), "/")
        })
    }

    fn table(&self) {
        println!("\n| fault | named after | incident |\n|---|---|---|");
        for (fault, took, text) in &self.rows {
            println!("| {fault} | {:.1} s | {text} |", took.as_secs_f64());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}

/// The host takes no packet any more.
fn silence(node: &Node) -> Result<()> {
    let rules = "add table inet silent; add chain inet silent in \
                 { type filter hook input priority 0; policy drop; }";
    run(node.namespace().command("nft").arg(rules))
}

fn end_silence(node: &Node) -> Result<()> {
    run(node
        .namespace()
        .command("nft")
        .arg("delete table inet silent"))
}

#[test]
fn every_fault_is_named_with_service_backend_and_cause() -> Result<()> {
    let lab = l2(4)?;
    let mut servers: Vec<FaultyNginx> = lab
        .backends()
        .iter()
        .map(|node| FaultyNginx::start(node.namespace(), config(node, "web")))
        .collect::<Result<_>>()?;
    let mut service = Service::web_l2(&lab);
    // All else is as it is by default, but that one server falls so often here
    // that it would be held.
    service.health = "kind = \"http\"\npath = \"/\"\nexpect_status = [200]\nport = 80\nflap_limit = 0\n\
                      identity = { header = { name = \"x-service\", value = \"web\" } }\n";
    let balancer = balancer(&lab, &service.toml())?;
    let mut stage = Stage {
        lab: &lab,
        balancer: &balancer,
        service,
        rows: Vec::new(),
    };
    let load = stage.load()?;
    wait_answers(&load, 10_000)?;
    ensure!(events(&balancer)?.is_empty(), "{:?}", events(&balancer)?);
    of_one_backend(&mut stage, &mut servers, &load)?;
    of_the_service(&mut stage, &mut servers, load)?;
    stage.table();
    Ok(())
}

fn of_one_backend(
    stage: &mut Stage<'_>,
    servers: &mut [FaultyNginx],
    load: &RunningLoad,
) -> Result<()> {
    let node = stage.lab.backend(BAD);
    let down = (Kind::BackendDown, Some(BAD_NAME));
    stage.name("backend process killed", down, &["refused"], || {
        servers[BAD].nginx.server.kill()
    })?;
    servers[BAD].nginx.server.restart()?;
    stage.recover(load)?;
    stage.name("backend host silent", down, &["is down"], || silence(node))?;
    end_silence(node)?;
    stage.recover(load)?;
    stage.name("backend answers 500", down, &["500"], || {
        servers[BAD].set(Some(Fault::Errors))
    })?;
    servers[BAD].set(None)?;
    stage.recover(load)?;
    let mut other = None;
    stage.name(
        "wrong server at the address",
        down,
        &["x-service", "intranet"],
        || {
            servers[BAD].nginx.server.stop()?;
            other = Some(Nginx::start(node.namespace(), &config(node, "intranet"))?);
            Ok(())
        },
    )?;
    drop(other);
    servers[BAD].nginx.server.restart()?;
    stage.recover(load)?;
    let vip = IpAddr::V4(stage.lab.vip_v4());
    let blackholed = (Kind::Handshakes, Some(BAD_NAME));
    let words = ["does not finish handshakes", "its probes pass"];
    stage.name(
        "probe passes, the VIP is blackholed",
        blackholed,
        &words,
        || link::remove_address(node.namespace(), "lo", vip),
    )?;
    link::add_address(node.namespace(), "lo", vip, 32)?;
    stage.recover(load)?;
    let slow = (Kind::Slow, Some(BAD_NAME));
    let words = ["is slow", "the table is right"];
    stage.name("answers 300 ms later", slow, &words, || {
        servers[BAD].set(Some(Fault::Slow))
    })?;
    servers[BAD].set(None)?;
    stage.recover(load)?;
    let mut way = None;
    stage.name("latency plus 200 ms", slow, &words, || {
        let delay = Duration::from_millis(200);
        way = Some(SlowWay::start(node.namespace(), delay)?);
        Ok(())
    })?;
    way.context("it was started")?.end()?;
    stage.recover(load)
}

fn of_the_service(
    stage: &mut Stage<'_>,
    servers: &mut [FaultyNginx],
    load: RunningLoad,
) -> Result<()> {
    let balancer = stage.balancer;
    let words = ["what nobody wrote", "try `balancer verify`"];
    stage.name(
        "table altered to 70 % on one",
        (Kind::Drift, Some(BAD_NAME)),
        &words,
        || Kernel::of(balancer)?.change_slots_of(6),
    )?;
    stage.recover(&load)?;
    let words = ["no backend is up", "all probes fail"];
    stage.name(
        "all backends down",
        (Kind::ServiceDown, None),
        &words,
        || servers.iter_mut().try_for_each(|it| it.nginx.server.kill()),
    )?;
    for server in servers.iter_mut() {
        server.nginx.server.restart()?;
    }
    stage.recover(&load)?;
    let (mut hog, one) = (None, stage.hog()?);
    let client = stage.lab.client(0).namespace();
    let words = ["opens", "one client address dominates, the table is right"];
    stage.name(
        "one client sends most flows",
        (Kind::OneSource, None),
        &words,
        || {
            hog = Some(one.start(client)?);
            Ok(())
        },
    )?;
    if let Some(hog) = hog {
        hog.stop()?;
    }
    stage.recover(&load)?;
    let words = ["traffic does not arrive", "the table is as it was"];
    stage.name(
        "traffic stops",
        (Kind::TrafficStopped, None),
        &words,
        || load.stop().map(drop),
    )
}
