//! Servers that pass their probes and answer badly: a change that gives them
//! traffic is refused before it moves any, or undone by itself, and names the
//! cause. With direct server return no packet tells the balancer of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_tests::lab::client::LoadReport;
use balancer_tests::lab::server::{Fault, FaultyNginx, Nginx, NginxConfig};
use balancer_tests::lab::{Lab, Node, wait_for};
use balancer_user::revision::{Outcome, Revision};

use crate::LIMIT;
use crate::apply::{apply, history, last, paced};
use crate::fixture::{Service, balancer, l2, stop_unharmed, wait_answers, web_server, web_servers};

/// How long a stage is watched here.
const HOLD: &str = "12s";
/// Time in which a change has to be undone, its proofs included.
const UNDONE_WITHIN: Duration = Duration::from_secs(30);

fn faulty(node: &Node) -> Result<FaultyNginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)];
    FaultyNginx::start(node.namespace(), config)
}

/// Good servers on all backends but the last, and one there that can be bad.
fn servers(lab: &Lab) -> Result<(Vec<Nginx>, FaultyNginx)> {
    let (bad, good) = lab.backends().split_last().context("backends")?;
    let good = good.iter().map(web_server).collect::<Result<_>>()?;
    Ok((good, faulty(bad)?))
}

/// What is said of a change that was undone, the revision, and what became of
/// the load meanwhile.
struct Undone {
    said: String,
    revision: Revision,
    report: LoadReport,
}

impl Undone {
    fn names(&self, what: &str) -> Result<()> {
        let Outcome::Undone { why, .. } = &self.revision.outcome else {
            return Err(anyhow!("{:?}", self.revision.outcome));
        };
        for said in [&self.said, why] {
            ensure!(said.contains(what), "no {what:?} in\n{said}");
        }
        Ok(())
    }

    /// Requests that a backend got, or that failed.
    fn touched(&self, backend: &str) -> (u64, u64) {
        let report = &self.report;
        let touched = report.from_backend(backend) + report.failed;
        println!("{touched} of {} requests touched", report.requests());
        (touched, report.requests())
    }
}

/// Adds the last backend of a lab under load. It has the fault from before the
/// change on, or from the first stage on.
fn add_last(fault: Fault, in_first_stage: bool) -> Result<Undone> {
    let lab = l2(4)?;
    let (_good, bad) = servers(&lab)?;
    let all = Service::web_l2(&lab);
    let mut before = all.clone();
    before.backends.pop();
    let balancer = balancer(&lab, &before.toml())?;
    let load = paced(&lab, &all)?;
    wait_answers(&load, 500)?;
    if !in_first_stage {
        bad.set(Some(fault))?;
    }
    let began = Instant::now();
    let output = thread::scope(|scope| -> Result<Output> {
        let applied = scope.spawn(|| apply(&balancer, &all.toml(), &["--hold", HOLD]));
        if in_first_stage {
            wait_for("the first stage", LIMIT, || {
                let under_way = history(&balancer).ok()?.change_under_way?;
                under_way.contains("stage 1 of 4").then_some(())
            })?;
            bad.set(Some(fault))?;
        }
        applied.join().map_err(|_| anyhow!("apply panicked"))?
    })?;
    let took = began.elapsed();
    ensure!(output.status.code() == Some(1), "{output:?}");
    ensure!(took < UNDONE_WITHIN, "it took {took:?}");
    wait_answers(&load, 200)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!(
        "{}{said}after {took:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    let status = balancer.status()?;
    ensure!(backend_of(&status, "web", "backend3").is_none());
    ensure!(history(&balancer)?.in_force == Some(1));
    let revision = last(&balancer)?;
    let report = load.stop()?;
    Ok(Undone {
        said,
        revision,
        report,
    })
}

/// It is refused without a single request to it.
fn is_refused_before_traffic(fault: Fault, named: &str) -> Result<()> {
    let undone = add_last(fault, false)?;
    undone.names("not proven in time: service web: backend backend3 answers GET /")?;
    undone.names(named)?;
    let stages = &undone.revision.stages;
    ensure!(stages.is_empty(), "{stages:?}");
    ensure!(undone.touched("backend3").0 == 0, "{:?}", undone.report);
    Ok(())
}

/// It gets its first percent, and no more.
fn is_undone_in_the_first_stage(fault: Fault, named: &str) -> Result<()> {
    let undone = add_last(fault, true)?;
    undone.names("service web: backend backend3 answers GET /")?;
    undone.names(named)?;
    let stages = &undone.revision.stages;
    ensure!(
        stages.len() == 1 && stages[0].good == Some(false),
        "{stages:?}"
    );
    let figures = stages[0].figures.iter().find(|it| it.backend == "backend3");
    let answers = figures.and_then(|it| it.answers).context("no answers")?;
    ensure!(answers.asked >= 4, "{answers:?}");
    let (touched, all) = undone.touched("backend3");
    ensure!(touched * 50 <= all, "{touched} of {all}");
    Ok(())
}

#[test]
fn new_backend_that_answers_with_errors_is_refused_before_traffic() -> Result<()> {
    is_refused_before_traffic(
        Fault::Errors,
        "with 500 (12 of 12), its siblings with 200 (0 of",
    )
}

#[test]
fn new_backend_that_answers_slowly_is_refused_before_traffic() -> Result<()> {
    is_refused_before_traffic(Fault::Slow, "slowly: in ")
}

#[test]
fn errors_that_begin_with_the_first_stage_undo_it() -> Result<()> {
    is_undone_in_the_first_stage(Fault::Errors, "with 500 (")
}

#[test]
fn slowness_that_begins_with_the_first_stage_undoes_it() -> Result<()> {
    is_undone_in_the_first_stage(Fault::Slow, "slowly: in ")
}

/// A file that watches everyday changes for half a minute is in force.
fn watched<'a>(lab: &'a Lab, service: &Service) -> Result<Balancer<'a>> {
    let balancer = balancer(lab, &service.toml())?;
    let file = std::fs::read_to_string(balancer.config())?;
    let watched = file.replace("hold = \"0s\"", "hold = \"30s\"");
    let path = balancer.config();
    std::fs::write(&path, watched)?;
    let path = path.to_str().context("a path that is no text")?;
    balancer.succeed(&["apply", "--yes", "--hold", "0s", path])?;
    Ok(balancer)
}

