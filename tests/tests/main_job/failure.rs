//! A server dies among others that must not notice.

use std::net::IpAddr;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::client::{Iperf3Run, RunningLoad, WrkRun};
use balancer_tests::lab::server::{Iperf3Server, Nginx};
use balancer_tests::lab::{Lab, wait_for};

use crate::LIMIT;
use crate::fixture::{
    Api, FALL, HTTP_PROBE, INTERVAL, Service, balancer, l2, load_of, v4, wait_answers, web_servers,
};

/// Long enough for a death and a return in the middle of it.
const SECONDS: u32 = 8;
/// Beyond the probes themselves, where the machine has the time for it; what
/// it took is printed.
const GRACE: Duration = Duration::from_millis(100);
/// Of what another load of the machine may take; a probe more would be no
/// excuse, but that is told by the unit tests, whose clock nobody disturbs.
const PATIENCE: Duration = Duration::from_secs(2);
/// The one that dies.
const VICTIM: &str = "backend2";

/// `all` is on three backends, `keep` on two that stay, `bulk` on one of these.
struct Services {
    all: Service,
    keep: Service,
    bulk: Service,
}

impl Services {
    fn of(lab: &Lab) -> Self {
        let vips: Vec<IpAddr> = lab.vips().into_iter().filter(IpAddr::is_ipv4).collect();
        let stay = v4(&lab.backends()[..2]);
        Self {
            all: Service {
                name: "all",
                ..Service::web_l2(lab)
            },
            keep: Service {
                name: "keep",
                ..Service::web(vips[1], "l2", stay.clone())
            },
            bulk: Service {
                name: "bulk",
                port: 5201,
                health: HTTP_PROBE,
                ..Service::web(vips[2], "l2", stay[..1].to_vec())
            },
        }
    }

    fn toml(&self) -> String {
        [&self.all, &self.keep, &self.bulk]
            .map(Service::toml)
            .join("\n")
    }
}

#[test]
fn death_of_a_server_is_noticed_in_time_and_by_nobody_else() -> Result<()> {
    let lab = l2(3)?;
    let mut servers = web_servers(&lab)?;
    let services = Services::of(&lab);
    let bulk = services.bulk.dial();
    let _iperf3 = Iperf3Server::start(lab.backend(0).namespace(), bulk.ip(), bulk.port())?;
    let balancer = balancer(&lab, &services.toml())?;
    let client = lab.client(0).namespace();
    let wrk = WrkRun {
        connections: 4,
        seconds: SECONDS,
        ..WrkRun::new(services.keep.dial(), "/")
    };
    let iperf3 = Iperf3Run {
        seconds: SECONDS,
        bits_per_second: Some(200_000_000),
        ..Iperf3Run::new(bulk)
    };
    let began = Instant::now();
    let (wrk, iperf3) = thread::scope(|scope| {
        let wrk = scope.spawn(|| wrk.run(client));
        let iperf3 = scope.spawn(|| iperf3.run(client));
        die_and_return(&lab, &balancer, &services.all, &mut servers[2])?;
        ensure!(
            began.elapsed() < Duration::from_secs(SECONDS.into()),
            "wrk and iperf3 ended before the server had returned"
        );
        anyhow::Ok((join(wrk)?, join(iperf3)?))
    })?;
    println!(
        "wrk on the others: {} requests, {} errors; iperf3: {} bytes, {} retransmits",
        wrk.requests,
        wrk.errors(),
        iperf3.received_bytes,
        iperf3.retransmits
    );
    ensure!(wrk.errors() == 0 && wrk.requests > 1000, "{wrk:?}");
    // Of more than 100,000 segments; a break would cost hundreds.
    ensure!(iperf3.retransmits < 100, "{iperf3:?}");
    ensure!(iperf3.received_bytes > 100 << 20, "{iperf3:?}");
    Ok(())
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a client panicked"))?
}

fn die_and_return(
    lab: &Lab,
    balancer: &Balancer<'_>,
    service: &Service,
    server: &mut Nginx,
) -> Result<()> {
    let api = Api::new(balancer)?;
    let mut load = load_of(lab, service.dial());
    load.concurrency = 4;
    load.pause = Duration::from_millis(2);
    let began = Instant::now();
    let load = load.start(lab.client(0).namespace())?;
    wait_answers(&load, 500)?;
    let killed = Instant::now();
    server.server.kill()?;
    let (noticed, slack) = wait_down(&api, killed)?;
    let over = began.elapsed();
    println!(
        "{VICTIM} was down {} ms after SIGKILL ({} ms between two looks); limit {} ms",
        noticed.as_millis(),
        slack.as_millis(),
        (INTERVAL * FALL + GRACE).as_millis()
    );
    ensure!(noticed <= INTERVAL * FALL + PATIENCE + slack, "too late");
    none_new(&api, &load)?;
    server.server.restart()?;
    returns(&api, &load)?;
    let report = load.stop()?;
    println!(
        "load on all: {} answered, {} failed until it was down",
        report.answered, report.failed
    );
    let late: Vec<_> = report
        .failures
        .iter()
        .filter(|failure| failure.at > over)
        .collect();
    ensure!(late.is_empty(), "failures after that: {late:?}");
    Ok(())
}

/// Waits until the server counts as down; how long after its death that was
/// seen, and how long before that somebody had looked last.
fn wait_down(api: &Api, killed: Instant) -> Result<(Duration, Duration)> {
    let mut last = killed;
    wait_for("the dead server to be down", LIMIT, || {
        let before = std::mem::replace(&mut last, Instant::now());
        let backend = api.backend("all", VICTIM).ok()?;
        (backend.state == "down").then(|| (killed.elapsed(), before.elapsed()))
    })
}

fn none_new(api: &Api, load: &RunningLoad) -> Result<()> {
    let flows = api.flows("all", VICTIM)?;
    wait_answers(load, 1000)?;
    let now = api.backend("all", VICTIM)?;
    ensure!(
        (now.flows, now.slot_count) == (flows, 0),
        "it had {flows} flows when it went down: {now:?}"
    );
    Ok(())
}

fn returns(api: &Api, load: &RunningLoad) -> Result<()> {
    let began = Instant::now();
    wait_for("the server to be up again", LIMIT, || {
        let backend = api.backend("all", VICTIM).ok()?;
        (backend.state == "up").then_some(())
    })?;
    println!(
        "{VICTIM} was up {} ms after its start",
        began.elapsed().as_millis()
    );
    let flows = api.flows("all", VICTIM)?;
    wait_answers(load, 1000)?;
    let new = api.flows("all", VICTIM)? - flows;
    // A third of a thousand, less what was on its way.
    ensure!(new > 200, "only {new} new flows");
    Ok(())
}
