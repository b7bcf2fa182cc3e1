//! Daemons come and go, in every way there is, and nobody notices: neither
//! requests by wrk, nor a transfer by iperf3, nor a thousand connections that
//! say nothing until the end, nor who reads the counters.
//!
//! Of each way there are two rounds a mode; `BALANCER_TEST_RESTARTS` says
//! otherwise. `BALANCER_TEST_OTHER_BUILD` names a balancer to upgrade to and
//! back from, such as one with another kernel program.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_tests::lab::client::{Curl, HeldConnections, HttpLoad, Iperf3Run, Target, WrkRun};
use balancer_tests::lab::server::Iperf3Server;
use balancer_tests::lab::{LabConfig, wait_for};
use balancer_user::api::types::Status;
use nix::sys::signal::Signal;

use crate::fixture::{Family, Forward, HTTP_PROBE, Mode, Network, Service};
use crate::{LIMIT, every_mode};

const IDLE: usize = 1000;
const IPERF3_PORT: u16 = 5201;
const BITS_PER_SECOND: u64 = 20_000_000;
const METRICS_PORT: u16 = 9180;
const DEAD_PORT: u16 = 5202;
const DRAINED: &str = "backend2";

every_mode! { @rows nobody_notices,
    l2: L2 V4 V4,
    ipip: Ipip V4 V6,
    gue: Gue V6 V4,
    nat: Nat V6 V6,
    fullnat: Fullnat V4 V4,
}

/// How a daemon ends, and what is other of the next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// SIGTERM, with `keep_forwarding`.
    Stopped,
    /// SIGKILL.
    Killed,
    /// A panic in the loop that owns everything.
    Panicked,
    /// SIGUSR2, and the next one is of another build.
    Upgraded,
    /// SIGKILL, and the file is another when the next one reads it.
    FileChanged,
}

const WAYS: [Way; 5] = [
    Way::Stopped,
    Way::Killed,
    Way::Panicked,
    Way::Upgraded,
    Way::FileChanged,
];

fn rounds() -> Result<usize> {
    match std::env::var("BALANCER_TEST_RESTARTS") {
        Ok(text) => text.parse().context("BALANCER_TEST_RESTARTS: no number"),
        Err(_) => Ok(2),
    }
}

fn nobody_notices(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig {
        addresses_per_client: 20,
        ..LabConfig::backends(4)
    })?;
    let _servers = network.web_servers()?;
    let backend = network.lab.backend(0);
    let served = network.served(backend);
    let _iperf3 = Iperf3Server::start(backend.namespace(), served, IPERF3_PORT)?;
    let mut balancer = start(&network)?;
    let target = Target {
        server: network.dial(80),
        sources: network.sources(),
    };
    let mut idle = HeldConnections::open(network.lab.client(0).namespace(), &target, IDLE)?;
    balancer.succeed(&["backend", "drain", "web", DRAINED])?;
    ensure!(
        idle.by_backend().contains_key(DRAINED),
        "{:?}",
        idle.by_backend()
    );

    let began = Instant::now();
    let stop = AtomicBool::new(false);
    let (told, traffic) = thread::scope(|scope| {
        let traffic = scope.spawn(|| drive(&network, &stop));
        let told = all_rounds(&network, &mut balancer);
        stop.store(true, Ordering::Relaxed);
        let traffic = traffic.join().map_err(|_| anyhow!("the traffic panicked"));
        (told, traffic)
    });
    let (told, traffic) = (told?, traffic??);
    let broken = idle.ask_again()?;
    ensure!(
        broken.is_empty(),
        "{} idle connections broke: {:?}",
        broken.len(),
        broken[0]
    );
    println!(
        "{mode}: {told} in {} s; wrk: {} requests, {} errors; iperf3: {} transfers, {} MB, 0 broken; \
         {IDLE} idle connections, 0 broken",
        began.elapsed().as_secs(),
        traffic.requests,
        traffic.errors,
        traffic.transfers,
        traffic.bytes / 1_000_000
    );
    ensure!(traffic.errors == 0, "{traffic:?}");
    ensure!(
        traffic.requests > 100 && traffic.transfers > 0,
        "{traffic:?}"
    );
    Ok(())
}

