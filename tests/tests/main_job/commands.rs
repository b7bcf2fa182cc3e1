//! Everyday commands, typed as a person does, and what traffic makes of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of, service_of};
use balancer_tests::lab::client::Curl;
use balancer_tests::lab::wait_for;
use balancer_user::api::progress::Progress;
use balancer_user::api::types::{
    BackendStatus, Changed, History, ServiceStatus, Status, StoredRevision,
};
use serde_json::Value;

use crate::LIMIT;
use crate::fixture::{Api, Service, balancer, burst, get, get_well, l2, web_server, web_servers};

const REQUESTS: u64 = 3000;

#[test]
fn weight_is_followed_within_the_bounds_of_chance() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    for (weight, expected) in [("300", 0.6), ("50", 0.2)] {
        balancer.succeed(&["backend", "weight", "web", "backend0", weight])?;
        let before = balancer.status()?;
        burst(&lab, service.dial(), REQUESTS)?;
        let after = balancer.status()?;
        let share = |status| backend_of(status, "web", "backend0").map(|it| it.share_expected);
        let share = share(&after).unwrap_or_default();
        ensure!((share - expected).abs() < 0.005, "{share} of the slots");
        for backend in lab.backends() {
            let (new, expected) = new_flows(&before, &after, backend.name())?;
            let deviation = (expected * (1.0 - expected / REQUESTS as f64)).sqrt();
            let distance = (new as f64 - expected) / deviation;
            println!(
                "weight {weight}: {} has {new} of {REQUESTS} flows, expected {expected:.0}, \
                 {distance:+.1} standard deviations",
                backend.name()
            );
            ensure!(distance.abs() < 4.0, "{distance} standard deviations");
        }
    }
    Ok(())
}

/// New flows of a backend between two looks, and how many its slots promise.
fn new_flows(before: &Status, after: &Status, backend: &str) -> Result<(u64, f64)> {
    let find = |status| backend_of(status, "web", backend).context("no such backend");
    let (before, after) = (find(before)?, find(after)?);
    let expected = after.share_expected * REQUESTS as f64;
    Ok((after.flows - before.flows, expected))
}

#[test]
fn added_backend_is_used_once_proven_and_a_removed_one_no_more() -> Result<()> {
    let lab = l2(3)?;
    let _servers = [web_server(lab.backend(0))?, web_server(lab.backend(1))?];
    let mut service = Service::web_l2(&lab);
    service.backends.pop();
    let balancer = balancer(&lab, &service.toml())?;
    let address = lab.backend(2).v4().to_string();
    balancer.succeed(&["backend", "add", "web", "backend2", &address])?;
    // Nobody listens there yet, which several probes find.
    let unproven = wait_for("a probe to fail", LIMIT, || {
        let status = balancer.status().ok()?;
        let backend = backend_of(&status, "web", "backend2")?.clone();
        backend.last_failure.is_some().then_some(backend)
    })?;
    burst(&lab, service.dial(), 300)?;
    let still = Api::new(&balancer)?.backend("web", "backend2")?;
    ensure!(unproven.state != "up" && still.flows == 0, "{still:?}");

    let server = web_server(lab.backend(2))?;
    balancer.wait_backend("web", "backend2", "up")?;
    burst(&lab, service.dial(), 600)?;
    let flows = Api::new(&balancer)?.flows("web", "backend2")?;
    ensure!(flows > 100, "only {flows} of 600 flows");

    // A server logs a request when the client has its answer already.
    let asked = || {
        server
            .accesses()
            .map(|all| all.iter().filter(|it| it.path == "/").count())
    };
    wait_for("all of these in its log", LIMIT, || {
        (asked().ok()? as u64 == flows).then_some(())
    })?;
    balancer.succeed(&["backend", "remove", "web", "backend2"])?;
    burst(&lab, service.dial(), 300)?;
    let late = asked()? as u64 - flows;
    ensure!(late == 0, "{late} requests after the removal");
    ensure!(backend_of(&balancer.status()?, "web", "backend2").is_none());
    Ok(())
}

#[test]
fn service_is_added_and_removed_while_another_serves() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let vips: Vec<IpAddr> = lab.vips().into_iter().filter(IpAddr::is_ipv4).collect();
    let dial = SocketAddr::new(vips[1], 80);
    let quick = || {
        let ask = Curl::get(dial, "/").limit(Duration::from_millis(300));
        ask.run(lab.client(0).namespace())
    };
    ensure!(quick()?.exit_code != 0, "answered before it was added");

    let (address, server) = (dial.ip().to_string(), lab.backend(1).v4());
    let server = format!("one={server}");
    balancer.succeed(&[
        "service",
        "add",
        "shop",
        "--address",
        &address,
        "--port",
        "80",
        "--protocol",
        "tcp",
        "--forward",
        "l2",
        "--health",
        "http:/healthz",
        "--backend",
        &server,
    ])?;
    balancer.wait_backend("shop", "one", "up")?;
    let answer = get_well(&lab, dial)?;
    ensure!(answer.backend() == Some("backend1"), "{answer:?}");
    get_well(&lab, service.dial())?;

    balancer.succeed(&["service", "remove", "shop"])?;
    ensure!(quick()?.exit_code != 0, "answered after it was removed");
    ensure!(service_of(&balancer.status()?, "shop").is_none());
    get_well(&lab, service.dial())?;
    Ok(())
}

