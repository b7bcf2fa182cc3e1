//! `apply`: a good change comes into force in stages and nobody notices, a
//! harmful one is undone by itself in its first stage, and says why.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_tests::lab::client::{LoadReport, RunningLoad};
use balancer_tests::lab::{Lab, Node, wait_for};
use balancer_user::api::types::History;
use balancer_user::revision::{Outcome, Revision};

use crate::LIMIT;
use crate::fixture::{
    Api, Service, balancer, get_well, l2, load, load_of, stop_unharmed, wait_answers, web_servers,
};

/// How long a stage is watched here.
const HOLD: &str = "6s";
/// Time in which harm has to be undone, from the first stage on.
const UNDONE_WITHIN: Duration = Duration::from_secs(15);

/// The services of a file, brought into force with these options.
pub(crate) fn apply(balancer: &Balancer<'_>, services: &str, options: &[&str]) -> Result<Output> {
    balancer.write_services(&["eth0"], services)?;
    let file = balancer.config();
    let file = file.to_str().context("a path that is no text")?;
    balancer.command(&[&["apply", "--yes", file], options].concat())
}

pub(crate) fn history(balancer: &Balancer<'_>) -> Result<History> {
    Ok(serde_json::from_str(
        &balancer.succeed(&["history", "--json"])?,
    )?)
}

pub(crate) fn last(balancer: &Balancer<'_>) -> Result<Revision> {
    let newest = history(balancer)?.revisions.pop();
    let newest = newest.context("there is no revision")?;
    // The list is in brief.
    Ok(Api::new(balancer)?.revision(newest.number)?.revision)
}

/// Every weight of a service's file, in its order.
fn weighted(service: &Service, weights: &[u16]) -> String {
    let mut parts = service.toml();
    for (weight, (name, _)) in weights.iter().zip(&service.backends) {
        let named = format!("name = \"{name}\"\n");
        parts = parts.replace(&named, &format!("{named}weight = {weight}\n"));
    }
    parts
}

#[test]
fn good_change_goes_through_all_stages_and_no_request_fails() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    let next = weighted(&service, &[100, 150, 200]);
    let options = ["--hold", "2s", "--reason", "a test"];
    let output = apply(&balancer, &next, &options)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{output:?}");
    for part in [
        "1 service changes",
        "all as planned",
        "stage 1 of 4: 1 % of the slots that move have moved, watched for 2s",
        "stage 4 of 4: 100 %",
        "revision 2 is in force",
    ] {
        ensure!(said.contains(part), "{part:?} is not in\n{said}");
    }
    wait_answers(&load, 500)?;
    stop_unharmed(load)?;
    let revision = last(&balancer)?;
    ensure!(revision.is_committed(), "{revision:?}");
    ensure!(revision.reason.as_deref() == Some("a test"));
    ensure!(revision.author.user == "root", "{:?}", revision.author);
    let percents: Vec<f64> = revision.stages.iter().map(|it| it.percent).collect();
    ensure!(percents == [1.0, 10.0, 50.0, 100.0], "{percents:?}");
    for stage in &revision.stages {
        ensure!(stage.good == Some(true), "{stage:?}");
        ensure!(stage.figures.iter().all(|it| it.flows > 0), "{stage:?}");
    }
    let again = apply(&balancer, &next, &[])?;
    ensure!(again.status.code() == Some(0), "{again:?}");
    ensure!(history(&balancer)?.revisions.len() == 2);
    Ok(())
}

