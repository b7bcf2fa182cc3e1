//! SIGHUP: a good file is taken, a bad one changes nothing.

use anyhow::{Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of};
use balancer_user::api::types::Reload;
use nix::sys::signal::Signal;

use crate::LIMIT;
use crate::fixture::{Api, Service, balancer, l2, load, stop_unharmed, wait_answers, web_servers};

#[test]
fn sighup_takes_a_good_file_and_refuses_a_bad_one_under_load() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let all = Service::web_l2(&lab);
    let mut two = all.clone();
    let third = two.backends.pop().map(|(name, _)| name);
    let third = third.unwrap_or_default();
    let mut balancer = balancer(&lab, &two.toml())?;
    let load = load(&lab, all.dial())?;
    wait_answers(&load, 500)?;
    ensure!(balancer.status()?.last_reload.is_none());

    balancer.write_services(&["eth0"], &all.toml())?;
    let reload = hang_up(&mut balancer, true)?;
    ensure!(reload.summary == "the file is in force", "{reload:?}");
    balancer.wait_backend("web", &third, "up")?;
    let api = Api::new(&balancer)?;
    let flows = api.flows("web", &third)?;
    wait_answers(&load, 500)?;
    ensure!(api.flows("web", &third)? > flows, "{third} is not used");

    let before = api.config()?;
    let bad = all
        .toml()
        .replace("protocol = \"tcp\"", "protocol = \"tpc\"");
    balancer.write_services(&["eth0"], &bad)?;
    let reload = hang_up(&mut balancer, false)?;
    ensure!(reload.summary.contains("1 error"), "{reload:?}");
    ensure!(api.config()? == before, "the configuration changed");
    let log = balancer.log();
    for part in [
        "file not taken, the old configuration stays",
        "error[bad-value]",
        "protocol = \"tpc\"",
        "balancer.toml:",
    ] {
        ensure!(log.contains(part), "{part:?} is not in the log:\n{log}");
    }
    let shown = balancer.succeed(&["status"])?;
    ensure!(
        shown.contains("failed, the old configuration stays"),
        "{shown}"
    );
    wait_answers(&load, 500)?;
    stop_unharmed(load)?;
    Ok(())
}

fn hang_up(balancer: &mut Balancer<'_>, succeeds: bool) -> Result<Reload> {
    balancer.signal(Signal::SIGHUP)?;
    balancer.wait_status("the file to be read again", LIMIT, |status| {
        let reload = status.last_reload.clone()?;
        (reload.succeeded == succeeds).then_some(reload)
    })
}

#[test]
fn command_to_reload_says_which_changes_it_undoes() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "300"])?;
    balancer.succeed(&["backend", "drain", "web", "backend1"])?;
    let said = balancer.succeed(&["reload"])?;
    for part in ["weight of backend0 100 -> 300", "backend1 drains on"] {
        ensure!(said.contains(part), "{said}");
    }
    let status = balancer.status()?;
    let weight = backend_of(&status, "web", "backend0").map(|it| it.weight);
    let state = backend_of(&status, "web", "backend1").map(|it| it.state.as_str());
    ensure!(
        (weight, state) == (Some(100), Some("draining")),
        "{status:?}"
    );
    Ok(())
}

#[test]
fn another_probe_for_servers_that_are_up_costs_no_request() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let unprobed = Service {
        health: "",
        ..service.clone()
    };
    let balancer = balancer(&lab, &unprobed.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    let other_path = service
        .toml()
        .replace("path = \"/healthz\"", "path = \"/\"");
    for text in [service.toml(), other_path, unprobed.toml()] {
        balancer.write_services(&["eth0"], &text)?;
        balancer.succeed(&["reload"])?;
        wait_answers(&load, 500)?;
    }
    // One that its servers do not pass is refused before it is in force.
    let failing = service
        .toml()
        .replace("path = \"/healthz\"", "path = \"/missing\"");
    balancer.write_services(&["eth0"], &failing)?;
    let refused = balancer.command(&["reload"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("error[unproven-backend]"), "{said}");
    wait_answers(&load, 500)?;
    stop_unharmed(load)?;
    Ok(())
}