/// Backends hold connections in TIME-WAIT for a minute, and refuse who comes from
/// the same port meanwhile.
#[test]
fn ports_given_before_a_restart_are_not_given_again_after_it() -> Result<()> {
    let mode = Mode {
        forward: Forward::Fullnat,
        vip: Family::V4,
        backends: Family::V4,
    };
    let network = mode.lab(LabConfig::backends(2))?;
    let servers = network.web_servers()?;
    let text = network.file("keep_forwarding = true\n", &[network.web()]);
    let namespace = network.lab.balancer().namespace();
    let mut balancer = Balancer::start(namespace, network.interfaces(), &text)?;
    forwards(&network)?;
    for kill in [false, true] {
        match kill {
            true => balancer.kill()?,
            false => balancer.stop()?,
        }
        balancer.restart()?;
        forwards(&network)?;
    }
    let mut ports = Vec::new();
    for (node, server) in network.lab.backends().iter().zip(&servers) {
        let own = network.mode.backends.of(node);
        let asked = server.accesses()?;
        let asked = asked
            .iter()
            .filter(|it| it.path == "/" && it.server.ip() == own);
        ports.extend(asked.map(|it| (own, it.client)));
    }
    ensure!(ports.len() == 120, "{} requests", ports.len());
    ports.sort_unstable();
    let given = ports.len();
    ports.dedup();
    ensure!(
        ports.len() == given,
        "{} of {given} were given twice",
        given - ports.len()
    );
    Ok(())
}

/// `web`, what iperf3 dials, and a service whose only server dies, for an
/// incident that is open all the time.
fn services(network: &Network) -> Vec<Service> {
    let mut iperf3 = network.service("iperf3", "tcp", IPERF3_PORT);
    iperf3.backends.truncate(1);
    let mut dead = Service {
        health: "kind = \"tcp\"\ninterval = \"1s\"\ntimeout = \"500ms\"\nrise = 1\nfall = 1\n",
        ..network.service("dead", "tcp", DEAD_PORT)
    };
    dead.backends.truncate(1);
    let web = Service {
        health: HTTP_PROBE,
        ..network.service("web", "tcp", 80)
    };
    vec![web, iperf3, dead]
}

fn file(network: &Network, interval: &str) -> String {
    let listen = format!("{}:{METRICS_PORT}", network.lab.balancer().v4());
    let node = format!("keep_forwarding = true\nlisten = \"{listen}\"\n");
    let text = network.file(&node, &services(network));
    // The idle say nothing for as long as it takes.
    let text = text.replace(
        "fail_open_below = 0.0\n",
        "fail_open_below = 0.0\ndrain_timeout = \"1h\"\n",
    );
    text.replacen(
        "interval = \"1s\"",
        &format!("interval = \"{interval}\""),
        1,
    )
}

fn start<'a>(network: &'a Network) -> Result<Balancer<'a>> {
    let namespace = network.lab.balancer().namespace();
    let backend = network.lab.backend(0);
    let own = network.mode.backends.of(backend);
    let mut dying = Iperf3Server::start(backend.namespace(), own, DEAD_PORT)?;
    let balancer = Balancer::start(namespace, network.interfaces(), &file(network, "1s"))?;
    balancer.wait_backend("dead", "backend0", "up")?;
    dying.server.kill()?;
    balancer.wait_status("an incident", LIMIT, |status| {
        let mut incidents = status.incidents.iter();
        incidents
            .any(|it| it.service == "dead" && it.backend.is_some())
            .then_some(())
    })?;
    Ok(balancer)
}

/// What clients saw.
#[derive(Debug, Default)]
struct Traffic {
    requests: u64,
    errors: u64,
    transfers: u64,
    bytes: u64,
}

