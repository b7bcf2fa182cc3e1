//! Connections that were there before a change outlive it: idle ones and long
//! downloads, through weights, a drain and the removal of another backend.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::LabConfig;
use balancer_tests::lab::client::{Broken, Downloads, HeldConnections, HttpLoad, Target};
use balancer_tests::lab::diagnosis::losses;

use crate::every_mode;
use crate::fixture::{DOWNLOAD_LEN, Mode, Network, SLOW_DOWNLOAD};

const IDLE: usize = 1000;
const DOWNLOADS: usize = 200;
/// What each of them gets at least after the last change, and how long that
/// may take: the servers send 64 KiB a second.
const ADVANCE_LEN: usize = 192 << 10;
const ADVANCE_LIMIT: Duration = Duration::from_secs(60);
/// How long a new connection may take: the downloads fill the queues of the
/// links, so a SYN is lost now and then, and the third one leaves after 2 s.
const PATIENCE: Duration = Duration::from_secs(15);
const REMOVED: &str = "backend3";

every_mode!(outlive_changes);

fn outlive_changes(mode: Mode) -> Result<()> {
    let network = mode.lab(LabConfig {
        addresses_per_client: 20,
        ..LabConfig::backends(4)
    })?;
    let _servers = network.web_servers()?;
    let balancer = network.balancer(&[network.web()])?;
    let target = Target {
        server: network.dial(80),
        sources: network.sources(),
    };
    let client = network.lab.client(0).namespace();
    let mut idle = HeldConnections::open(client, &target, IDLE)?;
    let downloads = Downloads::start(client, &target, SLOW_DOWNLOAD, DOWNLOAD_LEN, DOWNLOADS)?;
    println!("{mode}: idle connections: {:?}", idle.by_backend());
    ensure!(idle.by_backend().len() == 4, "{:?}", idle.by_backend());

    for change in [
        vec!["weight", "web", "backend0", "400"],
        vec!["drain", "web", "backend1"],
        vec!["weight", "web", "backend0", "0"],
        vec!["undrain", "web", "backend1"],
        vec!["weight", "web", "backend0", "50"],
        vec!["drain", "web", "backend2"],
        vec!["remove", "web", REMOVED],
    ] {
        balancer.succeed(&[vec!["backend"], change.clone()].concat())?;
        new_connections_work(&network)
            .with_context(|| explained(&network, &balancer))
            .with_context(|| format!("new connections, after {change:?}"))?;
        let what = format!("downloads, after {change:?}");
        only_the_removed_lost(&downloads.broken(), &what)?;
    }
    only_the_removed_lost(&idle.ask_again()?, "idle connections")?;
    downloads.advance(ADVANCE_LEN, ADVANCE_LIMIT)?;
    only_the_removed_lost(&downloads.broken(), "downloads")?;
    let left = downloads.by_backend();
    println!("{mode}: downloads that go on: {left:?}");
    ensure!(left.keys().len() >= 3, "{left:?}");
    // Not ended whole: then they would not have lived through the changes.
    let unbroken: usize = left.values().sum();
    ensure!(downloads.running() == unbroken, "{left:?}");
    only_the_removed_lost(&idle.ask_again()?, "idle connections, later")
}

/// A change that left the old flows alone by being none would pass otherwise.
fn new_connections_work(network: &Network) -> Result<()> {
    let load = HttpLoad {
        sources: network.sources(),
        timeout: PATIENCE,
        ..HttpLoad::burst(network.dial(80), "/", 200, 4)
    };
    let report = load.run(network.lab.client(0).namespace())?;
    ensure!(report.failed == 0, "{:?}", report.failures);
    Ok(())
}

/// What balancer and kernels counted, as far as they can tell.
fn explained(network: &Network, balancer: &Balancer<'_>) -> String {
    let status = balancer.succeed(&["status"]);
    let status = status.unwrap_or_else(|error| format!("{error:#}"));
    format!("{status}\n{}", losses(&network.lab))
}

fn only_the_removed_lost(broken: &[Broken], what: &str) -> Result<()> {
    let others: Vec<&Broken> = broken.iter().filter(|it| it.backend != REMOVED).collect();
    ensure!(
        others.is_empty(),
        "{what}: {} of backends that are there broke, such as {:?}",
        others.len(),
        others[0]
    );
    Ok(())
}
