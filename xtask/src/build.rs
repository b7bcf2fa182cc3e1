//! `build`: the kernel programs, then the binary that carries them.
//!
//! Each kernel program is built into `target/ebpf` and its object copied to
//! `target/bpf/NAME.o`, where the build script of `balancer-user` picks up
//! those it embeds. A copy is only touched when its bytes change, so a build
//! without a change compiles nothing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup::{self, EbpfRustc, Linker};
use crate::workspace::Workspace;

/// BPF has the byte order of the machine it runs on.
const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// The kernel objects: `ebpf-NAME` is the binary of `balancer-ebpf` that
/// becomes `target/bpf/NAME.o`.
const OBJECTS: &[&str] = &["balancer", "decap", "bench"];

/// Arguments of `cargo xtask build`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Optimise the binary and drop its debug assertions; the default.
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Build the binary without optimisation, into `target/debug`. The kernel
    /// program is always optimised: the verifier accepts no other.
    #[arg(long)]
    debug: bool,
}

/// Builds both and says where the binary is.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let objects = build_ebpf(workspace)?;
    let mut cargo = workspace.cargo_in_target("build");
    cargo.args(["--package", "balancer-user"]);
    let profile = if args.debug { "debug" } else { "release" };
    if !args.debug {
        cargo.arg("--release");
    }
    process::run(&mut cargo)?;
    for object in objects {
        print_size(workspace, &object)?;
    }
    print_size(workspace, &workspace.balancer(profile))
}

/// Builds the kernel programs and gives back the paths of their objects.
fn build_ebpf(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let (rustc, linker) = setup::find_ebpf_tools(workspace)?;
    let target_dir = workspace.path("target/ebpf");
    let mut cargo = ebpf_cargo(workspace, &rustc, &linker);
    cargo.arg("--target-dir").arg(&target_dir);
    process::run(&mut cargo)?;
    let built = target_dir.join(TARGET).join("release");
    let mut objects = Vec::new();
    for name in OBJECTS {
        let object = workspace.path(&format!("target/bpf/{name}.o"));
        copy_if_changed(&built.join(format!("ebpf-{name}")), &object)?;
        objects.push(object);
    }
    Ok(objects)
}

fn ebpf_cargo(workspace: &Workspace, rustc: &EbpfRustc, linker: &Linker) -> Command {
    let mut cargo = match &rustc.cargo {
        Some(program) => workspace.cargo_at(program, "build"),
        None => workspace.cargo("build"),
    };
    // Settings that are meant for programs of this machine.
    for name in [
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ] {
        cargo.env_remove(name);
    }
    cargo.env("RUSTC", &rustc.rustc);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded_rustflags(linker));
    // `-Z build-std` asks for nightly, and does its work on stable too.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    // For bpf-linker; cargo and rustc find their libraries by other means.
    cargo.env("LD_LIBRARY_PATH", &linker.llvm_dir);
    cargo.args(["--release", "--package", "balancer-ebpf", "--bins"]);
    cargo.args(["--target", TARGET, "-Z", "build-std=core"]);
    cargo
}

/// The flags, in the form that survives blanks in paths.
fn encoded_rustflags(linker: &Linker) -> String {
    let flags = [
        format!("-Clinker={}", linker.program.display()),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit registers and jumps: every kernel with XDP links has them.
        "-Ctarget-cpu=v3".to_owned(),
        // Packets have no alignment; without this every field is read byte
        // by byte and put together again.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // aya-ebpf lays the kernel's registers out by the machine's architecture.
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{}\"", env::consts::ARCH),
    ];
    flags.join("\x1f")
}

/// Replaces `to` only when its bytes differ: its date makes cargo rebuild.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("{}: no object", from.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        bail!(
            "{}: is no ELF object; did bpf-linker link it?",
            from.display()
        );
    }
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let describe = || format!("{}: cannot be written", to.display());
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(describe)?;
    }
    // Written whole or not at all: another build may be reading it.
    let fresh = to.with_extension("o.new");
    fs::write(&fresh, &bytes).with_context(describe)?;
    fs::rename(&fresh, to).with_context(describe)
}

fn print_size(workspace: &Workspace, file: &Path) -> Result<()> {
    let len = fs::metadata(file)
        .with_context(|| file.display().to_string())?
        .len();
    println!("{}  {} KiB", workspace.display(file), len.div_ceil(1024));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_copied_once_and_left_alone_when_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("built"), dir.path().join("bpf/object.o"));
        fs::write(&from, b"\x7fELF one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let date = fs::metadata(&to).unwrap().modified().unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), date);
        fs::write(&from, b"\x7fELF two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"\x7fELF two");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("built");
        fs::write(&from, b"!<arch>").unwrap();
        let error = copy_if_changed(&from, &dir.path().join("o"))
            .expect_err("no ELF")
            .to_string();
        assert!(error.contains("no ELF object"), "{error}");
    }

    #[test]
    fn flags_keep_paths_with_blanks_whole() {
        let linker = Linker {
            program: "/a b/bpf-linker".into(),
            llvm_dir: "/l".into(),
        };
        let flags = encoded_rustflags(&linker);
        assert_eq!(flags.split('\x1f').next(), Some("-Clinker=/a b/bpf-linker"));
        // Only the separator divides them: a blank in a path does not.
        assert!(flags.split('\x1f').all(|flag| flag != "b/bpf-linker"));
    }
}
