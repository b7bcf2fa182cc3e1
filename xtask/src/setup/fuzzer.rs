//! cargo-fuzz, which builds the fuzz targets.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::install::install;
use super::{Outcome, Policy, Report};
use crate::process::{self, find_program};
use crate::workspace::Workspace;

const NAME: &str = "cargo-fuzz";

/// What is installed.
const VERSION: &str = "0.13.2";

/// Versions that take the arguments of `cargo xtask fuzz`.
const FITS: &str = "cargo-fuzz 0.13.";

/// Finds one that fits, ours first, then on PATH.
pub(crate) fn find(workspace: &Workspace) -> Result<PathBuf> {
    let ours = workspace.path("target/tools/bin/cargo-fuzz");
    let candidates = [
        Some(ours).filter(|path| path.is_file()),
        find_program("cargo-fuzz"),
    ];
    let mut reasons = Vec::new();
    for program in candidates.into_iter().flatten() {
        match try_out(&program) {
            Ok(()) => return Ok(program),
            Err(why) => reasons.push(format!("{}: {why:#}", workspace.display(&program))),
        }
    }
    if reasons.is_empty() {
        bail!("none in target/tools nor on PATH");
    }
    bail!("{}", reasons.join("; "))
}

/// Finds or installs it, with a line for the report.
pub(super) fn ensure(workspace: &Workspace, policy: Policy, report: &mut Report) {
    let outcome = match find(workspace) {
        Ok(program) => Outcome::Found(workspace.display(&program)),
        Err(why) if !policy.install => Outcome::Missing(format!("{why:#}")),
        Err(_) => {
            report.note(&format!(
                "installing {NAME} {VERSION} into target/tools, about a minute"
            ));
            match install(workspace, NAME, VERSION).and_then(|()| find(workspace)) {
                Ok(program) => Outcome::Installed(workspace.display(&program)),
                Err(why) => Outcome::Missing(format!("{why:#}")),
            }
        }
    };
    report.item(NAME, outcome);
}

fn try_out(program: &Path) -> Result<()> {
    let version = process::capture(Command::new(program).arg("--version"))?;
    if !version.starts_with(FITS) {
        bail!("is {}, {VERSION} is wanted", version.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_of_another_version_is_refused() {
        let error = try_out(Path::new("/bin/echo"))
            .expect_err("echo is no fuzzer")
            .to_string();
        assert!(error.contains("0.13.2 is wanted"), "{error}");
    }
}
