//! Probes by the VIP: what they leave, what they say, and what they prove.
//! Which faults they find in each mode is the suite `modes`.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of, binary};
use balancer_tests::lab::{Lab, LabConfig, Namespace, link, wait_for};

use crate::LIMIT;
use crate::fixture::{Service, balancer, dns_servers, get_well, l2, v4, web_server, web_servers};

const PROBE: &str = "kind = \"http\"\nvia = \"vip\"\npath = \"/healthz\"\nexpect_status = [200]\n\
    interval = \"1s\"\ntimeout = \"900ms\"\nfast_interval = \"300ms\"\nrise = 2\nfall = 3\n";

fn web(lab: &Lab) -> Service {
    Service {
        health: PROBE,
        ..Service::web_l2(lab)
    }
}

/// Waits until a backend is in a state, for a reason.
fn wait_state(balancer: &Balancer<'_>, service: &str, state: &[&str], why: &str) -> Result<()> {
    let what = format!("backend0 to be {state:?} as {why:?}");
    balancer.wait_status(&what, LIMIT, |status| {
        let backend = backend_of(status, service, "backend0")?;
        let failure = backend.last_failure.as_deref().unwrap_or_default();
        (state.contains(&backend.state.as_str()) && failure.contains(why)).then_some(())
    })
}

/// What of the kernel's is there for probes: rules and devices.
fn left(namespace: &Namespace) -> Result<(Vec<String>, Vec<String>)> {
    let lines = |arguments: &[&str], mark: &str| -> Result<Vec<String>> {
        let output = namespace.command("ip").args(arguments).output()?;
        ensure!(output.status.success(), "ip {arguments:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let of_ours = text.lines().filter(|line| line.contains(mark));
        Ok(of_ours.map(str::to_owned).collect())
    };
    let mut rules = lines(&["rule", "show"], "fwmark")?;
    rules.extend(lines(&["-6", "rule", "show"], "fwmark")?);
    Ok((rules, lines(&["-o", "link", "show"], "balancer-")?))
}

fn insist_left(lab: &Lab, rules: usize, devices: usize) -> Result<()> {
    let found = left(lab.balancer().namespace())?;
    ensure!(
        (found.0.len(), found.1.len()) == (rules, devices),
        "{found:?}"
    );
    Ok(())
}

/// What the program says where the daemon's network is.
fn run_in(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let mut command = namespace.command(&binary().to_string_lossy());
    let output = command.args(arguments).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn nothing_is_left_by_an_end_and_what_a_killed_daemon_left_is_taken_over() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let (by_vip, plain) = (web(&lab), Service::web_l2(&lab));
    let mut balancer = balancer(&lab, &by_vip.toml())?;
    balancer.wait_backend("web", "backend0", "up")?;
    insist_left(&lab, 2, 1)?;
    balancer.kill()?;
    wait_for("the device to go with the process", LIMIT, || {
        insist_left(&lab, 2, 0).ok()
    })?;
    balancer.restart()?;
    balancer.wait_backend("web", "backend0", "up")?;
    insist_left(&lab, 2, 1)?;
    get_well(&lab, by_vip.dial())?;
    balancer.stop()?;
    insist_left(&lab, 0, 0)?;

    // The next one may have no use for what a killed one left.
    balancer.restart()?;
    balancer.kill()?;
    balancer.write_services(&["eth0"], &plain.toml())?;
    balancer.restart()?;
    // It goes on with what was in force, and then reads the file.
    wait_for("no rules", LIMIT, || insist_left(&lab, 0, 0).ok()).with_context(|| balancer.log())?;

    // Nor has one whose file says otherwise by now, or again.
    for (service, rules) in [(&by_vip, 2), (&plain, 0)] {
        balancer.write_services(&["eth0"], &service.toml())?;
        balancer.succeed(&["reload"])?;
        let what = format!("{rules} rules");
        wait_for(&what, 2 * LIMIT, || {
            insist_left(&lab, rules, rules / 2).ok()
        })
        .with_context(|| balancer.log())?;
        balancer.wait_backend("web", "backend0", "up")?;
    }
    Ok(())
}

#[test]
fn unload_takes_away_what_a_killed_daemon_left() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let mut balancer = balancer(&lab, &web(&lab).toml())?;
    balancer.kill()?;
    let (pins, socket) = (balancer.pin_dir(), balancer.socket());
    let arguments = [
        "--socket",
        &socket.to_string_lossy(),
        "unload",
        "--pin-dir",
        &pins.to_string_lossy(),
    ];
    let said = run_in(lab.balancer().namespace(), &arguments)?;
    ensure!(said.contains("rules of probes: removed"), "{said}");
    insist_left(&lab, 0, 0)
}

#[test]
fn server_that_is_gone_is_told_from_a_vip_that_is() -> Result<()> {
    let lab = l2(2)?;
    let mut servers = web_servers(&lab)?;
    let balancer = balancer(&lab, &web(&lab).toml())?;
    balancer.wait_backend("web", "backend0", "up")?;
    drop(servers.remove(0));
    let refused = format!(
        "connection refused, by the VIP {}:80 (l2 to {})",
        lab.vip_v4(),
        lab.backend(0).v4()
    );
    wait_state(&balancer, "web", &["down"], &refused)?;
    let server = web_server(lab.backend(0))?;
    balancer.wait_backend("web", "backend0", "up")?;
    server.set_healthy(false)?;
    wait_state(
        &balancer,
        "web",
        &["down"],
        "status 503, expected 200, by the VIP",
    )?;
    let status = balancer.succeed(&["status"])?;
    ensure!(status.contains("http via vip"), "{status}");
    Ok(())
}

