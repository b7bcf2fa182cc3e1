//! The daemon dies; what it left forwards, and the next one takes over.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::fixture::{Service, balancer, l2, load, stop_unharmed, wait_answers, web_servers};
use crate::programs::{attached_id, held_by, wait_gone};

#[test]
fn killed_daemon_forwards_on_and_its_successor_replaces_it_without_a_gap() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let namespace = lab.balancer().namespace();
    let first = attached_id(namespace)?;

    let load = load(&lab, service.dial())?;
    wait_answers(&load, 1000)?;
    balancer.kill()?;
    ensure!(balancer.command(&["status"])?.status.code() == Some(1));
    ensure!(attached_id(namespace)? == first);
    let answered = load.answered();
    wait_answers(&load, 3000)?;
    println!(
        "{} requests answered without a daemon",
        load.answered() - answered
    );

    balancer.restart()?;
    let second = attached_id(namespace)?;
    ensure!(second != first, "the program is the old one");
    ensure!(balancer.log().contains("replaced the program"));
    wait_answers(&load, 3000)?;
    let answered = stop_unharmed(load)?;
    println!("{answered} requests answered before, between and after, 0 failed");

    let pid = balancer.process().pid();
    ensure!(held_by(pid)? == BTreeSet::from([second]), "a second copy");
    wait_gone(first)?;
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);

    balancer.stop()?;
    wait_gone(second)?;
    let left = std::fs::read_dir(balancer.pin_dir()).map_or(0, Iterator::count);
    ensure!(left == 0, "{left} pins left");
    Ok(())
}
