//! The network changes under the balancer, and it follows.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::client::RunningLoad;
use balancer_tests::lab::{Lab, LabConfig, Mac, link, wait_for};

use crate::fixture::{
    Api, Service, balancer, l2, load, load_of, stop_unharmed, v4, v6, wait_answers, web_servers,
};
use crate::forwarding::decaps;

/// How long a changed network may hurt.
const RECOVERY: Duration = Duration::from_secs(10);

#[test]
fn backend_that_announces_a_new_mac_is_followed_at_once() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let lab = l2(2)?;
        // No probe shall help: the announcement alone has to do.
        let service = Service {
            health: "",
            ..family.service(&lab)
        };
        let (announce, value) = family.announcements();
        lab.backend(1).namespace().set_sysctl(announce, value)?;
        find_again(&lab, &service, Duration::from_secs(2))?;
    }
    Ok(())
}

#[test]
fn backend_that_changes_its_mac_silently_is_missed_and_found_again() -> Result<()> {
    let lab = l2(2)?;
    find_again(&lab, &Family::V4.service(&lab), RECOVERY)
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn service(self, lab: &Lab) -> Service {
        match self {
            Self::V4 => Service::web_l2(lab),
            Self::V6 => Service::web(lab.vip_v6(), "l2", v6(lab.backends())),
        }
    }

    /// What makes a host tell the segment when its address changes.
    fn announcements(self) -> (&'static str, &'static str) {
        match self {
            Self::V4 => ("net.ipv4.conf.eth0.arp_notify", "1"),
            Self::V6 => ("net.ipv6.conf.eth0.ndisc_notify", "1"),
        }
    }
}

fn find_again(lab: &Lab, service: &Service, limit: Duration) -> Result<()> {
    let _servers = web_servers(lab)?;
    let balancer = balancer(lab, &service.toml())?;
    let api = Api::new(&balancer)?;
    let mut load = load_of(lab, service.dial());
    load.timeout = Duration::from_millis(500);
    let load = load.start(lab.client(0).namespace())?;
    wait_answers(&load, 500)?;
    let changed = Instant::now();
    let mac = Mac([2, 0xb1, 0x0b, 3, 9, 9]);
    link::set_mac(lab.backend(1).namespace(), "eth0", mac)?;
    // Only a table without the backend, or its new address, ends the failures.
    let hurt = wait_unharmed(&load, changed)?;
    let used_again = wait_for("the backend to answer again", limit, || {
        let backend = api.backend("web", "backend1").ok()?;
        wait_answers(&load, 100).ok()?;
        let now = api.backend("web", "backend1").ok()?;
        (now.state == "up" && now.flows > backend.flows).then(|| changed.elapsed())
    })?;
    let failed = load.failed();
    wait_answers(&load, 1000)?;
    ensure!(load.failed() == failed, "it still fails");
    println!(
        "new MAC of {}: {failed} requests failed, the last within {} ms; used again {} ms after at the latest",
        service.backends[1].1,
        hurt.as_millis(),
        used_again.as_millis()
    );
    ensure!(hurt < limit, "{hurt:?}");
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    Ok(())
}

/// Waits until 500 answers came without a failure; when the last one came.
fn wait_unharmed(load: &RunningLoad, since: Instant) -> Result<Duration> {
    let (mut failed, mut answered) = (load.failed(), load.answered());
    let mut last = since.elapsed();
    wait_for("requests to succeed again", RECOVERY, || {
        let now = load.failed();
        if now != failed {
            (failed, answered, last) = (now, load.answered(), since.elapsed());
        }
        // Longer than a request may take to fail.
        let quiet = since.elapsed() - last > Duration::from_millis(700);
        (quiet && load.answered() >= answered + 500).then_some(last)
    })
}

#[test]
fn tunnel_follows_its_route_to_another_gateway() -> Result<()> {
    let lab = Lab::routed(LabConfig {
        addresses_per_client: 20,
        ..LabConfig::backends(2)
    })?;
    let _servers = web_servers(&lab)?;
    let _decaps = decaps(&lab)?;
    let service = Service::web(lab.vip_v4(), "ipip", v4(lab.backends()));
    // Where it leaves changes; who it says it is must not.
    let source = lab.balancer().interfaces()[1].v4[0];
    let text = format!("tunnel_source_v4 = \"{source}\"\n{}", service.toml());
    let balancer = balancer(&lab, &text)?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;

    let changed = Instant::now();
    let [backends, _] = lab.backend_subnets();
    let gateway: Option<IpAddr> = lab.router().map(|router| router.v4().into());
    link::add_route(
        lab.balancer().namespace(),
        &link::Route {
            to: backends.network,
            prefix_len: backends.prefix_len,
            via: gateway,
            interface: None,
            mtu: None,
        },
    )?;
    let followed = wait_for("traffic to leave by eth0", RECOVERY, || {
        let before = sent_by_eth1(&lab).ok()?;
        wait_answers(&load, 200).ok()?;
        let after = sent_by_eth1(&lab).ok()?;
        // A probe's packets are few; those of 200 requests are a thousand.
        (after - before < 100).then(|| changed.elapsed())
    })?;
    wait_answers(&load, 1000)?;
    let answered = stop_unharmed(load)?;
    println!(
        "another gateway: followed within {} ms, {answered} requests answered, 0 failed",
        followed.as_millis()
    );
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    let log = balancer.log();
    ensure!(
        log.contains("applied cause=routes or neighbours changed"),
        "{log}"
    );
    Ok(())
}

/// Frames that came to the router from the balancer's other interface.
fn sent_by_eth1(lab: &Lab) -> Result<u64> {
    let router = lab.router().context("a routed lab has a router")?;
    Ok(link::counters(router.namespace(), "back")?.rx_packets)
}