#[test]
fn everyday_change_that_gives_a_bad_server_more_is_undone() -> Result<()> {
    for (fault, named) in [(Fault::Errors, "with 500 ("), (Fault::Slow, "slowly: in ")] {
        let lab = l2(3)?;
        let (_good, bad) = servers(&lab)?;
        let balancer = watched(&lab, &Service::web_l2(&lab))?;
        balancer.succeed(&["backend", "weight", "web", "backend2", "150"])?;
        // How it was before is what it answers first.
        wait_for("the server to be asked", LIMIT, || {
            let asked = |line: &&balancer_tests::lab::server::Access| line.path == "/";
            let asked = bad.nginx.accesses().ok()?.iter().filter(asked).count();
            (asked > 5).then_some(())
        })?;
        bad.set(Some(fault))?;
        let undone = wait_for("the change to be undone", LIMIT, || {
            let revision = last(&balancer).ok()?;
            matches!(revision.outcome, Outcome::Undone { .. }).then_some(revision)
        })?;
        let Outcome::Undone { why, .. } = &undone.outcome else {
            return Err(anyhow!("{undone:?}"));
        };
        ensure!(
            why.starts_with("service web: backend backend2 answers GET /"),
            "{why}"
        );
        ensure!(why.contains(named), "{why}");
        println!("{why}");
        let status = balancer.status()?;
        let weight = backend_of(&status, "web", "backend2").map(|it| it.weight);
        ensure!(weight == Some(100), "{status:?}");
    }
    Ok(())
}

/// A sick server must not hold up the drain of another one.
#[test]
fn drain_is_not_held_up_by_another_bad_server() -> Result<()> {
    let lab = l2(3)?;
    let (_good, bad) = servers(&lab)?;
    bad.set(Some(Fault::Errors))?;
    let balancer = watched(&lab, &Service::web_l2(&lab))?;
    let before = bad.nginx.accesses()?.len();
    balancer.succeed(&["backend", "drain", "web", "backend0"])?;
    // Long enough in it that comparison would have said something.
    wait_for("twelve more probes", LIMIT, || {
        (bad.nginx.accesses().ok()?.len() > before + 12).then_some(())
    })?;
    let revision = last(&balancer)?;
    ensure!(revision.is_committed(), "{revision:?}");
    let asked = bad.nginx.accesses()?;
    let asked = asked.iter().filter(|it| it.path == "/").count();
    ensure!(asked == 0, "{asked} comparison requests");
    Ok(())
}

