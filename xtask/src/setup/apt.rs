//! Debian packages: installed without questions, removals or services.

use std::process::Command;

use anyhow::{Context, Result};

use super::services::Quiet;
use crate::process;

/// Installs `packages`; gives back the services that were kept from running.
///
/// The package lists are fetched only when the first try fails: on a machine
/// that has them a failed try costs nothing, and the network may be slow.
pub(super) fn install(packages: &[&str]) -> Result<Vec<String>> {
    let quiet = Quiet::begin().context("services cannot be kept from starting")?;
    let installed = install_with_lists(packages);
    // Also after a failure: some packages may be in.
    let quieted = quiet.end();
    installed?;
    quieted
}

fn install_with_lists(packages: &[&str]) -> Result<()> {
    if install_now(packages).is_ok() {
        return Ok(());
    }
    let update = process::capture(apt_get().arg("update"));
    // Without fresh lists the reason of the second try is the better one,
    // unless it is the first.
    install_now(packages).map_err(|error| match update {
        Ok(_) => error,
        Err(update) => error.context(update),
    })
}

fn install_now(packages: &[&str]) -> Result<()> {
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-remove", "--no-install-recommends"]);
    // A configuration file that the user changed stays as it is.
    command
        .args(["-o", "Dpkg::Options::=--force-confold"])
        .args(packages);
    process::capture(&mut command).map(|_| ())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    // Scripts that ask for no policy still start nothing in single-user mode.
    command.env("RUNLEVEL", "1");
    command.args(["-o", "DPkg::Lock::Timeout=120"]);
    command
}
