//! The daemon's control group has no memory left. Maps are charged to it, too.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Result, bail, ensure};
use balancer_tests::lab::cgroup::MemoryGroup;
use balancer_user::api::types::Change;

use super::{Before, insist_on_right, wait_well};
use crate::LIMIT;
use crate::fixture::{Api, Service, balancer, l2, load, stop_unharmed, wait_answers, web_servers};
use crate::programs::attached_id;

/// Room for all that the daemon does, and not for a million translations.
const ROOM: u64 = 100 << 20;
const FLOWS: &str = "flow_table_size = 1048576\n";

#[test]
fn change_that_needs_more_memory_than_there_may_be_is_refused_whole() -> Result<()> {
    // Dropped last: the daemon has to have ended.
    let group = MemoryGroup::create()?;
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &format!("{FLOWS}{}", service.toml()))?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 300)?;
    let program = attached_id(lab.balancer().namespace())?;
    group.take(balancer.process().pid())?;
    group.set_limit(Some(ROOM))?;

    let translated = Service {
        name: "translated",
        address: lab.vips()[2],
        forward: "nat",
        ..service.clone()
    };
    let change = || Change::ServiceAdd {
        toml: translated.toml(),
    };
    let api = Api::new(&balancer)?;
    let Err(refused) = api.change(change()) else {
        bail!("it was made, with {} bytes in use", group.used()?);
    };
    let refused = format!("{refused:#}");
    println!("refused: {refused}");
    if refused.contains("gave no answer") {
        // Another of its threads asked for a page while the map had them all:
        // then the kernel ends the daemon, and nothing else.
        let ended = balancer.process().wait(LIMIT)?;
        ensure!(ended.signal() == Some(9), "{ended}");
        balancer.restart()?;
        wait_answers(&load, 300)?;
        stop_unharmed(load)?;
        ensure!(balancer.status()?.services.len() == 1);
        return insist_on_right(&balancer);
    }
    for part in ["NAT", "not enough memory", "memory.max"] {
        ensure!(refused.contains(part), "no {part:?} in {refused}");
    }
    ensure!(attached_id(lab.balancer().namespace())? == program);
    let status = api.status()?;
    ensure!(status.services.len() == 1, "{status:?}");
    insist_on_right(&balancer)?;
    // What takes no memory is done as ever.
    balancer.succeed(&["backend", "weight", "web", "backend0", "50"])?;
    wait_answers(&load, 300)?;
    let sets = fs::read_dir(balancer.pin_dir())?.flatten();
    let sets = sets.filter(|it| it.file_name().to_string_lossy().starts_with("maps-"));
    ensure!(sets.count() == 1, "a set of maps is left");

    group.set_limit(None)?;
    api.change(change())?;
    ensure!(group.used()? > ROOM, "{} bytes", group.used()?);
    balancer.wait_backend("translated", "backend0", "up")?;
    let answered = stop_unharmed(load)?;
    println!("no memory for a change: {answered} requests answered, 0 failed");
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}

#[test]
fn daemon_that_is_killed_for_memory_leaves_all_to_the_next_one() -> Result<()> {
    let group = MemoryGroup::create()?;
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let before = Before::begin(&lab, &balancer, &service)?;
    let patient = load(&lab, service.dial())?;
    let file = balancer.config().with_file_name("many.toml");
    let own = fs::read_to_string(balancer.config())?;
    fs::write(&file, own + &many(&service))?;
    group.take(balancer.process().pid())?;
    group.set_limit(Some(group.used()? + (4 << 20)))?;
    let asked = balancer.command(&["plan", &file.to_string_lossy()])?;
    ensure!(!asked.status.success(), "{asked:?}");
    let ended = balancer.process().wait(LIMIT)?;
    ensure!(ended.signal() == Some(9), "{ended}");

    wait_answers(&patient, 300)?;
    let from = balancer.log().len();
    balancer.restart()?;
    let log = balancer.log().split_off(from);
    ensure!(log.contains("going on with the tables"), "{log}");
    wait_answers(&patient, 300)?;
    let answered = stop_unharmed(patient)?;
    let told = before.insist_on_all(&balancer)?;
    println!("killed for memory: {answered} requests answered, 0 failed; {told}");
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}

/// A thousand services more: a plan of them takes far more than is left.
fn many(service: &Service) -> String {
    let mut text = String::new();
    for at in 0..1000_u16 {
        let [high, low] = at.to_be_bytes();
        let mut one = service.clone();
        one.address = [198, 18, high, low].into();
        let named = one.toml().replacen("\"web\"", &format!("\"web-{at}\""), 1);
        text.push_str(&named);
    }
    text
}
