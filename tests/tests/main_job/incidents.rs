//! From a fault to its name: incidents open with service, backend, figures,
//! cause and command, and end with the fault.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::wait_for;
use balancer_user::watch::Kind;
use balancer_user::watch::incident::{Event, Incident};

use crate::LIMIT;
use crate::apply::paced;
use crate::fixture::{Service, balancer, l2, wait_answers, web_servers};
use crate::verify::Kernel;

/// What `balancer events --json` prints.
pub(crate) fn events(balancer: &Balancer<'_>) -> Result<Vec<Event>> {
    let text = balancer.succeed(&["events", "--json"])?;
    let events = text.lines().map(serde_json::from_str);
    Ok(events.collect::<Result<_, _>>()?)
}

pub(crate) fn opened(
    balancer: &Balancer<'_>,
    kind: Kind,
    backend: Option<&str>,
) -> Result<Incident> {
    let is_it = |it: &Incident| it.kind == kind && it.backend.as_deref() == backend;
    wait_for(
        &format!("an incident {kind:?} of {backend:?}"),
        LIMIT,
        || {
            let events = events(balancer).ok()?;
            let mut found = events.iter().filter_map(|event| match event {
                Event::Opened { incident } => Some(incident),
                Event::Updated { .. } | Event::Closed { .. } => None,
            });
            found.find(|it| is_it(it)).cloned()
        },
    )
    .with_context(|| balancer.log())
}

pub(crate) fn closed(balancer: &Balancer<'_>, number: u64) -> Result<()> {
    wait_for(&format!("the end of incident {number}"), LIMIT, || {
        let events = events(balancer).ok()?;
        let mut ends = events
            .iter()
            .filter(|it| matches!(it, Event::Closed { .. }));
        ends.any(|it| it.incident().number == number).then_some(())
    })
    .with_context(|| balancer.log())
}

#[test]
fn table_altered_behind_the_back_is_named_as_skew_of_that_backend() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = format!(
        "table_size = 4099\nrepair_drift = false\n{}",
        service.toml()
    );
    let balancer = balancer(&lab, &text)?;
    let load = paced(&lab, &service)?;
    wait_answers(&load, 1000)?;
    ensure!(events(&balancer)?.is_empty(), "{:?}", events(&balancer)?);
    let altered = Instant::now();
    // With the quarter that it has of the others, 70 %.
    Kernel::of(&balancer)?.change_slots_of(6)?;
    let incident = opened(&balancer, Kind::Skew, Some("backend2"))?;
    println!(
        "skew was named {:?} after it: {incident}",
        altered.elapsed()
    );
    ensure!(
        incident.service == "web"
            && incident.what.contains("its slots are 2")
            && incident.cause.contains("the kernel's table is not the one")
            && incident.command == "balancer verify --repair",
        "{incident:?}"
    );
    let since = incident.since.context("no revision")?;
    ensure!(since.revision == 1, "{since:?}");
    let status = balancer.status()?;
    let kinds: BTreeSet<&str> = status.incidents.iter().map(|it| it.kind.name()).collect();
    ensure!(kinds.contains("skew"), "{kinds:?}");
    ensure!(
        kinds.iter().all(|it| ["skew", "drift"].contains(it)),
        "{kinds:?}"
    );
    let named = status
        .problems
        .iter()
        .any(|it| it.contains("skew: service web: backend backend2"));
    ensure!(named, "{:?}", status.problems);
    let said = balancer.succeed(&["events"])?;
    for part in [
        "skew: service web: backend backend2 got",
        "try `balancer verify --repair`",
    ] {
        ensure!(said.contains(part), "no {part:?} in\n{said}");
    }
    // Typed as it is printed, it ends what nobody else would put right.
    let output = balancer.command(&["verify", "--repair"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("; repaired\n"), "{said}");
    ensure!(!said.contains("nothing was repaired"), "{said}");
    balancer.succeed(&["verify"])?;
    wait_answers(&load, 500)?;
    closed(&balancer, incident.number)?;
    load.stop().map(drop)
}

#[test]
fn dead_servers_are_incidents_until_they_live_again() -> Result<()> {
    let lab = l2(2)?;
    let mut servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    servers[1].server.kill()?;
    let one = opened(&balancer, Kind::BackendDown, Some("backend1"))?;
    ensure!(
        one.what.starts_with("is down: ") && one.command == "balancer backend drain web backend1",
        "{one:?}"
    );
    servers[0].server.kill()?;
    let all = opened(&balancer, Kind::ServiceDown, None)?;
    ensure!(all.what.contains("no backend is up"), "{all:?}");
    for server in &mut servers {
        server.server.restart()?;
    }
    closed(&balancer, one.number)?;
    closed(&balancer, all.number)?;
    ensure!(balancer.status()?.incidents.is_empty());
    Ok(())
}