#[test]
fn datagrams_go_by_the_vip_as_well() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let mut servers = dns_servers(&lab, lab.vip_v4().into())?;
    let service = Service {
        name: "dns",
        port: 53,
        protocol: "udp",
        health: "kind = \"dns\"\nvia = \"vip\"\nquery_name = \"whoami.lab\"\nquery_type = \"TXT\"\n\
            interval = \"1s\"\ntimeout = \"900ms\"\nfast_interval = \"300ms\"\nrise = 2\nfall = 3\n",
        ..Service::web(lab.vip_v4(), "l2", v4(lab.backends()))
    };
    let balancer = balancer(&lab, &service.toml())?;
    balancer.wait_backend("dns", "backend0", "up")?;
    let backend = lab.backend(0).namespace();
    link::remove_address(backend, "lo", lab.vip_v4().into())?;
    wait_state(&balancer, "dns", &["down"], "no answer by the VIP")?;
    link::add_address(backend, "lo", lab.vip_v4().into(), 32)?;
    balancer.wait_backend("dns", "backend0", "up")?;
    drop(servers.remove(0));
    wait_state(
        &balancer,
        "dns",
        &["down"],
        "connection refused, by the VIP",
    )
}

#[test]
fn new_backend_that_does_not_hold_the_vip_is_not_proven() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let whole = web(&lab);
    let mut first = whole.clone();
    first.backends.truncate(2);
    let balancer = balancer(&lab, &first.toml())?;
    balancer.wait_backend("web", "backend0", "up")?;
    let newcomer = lab.backend(2).namespace();
    link::remove_address(newcomer, "lo", lab.vip_v4().into())?;
    balancer.write_services(&["eth0"], &whole.toml())?;
    let config = balancer.config().display().to_string();
    let output = balancer.command(&["apply", &config])?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!output.status.success(), "{said}");
    for part in ["unproven-backend", "no answer by the VIP"] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    link::add_address(newcomer, "lo", lab.vip_v4().into(), 32)?;
    balancer.succeed(&["apply", "--yes", &config])?;
    balancer.wait_backend("web", "backend2", "up")
}

#[test]
fn address_of_the_balancer_itself_is_no_vip_to_probe_by() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let here = lab.balancer().namespace();
    let mut balancer = balancer(&lab, &web(&lab).toml())?;
    balancer.wait_backend("web", "backend0", "up")?;
    link::add_address(here, "lo", lab.vip_v4().into(), 32)?;
    let why = "is an address of this host";
    balancer.wait_status("the problem to be named", LIMIT, |status| {
        let mut problems = status.problems.iter();
        problems.any(|it| it.contains(why)).then_some(())
    })?;
    // It was up, and nothing is known that speaks against it.
    wait_state(&balancer, "web", &["up"], "")?;
    get_well(&lab, web(&lab).dial())?;
    let config = balancer.config().display().to_string();
    let live = run_in(here, &["check", "--live", &config])?;
    for part in ["vip-probe", why] {
        ensure!(live.contains(part), "no {part:?} in {live}");
    }
    balancer.stop()?;
    balancer.restart()?;
    wait_state(&balancer, "web", &["unproven"], why)?;
    link::remove_address(here, "lo", lab.vip_v4().into())?;
    balancer.wait_backend("web", "backend0", "up")
}

#[test]
fn host_without_tun_devices_says_so() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let mut balancer = balancer(&lab, &Service::web_l2(&lab).toml())?;
    balancer.stop()?;
    balancer.write_services(&["eth0"], &web(&lab).toml())?;
    let script = tempfile::NamedTempFile::new()?.into_temp_path();
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c \
         'mount --bind /dev/null /dev/net/tun && exec \"$0\" \"$@\"' {} \"$@\"\n",
        binary().display()
    );
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    balancer.become_program(&script, &[]);
    balancer.restart()?;
    let why = "interface balancer-";
    wait_state(&balancer, "web", &["unproven"], why).with_context(|| balancer.log())?;
    let log = balancer.log();
    ensure!(log.contains("probes by the VIP cannot be made"), "{log}");
    insist_left(&lab, 0, 0)
}

#[test]
fn device_that_somebody_takes_down_is_no_fault_of_the_backends() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let here = lab.balancer().namespace();
    let balancer = balancer(&lab, &web(&lab).toml())?;
    balancer.wait_backend("web", "backend0", "up")?;
    let device = || -> Result<(String, String)> {
        let (_, devices) = left(here)?;
        let line = devices.first().context("there is no device")?;
        // `6: balancer-55ad: <POINTOPOINT,…`
        let mut parts = line.splitn(3, ": ").map(str::to_owned);
        Ok((
            parts.next().context("index")?,
            parts.next().context("name")?,
        ))
    };
    let (before, name) = device()?;
    link::down(here, &name)?;
    wait_for("another device", LIMIT, || {
        let (now, _) = device().ok()?;
        (now != before).then_some(())
    })
    .with_context(|| balancer.log())?;
    insist_left(&lab, 2, 1)?;
    let log = balancer.log();
    ensure!(!log.contains("is down"), "{log}");
    link::remove_address(lab.backend(0).namespace(), "lo", lab.vip_v4().into())?;
    wait_state(&balancer, "web", &["down"], "no answer by the VIP")
}
