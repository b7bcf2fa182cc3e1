//! Probes by the VIP, in each mode that they go by: a backend that clients
//! cannot reach is found, and by an ordinary probe it is not.

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_tests::lab::client::Curl;
use balancer_tests::lab::{LabConfig, link};

use crate::fixture::{Forward, HTTP_PROBE, Mode, Network, Service, decap};
use crate::{LIMIT, every_mode, every_tunnel};

/// Asks by the VIP, and for proof of who answers.
const VIP_PROBE: &str = "kind = \"http\"\nvia = \"vip\"\npath = \"/healthz\"\n\
    expect_status = [200]\nidentity = { pattern = \"^ok\\\\s*$\" }\n\
    interval = \"1s\"\ntimeout = \"900ms\"\nfast_interval = \"300ms\"\nrise = 2\nfall = 3\n";

every_tunnel!(broken_way_is_found);
every_mode! { @rows broken_way_is_found,
    l2_ipv4: L2 V4 V4,
    l2_ipv6: L2 V6 V6,
}

/// The backend whose way is broken.
const BROKEN: &str = "backend0";

fn broken_way_is_found(mode: Mode) -> Result<()> {
    let mut network = mode.lab(LabConfig::backends(2))?;
    let _servers = network.web_servers()?;
    let by_vip = Service {
        health: VIP_PROBE,
        ..network.web()
    };
    // The same servers, asked at their own addresses.
    let plain = Service {
        health: HTTP_PROBE,
        ..network.service("plain", "tcp", 81)
    };
    let decaps = std::mem::take(&mut network.decaps);
    let balancer = network.balancer(&[by_vip, plain])?;
    for service in ["web", "plain"] {
        for backend in ["backend0", "backend1"] {
            balancer.wait_backend(service, backend, "up")?;
        }
    }
    works(&network)?;

    let backend = network.lab.backend(0);
    let prefix_len = if network.vip().is_ipv4() { 32 } else { 128 };
    link::remove_address(backend.namespace(), "lo", network.vip())?;
    found(&network, &balancer).context("without the VIP")?;
    works(&network)?;
    link::add_address(backend.namespace(), "lo", network.vip(), prefix_len)?;
    balancer.wait_backend("web", BROKEN, "up")?;

    if matches!(mode.forward, Forward::Ipip | Forward::Gue) {
        let mut decaps = decaps;
        drop(decaps.remove(0));
        found(&network, &balancer).context("without the tunnel's end")?;
        works(&network)?;
        let _mended = decap(&network.lab, backend)?;
        balancer.wait_backend("web", BROKEN, "up")?;
        works(&network)?;
    }
    Ok(())
}

/// A client gets an answer.
fn works(network: &Network) -> Result<()> {
    let response = Curl::get(network.dial(80), "/").run(network.lab.client(0).namespace())?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

/// Waits until the fault is seen and named, by the probe that can see it.
fn found(network: &Network, balancer: &Balancer<'_>) -> Result<()> {
    let why = balancer.wait_status("the fault to be seen", LIMIT, |status| {
        let backend = backend_of(status, "web", BROKEN)?;
        (backend.state == "down").then(|| backend.last_failure.clone().unwrap_or_default())
    })?;
    let mode = network.mode;
    let forward = format!("{:?}", mode.forward).to_lowercase();
    let backend = mode.backends.of(network.lab.backend(0));
    let tunnel = match mode.forward {
        Forward::L2 => "",
        _ => ", and its tunnel",
    };
    let by = format!("by the VIP {} ({forward} to {backend})", network.dial(80));
    let question = format!("does the backend have the VIP{tunnel}?");
    let silent = format!("no answer {by} within 900ms: {question}");
    // An IPv6 host may say that it is not its address.
    let told = format!("host or network unreachable, {by}: {question}");
    ensure!(why == silent || why == told, "{why}");
    let status = balancer.status()?;
    let state = |service, name| {
        let backend = backend_of(&status, service, name);
        backend.map(|it| it.state.clone()).unwrap_or_default()
    };
    ensure!(state("web", "backend1") == "up", "{status:#?}");
    // That is why: it answers at its own address, and nobody would know.
    ensure!(state("plain", BROKEN) == "up", "{status:#?}");
    Ok(())
}
