//! The interface is taken down, which takes its routes and neighbours along,
//! and brought up again.

use anyhow::{Result, ensure};
use balancer_tests::lab::client::{HeldConnections, Target};
use balancer_tests::lab::{link, wait_for};
use balancer_user::watch::Kind;

use super::{Before, closed, insist_on_right, wait_incident, wait_problem, wait_well};
use crate::LIMIT;
use crate::fixture::{Service, balancer, l2, load_of, web_servers};
use crate::incidents::events;
use crate::programs::attached_id;

#[test]
fn interface_that_was_down_forwards_again_when_it_is_up() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let namespace = lab.balancer().namespace();
    let before = Before::begin(&lab, &balancer, &service)?;
    let program = attached_id(namespace)?;
    let neighbours = || {
        let mut command = namespace.command("ip");
        let output = command
            .args(["-4", "neighbour", "show", "dev", "eth0"])
            .output()?;
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(!neighbours()?.is_empty(), "no neighbour to begin with");

    link::down(namespace, "eth0")?;
    ensure!(neighbours()?.is_empty(), "{}", neighbours()?);
    wait_problem(&balancer, "interface eth0 is down")?;
    let words = [
        "interface eth0 is down, so nothing is forwarded there",
        "`ip link`",
    ];
    let incident = wait_incident(&balancer, &words)?;
    // The program stays where it is, and every probe fails meanwhile.
    ensure!(attached_id(namespace)? == program);
    balancer.wait_status("all to be down", LIMIT, |status| {
        let web = status.services.first()?;
        let mut backends = web.backends.iter();
        backends.all(|it| it.state == "down").then_some(())
    })?;
    link::up(namespace, "eth0")?;

    let told = before.insist_on_all(&balancer)?;
    println!("interface down and up: {told}");
    ensure!(attached_id(namespace)? == program);
    closed(&balancer, incident)?;
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}

#[test]
fn interface_whose_other_end_is_down_is_named() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let target = Target {
        server: service.dial(),
        sources: load_of(&lab, service.dial()).sources,
    };
    let mut held = HeldConnections::open(lab.client(0).namespace(), &target, 20)?;
    let switch = lab.switch().namespace();
    link::down(switch, "balancer")?;
    wait_problem(&balancer, "interface eth0 has no carrier")?;
    let words = ["has no carrier, so nothing is forwarded there", "its cable"];
    let incident = wait_incident(&balancer, &words)?;
    link::up(switch, "balancer")?;
    closed(&balancer, incident)?;
    wait_well(&balancer)?;
    wait_for("all to be up", LIMIT, || {
        let status = balancer.status().ok()?;
        let mut backends = status.services.first()?.backends.iter();
        backends.all(|it| it.state == "up").then_some(())
    })?;
    let broken = held.ask_again()?;
    ensure!(broken.is_empty(), "{broken:?}");
    // It is one incident, whatever else fails by it.
    let events = events(&balancer)?;
    let ours = events
        .iter()
        .filter(|it| it.incident().kind == Kind::Interface);
    ensure!(ours.count() == 2, "{events:?}");
    insist_on_right(&balancer)
}
