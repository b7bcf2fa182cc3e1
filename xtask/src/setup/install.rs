//! Tools from crates.io, into `target/tools`.

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

/// Installs one version of a tool.
///
/// `--root` keeps it out of the user's own `~/.cargo/bin`.
pub(super) fn install(workspace: &Workspace, name: &str, version: &str) -> Result<()> {
    let mut cargo = workspace.cargo("install");
    // The user's settings for their own crates are none for a tool; a target
    // directory of theirs would keep its build.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(name);
    }
    cargo.args([
        name,
        "--version",
        version,
        "--locked",
        "--quiet",
        "--force",
        "--root",
    ]);
    cargo.arg(workspace.path("target/tools"));
    process::capture(&mut cargo)
        .context("it is on crates.io and needs a C compiler for linking")
        .map(|_| ())
}
