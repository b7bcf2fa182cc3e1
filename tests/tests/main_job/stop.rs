//! The daemon is stopped, with and without `keep_forwarding`.

use std::time::Duration;

use anyhow::{Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::Lab;
use balancer_tests::lab::client::Curl;

use crate::fixture::{
    Service, balancer, get_well, l2, load, stop_unharmed, wait_answers, web_servers,
};
use crate::programs::{attached, attached_id, wait_gone};

#[test]
fn sigterm_detaches() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let program = attached_id(lab.balancer().namespace())?;
    get_well(&lab, service.dial())?;
    balancer.stop()?;
    ensure!(!balancer.socket().exists(), "the socket is left");
    assert_gone(&lab, &balancer, &service, program)
}

#[test]
fn daemon_that_keeps_forwarding_ends_with_unload() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let text = format!("keep_forwarding = true\n{}", service.toml());
    let mut balancer = balancer(&lab, &text)?;
    let program = attached_id(lab.balancer().namespace())?;
    let pin_dir = balancer.pin_dir().to_string_lossy().into_owned();
    let unload = ["unload", "--pin-dir", &pin_dir];

    let refused = balancer.command(&unload)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        refused.status.code() == Some(1) && said.contains("stop it first"),
        "{said}"
    );
    get_well(&lab, service.dial())?;

    let load = load(&lab, service.dial())?;
    wait_answers(&load, 500)?;
    balancer.stop()?;
    wait_answers(&load, 2000)?;
    let answered = stop_unharmed(load)?;
    println!("{answered} requests answered across a stop, 0 failed");
    ensure!(attached_id(lab.balancer().namespace())? == program);

    let said = balancer.succeed(&unload)?;
    ensure!(said.contains("eth0: detached"), "{said}");
    assert_gone(&lab, &balancer, &service, program)?;
    let said = balancer.succeed(&unload)?;
    ensure!(said.contains("nothing to remove"), "{said}");
    Ok(())
}

fn assert_gone(lab: &Lab, balancer: &Balancer<'_>, service: &Service, program: u32) -> Result<()> {
    let left = attached(lab.balancer().namespace(), "eth0")?;
    ensure!(left.is_none(), "{left:?}");
    let pins = std::fs::read_dir(balancer.pin_dir()).map_or(0, Iterator::count);
    ensure!(pins == 0, "{pins} pins left");
    wait_gone(program)?;
    let answer = Curl::get(service.dial(), "/")
        .limit(Duration::from_millis(500))
        .run(lab.client(0).namespace())?;
    ensure!(answer.exit_code != 0, "{answer:?}");
    Ok(())
}
