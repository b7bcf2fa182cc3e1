//! `GET /metrics` of a real balancer: what it counts is what was sent, nothing
//! goes back whatever becomes of backends, and Prometheus's own tool has
//! nothing to say about it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::client::{Curl, Response};
use balancer_tests::lab::{Lab, process, wait_for};
use balancer_tests::metrics::Samples;

use crate::LIMIT;
use crate::fixture::{Service, balancer, burst, l2, load, stop_unharmed, web_servers};

/// Where metrics are served.
const PORT: u16 = 9180;

fn at(lab: &Lab) -> SocketAddr {
    SocketAddr::new(lab.balancer().v4().into(), PORT)
}

/// New flows of the one service.
const FLOWS: &str = "balancer_service_flows_total{service=\"web\"}";

/// A balancer that serves them.
pub(crate) fn serving<'a>(lab: &'a Lab, text: &str) -> Result<Balancer<'a>> {
    balancer(lab, &format!("listen = \"{}\"\n{text}", at(lab)))
}

fn ask(lab: &Lab, path: &str, accept: &str) -> Result<Response> {
    let header = format!("Accept: {accept}");
    let curl = Curl::get(at(lab), path).args(["--header", &header]);
    curl.run(lab.client(0).namespace())
}

pub(crate) fn samples(lab: &Lab) -> Result<Samples> {
    let response = ask(lab, "/metrics", "text/plain")?;
    ensure!(response.status == 200, "{response:?}");
    Samples::read(&response.text())
}

/// Waits until a sample is as wanted.
pub(crate) fn wait_sample(
    lab: &Lab,
    name: &str,
    is_it: impl Fn(Option<f64>) -> bool,
) -> Result<Samples> {
    wait_for(&format!("sample {name}"), LIMIT, || {
        let samples = samples(lab).ok()?;
        is_it(samples.get(name)).then_some(samples)
    })
}

/// Insists that no counter of `before` is smaller now.
fn insist_on_no_return(before: &Samples, now: &Samples) -> Result<()> {
    let grows = |name: &str| {
        let bare = name.split('{').next().unwrap_or(name);
        ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .any(|suffix| bare.ends_with(suffix))
    };
    for (name, value) in before.iter().filter(|(name, _)| grows(name)) {
        if let Some(now) = now.get(name) {
            ensure!(now >= value, "{name} went from {value} back to {now}");
        }
    }
    Ok(())
}

#[test]
fn what_was_sent_is_told_and_promtool_has_nothing_to_say() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = format!("handshake_sample = 1.0\n{}", service.toml());
    let balancer = serving(&lab, &text)?;
    burst(&lab, service.dial(), 600)?;
    // Counters are read when somebody asks, the rest is published each second.
    // A machine that is busy repeats a SYN now and then.
    wait_sample(&lab, FLOWS, |it| it >= Some(600.0))?;
    let skew = "balancer_service_skew_ratio{service=\"web\"}";
    let samples = wait_sample(&lab, skew, |it| it.is_some_and(|it| it < 0.2))?;
    let status = balancer.status()?;
    let mut flows = 0.0;
    for backend in &status.services[0].backends {
        let labels = format!("{{service=\"web\",backend=\"{}\"}}", backend.name);
        let counted = samples.of(&format!("balancer_backend_flows_total{labels}"))?;
        ensure!(counted == backend.flows as f64, "{counted}: {backend:?}");
        flows += counted;
        let name = format!("balancer_backend_handshake_duration_seconds_count{labels}");
        let timed = samples.of(&name)?;
        let finished = labels.replace('}', ",result=\"finished\"}");
        let finished = samples.of(&format!("balancer_backend_handshakes_total{finished}"))?;
        ensure!(timed == finished && timed > 0.0, "{timed}: {backend:?}");
        let name = format!("balancer_backend_expected_share_ratio{labels}");
        let expected = samples.of(&name)?;
        ensure!(
            (expected - backend.share_expected).abs() < 1e-9,
            "{expected}"
        );
        let state = labels.replace('}', ",state=\"up\"}");
        ensure!(samples.of(&format!("balancer_backend_state{state}"))? == 1.0);
        let passed = labels.replace('}', ",result=\"passed\"}");
        ensure!(samples.of(&format!("balancer_backend_probes_total{passed}"))? >= 2.0);
    }
    ensure!(flows == samples.of(FLOWS)?, "{flows}");
    let forwarded = "balancer_packets_total{verdict=\"forward\",reason=\"forwarded\"}";
    let packets = samples.of("balancer_service_packets_total{service=\"web\"}")?;
    ensure!(samples.of(forwarded)? >= packets && packets > 2400.0);
    ensure!(samples.of("balancer_revision")? == 1.0);
    let members = samples.of("balancer_map_entries{map=\"members\"}")?;
    ensure!(members == 3.0, "{members}");
    ensure!(samples.of("process_resident_memory_bytes")? > 1e6);

    let response = ask(&lab, "/metrics", "text/plain")?;
    let mut promtool = lab.client(0).namespace().command("promtool");
    let mut input = tempfile::tempfile()?;
    input.write_all(&response.body)?;
    std::io::Seek::rewind(&mut input)?;
    let checked = promtool.args(["check", "metrics"]).stdin(input);
    let output = checked
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let output = output.context("promtool; see `cargo xtask setup`")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}");

    let newer = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let newer = ask(&lab, "/metrics?detail=service", newer)?;
    let kind = newer.header("content-type").unwrap_or_default();
    ensure!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = newer.text();
    ensure!(text.ends_with("# EOF\n") && !text.contains("backend=\"backend0\""));
    ensure!(ask(&lab, "/metrics?detail=all", "text/plain")?.status == 400);
    Ok(())
}

