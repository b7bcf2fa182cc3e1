//! The demo: five steps on real traffic, each with what it should do and what
//! it did.

mod screen;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use balancer_user::api::types::Status;

use crate::balancer::{Balancer, backend_of, binary};
use crate::lab::client::{HttpLoad, RunningLoad};
use crate::lab::server::{Nginx, NginxConfig};
use crate::lab::{BackendXdp, Lab, LabConfig, cleanup};
use screen::Screen;

const WEIGHTS: [u16; 4] = [100, 200, 300, 400];
/// Requests that must be answered before anything is broken.
const REQUESTS: u64 = 20_000;
const INTERVAL: Duration = Duration::from_millis(200);
const FALL: u32 = 3;
/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(20);
/// Time for traffic to show the effect of a change.
const SHOW: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(30);

/// One step's outcome.
#[derive(Debug)]
pub struct Step {
    /// What is shown.
    pub name: &'static str,
    /// Whether it did what it should.
    pub passed: bool,
    /// What was seen.
    pub figures: String,
}

/// How the demo is played.
#[derive(Debug, Clone, Copy)]
pub struct Play {
    /// Leave everything running at the end.
    pub keep: bool,
    /// How much later than it should the death of a server may be noticed.
    pub patience: Duration,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            keep: false,
            patience: LOOK,
        }
    }
}

/// Plays the demo, and tells what came of its steps.
pub fn run(play: Play) -> Result<Vec<Step>> {
    cleanup::on_signals()?;
    println!("Building the lab: a client, the balancer and four backends, joined by a switch.");
    let lab = Lab::l2(LabConfig {
        backends: WEIGHTS.len() as u8,
        addresses_per_client: 20,
        backend_xdp: BackendXdp::Pass,
        ..LabConfig::default()
    })?;
    let mut servers = servers(&lab)?;
    let balancer = Balancer::start(lab.balancer().namespace(), &["eth0"], &services(&lab))
        .context("starting the balancer")?;
    println!(
        "The balancer runs on eth0 of namespace {}; service web is {}:80, weights 1:2:3:4.\n",
        lab.balancer().namespace().name(),
        lab.vip_v4()
    );
    let load = load(&lab).start(lab.client(0).namespace())?;
    let mut demo = Demo {
        balancer: &balancer,
        load: &load,
        screen: Screen::new(),
        patience: play.patience,
        steps: Vec::new(),
    };
    demo.spread()?;
    demo.server_dies(&mut servers[2])?;
    demo.server_returns(&mut servers[2])?;
    demo.drain()?;
    demo.weight()?;
    let steps = demo.steps;
    let report = load.stop()?;
    println!(
        "\n{} requests, {} answered, {} failed; median {:.1?}, 99 % within {:.1?}",
        report.requests(),
        report.answered,
        report.failed,
        report.latency(0.5),
        report.latency(0.99)
    );
    summary(&steps);
    if play.keep {
        leave(&lab, &balancer);
    }
    Ok(steps)
}

struct Demo<'a> {
    balancer: &'a Balancer<'a>,
    load: &'a RunningLoad,
    screen: Screen,
    patience: Duration,
    steps: Vec<Step>,
}

