//! The daemon dies in the middle of a change, and the next one goes on with
//! what the dead one knew.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_tests::lab::Lab;
use balancer_tests::lab::client::{HeldConnections, HttpLoad};

use crate::LIMIT;
use crate::fixture::{
    Api, Service, balancer, burst, l2, load, load_of, stop_unharmed, wait_answers, web_servers,
};
use crate::programs_swapped::{flows_that_need_records, packets};

const SAYS: &str = "going on with the tables";

#[test]
fn killed_in_the_middle_of_a_drain_nobody_notices() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let mut held = flows_that_need_records(&lab, &balancer, &service)?;
    for round in 1..=3 {
        let load = load(&lab, service.dial())?;
        wait_answers(&load, 300)?;
        let before = packets(&balancer)?;
        balancer.kill()?;
        wait_answers(&load, 300)?;
        balancer.restart()?;
        ensure!(balancer.log().contains(SAYS), "{}", balancer.log());
        wait_answers(&load, 300)?;
        let answered = stop_unharmed(load)?;
        for (backend, count) in packets(&balancer)? {
            ensure!(count >= before[&backend], "{backend} went back to {count}");
        }
        all_whole(&mut held)?;
        println!("restart {round}: {answered} requests answered, 0 failed");
    }
    drains_go_on(&lab, &balancer, &service)
}

#[test]
fn file_changed_while_the_daemon_was_down_is_a_change_like_any_other() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = format!("keep_forwarding = true\n{}", service.toml());
    let mut balancer = balancer(&lab, &text)?;
    let mut held = flows_that_need_records(&lab, &balancer, &service)?;
    let before = packets(&balancer)?;
    balancer.stop()?;
    // Every slot is looked at anew: the weight of one is another.
    let text = text.replacen("name = \"backend3\"", "name = \"backend3\"\nweight = 10", 1);
    // What commands changed is undone as well: a lot at once.
    let allowed = "forward = \"l2\"\nallow = [\"blast-radius\"]\nallow_reason = \"meant\"\n";
    let text = text.replacen("forward = \"l2\"\n", allowed, 1);
    balancer.write_services(&["eth0"], &text)?;
    balancer.restart()?;
    ensure!(balancer.log().contains(SAYS), "{}", balancer.log());
    // It comes by the way of every change, once the tables are as they were.
    balancer.wait_status("the new weight", LIMIT, |status| {
        let backend = backend_of(status, "web", "backend3")?;
        (backend.weight == 10).then_some(())
    })?;
    burst(&lab, service.dial(), 300)?;
    for (backend, count) in packets(&balancer)? {
        ensure!(count >= before[&backend], "{backend} went back to {count}");
    }
    all_whole(&mut held)
}

#[test]
fn tables_that_nobody_can_explain_are_begun_anew_and_that_is_said() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 300)?;
    balancer.kill()?;
    let seats = balancer.config().with_file_name("state").join("seats.json");
    std::fs::remove_file(&seats)?;
    balancer.restart()?;
    ensure!(!balancer.log().contains(SAYS), "{}", balancer.log());
    ensure!(balancer.log().contains("begin anew"), "{}", balancer.log());
    wait_answers(&load, 300)?;
    stop_unharmed(load)?;
    let sets = std::fs::read_dir(balancer.pin_dir())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("maps-"))
        .count();
    ensure!(sets == 1, "{sets} sets of maps");
    Ok(())
}

#[test]
fn denied_sources_stay_denied_while_the_daemon_dies_and_comes_back() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let sources = load_of(&lab, service.dial()).sources;
    let (denied, allowed) = sources.split_at(sources.len() / 2);
    let list: Vec<String> = denied.iter().map(|ip| format!("\"{ip}/32\"")).collect();
    let list = format!(
        "fail_open_below = 0.0\ndeny_sources = [{}]\n",
        list.join(", ")
    );
    let text = service.toml().replacen("fail_open_below = 0.0\n", &list, 1);
    let mut balancer = balancer(&lab, &text)?;
    let load_from = |sources: &[IpAddr]| HttpLoad {
        sources: sources.to_vec(),
        ..load_of(&lab, service.dial())
    };
    let client = lab.client(0).namespace();
    // None of them is answered: many are to be tried.
    let knocking = HttpLoad {
        timeout: Duration::from_millis(100),
        ..load_from(denied)
    };
    let knocking = knocking.start(client)?;
    let load = load_from(allowed).start(client)?;
    for _ in 0..2 {
        wait_answers(&load, 300)?;
        balancer.kill()?;
        wait_answers(&load, 300)?;
        balancer.restart()?;
        ensure!(balancer.log().contains(SAYS), "{}", balancer.log());
    }
    wait_answers(&load, 300)?;
    stop_unharmed(load)?;
    let report = knocking.stop()?;
    ensure!(
        report.answered == 0,
        "{} answers past the list",
        report.answered
    );
    let dropped = balancer.status()?.reasons["source_denied"];
    ensure!(dropped >= report.failed, "{dropped} of {}", report.failed);
    Ok(())
}

fn all_whole(held: &mut [HeldConnections]) -> Result<()> {
    for held in held {
        let broken = held.ask_again()?;
        ensure!(
            broken.is_empty(),
            "{} broken: {:?}",
            broken.len(),
            broken[0]
        );
    }
    Ok(())
}

/// The drained get nothing new, and give up no flow.
fn drains_go_on(lab: &Lab, balancer: &Balancer<'_>, service: &Service) -> Result<()> {
    let api = Api::new(balancer)?;
    let flows = |name| api.flows("web", name);
    let before = [flows("backend0")?, flows("backend1")?];
    burst(lab, service.dial(), 300)?;
    ensure!(before == [flows("backend0")?, flows("backend1")?]);
    for name in ["backend0", "backend1"] {
        let backend = api.backend("web", name)?;
        ensure!(backend.state == "draining", "{backend:?}");
    }
    Ok(())
}
