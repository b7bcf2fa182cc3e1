//! The interface is deleted, and one of the same name is made: to the kernel it
//! is another one, without a program.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::link;
use balancer_user::api::types::Change;
use balancer_user::netlink::AttachedMode;

use super::{Before, closed, insist_on_right, wait_incident, wait_problem, wait_well};
use crate::LIMIT;
use crate::fixture::{
    Api, Service, balancer, get_well, l2, load_of, v6, wait_answers, web_servers,
};
use crate::programs::{attached, attached_id};

const SAID: [&str; 3] = [
    "interface eth0 does not exist",
    "so nothing is forwarded there",
    "the program is attached when one of that name is there again",
];

fn wait_mode(balancer: &Balancer<'_>, mode: &str, state: &str) -> Result<()> {
    let what = format!("eth0 to be {state} with the program {mode}");
    balancer.wait_status(&what, LIMIT, |status| {
        let interface = status.interfaces.first()?;
        (interface.mode == mode && interface.state == state).then_some(())
    })
}

#[test]
fn interface_made_again_is_forwarded_on_in_the_mode_that_is_asked_for() -> Result<()> {
    for (asked, mode) in [
        ("auto", AttachedMode::Native),
        ("generic", AttachedMode::Generic),
    ] {
        let lab = l2(3)?;
        let _servers = web_servers(&lab)?;
        let service = Service::web_l2(&lab);
        let text = format!("xdp_mode = \"{asked}\"\n{}", service.toml());
        let balancer = balancer(&lab, &text)?;
        let namespace = lab.balancer().namespace();
        let before = Before::begin(&lab, &balancer, &service)?;
        let (program, index) = (attached_id(namespace)?, link::index(namespace, "eth0")?);

        lab.unplug_balancer()?;
        wait_problem(&balancer, SAID[0])?;
        wait_mode(&balancer, "missing", "missing")?;
        let incident = wait_incident(&balancer, &SAID)?;
        let _port = lab.plug_balancer_again()?;
        ensure!(
            link::index(namespace, "eth0")? != index,
            "it is the old one"
        );

        let told = before.insist_on_all(&balancer)?;
        println!("interface deleted and made again, {asked}: {told}");
        let xdp = attached(namespace, "eth0")?.context("no program")?;
        ensure!((xdp.program_id, xdp.mode) == (program, mode), "{xdp:?}");
        closed(&balancer, incident)?;
        wait_well(&balancer)?;
        insist_on_right(&balancer)?;
    }
    Ok(())
}

#[test]
fn changes_and_a_restart_go_on_without_the_interface_until_it_is_back() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let before = Before::begin(&lab, &balancer, &service)?;
    let program = attached_id(lab.balancer().namespace())?;

    lab.unplug_balancer()?;
    for (backend, _) in &service.backends {
        balancer.wait_backend("web", backend, "down")?;
    }
    // This one needs another program: it takes the place of one that is
    // nowhere.
    let sixth = Service {
        name: "web6",
        ..Service::web(lab.vip_v6(), "l2", v6(lab.backends()))
    };
    Api::new(&balancer)?.change(Change::ServiceAdd { toml: sixth.toml() })?;
    balancer.kill()?;
    balancer.restart()?;
    let log = balancer.log();
    ensure!(log.contains("going on with the tables"), "{log}");
    wait_problem(&balancer, SAID[0])?;
    let _port = lab.plug_balancer_again()?;

    let told = before.insist_on_all(&balancer)?;
    println!("interface back after a change and a restart: {told}");
    ensure!(attached_id(lab.balancer().namespace())? != program);
    balancer.wait_backend("web6", "backend0", "up")?;
    get_well(&lab, sixth.dial())?;
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}

#[test]
fn interface_made_anew_while_no_daemon_ran_has_the_tables_of_the_old_one() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = format!("keep_forwarding = true\n{}", service.toml());
    let mut balancer = balancer(&lab, &text)?;
    let before = Before::begin(&lab, &balancer, &service)?;
    balancer.stop()?;
    // Nobody is needed for that.
    wait_answers(&before.load, 300)?;
    lab.unplug_balancer()?;
    let _port = lab.plug_balancer_again()?;
    let from = balancer.log().len();
    balancer.restart()?;
    let log = balancer.log().split_off(from);
    ensure!(log.contains("going on with the tables"), "{log}");
    let told = before.insist_on_all(&balancer)?;
    println!("interface made anew without a daemon: {told}");
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}

#[test]
fn interface_that_is_made_again_and_again_never_runs_out_of_room() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    // No probe has to pass before the next one goes.
    let service = Service {
        health: "",
        ..Service::web_l2(&lab)
    };
    let balancer = balancer(&lab, &service.toml())?;
    let program = attached_id(lab.balancer().namespace())?;
    let mut load = load_of(&lab, service.dial());
    load.timeout = Duration::from_millis(200);
    let load = load.start(lab.client(0).namespace())?;
    // The device map has room for 64 of them.
    let mut port = None;
    for round in 0..70 {
        lab.unplug_balancer()?;
        port.replace(lab.plug_balancer_again()?);
        wait_answers(&load, 20).with_context(|| format!("round {round}\n{}", balancer.log()))?;
    }
    load.stop()?;
    get_well(&lab, service.dial())?;
    ensure!(attached_id(lab.balancer().namespace())? == program);
    ensure!(!balancer.log().contains("growing the maps"));
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}
