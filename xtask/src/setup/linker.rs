//! bpf-linker, in the one version that goes with our compiler.
//!
//! bpf-linker 0.10 brings no LLVM: at run time it loads the first `libLLVM*` it
//! finds beside the directories in LD_LIBRARY_PATH, then in PATH. Which one
//! that is depends on the machine (Debian keeps several in one directory), so
//! we point it at a directory that holds a link to the compiler's own LLVM and
//! nothing else. Then we let it link a small module: only what worked counts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use super::install::install;
use super::rustc::LLVM_MAJOR;
use super::{EbpfRustc, Outcome, Policy, Report};
use crate::process::{self, find_program};
use crate::workspace::Workspace;

const NAME: &str = "bpf-linker";

/// What is installed. 0.11 and later link a system LLVM instead.
const VERSION: &str = "0.10.4";

/// A module that every LLVM of the right kind can link.
const PROBE: &str = "target triple = \"bpfel\"\ndefine i32 @probe() {\n  ret i32 2\n}\n";

/// A bpf-linker that was seen working.
pub(crate) struct Linker {
    /// The program.
    pub(crate) program: PathBuf,
    /// The directory for LD_LIBRARY_PATH.
    pub(crate) llvm_dir: PathBuf,
}

/// Finds one that works with the LLVM of `rustc`, ours first, then on PATH.
pub(crate) fn find(workspace: &Workspace, rustc: &EbpfRustc) -> Result<Linker> {
    let llvm_dir = link_llvm(workspace, &rustc.llvm)?;
    let ours = workspace.path("target/tools/bin/bpf-linker");
    let candidates = [
        Some(ours).filter(|path| path.is_file()),
        find_program("bpf-linker"),
    ];
    let mut reasons = Vec::new();
    for program in candidates.into_iter().flatten() {
        match try_out(workspace, &program, &llvm_dir) {
            Ok(()) => return Ok(Linker { program, llvm_dir }),
            Err(why) => reasons.push(format!("{}: {why:#}", workspace.display(&program))),
        }
    }
    if reasons.is_empty() {
        bail!("none in target/tools nor on PATH");
    }
    bail!("{}", reasons.join("; "))
}

/// Finds or installs it, with a line for the report.
pub(super) fn ensure(
    workspace: &Workspace,
    rustc: Option<&EbpfRustc>,
    policy: Policy,
    report: &mut Report,
) {
    let Some(rustc) = rustc else {
        report.item(
            NAME,
            Outcome::Missing("waits for rustc: it uses the same LLVM".into()),
        );
        return;
    };
    let outcome = match find(workspace, rustc) {
        Ok(linker) => Outcome::Found(describe(workspace, &linker)),
        Err(why) if !policy.install => Outcome::Missing(format!("{why:#}")),
        Err(_) => {
            report.note(&format!(
                "installing {NAME} {VERSION} into target/tools, about a minute"
            ));
            match install(workspace, NAME, VERSION).and_then(|()| find(workspace, rustc)) {
                Ok(linker) => Outcome::Installed(describe(workspace, &linker)),
                Err(why) => Outcome::Missing(format!("{why:#}")),
            }
        }
    };
    report.item(NAME, outcome);
}

fn describe(workspace: &Workspace, linker: &Linker) -> String {
    format!(
        "{}, links with LLVM {LLVM_MAJOR}",
        workspace.display(&linker.program)
    )
}

/// Makes the directory that holds this LLVM and no other.
fn link_llvm(workspace: &Workspace, llvm: &Path) -> Result<PathBuf> {
    let dir = workspace.path("target/tools/llvm");
    let link = dir.join("libLLVM.so");
    if fs::read_link(&link).is_ok_and(|old| old == llvm) {
        return Ok(dir);
    }
    let describe = || format!("{}: cannot link to {}", link.display(), llvm.display());
    fs::create_dir_all(&dir).with_context(describe)?;
    // A rename puts it in place at once: another build may be linking.
    let fresh = dir.join(format!("new-{}", std::process::id()));
    std::os::unix::fs::symlink(llvm, &fresh).with_context(describe)?;
    fs::rename(&fresh, &link).with_context(describe)?;
    Ok(dir)
}

/// Checks the version, then links a small module.
fn try_out(workspace: &Workspace, program: &Path, llvm_dir: &Path) -> Result<()> {
    let version = process::capture(Command::new(program).arg("--version"))?;
    if !version_fits(&version) {
        bail!("is {}, {VERSION} is wanted", version.trim());
    }
    let scratch = env::temp_dir().join(format!("balancer-linker-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let result = link_probe(workspace, program, llvm_dir, &scratch);
    fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    result
}

fn link_probe(
    workspace: &Workspace,
    program: &Path,
    llvm_dir: &Path,
    scratch: &Path,
) -> Result<()> {
    let module = scratch.join("probe.ll");
    let object = scratch.join("probe.o");
    fs::write(&module, PROBE).with_context(|| module.display().to_string())?;
    let mut link = Command::new(program);
    link.env("LD_LIBRARY_PATH", llvm_dir)
        .env("RUST_BACKTRACE", "0");
    link.args(["--emit", "obj", "--export", "probe"])
        .arg(&module)
        .arg("-o")
        .arg(&object);
    process::capture(&mut link)
        .with_context(|| format!("cannot link with {}", workspace.display(llvm_dir)))?;
    if !fs::read(&object).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")) {
        bail!("links a module into something that is no ELF object");
    }
    Ok(())
}

/// 0.10.4 and later fixes of 0.10 load LLVM 22 at run time.
fn version_fits(version: &str) -> bool {
    let Some(patch) = version.trim().strip_prefix("bpf-linker 0.10.") else {
        return false;
    };
    patch.parse::<u32>().is_ok_and(|patch| patch >= 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_that_load_llvm_at_run_time_fit() {
        for good in ["bpf-linker 0.10.4\n", "bpf-linker 0.10.5"] {
            assert!(version_fits(good), "{good}");
        }
        for bad in [
            "bpf-linker 0.10.3",
            "bpf-linker 0.9.15",
            "bpf-linker 0.11.0",
            "ld 2.40",
            "",
        ] {
            assert!(!version_fits(bad), "{bad}");
        }
    }

    #[test]
    fn program_that_links_nothing_is_refused() {
        let workspace = Workspace::find().unwrap();
        let error = try_out(&workspace, Path::new("/bin/true"), Path::new("/nowhere"))
            .expect_err("true is no linker")
            .to_string();
        assert!(error.contains("0.10.4 is wanted"), "{error}");
    }
}
