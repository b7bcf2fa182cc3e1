//! Tables that another version of the balancer laid out: never read, and not
//! thrown away unasked.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use balancer_common::layout::LAYOUT_VERSION;
use balancer_tests::balancer::{Balancer, binary};

use crate::fixture::{Service, balancer, l2, load, stop_unharmed, wait_answers, web_servers};

/// What is pinned becomes that of an earlier version.
fn grow_old(balancer: &Balancer<'_>) -> Result<u32> {
    let earlier = LAYOUT_VERSION - 1;
    let sets = fs::read_dir(balancer.pin_dir())?.flatten();
    let mut sets = sets.filter(|it| it.file_name().to_string_lossy().starts_with("maps-v"));
    let set = sets.next().context("no maps are pinned")?.path();
    let name = set.file_name().and_then(|it| it.to_str());
    let name = name.context("a strange name")?;
    let other = name.replace(&format!("-v{LAYOUT_VERSION}-"), &format!("-v{earlier}-"));
    ensure!(other != name, "{name} has no layout version");
    fs::rename(&set, set.with_file_name(other))?;
    Ok(earlier)
}

#[test]
fn tables_of_another_layout_go_on_until_somebody_says_that_they_may_be_replaced() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 300)?;
    balancer.kill()?;
    let earlier = grow_old(&balancer)?;

    let said = balancer.refuse_to_start()?;
    for part in [
        format!("tables of layout version {earlier} forward now"),
        format!("reads version {LAYOUT_VERSION} only"),
        "balancer run --replace-tables".to_owned(),
    ] {
        ensure!(said.contains(&part), "no {part:?} in {said}");
    }
    wait_answers(&load, 300)?;
    let file = balancer.config();
    let mut check = lab
        .balancer()
        .namespace()
        .command(&binary().to_string_lossy());
    let output = check.args(["check", "--live"]).arg(&file).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("error[other-layout]"),
        "{}: {said}",
        output.status
    );

    let allowed = [("BALANCER_REPLACE_TABLES", Path::new("1"))];
    balancer.become_program(&binary(), &allowed);
    balancer.restart()?;
    wait_answers(&load, 300)?;
    let answered = stop_unharmed(load)?;
    let status = balancer.status()?;
    ensure!(status.problems.is_empty(), "{:?}", status.problems);
    println!("{answered} requests answered, 0 failed");
    // What it wrote itself is gone on with.
    balancer.become_program(&binary(), &[]);
    balancer.kill()?;
    balancer.restart()
}