/// wrk and iperf3, one run after the other, until it is enough.
fn drive(network: &Network, stop: &AtomicBool) -> Result<Traffic> {
    let client = network.lab.client(0).namespace();
    thread::scope(|scope| {
        let transfers = scope.spawn(|| -> Result<(u64, u64)> {
            let run = Iperf3Run {
                bits_per_second: Some(BITS_PER_SECOND),
                seconds: 5,
                ..Iperf3Run::new(network.dial(IPERF3_PORT))
            };
            let (mut count, mut bytes) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                // A connection that breaks is an error.
                let seen = run.run(client)?;
                ensure!(seen.received_bytes > 0, "{seen:?}");
                count += 1;
                bytes += seen.received_bytes;
            }
            Ok((count, bytes))
        });
        let mut traffic = Traffic::default();
        let mut reconnect = true;
        while !stop.load(Ordering::Relaxed) {
            let run = WrkRun {
                reconnect,
                // Who waits that long is not answered: the machine may be busy.
                patience_secs: 30,
                seconds: 3,
                ..WrkRun::new(network.dial(80), "/")
            };
            let report = run.run(client)?;
            traffic.requests += report.requests;
            traffic.errors += report.errors();
            reconnect = !reconnect;
        }
        let transfers = transfers.join().map_err(|_| anyhow!("iperf3 panicked"))?;
        (traffic.transfers, traffic.bytes) = transfers?;
        Ok(traffic)
    })
}

/// What was looked at.
#[derive(Debug, Default)]
struct Told {
    rounds: BTreeMap<String, usize>,
    counters: usize,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (way, count) in &self.rounds {
            write!(f, "{way} {count} times, ")?;
        }
        write!(f, "{} counters compared, 0 went back", self.counters)
    }
}

fn all_rounds(network: &Network, balancer: &mut Balancer<'_>) -> Result<Told> {
    let mut told = Told::default();
    let mortal = PathBuf::from(env!("CARGO_BIN_EXE_mortal"));
    let other = std::env::var_os("BALANCER_TEST_OTHER_BUILD").map_or(mortal, PathBuf::from);
    let builds = [balancer_tests::balancer::binary(), other];
    let orders = balancer.config().with_file_name("orders");
    let mut build = 0;
    for round in 1..=rounds()? {
        for way in WAYS {
            let what = || format!("{way:?}, round {round}");
            let before = Seen::look(network, balancer).with_context(what)?;
            if way == Way::Upgraded {
                build = 1 - build;
            }
            end(way, network, balancer, &orders).with_context(what)?;
            forwards(network).with_context(|| format!("without a daemon: {}", what()))?;
            if way == Way::FileChanged {
                let interval = ["1s", "1100ms"][round % 2];
                balancer.write_services(network.interfaces(), &file(network, interval))?;
            }
            balancer.become_program(&builds[build], &[("MORTAL_ORDERS", &orders)]);
            let said = balancer.log().len();
            balancer.restart().with_context(what)?;
            let log = balancer.log().split_off(said);
            ensure!(
                log.contains("going on with the tables"),
                "{}: {log}",
                what()
            );
            told.counters += before.compare(way, network, balancer).with_context(what)?;
            *told
                .rounds
                .entry(format!("{way:?}").to_lowercase())
                .or_default() += 1;
        }
    }
    Ok(told)
}

fn end(way: Way, network: &Network, balancer: &mut Balancer<'_>, orders: &Path) -> Result<()> {
    match way {
        Way::Stopped => balancer.stop(),
        Way::Killed | Way::FileChanged => balancer.kill(),
        Way::Upgraded => {
            balancer.signal(Signal::SIGUSR2)?;
            let status = balancer.process().wait(LIMIT)?;
            ensure!(status.success(), "it ended with {status}");
            Ok(())
        }
        Way::Panicked => {
            let mortal = PathBuf::from(env!("CARGO_BIN_EXE_mortal"));
            // Only that one takes orders.
            balancer.kill()?;
            balancer.become_program(&mortal, &[("MORTAL_ORDERS", orders)]);
            balancer.restart()?;
            std::fs::write(orders, "Accepted 1 panic")?;
            let server = network.mode.backends.of(network.lab.backend(0));
            let vip = network.vip().to_string();
            let forward = format!("{:?}", network.mode.forward).to_lowercase();
            let server = format!("backend0={server}");
            // Nobody is left to answer.
            balancer.command(&[
                "service",
                "add",
                "extra",
                "--address",
                &vip,
                "--port",
                "82",
                "--protocol",
                "tcp",
                "--forward",
                &forward,
                "--backend",
                &server,
            ])?;
            let status = balancer.process().wait(LIMIT)?;
            std::fs::remove_file(orders)?;
            ensure!(status.code() == Some(101), "it ended with {status}");
            forwards(network)
        }
    }
}