/// A change that adds the last backend of a lab, under load from the first
/// second to the last; what is said of it, and what became of the requests.
fn add_last(lab: &Lab, spoil: impl FnOnce(&Node) -> Result<()>) -> Result<(String, LoadReport)> {
    let all = Service::web_l2(lab);
    let mut before = all.clone();
    before.backends.pop();
    let balancer = balancer(lab, &before.toml())?;
    let load = paced(lab, &all)?;
    wait_answers(&load, 500)?;
    let new = lab.backends().last().context("a backend")?;
    spoil(new)?;
    let began = Instant::now();
    let output = apply(&balancer, &all.toml(), &["--hold", HOLD])?;
    let took = began.elapsed();
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(took < UNDONE_WITHIN, "it took {took:?}");
    wait_answers(&load, 200)?;
    let report = load.stop()?;
    let revision = last(&balancer)?;
    ensure!(
        matches!(revision.outcome, Outcome::Undone { .. }),
        "{revision:?}"
    );
    ensure!(revision.stages.len() == 1, "{:?}", revision.stages);
    ensure!(history(&balancer)?.in_force == Some(1));
    let status = balancer.status()?;
    ensure!(backend_of(&status, "web", new.name()).is_none());
    println!(
        "{}{}undone after {took:?}, {} of {} requests failed",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        report.failed,
        report.requests()
    );
    Ok((String::from_utf8_lossy(&output.stderr).into_owned(), report))
}

/// A load with some room between its requests.
pub(crate) fn paced(lab: &Lab, service: &Service) -> Result<RunningLoad> {
    let mut load = load_of(lab, service.dial());
    load.concurrency = 16;
    load.timeout = Duration::from_secs(2);
    load.pause = Duration::from_millis(10);
    load.start(lab.client(0).namespace())
}

#[test]
fn backend_that_blackholes_the_vip_is_undone_in_the_first_stage() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let vip = format!("{}/32", lab.vip_v4());
    let (said, report) = add_last(&lab, |node| {
        // Its probe passes: that goes to its own address.
        let mut command = node.namespace().command("ip");
        let status = command.args(["addr", "del", &vip, "dev", "lo"]).status()?;
        ensure!(status.success(), "the VIP stays: {status}");
        Ok(())
    })?;
    let part = "service web: backend backend3 does not finish handshakes";
    ensure!(said.contains(part), "{said}");
    let (failed, all) = (report.failed, report.requests());
    ensure!(failed * 50 <= all, "{failed} of {all} requests failed");
    Ok(())
}

#[test]
fn change_that_sends_all_to_one_backend_is_undone_though_it_was_forced() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    let next = weighted(&service, &[1000, 0, 0, 0]);
    let refused = apply(&balancer, &next, &[])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(
        history(&balancer)?.revisions.len() == 1,
        "it became a revision"
    );

    let began = Instant::now();
    let forced = ["--allow", "blast-radius", "--allow", "single-backend"];
    let output = apply(&balancer, &next, &[&forced[..], &["--hold", HOLD]].concat())?;
    let took = began.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(took < UNDONE_WITHIN, "it took {took:?}");
    let part = "service web: backend backend0 gets 100.0 % of the traffic by this change, 25.0 %";
    ensure!(said.contains(part), "{said}");
    println!("undone after {took:?}");
    let allowed: Vec<String> = last(&balancer)?
        .allowed
        .into_iter()
        .map(|it| it.rule)
        .collect();
    ensure!(allowed.contains(&"blast-radius".to_owned()), "{allowed:?}");
    wait_answers(&load, 500)?;
    stop_unharmed(load)?;
    Ok(())
}

#[test]
fn everyday_change_that_does_harm_is_undone_while_it_is_watched() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    balancer.write_services(&["eth0"], &service.toml())?;
    // The daemon's file says that nothing is watched; this change is.
    let file = std::fs::read_to_string(balancer.config())?;
    let watched = file.replace("hold = \"0s\"", "hold = \"10s\"");
    std::fs::write(balancer.config(), watched)?;
    balancer.succeed(&["reload"])?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "1000"])?;
    let undone = wait_for("the change to be undone", LIMIT, || {
        let revision = last(&balancer).ok()?;
        matches!(revision.outcome, Outcome::Undone { .. }).then_some(revision)
    })?;
    ensure!(undone.summary.contains("100 -> 1000"), "{undone:?}");
    let status = balancer.status()?;
    let weight = backend_of(&status, "web", "backend0").map(|it| it.weight);
    ensure!(weight == Some(100), "{status:?}");
    get_well(&lab, service.dial())?;
    stop_unharmed(load)?;
    Ok(())
}