#[test]
fn counters_never_go_back_through_changes_and_crashes() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = format!("handshake_sample = 1.0\n{}", service.toml());
    let mut balancer = serving(&lab, &text)?;
    let load = load(&lab, service.dial())?;
    let mut last = Samples::default();
    let mut look = || -> Result<Samples> {
        let wanted = last.get(FLOWS).unwrap_or_default() + 100.0;
        let now = wait_sample(&lab, FLOWS, |it| it.is_some_and(|it| it > wanted))?;
        insist_on_no_return(&last, &now)?;
        last = now.clone();
        Ok(now)
    };
    look()?;
    balancer.succeed(&["backend", "weight", "web", "backend1", "50"])?;
    look()?;
    balancer.succeed(&["backend", "drain", "web", "backend2"])?;
    look()?;
    let now = wait_sample(&lab, "balancer_revision", |it| it == Some(3.0))?;
    ensure!(
        now.iter().any(|it| it.0.contains("state=\"draining\"")),
        "{now:?}"
    );
    let outcome = "balancer_last_change_info{revision=\"3\",author=\"root\",cause=\"command\",\
                   outcome=\"committed\"}";
    ensure!(now.of(outcome)? == 1.0);
    let answered = stop_unharmed(load)?;
    // With nobody's flows on it, one goes and comes back: it counts anew.
    let before = samples(&lab)?;
    balancer.succeed(&["backend", "remove", "web", "backend2"])?;
    let gone = "balancer_backend_weight{service=\"web\",backend=\"backend2\"}";
    let without = wait_sample(&lab, gone, |it| it.is_none())?;
    insist_on_no_return(&before, &without)?;
    ensure!(
        without.of(FLOWS)? == before.of(FLOWS)?,
        "{answered} answers"
    );
    // The kernel counts on over a daemon's death.
    balancer.kill()?;
    balancer.restart()?;
    let again = wait_sample(&lab, FLOWS, |it| it.is_some())?;
    let kept = "balancer_backend_flows_total{service=\"web\",backend=\"backend0\"}";
    ensure!(again.of(kept)? == before.of(kept)?, "{again:?}");
    Ok(())
}

#[test]
fn many_scrapes_at_a_time_do_not_hold_up_the_control_socket() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = serving(&lab, &service.toml())?;
    wait_sample(&lab, "balancer_revision", |it| it == Some(1.0))?;
    let url = format!("http://{}/metrics#[1-200]", at(&lab));
    let mut scrapes = lab.client(0).namespace().command("curl");
    scrapes.args([
        "--silent",
        "--parallel",
        "--parallel-max",
        "20",
        "--output",
        "/dev/null",
    ]);
    scrapes.args(["--write-out", "%{http_code}\n", &url]);
    let output = process::run(scrapes, LIMIT)?;
    let codes = String::from_utf8_lossy(&output.stdout).into_owned();
    let with = |code| codes.lines().filter(|it| *it == code).count();
    let (good, busy) = (with("200"), with("503"));
    ensure!(good > 0 && good + busy == 200, "{codes}");
    // Its probes may be late beside that; it answers.
    ensure!(balancer.status()?.services.len() == 1);
    Ok(())
}