/// New connections are made and answered.
fn forwards(network: &Network) -> Result<()> {
    let load = HttpLoad {
        sources: network.sources(),
        timeout: LIMIT,
        ..HttpLoad::burst(network.dial(80), "/", 40, 4)
    };
    let report = load.run(network.lab.client(0).namespace())?;
    ensure!(report.failed == 0, "{:?}", report.failures);
    Ok(())
}

/// What a daemon said of what the next one is to go on with.
struct Seen {
    status: Status,
    counters: BTreeMap<String, u64>,
}

impl Seen {
    fn look(network: &Network, balancer: &Balancer<'_>) -> Result<Self> {
        let status = balancer.status()?;
        let mut counters = in_status(&status);
        counters.extend(in_metrics(network)?);
        Ok(Self { status, counters })
    }

    /// Insists that the next one went on; gives the counters compared.
    fn compare(&self, way: Way, network: &Network, balancer: &Balancer<'_>) -> Result<usize> {
        let now = Self::look(network, balancer)?;
        for (name, before) in &self.counters {
            let count = now.counters.get(name).copied().unwrap_or_default();
            ensure!(
                count >= *before,
                "{name} went back from {before} to {count}"
            );
        }
        let drained = backend_of(&now.status, "web", DRAINED).context("it is gone")?;
        ensure!(
            drained.state == "draining",
            "{DRAINED} is {}",
            drained.state
        );
        let incident = |status: &Status| {
            let mut incidents = status.incidents.iter();
            let found = incidents.find(|it| it.service == "dead" && it.backend.is_some());
            found.map(|it| (it.number, it.kind, it.opened_at))
        };
        ensure!(
            incident(&self.status) == incident(&now.status),
            "{:?}",
            now.status.incidents
        );
        let before = self.status.revision;
        match way {
            Way::FileChanged => {
                wait_for("the changed file in force", LIMIT, || {
                    let status = balancer.status().ok()?;
                    (status.revision > before && status.change_under_way.is_none()).then_some(())
                })?;
            }
            // What had come into force before the panic may be undone.
            Way::Panicked => {}
            _ => ensure!(
                now.status.revision == before,
                "revision {:?}",
                now.status.revision
            ),
        }
        Ok(self.counters.len())
    }
}

fn in_status(status: &Status) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    for service in &status.services {
        for backend in &service.backends {
            let name = format!("{} {}", service.name, backend.name);
            counters.insert(format!("{name} flows"), backend.flows);
            counters.insert(format!("{name} packets"), backend.packets);
            counters.insert(format!("{name} bytes"), backend.bytes);
            counters.insert(format!("{name} resets"), backend.resets);
        }
    }
    let reasons = status.reasons.iter();
    counters.extend(reasons.map(|(reason, count)| (format!("reason {reason}"), *count)));
    counters
}

/// Totals of what the kernel counts, and of incidents; what the process counts
/// of itself, such as its probes and who asks it, begins with it.
fn in_metrics(network: &Network) -> Result<BTreeMap<String, u64>> {
    let balancer = network.lab.balancer();
    let address = (balancer.v4(), METRICS_PORT).into();
    let response = Curl::get(address, "/metrics")
        .limit(LIMIT)
        .run(balancer.namespace())?;
    ensure!(response.status == 200, "{response:?}");
    let text = String::from_utf8_lossy(&response.body).into_owned();
    let of_kernel = |name: &str| {
        name.contains("_total")
            && !["probe", "webhook", "process_", "api_", "scrapes_"]
                .iter()
                .any(|own| name.contains(own))
    };
    let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let totals = lines.filter(|(name, _)| name.starts_with("balancer_") && of_kernel(name));
    let found: BTreeMap<String, u64> = totals
        .filter_map(|(name, count)| Some((name.to_owned(), count.parse::<f64>().ok()? as u64)))
        .collect();
    ensure!(found.len() > 20, "only {found:?}");
    Ok(found)
}
