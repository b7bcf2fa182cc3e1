//! Changes without a gap.

use std::time::Instant;

use anyhow::{Result, ensure};
use balancer_user::api::types::Change;

use crate::LIMIT;
use crate::fixture::{Api, Service, balancer, l2, load, stop_unharmed, wait_answers, web_servers};

const CHANGES: u16 = 200;

#[test]
fn two_hundred_weight_changes_under_full_load_lose_nothing() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let api = Api::new(&balancer)?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    let (began, answered) = (Instant::now(), load.answered());
    let mut slowest = 0;
    for number in 0..CHANGES {
        let changed = api.change(Change::BackendWeight {
            service: service.name.to_owned(),
            backend: format!("backend{}", number % 4),
            // Never the weight it has.
            weight: 101 + number,
        })?;
        slowest = slowest.max(changed.duration_micros.unwrap_or_default());
    }
    let (took, during) = (began.elapsed(), load.answered() - answered);
    wait_answers(&load, 500)?;
    let all = stop_unharmed(load)?;
    println!(
        "{CHANGES} changes in {:.1} s, the slowest in force after {:.1} ms; {during} requests \
         answered meanwhile, {all} in all, 0 failed",
        took.as_secs_f64(),
        slowest as f64 / 1000.0
    );
    ensure!(during > u64::from(CHANGES), "too little traffic to tell");
    let status = api.status()?;
    // One for each of the four backends, however often it was changed.
    ensure!(
        status.runtime_changes.len() == 4,
        "{:?}",
        status.runtime_changes
    );
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(())
}

/// Room for four more tables is made at the start; what does not fit is
/// brought into force by a larger copy of the program.
#[test]
fn maps_grow_under_load_without_losing_a_request_or_a_count() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let api = Api::new(&balancer)?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    let mut counted = 0;
    for port in 8001..=8012 {
        let toml = service
            .toml()
            .replace("name = \"web\"", &format!("name = \"web-{port}\""))
            .replacen("port = 80", &format!("port = {port}"), 1);
        api.change(Change::ServiceAdd { toml })?;
    }
    // A service gets its table when its backends are proven.
    balancer.wait_status("all services to be up", LIMIT, |status| {
        let now: u64 = status.services[0].backends.iter().map(|it| it.flows).sum();
        assert!(now >= counted, "{now} flows after {counted}");
        counted = now;
        let all_up = status.services.iter().all(|service| service.state == "up");
        all_up.then_some(())
    })?;
    ensure!(balancer.log().contains("growing the maps"), "nothing grew");
    wait_answers(&load, 500)?;
    let all = stop_unharmed(load)?;
    let status = api.status()?;
    ensure!(status.services.len() == 13);
    let web = &status.services[0];
    let flows: u64 = web.backends.iter().map(|backend| backend.flows).sum();
    // Probes go past the balancer, so its flows are the requests, all of them;
    // a SYN that a busy machine repeats counts twice.
    ensure!(
        (all..=all + all / 100).contains(&flows),
        "{flows} flows of {all} requests"
    );
    println!("12 services added, {all} requests, 0 failed");
    Ok(())
}
