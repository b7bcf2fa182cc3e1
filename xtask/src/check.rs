//! `check`: what must hold before a change goes in, but the tests.
//!
//! Every step runs even when one before it failed, so one run shows all there
//! is to mend.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::workspace::{Workspace, format_duration};
use crate::{fuzz, process, tidy};

type Step = fn(&Workspace) -> Result<()>;

/// Runs all steps; the error names those that failed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let steps: [(&str, Step); 4] = [
        ("tidy", tidy::run),
        ("fmt", fmt),
        ("clippy", clippy),
        ("doc", doc),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        println!("== {name}");
        let started = Instant::now();
        let result = step(workspace);
        let took = format_duration(started.elapsed());
        match result {
            Ok(()) => println!("== {name}: ok, {took}"),
            Err(error) => {
                eprintln!("== {name}: {error:#}, {took}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("check failed: {}", failed.join(", "))
}

fn fmt(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo("fmt").args(["--all", "--check"]))?;
    let mut fuzz = workspace.cargo("fmt");
    process::run(fuzz.args(["--manifest-path", fuzz::MANIFEST, "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo_in_target("clippy");
    process::run(cargo.args(["--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut cargo = workspace.cargo_in_target("clippy");
    cargo.args(["--manifest-path", fuzz::MANIFEST, "--all-targets"]);
    process::run(cargo.args(["--", "-D", "warnings"]))
}

/// The binaries are left out: `balancer` and its library would share a page,
/// and their documentation is the help they print.
fn doc(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo_in_target("doc");
    cargo.args([
        "--no-deps",
        "--lib",
        "--document-private-items",
        "--package",
        "balancer-common",
        "--package",
        "balancer-user",
    ]);
    process::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}
