//! Two thousand backends, each asked over HTTP every second: what that takes of
//! the machine, and whether the daemon keeps to its times.
//!
//! The daemon is the real one in a namespace of the lab. One nginx, in another,
//! answers at the addresses of all backends. What the daemon says of its probes
//! is read from its metrics.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::scale::{Figure, MEGABYTE, cpu_seconds};
use crate::balancer::Balancer;
use crate::lab::cleanup;
use crate::lab::namespace::Namespace;
use crate::lab::process::status_kib;
use crate::lab::server::{Nginx, NginxConfig};
use crate::lab::{Lab, LabConfig, Node, wait_for};
use crate::metrics::Samples;

const SERVICES: usize = 20;
const BACKENDS: usize = 100;
/// A window of the measurement.
const WINDOW: Duration = Duration::from_secs(20);
/// All backends, at the latest.
const PROVEN: Duration = Duration::from_secs(180);
/// Where the daemon's metrics are.
const LISTEN: &str = "127.0.0.1:9180";
/// Most of one core, in percent.
const MOST_CPU: f64 = 25.0;
/// The step of the daemon's histogram that is on time, in seconds.
const ON_TIME: &str = "0.1";

/// Probes until all are up, then looks at windows of twenty seconds.
pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    cleanup::on_signals()?;
    let lab = Lab::l2(LabConfig::backends(1))?;
    let server = lab.backend(0);
    answer_for_all(&lab, server)?;
    let mut config = NginxConfig::new("all", &[], 80);
    config.listen = vec!["0.0.0.0:80".parse()?];
    let _nginx = Nginx::start(server.namespace(), &config)?;
    let node = lab.balancer();
    let mut balancer = Balancer::start(node.namespace(), &["eth0"], &services(server))
        .context("starting the balancer")?;
    let pid = balancer.process().pid();
    wait_for("all backends to be up", PROVEN, || {
        let status = balancer.status().ok()?;
        let mut backends = status.services.iter().flat_map(|it| &it.backends);
        backends.all(|it| it.state == "up").then_some(())
    })
    .with_context(|| balancer.log())?;
    let first = Look::take(node.namespace(), pid)?;
    let mut looks = vec![first];
    for _ in 0..rounds {
        let until = Instant::now() + WINDOW;
        wait_for("the end of a window", WINDOW * 2, || {
            (Instant::now() >= until).then_some(())
        })?;
        looks.push(Look::take(node.namespace(), pid)?);
    }
    figures(&looks)
}

fn figures(looks: &[Look]) -> Result<Vec<Figure>> {
    let of = |figure: &dyn Fn(&Look, &Look) -> f64| -> Vec<f64> {
        let pairs = looks.windows(2);
        pairs.map(|pair| figure(&pair[0], &pair[1])).collect()
    };
    let (first, last) = looks.first().zip(looks.last()).context("no look")?;
    let seconds = |before: &Look, after: &Look| (after.at - before.at).as_secs_f64();
    ensure!(
        last.failed == first.failed,
        "{} probes failed",
        last.failed - first.failed
    );
    Ok(vec![
        Figure::new(
            "probes a second",
            "",
            of(&|before, after| (after.probes - before.probes) / seconds(before, after)),
            None,
        ),
        Figure::new(
            "CPU time of the daemon, of one core",
            "%",
            of(&|before, after| (after.cpu - before.cpu) / seconds(before, after) * 100.0),
            Some(MOST_CPU),
        ),
        Figure::new(
            "probes that began over 100 ms late",
            "",
            vec![last.late - first.late],
            Some(0.0),
        ),
        Figure::new(
            "lateness of a probe, mean",
            "ms",
            of(&|before, after| {
                (after.lateness - before.lateness) / (after.probes - before.probes) * 1e3
            }),
            None,
        ),
        Figure::new(
            "descriptors, more than before",
            "",
            vec![last.files - first.files],
            None,
        ),
        Figure::new(
            "memory of the daemon's own, more than before",
            "MB",
            vec![last.memory - first.memory],
            None,
        ),
    ])
}

/// What there is to see of the daemon at one moment.
struct Look {
    at: Instant,
    /// Seconds.
    cpu: f64,
    probes: f64,
    failed: f64,
    late: f64,
    /// Of all probes together, in seconds.
    lateness: f64,
    files: f64,
    /// Megabytes.
    memory: f64,
}

impl Look {
    fn take(namespace: &Namespace, pid: u32) -> Result<Self> {
        let output = namespace
            .command("curl")
            .args(["-sS", "--fail", &format!("http://{LISTEN}/metrics")])
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        let samples = Samples::read(std::str::from_utf8(&output.stdout)?)?;
        let lateness = "balancer_probe_lateness_seconds";
        let probes = samples.of(&format!("{lateness}_count"))?;
        Ok(Self {
            at: Instant::now(),
            cpu: cpu_seconds(pid)?,
            probes,
            failed: samples.sum_where("balancer_service_probes_total", "result", "failed"),
            late: probes - samples.of(&format!("{lateness}_bucket{{le=\"{ON_TIME}\"}}"))?,
            lateness: samples.of(&format!("{lateness}_sum"))?,
            files: Path::new("/proc")
                .join(pid.to_string())
                .join("fd")
                .read_dir()?
                .count() as f64,
            memory: status_kib(pid, "RssAnon")? as f64 * 1024.0 / MEGABYTE,
        })
    }
}

/// Has the server answer at the addresses of all backends.
fn answer_for_all(lab: &Lab, server: &Node) -> Result<()> {
    let via = server.v4().to_string();
    for (node, route) in [
        (server, vec!["local", "10.20.0.0/16", "dev", "lo"]),
        (lab.balancer(), vec!["10.20.0.0/16", "via", &via]),
    ] {
        let mut command = node.namespace().command("ip");
        let output = command.args(["route", "add"]).args(&route).output()?;
        ensure!(output.status.success(), "{output:?}");
    }
    Ok(())
}

fn services(server: &Node) -> String {
    let mut text = format!("listen = \"{LISTEN}\"\n");
    let mac = server.mac();
    for service in 0..SERVICES {
        text.push_str(&format!(
            "[[service]]\nname = \"service-{service}\"\naddress = \"198.18.0.{}\"\n\
             port = 80\nprotocol = \"tcp\"\nforward = \"l2\"\n\
             [service.health]\nkind = \"http\"\npath = \"/\"\ninterval = \"1s\"\n",
            service + 1
        ));
        for backend in 0..BACKENDS {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.20.{service}.{}\"\n\
                 mac = \"{mac}\"\n",
                backend + 1
            ));
        }
    }
    text
}
