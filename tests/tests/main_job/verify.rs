//! What is changed in the kernel behind the daemon's back is found, named and
//! put right.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::{Lab, wait_for};
pub(crate) use balancer_tests::tamper::Kernel;
use balancer_user::api::types::{DriftFinding, Verification};

use crate::LIMIT;
use crate::fixture::{Api, Service, balancer, burst, get_well, l2, web_servers};
use crate::programs::attached_id;

fn verify(balancer: &Balancer<'_>) -> Result<(Option<i32>, Verification)> {
    let output = balancer.command(&["verify", "--json"])?;
    let verification = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), verification))
}

fn assert_right(balancer: &Balancer<'_>) -> Result<Verification> {
    let (code, verification) = verify(balancer)?;
    ensure!(code == Some(0) && verification.is_right, "{verification:?}");
    Ok(verification)
}

/// Waits until a difference of that kind is found and put right; gives all of
/// the kind.
fn wait_repaired(balancer: &Balancer<'_>, what: &str) -> Result<Vec<DriftFinding>> {
    wait_for(&format!("drift in {what} to be repaired"), LIMIT, || {
        let (_, verification) = verify(balancer).ok()?;
        let found: Vec<DriftFinding> = verification
            .repaired
            .into_iter()
            .map(|it| it.finding)
            .filter(|it| it.what == what)
            .collect();
        (verification.is_right && !found.is_empty()).then_some(found)
    })
}

fn start(lab: &Lab, more: &str) -> Result<(Service, String)> {
    let service = Service::web_l2(lab);
    let text = format!("table_size = 1009\n{more}\n{}", service.toml());
    Ok((service, text))
}

#[test]
fn what_changes_behind_the_daemons_back_is_found_named_and_put_right() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let (service, text) = start(&lab, "")?;
    let balancer = balancer(&lab, &text)?;
    let kernel = Kernel::of(&balancer)?;
    let verification = assert_right(&balancer)?;
    ensure!(
        (verification.services, verification.slots) == (1, 1009),
        "{verification:?}"
    );
    ensure!(verification.interfaces == ["eth0"], "{verification:?}");
    ensure!(
        verification.program_id == Some(attached_id(lab.balancer().namespace())?),
        "{verification:?}"
    );

    kernel.change_slots()?;
    let found = wait_repaired(&balancer, "slots")?;
    ensure!(
        found.iter().all(|it| it.service.as_deref() == Some("web")),
        "{found:?}"
    );
    ensure!(
        found[0].slots.is_some() && found[0].is_repaired,
        "{found:?}"
    );
    ensure!(found.iter().all(|it| it.expected != it.seen), "{found:?}");
    kernel.change_members()?;
    let found = wait_repaired(&balancer, "member")?;
    let backends: Vec<_> = found
        .iter()
        .filter_map(|it| it.backend.as_deref())
        .collect();
    for (name, _) in &service.backends {
        ensure!(backends.contains(&name.as_str()), "{name}: {found:?}");
    }
    ensure!(
        found[0].seen.starts_with("Ethernet addresses "),
        "{found:?}"
    );
    kernel.remove_services()?;
    let found = wait_repaired(&balancer, "key")?;
    ensure!(found.iter().any(|it| it.seen == "nothing"), "{found:?}");
    burst(&lab, service.dial(), 300)?;

    // A pin is all that holds the link: without it the program is off.
    fs::remove_file(balancer.pin_dir().join("link-eth0"))?;
    let found = wait_repaired(&balancer, "program")?;
    ensure!(found[0].interface.as_deref() == Some("eth0"), "{found:?}");
    get_well(&lab, service.dial())?;
    assert_right(&balancer)?;
    let problems = Api::new(&balancer)?.status()?.problems;
    let told = problems
        .iter()
        .filter(|it| it.starts_with("kernel-drift: "))
        .count();
    ensure!(told >= 4, "{problems:?}");
    ensure!(
        balancer.log().contains("kernel-drift"),
        "{}",
        balancer.log()
    );
    let text = balancer.succeed(&["verify"])?;
    ensure!(
        text.contains("; repaired\n") && text.contains("right: 1 service"),
        "{text}"
    );
    Ok(())
}

#[test]
fn difference_that_is_not_to_be_repaired_stays_and_is_said_until_it_is_gone() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let (_service, text) = start(&lab, "repair_drift = false")?;
    let balancer = balancer(&lab, &text)?;
    let kernel = Kernel::of(&balancer)?;
    assert_right(&balancer)?;
    kernel.change_slots()?;
    let (code, verification) = verify(&balancer)?;
    ensure!(
        code == Some(1) && !verification.is_right,
        "{verification:?}"
    );
    ensure!(!verification.repairs, "{verification:?}");
    let found = &verification.findings;
    ensure!(
        found.iter().all(|it| it.what == "slots" && !it.is_repaired),
        "{found:?}"
    );
    let api = Api::new(&balancer)?;
    let is_told = |it: &String| it.contains("kernel-drift: service web: slot");
    ensure!(
        api.status()?.problems.iter().any(is_told),
        "{:?}",
        api.status()?.problems
    );
    let output = balancer.command(&["verify"])?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("node.repair_drift is false"), "{text}");
    // The next change of the service writes its table anew.
    balancer.succeed(&["backend", "weight", "web", lab.backends()[0].name(), "50"])?;
    wait_for("the change to have put it right", LIMIT, || {
        assert_right(&balancer).ok()
    })?;
    ensure!(
        !api.status()?.problems.iter().any(is_told),
        "{:?}",
        api.status()?.problems
    );
    leave_alone(&lab, balancer.pin_dir(), &balancer)
}

/// Also a program that was taken off stays off.
fn leave_alone(lab: &Lab, pins: &Path, balancer: &Balancer<'_>) -> Result<()> {
    fs::remove_file(pins.join("link-eth0"))?;
    let found = wait_for("the lost program to be found", LIMIT, || {
        let (_, verification) = verify(balancer).ok()?;
        let mut found = verification.findings.into_iter();
        found.find(|it| it.what == "program")
    })?;
    ensure!(found.seen == "none" && !found.is_repaired, "{found:?}");
    // Nor does news of the network bring it back.
    let mut command = lab.balancer().namespace().command("ip");
    let status = command
        .args(["link", "set", "eth0", "mtu", "1499"])
        .status()?;
    ensure!(status.success(), "{status}");
    for _ in 0..3 {
        let (_, verification) = verify(balancer)?;
        let mut found = verification.findings.iter();
        ensure!(found.any(|it| it.what == "program"), "{verification:?}");
        ensure!(verification.interfaces.is_empty(), "{verification:?}");
    }
    ensure!(
        attached_id(lab.balancer().namespace()).is_err(),
        "it is back"
    );
    Ok(())
}
