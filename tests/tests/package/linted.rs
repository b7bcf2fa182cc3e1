//! What Debian's and systemd's own judges say.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::fixture::{Site, packages, run};

#[test]
fn lintian_has_nothing_to_say() -> Result<()> {
    let mut lintian = Command::new("lintian");
    // It takes the user's word for it that root knows what he does.
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    let said = run(lintian.arg(&packages()?.old))?;
    ensure!(said.trim().is_empty(), "{said}");
    Ok(())
}

#[test]
fn systemd_finds_no_fault_with_the_unit_and_calls_it_hardened() -> Result<()> {
    let packages = packages()?;
    let Some(site) = Site::build()? else {
        return Ok(());
    };
    site.install(&packages.old)?;
    let unit = "/lib/systemd/system/balancer.service";
    let said = site
        .machine
        .succeed(&["systemd-analyze", "verify", "--man=no", unit])?;
    ensure!(said.trim().is_empty(), "{said}");
    // 0 is locked up, 100 is free. What is left is what its work needs: root,
    // network, BPF, and packet sockets.
    let security = [
        "systemd-analyze",
        "security",
        "--no-pager",
        "--threshold=40",
        unit,
        "--offline=yes",
    ];
    println!("{}", site.machine.succeed(&security)?);
    Ok(())
}
