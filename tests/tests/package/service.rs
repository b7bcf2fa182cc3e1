//! What systemd and the daemon tell each other.

use anyhow::{Result, ensure};
use balancer_tests::lab::wait_for;

use crate::LIMIT;
use crate::fixture::{FILE, Site, UNIT, packages, stop_unharmed, wait_answers};

#[test]
fn systemd_knows_when_it_is_ready_reloaded_hung_and_stopped() -> Result<()> {
    let packages = packages()?;
    let Some(site) = Site::build()? else {
        return Ok(());
    };
    let machine = &site.machine;
    // Its probes need more of the system than all else does.
    site.write_file("", 100)?;
    let text = std::fs::read_to_string(machine.file(FILE))?;
    site.write(
        FILE,
        &text.replacen("rise = 1\n", "rise = 1\nvia = \"vip\"\n", 1),
    )?;
    // As shipped but for a shorter patience.
    let patience = "[Service]\nWatchdogSec=4\nRestartSec=0\n";
    site.write("/etc/systemd/system/balancer.service.d/lab.conf", patience)?;
    // With a configuration it starts by itself, and is ready when dpkg is done.
    site.install(&packages.old)?;
    ensure!(
        machine.property(UNIT, "ActiveState")? == "active",
        "{}",
        machine.journal(UNIT)
    );
    ensure!(machine.property(UNIT, "UnitFileState")? == "enabled");
    ensure!(site.program()?.is_some(), "ready without a program");
    let load = site.load()?;
    wait_answers(&load, 100)?;
    let text = "revision 1 in force: 1 service, 3 of 3 backends take traffic";
    wait_for(text, LIMIT, || {
        (machine.property(UNIT, "StatusText").ok()? == text).then_some(())
    })?;

    // A bad file is refused before the daemon hears of it.
    let pid = site.main_pid()?;
    let good = std::fs::read_to_string(machine.file(FILE))?;
    site.write(FILE, "[node]\nno_such_key = 1\n")?;
    let refused = machine.run(&["systemctl", "reload", UNIT])?;
    ensure!(!refused.status.success(), "a bad file was taken");
    ensure!(site.main_pid()? == pid && site.status()?.last_reload.is_none());
    site.write(FILE, &good.replacen("weight = 100", "weight = 90", 1))?;
    site.systemctl("reload")?;
    wait_for("the new weight", LIMIT, || {
        (site.status().ok()?.services[0].backends[0].weight == 90).then_some(())
    })?;
    ensure!(site.main_pid()? == pid);

    // A daemon that hangs is ended and comes again; clients notice nothing.
    let restarts = || -> Result<u32> { Ok(machine.property(UNIT, "NRestarts")?.parse()?) };
    ensure!(restarts()? == 0, "{}", machine.journal(UNIT));
    machine.succeed(&["kill", "-STOP", &pid.to_string()])?;
    let pid = site.wait_other(pid)?;
    ensure!(restarts()? == 1);
    let journal = machine.journal(UNIT);
    ensure!(journal.contains("Watchdog timeout"), "{journal}");
    wait_answers(&load, 300)?;
    machine.succeed(&["kill", "-KILL", &pid.to_string()])?;
    let pid = site.wait_other(pid)?;
    wait_answers(&load, 300)?;
    // The file does not keep forwarding; a restart does.
    site.systemctl("restart")?;
    site.wait_other(pid)?;
    wait_answers(&load, 300)?;
    stop_unharmed(load, "a hung, a killed and a restarted daemon")?;

    does_its_work(&site)?;
    site.systemctl("stop")?;
    ensure!(machine.property(UNIT, "Result")? == "success");
    ensure!(site.program()?.is_none(), "a stop leaves the program");
    Ok(())
}

/// Hardened as it is.
fn does_its_work(site: &Site) -> Result<()> {
    let vip = format!("{}:80", site.lab.vip_v4());
    for words in [
        &["verify"][..],
        &["backend", "drain", "web", "backend0"],
        &[
            "explain",
            "--src",
            "192.0.2.1:4000",
            "--dst",
            &vip,
            "--proto",
            "tcp",
        ],
    ] {
        site.machine.succeed(&[&["balancer"], words].concat())?;
    }
    let problems = site.status()?.problems;
    ensure!(problems.is_empty(), "{problems:?}");
    Ok(())
}