impl Demo<'_> {
    fn spread(&mut self) -> Result<()> {
        self.title("1. Spread: every flow is hashed onto a slot of the table");
        let load = self.load;
        self.watch(LIMIT, |_| load.answered() >= REQUESTS)?;
        let status = self.balancer.status()?;
        let worst = worst_deviation(&status);
        let failed = self.load.failed();
        self.step(
            "spread",
            worst <= 4.0 && failed == 0 && self.load.answered() >= REQUESTS,
            format!(
                "{} requests, {failed} failed; furthest from its share: {worst:.1} standard \
                 deviations (limit 4)",
                self.load.answered()
            ),
        );
        Ok(())
    }

    fn server_dies(&mut self, server: &mut Nginx) -> Result<()> {
        self.title("2. A server dies: web-3 is killed");
        let failed_before = self.load.failed();
        let killed = Instant::now();
        server.server.kill()?;
        self.wait(|status| state(status, "web-3") == "down")?;
        let noticed = killed.elapsed();
        // Connections that were refused just before are still being counted.
        self.watch(Duration::from_millis(300), |_| false)?;
        let failed = self.load.failed() - failed_before;
        self.watch(SHOW, |_| false)?;
        let after = self.load.failed() - failed_before - failed;
        let limit = INTERVAL * FALL + Duration::from_millis(100);
        self.step(
            "server dies",
            noticed <= limit + self.patience && after == 0,
            format!(
                "noticed after {} ms (limit {} ms); {failed} requests failed until then, {after} \
                 after",
                noticed.as_millis(),
                limit.as_millis()
            ),
        );
        Ok(())
    }

    fn server_returns(&mut self, server: &mut Nginx) -> Result<()> {
        self.title("3. It returns: web-3 is started again");
        let failed_before = self.load.failed();
        let began = Instant::now();
        server.server.restart()?;
        self.wait(|status| state(status, "web-3") == "up")?;
        let proven = began.elapsed();
        self.watch(SHOW, |_| false)?;
        let status = self.balancer.status()?;
        let seen = seen(&status, "web-3");
        let failed = self.load.failed() - failed_before;
        self.step(
            "server returns",
            failed == 0 && (0.25..0.35).contains(&seen),
            format!(
                "proven after {} ms; has {:.1} % of new flows again (30 % expected), {failed} \
                 requests failed",
                proven.as_millis(),
                seen * 100.0
            ),
        );
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        self.title("4. Drain: balancer backend drain web web-4");
        let failed_before = self.load.failed();
        self.balancer
            .succeed(&["backend", "drain", "web", "web-4"])?;
        let status = self.balancer.status()?;
        let flows_before = flows(&status, "web-4");
        self.watch(SHOW, |_| false)?;
        let status = self.balancer.status()?;
        let new = flows(&status, "web-4") - flows_before;
        let failed = self.load.failed() - failed_before;
        self.balancer
            .succeed(&["backend", "undrain", "web", "web-4"])?;
        self.step(
            "drain",
            new == 0 && failed == 0,
            format!("{new} new flows to web-4 while it drained, {failed} requests failed"),
        );
        Ok(())
    }

    fn weight(&mut self) -> Result<()> {
        self.title("5. Weight: balancer backend weight web web-1 500");
        let failed_before = self.load.failed();
        self.balancer
            .succeed(&["backend", "weight", "web", "web-1", "500"])?;
        self.watch(SHOW, |_| false)?;
        let status = self.balancer.status()?;
        let micros = status
            .last_apply
            .as_ref()
            .map_or(0, |apply| apply.duration_micros);
        let worst = worst_deviation(&status);
        let failed = self.load.failed() - failed_before;
        self.step(
            "weight",
            worst <= 4.0 && failed == 0,
            format!(
                "web-1 has {:.1} % of new flows (35.7 % expected); in force after {:.1} ms, \
                 {failed} requests failed",
                seen(&status, "web-1") * 100.0,
                micros as f64 / 1000.0
            ),
        );
        Ok(())
    }

    fn title(&mut self, title: &str) {
        self.screen.finish();
        println!("{title}");
    }

    fn step(&mut self, name: &'static str, passed: bool, figures: String) {
        self.screen.finish();
        println!("   {}: {}\n", verdict(passed), wrapped(&figures, 7));
        self.steps.push(Step {
            name,
            passed,
            figures,
        });
    }

    /// Shows the shares until the condition holds or the time is over.
    fn watch(&mut self, limit: Duration, mut done: impl FnMut(&Status) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.balancer.status()?;
            self.screen
                .show(&status, self.load.answered(), self.load.failed());
            if done(&status) || Instant::now() >= deadline {
                return Ok(());
            }
            screen::pause(LOOK.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Waits for a condition as closely as the status can be asked.
    fn wait(&mut self, mut done: impl FnMut(&Status) -> bool) -> Result<()> {
        self.balancer
            .wait_status("the status to change", LIMIT, |status| {
                done(status).then_some(())
            })
    }
}

fn servers(lab: &Lab) -> Result<Vec<Nginx>> {
    let start = |(index, node): (usize, &crate::lab::Node)| {
        let mut config = NginxConfig::new(&format!("web-{}", index + 1), &[], 80);
        config.listen = vec![SocketAddr::from(([0, 0, 0, 0], 80))];
        config.access_log = false;
        Nginx::start(node.namespace(), &config)
    };
    lab.backends().iter().enumerate().map(start).collect()
}

fn services(lab: &Lab) -> String {
    let mut text = format!(
        "[[service]]\nname = \"web\"\naddress = \"{}\"\nport = 80\nprotocol = \"tcp\"\n\
         forward = \"l2\"\nfail_open_below = 0.0\n\n[service.health]\nkind = \"http\"\n\
         path = \"/healthz\"\nexpect_status = [200]\ninterval = \"{}ms\"\ntimeout = \"100ms\"\n\
         rise = 2\nfall = {FALL}\n",
        lab.vip_v4(),
        INTERVAL.as_millis()
    );
    for (index, (node, weight)) in lab.backends().iter().zip(WEIGHTS).enumerate() {
        text.push_str(&format!(
            "\n[[service.backend]]\nname = \"web-{}\"\naddress = \"{}\"\nweight = {weight}\n",
            index + 1,
            node.v4()
        ));
    }
    text
}

fn load(lab: &Lab) -> HttpLoad {
    let mut load = HttpLoad::new(SocketAddr::new(lab.vip_v4().into(), 80), "/");
    load.concurrency = 8;
    load.sources = lab
        .client(0)
        .interface()
        .v4
        .iter()
        .map(|ip| IpAddr::V4(*ip))
        .collect();
    load
}

fn state<'s>(status: &'s Status, backend: &str) -> &'s str {
    backend_of(status, "web", backend).map_or("", |backend| backend.state.as_str())
}

