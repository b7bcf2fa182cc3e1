//! The bpffs with the pins is unmounted under the running daemon.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::Lab;
use balancer_tests::lab::mount::{mount_bpffs, unmount_lazily};
use balancer_user::api::types::Change;
use balancer_user::watch::Kind;

use super::{closed, insist_on_right, wait_problem, wait_well};
use crate::fixture::{
    Api, Service, balancer, l2, load, stop_unharmed, v6, wait_answers, web_servers,
};
use crate::incidents::opened;
use crate::programs::attached_id;
use crate::programs_swapped::packets;

/// Has the daemon pin on a bpffs of its own; gives where that is mounted.
fn on_own_bpffs(balancer: &mut Balancer<'_>) -> Result<PathBuf> {
    balancer.stop()?;
    let mount = balancer.config().with_file_name("bpf");
    fs::create_dir(&mount)?;
    mount_bpffs(&mount)?;
    let text = fs::read_to_string(balancer.config())?;
    let (from, to) = (balancer.pin_dir(), mount.join("balancer"));
    let own = text.replace(&format!("{from:?}"), &format!("{to:?}"));
    ensure!(own != text, "{text}");
    fs::write(balancer.config(), own)?;
    balancer.restart()?;
    ensure!(to.join("link-eth0").exists());
    Ok(mount)
}

fn sixth(lab: &Lab) -> Change {
    let service = Service {
        name: "web6",
        ..Service::web(lab.vip_v6(), "l2", v6(lab.backends()))
    };
    Change::ServiceAdd {
        toml: service.toml(),
    }
}

#[test]
fn what_was_pinned_is_pinned_again_when_there_is_a_bpffs() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let mount = on_own_bpffs(&mut balancer)?;
    let program = attached_id(lab.balancer().namespace())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 300)?;

    unmount_lazily(&mount)?;
    let said = "links and maps are pinned there no more: no bpffs is mounted there";
    wait_problem(&balancer, said)?;
    let incident = opened(&balancer, Kind::Pins, None)?;
    let text = incident.to_string();
    println!("said: {text}; try `{}`", incident.command);
    ensure!(
        text.contains("a restart or a crash would end that"),
        "{text}"
    );
    wait_answers(&load, 300)?;
    // Weights and drains need no pin; another program does.
    balancer.succeed(&["backend", "weight", "web", "backend0", "50"])?;
    let api = Api::new(&balancer)?;
    let Err(refused) = api.change(sixth(&lab)) else {
        anyhow::bail!("it was made");
    };
    let refused = format!("{refused:#}");
    ensure!(
        refused.contains("/bpf/balancer is on no bpffs"),
        "{refused}"
    );
    println!("refused meanwhile: {refused}");
    ensure!(attached_id(lab.balancer().namespace())? == program);
    wait_answers(&load, 300)?;

    mount_bpffs(&mount)?;
    closed(&balancer, incident.number)?;
    // Until the next one, the last change is one that was not applied.
    balancer.succeed(&["backend", "weight", "web", "backend0", "100"])?;
    wait_well(&balancer)?;
    insist_on_right(&balancer)?;
    let log = balancer.log();
    ensure!(log.contains("pinned again"), "{log}");
    wait_answers(&load, 300)?;
    // The pins are as good as the old ones: a daemon may die, and the next one
    // goes on; and another program has a place for its own.
    let before = packets(&balancer)?;
    balancer.kill()?;
    wait_answers(&load, 300)?;
    let from = balancer.log().len();
    balancer.restart()?;
    let log = balancer.log().split_off(from);
    ensure!(log.contains("going on with the tables"), "{log}");
    for (backend, count) in packets(&balancer)? {
        ensure!(count >= before[&backend], "{backend} went back to {count}");
    }
    Api::new(&balancer)?.change(sixth(&lab))?;
    balancer.wait_backend("web6", "backend0", "up")?;
    let answered = stop_unharmed(load)?;
    println!("bpffs unmounted and mounted: {answered} requests answered, 0 failed");
    wait_well(&balancer)?;
    insist_on_right(&balancer)?;
    balancer.stop()?;
    ensure!(
        attached_id(lab.balancer().namespace()).is_err(),
        "it is attached still"
    );
    Ok(())
}