#[test]
fn good_backend_is_compared_and_let_in_and_nothing_is_asked_where_the_file_says_so() -> Result<()> {
    let lab = l2(3)?;
    let (_good, last_server) = servers(&lab)?;
    let all = Service::web_l2(&lab);
    let mut before = all.clone();
    before.backends.pop();
    let balancer = balancer(&lab, &before.toml())?;
    let asked = || -> Result<usize> {
        let lines = last_server.nginx.accesses()?;
        Ok(lines.iter().filter(|it| it.path == "/").count())
    };
    let silent = all.toml().replace("fall = 3\n", "fall = 3\ncompare = []\n");
    let options = ["--hold", "2s", "--stages", "1,100"];
    let output = apply(&balancer, &silent, &options)?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(asked()? == 0, "asked though nobody wanted it");
    let output = apply(
        &balancer,
        &before.toml(),
        &["--hold", "0s", "--allow", "blast-radius"],
    )?;
    ensure!(output.status.success(), "{output:?}");

    let output = apply(&balancer, &all.toml(), &options)?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(asked()? >= 12, "{} requests", asked()?);
    let revision = last(&balancer)?;
    for stage in &revision.stages {
        for backend in ["backend0", "backend2"] {
            let figures = stage.figures.iter().find(|it| it.backend == backend);
            let answers = figures.and_then(|it| it.answers).context("no answers")?;
            ensure!(answers.asked > 0 && answers.errors == 0, "{answers:?}");
        }
    }
    // The change is over, and with it the questions.
    let before = asked()?;
    let probes = last_server.nginx.accesses()?.len();
    wait_for("ten more probes", LIMIT, || {
        (last_server.nginx.accesses().ok()?.len() > probes + 10).then_some(())
    })?;
    ensure!(asked()? <= before + 1, "asked on");
    Ok(())
}

/// The file with another address for the backend at that place.
fn elsewhere(lab: &Lab, service: &Service, at: usize, to: usize) -> String {
    let address = |at: usize| format!("address = \"{}\"\n", IpAddr::V4(lab.backend(at).v4()));
    service.toml().replace(&address(at), &address(to))
}

#[test]
fn server_at_another_address_is_proven_before_it_has_traffic() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let mut service = Service::web_l2(&lab);
    let added = service.backends.pop().context("a backend")?;
    service.backends.pop();
    let balancer = balancer(&lab, &service.toml())?;
    let load = paced(&lab, &service)?;
    wait_answers(&load, 300)?;
    // The service has no other backend: a moment without it would show in
    // packets that find none.
    let options = ["--hold", "1s", "--stages", "100", "--allow", "blast-radius"];
    let output = apply(&balancer, &elsewhere(&lab, &service, 0, 1), &options)?;
    ensure!(output.status.success(), "{output:?}");
    wait_answers(&load, 300)?;
    // Back, and with a new name, which has no seat before the first stage.
    service.backends.push(added);
    let output = apply(&balancer, &service.toml(), &options)?;
    ensure!(output.status.success(), "{output:?}");
    wait_answers(&load, 300)?;
    // There and back again at once: the way back has to find the server up.
    let unconfirmed = [&options[..], &["--confirm-within", "1s"]].concat();
    let output = apply(&balancer, &elsewhere(&lab, &service, 0, 1), &unconfirmed)?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    wait_answers(&load, 300)?;
    let report = load.stop()?;
    for backend in ["backend0", "backend1", "backend2"] {
        ensure!(report.from_backend(backend) > 0, "{backend}: {report:?}");
    }
    // Another address ends the connections to the one before, four times.
    ensure!(report.failed <= 4 * 16, "{:?}", report.failures);
    let status = balancer.status()?;
    let without = status
        .reasons
        .get("no_backend")
        .copied()
        .unwrap_or_default();
    ensure!(without == 0, "{without} packets found no backend");
    Ok(())
}

#[test]
fn address_at_which_nobody_answers_gets_no_traffic_though_it_was_forced() -> Result<()> {
    let lab = l2(3)?;
    let _servers = [web_server(lab.backend(0))?, web_server(lab.backend(1))?];
    let mut service = Service::web_l2(&lab);
    service.backends.pop();
    let balancer = balancer(&lab, &service.toml())?;
    let load = paced(&lab, &service)?;
    wait_answers(&load, 300)?;
    let options = [
        ["--hold", HOLD],
        ["--allow", "blast-radius"],
        ["--allow", "unproven-backend"],
    ];
    let output = apply(
        &balancer,
        &elsewhere(&lab, &service, 1, 2),
        &options.concat(),
    )?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    let address = lab.backend(2).v4();
    let named = format!("not proven in time: service web: backend backend1 at {address}:80:");
    ensure!(said.contains(&named), "{said}");
    ensure!(last(&balancer)?.stages.is_empty());
    wait_answers(&load, 300)?;
    stop_unharmed(load)?;
    Ok(())
}