fn seen(status: &Status, backend: &str) -> f64 {
    backend_of(status, "web", backend)
        .and_then(|backend| backend.share_seen)
        .unwrap_or_default()
}

fn flows(status: &Status, backend: &str) -> u64 {
    backend_of(status, "web", backend).map_or(0, |backend| backend.flows)
}

/// Largest distance of a backend's share of flows from its share of slots,
/// in standard deviations of as many independent flows as were counted.
fn worst_deviation(status: &Status) -> f64 {
    let Some(service) = crate::balancer::service_of(status, "web") else {
        return f64::INFINITY;
    };
    let total = service.counted_since_change as f64;
    service
        .backends
        .iter()
        .filter_map(|backend| {
            let expected = backend.share_expected;
            let deviation = (expected * (1.0 - expected) / total).sqrt();
            Some((backend.share_seen? - expected).abs() / deviation)
        })
        .fold(0.0, f64::max)
}

fn summary(steps: &[Step]) {
    println!("\nSummary");
    for step in steps {
        println!(
            "  {:<6} {:<15} {}",
            verdict(step.passed),
            step.name,
            wrapped(&step.figures, 25)
        );
    }
}

/// One line a statement, so that a terminal of 80 columns holds each.
fn wrapped(figures: &str, indent: usize) -> String {
    figures.replace("; ", &format!(";\n{:indent$}", ""))
}

fn verdict(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

fn leave(lab: &Lab, balancer: &Balancer<'_>) {
    let tool = binary().display().to_string();
    let socket = balancer.socket().display().to_string();
    println!("\nEverything runs on until Ctrl-C. In another terminal, as root:");
    println!("  export BALANCER_SOCKET={socket}");
    println!("  {tool} status");
    println!("  {tool} backend weight web web-1 50");
    println!("  {tool} backend drain web web-2");
    println!(
        "  ip netns exec {} curl http://{}/",
        lab.client(0).namespace().name(),
        lab.vip_v4()
    );
    loop {
        // Ctrl-C removes everything and ends the process.
        screen::pause(Duration::from_secs(3600));
    }
}
