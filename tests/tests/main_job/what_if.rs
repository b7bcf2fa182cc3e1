//! What if: something that the balancer stands on goes away or changes while it
//! forwards. Forwarding goes on or comes back by itself, nothing that was known
//! is lost, and each is said.

mod bpffs;
mod clock;
mod interface_deleted;
mod interface_down;
mod memory;
mod mtu;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::client::{HeldConnections, RunningLoad, Target};
use balancer_tests::lab::{Lab, wait_for};
use balancer_user::watch::Kind;

use crate::LIMIT;
use crate::fixture::{Service, load_of};
use crate::incidents::{closed, opened};
use crate::programs_swapped::packets;

/// Idle connections that have to live through it.
const HELD: usize = 40;

/// What was there before, and has to be there afterwards.
struct Before {
    packets: BTreeMap<String, u64>,
    held: HeldConnections,
    load: RunningLoad,
}

impl Before {
    /// Opens connections that stay idle, and begins a load whose requests give
    /// up soon.
    fn begin(lab: &Lab, balancer: &Balancer<'_>, service: &Service) -> Result<Self> {
        let client = lab.client(0).namespace();
        let mut load = load_of(lab, service.dial());
        let target = Target {
            server: service.dial(),
            sources: load.sources.clone(),
        };
        let held = HeldConnections::open(client, &target, HELD)?;
        load.timeout = Duration::from_millis(500);
        let load = load.start(client)?;
        crate::fixture::wait_answers(&load, 300)?;
        Ok(Self {
            packets: packets(balancer)?,
            held,
            load,
        })
    }

    /// Waits until many requests in a row are answered again, and then insists
    /// that no count went back, and that all connections live.
    fn insist_on_all(mut self, balancer: &Balancer<'_>) -> Result<String> {
        answered_again(&self.load).with_context(|| balancer.log())?;
        for (backend, count) in packets(balancer)? {
            ensure!(
                count >= self.packets[&backend],
                "{backend} went back to {count}"
            );
        }
        let broken = self.held.ask_again()?;
        ensure!(broken.is_empty(), "{broken:?}\n{}", balancer.log());
        let report = self.load.stop()?;
        Ok(format!(
            "{} requests answered, {} failed meanwhile, {HELD} idle connections kept",
            report.answered, report.failed
        ))
    }
}

/// Waits until 800 answers came in a row.
fn answered_again(load: &RunningLoad) -> Result<()> {
    let (mut failed, mut answered) = (load.failed(), load.answered());
    wait_for("requests to be answered again", LIMIT * 2, || {
        if load.failed() != failed {
            (failed, answered) = (load.failed(), load.answered());
        }
        (load.answered() >= answered + 800).then_some(())
    })
}

/// Waits until the status has a problem that contains this.
fn wait_problem(balancer: &Balancer<'_>, part: &str) -> Result<()> {
    balancer.wait_status(&format!("the problem {part:?}"), LIMIT, |status| {
        let mut problems = status.problems.iter();
        problems.any(|it| it.contains(part)).then_some(())
    })
}

/// Waits until nothing is wrong, and no incident is open.
fn wait_well(balancer: &Balancer<'_>) -> Result<()> {
    balancer.wait_status("nothing to be wrong", LIMIT * 2, |status| {
        (status.problems.is_empty() && status.incidents.is_empty()).then_some(())
    })
}

/// Waits for the incident of the node's interfaces, which has to say this, and
/// gives its number.
fn wait_incident(balancer: &Balancer<'_>, words: &[&str]) -> Result<u64> {
    let incident = opened(balancer, Kind::Interface, None)?;
    let text = incident.to_string();
    for word in words {
        ensure!(text.contains(word), "no {word:?} in {text}");
    }
    ensure!(incident.service.is_empty(), "{incident:?}");
    println!("said: {text}; try `{}`", incident.command);
    Ok(incident.number)
}

/// The kernel holds what was written, and nothing ever was put right.
fn insist_on_right(balancer: &Balancer<'_>) -> Result<()> {
    let text = balancer.succeed(&["verify"])?;
    ensure!(text.contains("right: "), "{text}");
    let log = balancer.log();
    ensure!(!log.contains("kernel-drift"), "{log}");
    Ok(())
}
