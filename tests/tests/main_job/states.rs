//! How backends come and go: backups that take over, slow starts, one that
//! goes up and down, and one whose probes pass though it serves nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Node, link, wait_for};
use balancer_user::api::types::BackendStatus;
use balancer_user::watch::Kind;

use crate::LIMIT;
use crate::fixture::{
    Api, Service, balancer, burst, get_well, l2, load_of, wait_answers, web_servers,
};
use crate::incidents::{closed, opened};

fn wait_state(
    api: &Api,
    balancer: &Balancer<'_>,
    name: &str,
    states: &[&str],
) -> Result<BackendStatus> {
    wait_for(&format!("{name} to be one of {states:?}"), LIMIT, || {
        let backend = api.backend("web", name).ok()?;
        states.contains(&backend.state.as_str()).then_some(backend)
    })
    .with_context(|| balancer.log())
}

#[test]
fn backup_takes_over_and_a_server_that_comes_back_starts_slowly() -> Result<()> {
    let lab = l2(3)?;
    let mut servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    // The last one is the backup; one of two healthy is not enough.
    let text = service.toml().replace(
        "fail_open_below",
        "slow_start = \"60s\"\nbackup_below = 0.4\nfail_open_below",
    );
    let balancer = balancer(&lab, &format!("{text}pool = \"backup\"\n"))?;
    let api = Api::new(&balancer)?;
    wait_state(&api, &balancer, "backend2", &["standby"])?;
    ensure!(api.backend("web", "backend2")?.slot_count == 0);
    burst(&lab, service.dial(), 200)?;
    ensure!(api.flows("web", "backend2")? == 0, "a backup got traffic");

    for server in &mut servers[..2] {
        server.server.kill()?;
    }
    let backup = wait_state(&api, &balancer, "backend2", &["up"])?;
    ensure!(backup.share_expected > 0.99, "{backup:?}");
    get_well(&lab, service.dial())?;
    let incident = opened(&balancer, Kind::BackupsUsed, None)?;
    ensure!(
        incident.what.contains("backups get traffic"),
        "{incident:?}"
    );
    let status = api.status()?;
    ensure!(status.services[0].state == "on-backups", "{status:?}");

    // The first one back is alone with half of the weight: it takes it all.
    servers[0].server.restart()?;
    let first = wait_state(&api, &balancer, "backend0", &["up", "slow-start"])?;
    ensure!(first.state == "up", "{first:?}");
    wait_state(&api, &balancer, "backend2", &["standby"])?;
    // The second one comes beside it, by and by.
    servers[1].server.restart()?;
    let slow = wait_state(&api, &balancer, "backend1", &["slow-start", "up"])?;
    ensure!(
        slow.state == "slow-start" && slow.share_expected < 0.25,
        "{slow:?}"
    );
    let more = wait_for("more slots for backend1", LIMIT, || {
        let backend = api.backend("web", "backend1").ok()?;
        (backend.slot_count > slow.slot_count).then_some(backend)
    })?;
    ensure!(more.share_expected < 0.5, "{more:?}");
    burst(&lab, service.dial(), 200)?;
    closed(&balancer, incident.number)
}

#[test]
fn server_that_goes_up_and_down_is_held_and_named() -> Result<()> {
    let lab = l2(3)?;
    let mut servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = service.toml().replace(
        "fall = 3\n",
        "fall = 3\nfast_interval = \"50ms\"\nflap_limit = 1\nflap_hold = \"15s\"\n",
    );
    let balancer = balancer(&lab, &text)?;
    let api = Api::new(&balancer)?;
    for state in ["up", "held"] {
        wait_state(&api, &balancer, "backend1", &["up"])?;
        servers[1].server.kill()?;
        wait_state(&api, &balancer, "backend1", &["down"])?;
        servers[1].server.restart()?;
        wait_state(&api, &balancer, "backend1", &[state])?;
    }
    let held = api.backend("web", "backend1")?;
    let why = held.last_failure.as_deref().unwrap_or_default();
    ensure!(
        held.slot_count == 0 && why.starts_with("fell 2 times"),
        "{held:?}"
    );
    let incident = opened(&balancer, Kind::BackendHeld, Some("backend1"))?;
    ensure!(
        incident.what.starts_with("is held: fell 2 times"),
        "{incident:?}"
    );
    let said = balancer.succeed(&["status"])?;
    ensure!(said.contains("backend1 held since"), "{said}");
    burst(&lab, service.dial(), 200)?;
    // Its time is over by itself.
    let back = wait_for("backend1 to be up again", 2 * LIMIT, || {
        let backend = api.backend("web", "backend1").ok()?;
        (backend.state == "up").then_some(backend)
    })?;
    ensure!(back.slot_count > 0, "{back:?}");
    closed(&balancer, incident.number)
}

/// Answers at the service's address, and at its own to probes.
fn at_any_address(node: &Node) -> Result<Nginx> {
    let mut config = NginxConfig::new(node.name(), &[], 80);
    config.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80)];
    Nginx::start(node.namespace(), &config)
}

#[test]
fn server_that_finishes_no_handshakes_gets_a_trickle_until_it_does() -> Result<()> {
    let lab = l2(4)?;
    let nodes = lab.backends().iter();
    let _servers: Vec<Nginx> = nodes.map(at_any_address).collect::<Result<_>>()?;
    let service = Service::web_l2(&lab);
    let text = service.toml().replace(
        "fail_open_below",
        "unfinished_handshakes = \"trickle\"\nfail_open_below",
    );
    let balancer = balancer(&lab, &text)?;
    let api = Api::new(&balancer)?;
    let mut load = load_of(&lab, service.dial());
    load.concurrency = 64;
    load.timeout = Duration::from_secs(2);
    load.pause = Duration::from_millis(50);
    let load = load.start(lab.client(0).namespace())?;
    wait_answers(&load, 2000)?;

    let vip = IpAddr::V4(lab.vip_v4());
    let namespace = lab.backend(2).namespace();
    link::remove_address(namespace, "lo", vip)?;
    let trickle = wait_state(&api, &balancer, "backend2", &["trickle"])?;
    ensure!(
        trickle.slot_count > 0 && trickle.share_expected < 0.02,
        "{trickle:?}"
    );
    let incident = opened(&balancer, Kind::BackendRelieved, Some("backend2"))?;
    ensure!(
        incident.what.starts_with("gets 5 % of its share"),
        "{incident:?}"
    );
    link::add_address(namespace, "lo", vip, 32)?;
    let back = wait_for("backend2 to have its share again", 8 * LIMIT, || {
        let backend = api.backend("web", "backend2").ok()?;
        (backend.state == "up" && backend.share_expected > 0.24).then_some(backend)
    })
    .with_context(|| balancer.log())?;
    ensure!(back.slot_count > trickle.slot_count, "{back:?}");
    closed(&balancer, incident.number)
}