#[test]
fn dry_run_changes_nothing() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    let api = Api::new(&balancer)?;
    let (config, slots) = (api.config()?, slots(&api)?);
    for arguments in [
        &["backend", "weight", "web", "backend0", "900"][..],
        &["backend", "drain", "web", "backend0"],
        &["backend", "remove", "web", "backend0"],
        &["backend", "add", "web", "new", "10.1.2.77"],
        &["service", "remove", "web"],
    ] {
        let dry = [arguments, &["--dry-run"]].concat();
        let said = balancer.succeed(&dry)?;
        ensure!(said.contains("dry run, nothing changed"), "{said}");
        let dry = [&dry[..], &["--json"]].concat();
        let changed: Changed = serde_json::from_str(&balancer.succeed(&dry)?)?;
        ensure!(changed.dry_run && changed.duration_micros.is_none());
    }
    ensure!(api.config()? == config, "the configuration changed");
    ensure!(self::slots(&api)? == slots, "the tables changed");
    ensure!(api.status()?.runtime_changes.is_empty());
    Ok(())
}

fn slots(api: &Api) -> Result<Vec<u32>> {
    let status = api.status()?;
    let services = status.services.iter();
    Ok(services
        .flat_map(|service| service.backends.iter().map(|backend| backend.slot_count))
        .collect())
}

#[test]
fn unknown_names_are_answered_with_the_nearest() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    for (arguments, expected) in [
        (
            &["backend", "drain", "wep", "backend0"][..],
            "service wep does not exist; the nearest name is web",
        ),
        (
            &["backend", "weight", "web", "bakend1", "5"],
            "service web: backend bakend1 does not exist; the nearest name is backend1",
        ),
        (
            &["service", "remove", "web2"],
            "service web2 does not exist; the nearest name is web",
        ),
    ] {
        refused(&balancer, arguments, 1, expected)?;
    }
    refused(&balancer, &["backend", "wieght", "web"], 2, "weight")?;
    refused(
        &balancer,
        &["backend", "weight", "web", "backend0", "-1"],
        2,
        "-1",
    )?;
    refused(
        &balancer,
        &["backend", "weight", "web", "backend0", "70000"],
        2,
        "65535",
    )?;
    let response = get(&lab, service.dial())?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

fn refused(balancer: &Balancer<'_>, arguments: &[&str], code: i32, part: &str) -> Result<()> {
    let output = balancer.command(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code) && said.contains(part),
        "{arguments:?} ended with {}: {said}",
        output.status
    );
    ensure!(output.stdout.is_empty(), "a refusal on stdout");
    Ok(())
}

#[test]
fn json_of_every_command_is_read_back() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    let ask = |arguments: &[&str]| balancer.succeed(&[arguments, &["--json"]].concat());
    let services: Vec<ServiceStatus> = serde_json::from_str(&ask(&["service", "list"])?)?;
    ensure!(services.len() == 1 && services[0].name == "web");
    let text = ask(&["backend", "list"])?;
    let backends: Vec<BackendStatus> = serde_json::from_str(&text)?;
    let rows: Vec<Value> = serde_json::from_str(&text)?;
    ensure!(backends.len() == 2 && rows[0]["service"] == "web", "{text}");
    for arguments in [
        &["backend", "weight", "web", "backend0", "150"][..],
        &["backend", "drain", "web", "backend0"],
        &["backend", "undrain", "web", "backend0"],
        &["backend", "add", "web", "new", "10.1.2.77"],
        &["backend", "remove", "web", "new"],
    ] {
        let changed: Changed = serde_json::from_str(&ask(arguments)?)?;
        ensure!(!changed.dry_run && changed.duration_micros.is_some());
        ensure!(!changed.summary.is_empty());
    }
    let events = ask(&["reload"])?;
    let events: Vec<Progress> = events
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(events.last().is_some_and(Progress::is_last), "{events:?}");
    let history: History = serde_json::from_str(&ask(&["history"])?)?;
    ensure!(history.revisions.len() == 7, "{history:?}");
    let _: StoredRevision = serde_json::from_str(&ask(&["show"])?)?;
    Ok(())
}
