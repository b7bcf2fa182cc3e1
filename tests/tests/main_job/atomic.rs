//! Changes without a gap.

use std::time::Instant;

use anyhow::{Result, ensure};
use balancer_user::api::types::Change;

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
    ensure!(status.runtime_changes.len() == usize::from(CHANGES));
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(())
}
