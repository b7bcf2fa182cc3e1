//! Every drill, as `cargo xtask drill` plays it: five real outages are
//! prevented, undone and explained. Needs root and `cargo xtask build`.

use anyhow::{Result, ensure};
use balancer_tests::drill::{self, Report};
use balancer_tests::lab::cleanup::Scratch;

/// Plays a drill. What is late, and nothing else, may be late once: a machine
/// can stall for seconds, a balancer that is too slow is so twice.
fn drill(name: &str) -> Result<Report> {
    let script = drill::find(name)?;
    let mut report = drill::play(script)?;
    if !report.late().is_empty() {
        println!("late, so once more: {:?}", report.late());
        report = drill::play(script)?;
    }
    ensure!(report.late().is_empty(), "late twice: {:?}", report.late());
    let directory = Scratch::create("drill")?;
    drill::write(&report, directory.path())?;
    let file = directory.path().join(name).with_extension("md");
    let text = std::fs::read_to_string(file)?;
    for incident in &report.explained.named {
        ensure!(text.contains(&incident.1.command), "{text}");
    }
    Ok(report)
}

#[test]
fn uneven_distribution_is_prevented_undone_and_explained() -> Result<()> {
    let report = drill("uneven-distribution")?;
    // Nobody was harmed by a percent of a lopsided table.
    ensure!(report.undone.moved <= 1.0, "{:?}", report.undone);
    Ok(())
}

#[test]
fn improper_routing_is_prevented_undone_and_explained() -> Result<()> {
    drill("improper-routing").map(drop)
}

#[test]
fn one_server_overwhelmed_is_prevented_undone_and_explained() -> Result<()> {
    drill("one-server-overwhelmed").map(drop)
}

#[test]
fn routine_update_is_prevented_undone_and_explained() -> Result<()> {
    drill("routine-update").map(drop)
}

#[test]
fn wrong_servers_are_prevented_undone_and_explained() -> Result<()> {
    drill("wrong-servers").map(drop)
}
