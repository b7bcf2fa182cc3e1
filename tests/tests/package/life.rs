//! From the first installation to the purge.

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::Machine;

use crate::fixture::{FILE, NEW, OLD, Packages, Site, UNIT, packages, stop_unharmed, wait_answers};

#[test]
fn installs_upgrades_without_a_gap_and_leaves_nothing() -> Result<()> {
    let packages = packages()?;
    let Some(site) = Site::build()? else {
        return Ok(());
    };
    let machine = &site.machine;

    // Without a configuration nothing starts, now or at boot.
    let said = site.install(&packages.old)?;
    ensure!(said.contains("systemctl enable --now balancer"), "{said}");
    ensure!(machine.property(UNIT, "ActiveState")? == "inactive");
    ensure!(machine.property(UNIT, "UnitFileState")? == "disabled");
    for words in [
        &["balancer", "--version"][..],
        &["man", "--where", "balancer-apply"],
        &[
            "bash",
            "-nc",
            ". /usr/share/bash-completion/completions/balancer",
        ],
        &[
            "balancer",
            "check",
            "/usr/share/doc/balancer/examples/balancer.toml",
        ],
    ] {
        machine.succeed(words)?;
    }
    site.dpkg("--verify", "balancer")?;

    upgrades_have_no_gap(&site, packages)?;
    removed_and_purged(&site, packages)
}

/// `keep_forwarding` is false, as it is by default.
fn upgrades_have_no_gap(site: &Site, packages: &Packages) -> Result<()> {
    let machine = &site.machine;
    site.write_file("", 100)?;
    machine
        .succeed(&["systemctl", "enable", "--now", UNIT])
        .with_context(|| machine.journal(UNIT))?;
    let load = site.load()?;
    wait_answers(&load, 300)?;
    let mut pid = site.main_pid()?;
    for (package, version) in [
        (&packages.new, NEW),
        (&packages.old, OLD),
        (&packages.new, NEW),
    ] {
        let (program, before) = (site.program()?, packets(site)?);
        site.install(package)?;
        ensure!(installed(machine)? == version);
        pid = site.wait_other(pid)?;
        wait_answers(&load, 300)?;
        ensure!(site.program()? != program, "the program is the old one");
        ensure!(packets(site)? >= before, "counters went back");
    }
    // A file that the new version refuses has the old daemon go on.
    let text = std::fs::read_to_string(machine.file(FILE))?;
    site.write(FILE, "[node]\nno_such_key = 1\n")?;
    let said = site.install(&packages.old)?;
    ensure!(said.contains("this version refuses"), "{said}");
    ensure!(site.main_pid()? == pid);
    wait_answers(&load, 300)?;
    site.write(FILE, &text)?;
    let said = site.install(&packages.new)?;
    ensure!(!said.contains("refuses"), "{said}");
    site.wait_other(pid)?;
    wait_answers(&load, 300)?;
    stop_unharmed(load, "upgrades and downgrades")
}

/// A removal leaves nothing in the kernel, also where a stop would.
fn removed_and_purged(site: &Site, packages: &Packages) -> Result<()> {
    let machine = &site.machine;
    site.write_file("keep_forwarding = true", 100)?;
    site.systemctl("restart")?;
    let seed = std::fs::read(machine.file("/var/lib/balancer/seed"))?;
    site.dpkg("--remove", "balancer")?;
    nothing_runs(site)?;
    ensure!(std::fs::read(machine.file("/var/lib/balancer/seed"))? == seed);
    ensure!(machine.file(FILE).exists());

    // It comes back as it was, and a purge takes what is left.
    site.install(&packages.new)?;
    ensure!(machine.property(UNIT, "ActiveState")? == "active");
    ensure!(machine.property(UNIT, "UnitFileState")? == "enabled");
    let load = site.load()?;
    wait_answers(&load, 100)?;
    stop_unharmed(load, "after it was installed again")?;
    ensure!(std::fs::read(machine.file("/var/lib/balancer/seed"))? == seed);
    let files = machine.succeed(&["dpkg", "--listfiles", "balancer"])?;
    site.dpkg("--purge", "balancer")?;
    nothing_runs(site)?;
    let own = files.lines().filter(|path| path.contains("balancer"));
    let links = [
        "/etc/systemd/system/multi-user.target.wants/balancer.service",
        "/var/lib/balancer",
    ];
    for path in own.chain(links) {
        let left = machine.file(path).symlink_metadata().is_ok();
        ensure!(!left, "{path} is left");
    }
    Ok(())
}

fn installed(machine: &Machine) -> Result<String> {
    machine.succeed(&[
        "dpkg-query",
        "--show",
        "--showformat=${Version}",
        "balancer",
    ])
}

fn packets(site: &Site) -> Result<Vec<u64>> {
    let status = site.status()?;
    let backends = status.services.iter().flat_map(|service| &service.backends);
    Ok(backends.map(|backend| backend.packets).collect())
}

/// No process, no program, no pin.
fn nothing_runs(site: &Site) -> Result<()> {
    ensure!(site.main_pid()? == 0, "a process is left");
    ensure!(site.program()?.is_none(), "a program is left");
    // The kernel's own iterators are on every fresh bpffs.
    let pins = site.machine.succeed(&["ls", "/sys/fs/bpf"])?;
    let left = pins
        .lines()
        .any(|pin| !["maps.debug", "progs.debug"].contains(&pin));
    ensure!(!left, "pins are left: {pins}");
    Ok(())
}
