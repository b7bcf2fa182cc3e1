//! A change that the loaded program cannot carry out: another program takes
//! its place, and goes on with its tables, flow records and counters.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::Lab;
use balancer_tests::lab::client::{HeldConnections, Target};
use balancer_user::api::types::Change;

use crate::fixture::{
    Api, Service, balancer, l2, load, load_of, stop_unharmed, v6, wait_answers, web_servers,
};
use crate::programs::{attached_id, wait_gone};

const HELD: usize = 100;

#[test]
fn change_that_needs_another_program_breaks_no_connection_and_no_count() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let first = attached_id(lab.balancer().namespace())?;
    let mut held = flows_that_need_records(&lab, &balancer, &service)?;

    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    let before = packets(&balancer)?;
    let features = balancer.status()?.features;
    ensure!(!features.contains(&"IPV6".to_owned()), "{features:?}");
    add_v6(&lab, &balancer)?;
    wait_answers(&load, 500)?;
    let answered = stop_unharmed(load)?;

    let second = attached_id(lab.balancer().namespace())?;
    ensure!(second != first, "the program is the old one");
    wait_gone(first)?;
    let features = balancer.status()?.features;
    ensure!(features.contains(&"IPV6".to_owned()), "{features:?}");
    for (backend, count) in packets(&balancer)? {
        ensure!(count >= before[&backend], "{backend} went back to {count}");
    }
    for held in &mut held {
        let broken = held.ask_again()?;
        ensure!(broken.is_empty(), "{broken:?}");
    }
    println!(
        "{answered} requests answered, {} connections kept",
        2 * HELD
    );
    Ok(())
}

/// Old flows, and flows that were new while their slots were in change: when
/// those change again, only a record knows where they went.
pub(crate) fn flows_that_need_records(
    lab: &Lab,
    balancer: &Balancer<'_>,
    service: &Service,
) -> Result<Vec<HeldConnections>> {
    let client = lab.client(0).namespace();
    let target = Target {
        server: service.dial(),
        sources: load_of(lab, service.dial()).sources,
    };
    let old = HeldConnections::open(client, &target, HELD)?;
    balancer.succeed(&["backend", "drain", "web", "backend0"])?;
    let new = HeldConnections::open(client, &target, HELD)?;
    balancer.succeed(&["backend", "drain", "web", "backend1"])?;
    ensure!(old.by_backend().contains_key("backend0"));
    ensure!(new.by_backend().contains_key("backend1"));
    Ok(vec![old, new])
}

/// Packets that each backend of `web` was given.
pub(crate) fn packets(balancer: &Balancer<'_>) -> Result<BTreeMap<String, u64>> {
    let status = balancer.status()?;
    let web = status.services.iter().find(|service| service.name == "web");
    let backends = web.into_iter().flat_map(|web| &web.backends);
    Ok(backends
        .map(|backend| (backend.name.clone(), backend.packets))
        .collect())
}

fn add_v6(lab: &Lab, balancer: &Balancer<'_>) -> Result<()> {
    let service = Service {
        name: "web6",
        ..Service::web(lab.vip_v6(), "l2", v6(lab.backends()))
    };
    Api::new(balancer)?.change(Change::ServiceAdd {
        toml: service.toml(),
    })?;
    balancer.wait_backend("web6", "backend0", "up")
}
