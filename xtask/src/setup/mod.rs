//! `setup`: finds or installs all that building, lab and tests need.
//!
//! Each item looks first and installs only what is missing, so a second run
//! changes nothing and is fast. Nothing of the user's is removed: tools go
//! under `target/tools`, apt is told never to remove a package, and services
//! that packages bring along stay off.

use std::path::PathBuf;

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::workspace::Workspace;

mod apt;
mod bpffs;
mod fuzzer;
mod install;
mod linker;
mod packages;
mod rustc;
mod services;

pub(crate) use linker::Linker;
pub(crate) use rustc::EbpfRustc;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also what the benchmark compares with: nftables and HAProxy.
    #[arg(long)]
    bench: bool,
    /// Only looks and reports; installs and mounts nothing.
    #[arg(long)]
    dry_run: bool,
}

/// How much has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// To run the demo.
    Lab,
    /// To run the tests, which fuzz for a moment.
    Test,
    /// To compare with other balancers as well.
    Bench,
}

/// What became of one item.
enum Outcome {
    /// It was there.
    Found(String),
    /// It was not there and is now.
    Installed(String),
    /// It is not there; the text says why and what to do.
    Missing(String),
    /// It is not there and only root can change that.
    NeedsRoot(String),
}

/// May an item be installed, or only looked for?
#[derive(Clone, Copy)]
struct Policy {
    install: bool,
    root: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let scope = if args.bench {
        Scope::Bench
    } else {
        Scope::Test
    };
    survey(workspace, scope, !args.dry_run)
}

/// Installs what is missing for `scope`; an error says what still is.
pub(crate) fn ensure(workspace: &Workspace, scope: Scope) -> Result<()> {
    survey(workspace, scope, true)
}

/// Installs what fuzzing alone needs.
pub(crate) fn ensure_fuzzer(workspace: &Workspace) -> Result<()> {
    let policy = Policy {
        install: true,
        root: Uid::effective().is_root(),
    };
    let mut report = Report::default();
    packages::ensure_only(&["cc", "c++"], policy, &mut report);
    fuzzer::ensure(workspace, policy, &mut report);
    report.finish()
}

/// cargo-fuzz, or what to do to get it.
pub(crate) fn find_fuzzer(workspace: &Workspace) -> Result<PathBuf> {
    match fuzzer::find(workspace) {
        Ok(program) => Ok(program),
        Err(why) => bail!("no cargo-fuzz that fits: {why:#}; run `cargo xtask setup`"),
    }
}

/// The tools for the kernel program, or what to do to get them.
pub(crate) fn find_ebpf_tools(workspace: &Workspace) -> Result<(EbpfRustc, Linker)> {
    let rustc = match rustc::find() {
        Ok(rustc) => rustc,
        Err(why) => bail!("no rustc that can build for BPF: {why}; run `cargo xtask setup`"),
    };
    match linker::find(workspace, &rustc) {
        Ok(linker) => Ok((rustc, linker)),
        Err(why) => bail!("no bpf-linker that works: {why:#}; run `cargo xtask setup`"),
    }
}

fn survey(workspace: &Workspace, scope: Scope, install: bool) -> Result<()> {
    let policy = Policy {
        install,
        root: Uid::effective().is_root(),
    };
    let mut report = Report::default();
    // The linker is tried with the compiler's LLVM, so the compiler comes first.
    let rustc = rustc::ensure(policy, &mut report);
    linker::ensure(workspace, rustc.as_ref(), policy, &mut report);
    packages::ensure(scope, policy, &mut report);
    if scope >= Scope::Test {
        fuzzer::ensure(workspace, policy, &mut report);
    }
    bpffs::ensure(policy, &mut report);
    report.finish()
}

/// Prints the items as they come and remembers what is missing.
#[derive(Default)]
struct Report {
    missing: Vec<&'static str>,
    needs_root: bool,
}

impl Report {
    fn item(&mut self, name: &'static str, outcome: Outcome) {
        let (word, text) = match outcome {
            Outcome::Found(text) => ("ok", text),
            Outcome::Installed(text) => ("installed", text),
            Outcome::Missing(text) => {
                self.missing.push(name);
                ("missing", text)
            }
            Outcome::NeedsRoot(text) => {
                self.missing.push(name);
                self.needs_root = true;
                ("missing", text)
            }
        };
        println!("{word:<10} {name:<12} {text}");
    }

    /// A line that belongs to no item.
    fn note(&self, text: &str) {
        println!("{:<10} {text}", "");
    }

    fn finish(self) -> Result<()> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let names = self.missing.join(", ");
        if self.needs_root {
            bail!("missing: {names}; run as root: `sudo -E env PATH=\"$PATH\" cargo xtask setup`");
        }
        if self.missing == [bpffs::NAME] {
            bail!("all is there but bpffs: builds work, programs and maps cannot be pinned");
        }
        bail!("missing: {names}; the lines above say what to do")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_content_when_nothing_is_missing() {
        let mut report = Report::default();
        report.item("a", Outcome::Found("here".into()));
        report.item("b", Outcome::Installed("now".into()));
        assert!(report.finish().is_ok());
    }

    #[test]
    fn missing_bpffs_alone_is_said_so() {
        let mut report = Report::default();
        report.item(bpffs::NAME, Outcome::Missing("refused".into()));
        let error = report.finish().expect_err("bpffs is missing").to_string();
        assert!(error.starts_with("all is there but bpffs"), "{error}");
    }

    #[test]
    fn what_only_root_can_do_asks_for_root() {
        let mut report = Report::default();
        report.item(bpffs::NAME, Outcome::NeedsRoot("not mounted".into()));
        let error = report.finish().expect_err("bpffs is missing").to_string();
        assert!(error.contains("run as root"), "{error}");
    }
}
