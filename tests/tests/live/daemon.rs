//! The daemon says in its log what the rules about the host find, and goes on.

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::{Lab, LabConfig, wait_for};

use crate::LIMIT;
use crate::fixture::{File, run};

/// The services of a file.
fn services(file: &File) -> Result<String> {
    let text = file.to_string();
    let (_, services) = text.split_once("\n[[service]]").context("no service")?;
    Ok(format!("[[service]]{services}"))
}

/// Waits for a line of the log that holds all of this.
fn wait_line(balancer: &Balancer<'_>, parts: &[&str]) -> Result<()> {
    wait_for(&format!("a line with {parts:?}"), LIMIT, || {
        let log = balancer.log();
        let mut lines = log.lines();
        lines
            .any(|line| parts.iter().all(|part| line.contains(part)))
            .then_some(())
    })
    .with_context(|| balancer.log())
}

#[test]
fn start_and_reload_log_what_is_wrong_with_the_host_and_go_on() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    run(namespace, "ethtool", "-K eth0 gro on")?;
    let mut file = File::v4(&lab, "l2");
    let text = format!("xdp_mode = \"generic\"\n{}", services(&file)?);
    let balancer = Balancer::start(namespace, &["eth0"], &text)?;
    let merged = [
        "ERROR check of the host",
        "rule=offloads",
        "interface eth0: GRO is on",
        "ethtool -K eth0 gro off",
    ];
    wait_line(&balancer, &merged)?;
    ensure!(
        !balancer.log().contains("rule=neighbour"),
        "{}",
        balancer.log()
    );

    file.backends[1].0 = "10.1.2.99".parse()?;
    // Half of the servers at once: nobody would do that by a slip.
    let allowed = "forward = \"l2\"\nallow = [\"blast-radius\"]\nallow_reason = \"a test\"\n";
    let text = services(&file)?.replacen("forward = \"l2\"\n", allowed, 1);
    ensure!(text.contains(allowed), "{text}");
    balancer.write_services(&["eth0"], &format!("xdp_mode = \"generic\"\n{text}"))?;
    balancer.succeed(&["reload"])?;
    let silent = [
        "ERROR check of the host",
        "rule=neighbour",
        "service web: backend b1: neighbour 10.1.2.99 on eth0 does not answer",
    ];
    wait_line(&balancer, &silent)?;
    // It never asks the network.
    ensure!(!balancer.log().contains("rule=backend-vip"));
    balancer.status()?;
    Ok(())
}
