//! Two minutes of `cargo xtask soak`: faults and changes under load. Needs root
//! and `cargo xtask build`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::soak::{self, Plan};

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}: no number")),
        Err(_) => Ok(default),
    }
}

#[test]
fn faults_and_changes_cost_no_request_that_they_did_not_eat_and_nothing_grows() -> Result<()> {
    let report = soak::run(Plan {
        length: Duration::from_secs(60 * number("BALANCER_TEST_SOAK_MINUTES", 2)?),
        seed: number("BALANCER_TEST_SEED", 1)?,
    })?;
    ensure!(report.played.len() > 3, "{:?}", report.played);
    ensure!(report.changes.made > 3, "{:?}", report.changes);
    let (requests, failed) = report.requests();
    let directory = Scratch::create("soak")?;
    soak::write(&report, directory.path())?;
    let text = std::fs::read_to_string(directory.path().join("soak.md"))?;
    let said = format!("{requests} requests, of which {failed} failed");
    ensure!(text.contains(&said), "{text}");
    Ok(())
}
