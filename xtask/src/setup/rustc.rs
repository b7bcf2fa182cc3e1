//! The compiler for the kernel program.
//!
//! The target `bpfel-unknown-none` has no prebuilt `core`, so the compiler has
//! to come with its library's source; and bpf-linker reads its bitcode, so its
//! LLVM has to be of the major version that bpf-linker speaks. Any rustc with
//! both will do: nightly or, through `RUSTC_BOOTSTRAP`, stable.
//!
//! Looked for in rustup's toolchains, nightlies first, then in the system's
//! own. Where there is none, rustup is asked for the source, then apt for
//! Debian's `rustc-web`.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use super::packages::Manager;
use super::{Outcome, Policy, Report, apt};
use crate::process::{self, find_program};

/// The LLVM that bpf-linker, in the version we pin, loads.
pub(super) const LLVM_MAJOR: u32 = 22;

const NAME: &str = "rustc";

/// A nightly known to have LLVM 22, for where no toolchain fits.
const KNOWN_NIGHTLY: &str = "nightly-2026-05-20";

/// `rust-web-llvm` is only recommended by rustc-web, so it is named.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "rust-web-llvm", "rust-web-src"];

/// The component is a few megabytes: longer means that no server answers.
const COMPONENT_LIMIT: Duration = Duration::from_secs(30);

/// A minimal toolchain is some hundred megabytes.
const TOOLCHAIN_LIMIT: Duration = Duration::from_secs(300);

/// A rustc that can build the kernel program.
pub(crate) struct EbpfRustc {
    /// The compiler itself, never rustup's proxy: no variable can redirect it.
    pub(crate) rustc: PathBuf,
    /// The cargo of the same toolchain, where it has one.
    pub(crate) cargo: Option<PathBuf>,
    /// The LLVM library it links, for bpf-linker to load.
    pub(super) llvm: PathBuf,
    release: String,
    llvm_version: String,
}

impl EbpfRustc {
    fn describe(&self) -> String {
        let Self {
            rustc,
            release,
            llvm_version,
            ..
        } = self;
        format!(
            "{release} with LLVM {llvm_version} and its source, {}",
            rustc.display()
        )
    }
}

/// Finds a compiler, or says for each that was looked at why it will not do.
pub(crate) fn find() -> Result<EbpfRustc> {
    let mut reasons = Vec::new();
    let mut seen = HashSet::new();
    for sysroot in sysroots() {
        // A toolchain may be a link to another.
        if !seen.insert(sysroot.canonicalize().unwrap_or_else(|_| sysroot.clone())) {
            continue;
        }
        match inspect(&sysroot) {
            Ok(rustc) => return Ok(rustc),
            Err(why) => reasons.push(format!("{}: {why:#}", sysroot.display())),
        }
    }
    if reasons.is_empty() {
        bail!("no rustc found");
    }
    bail!("{}", reasons.join("; "))
}

/// Finds or installs it, with a line for the report.
pub(super) fn ensure(policy: Policy, report: &mut Report) -> Option<EbpfRustc> {
    let why = match find() {
        Ok(rustc) => {
            report.item(NAME, Outcome::Found(rustc.describe()));
            return Some(rustc);
        }
        Err(why) => why,
    };
    let outcome = if policy.install {
        install(policy, report)
    } else {
        Err(why.context("setup asks rustup, then apt, for it"))
    };
    match outcome.and_then(|()| find()) {
        Ok(rustc) => {
            report.item(NAME, Outcome::Installed(rustc.describe()));
            Some(rustc)
        }
        Err(why) => {
            let text = format!("none with rust-src and LLVM {LLVM_MAJOR}: {why:#}");
            let by_apt = Manager::detect() == Some(Manager::Apt) && !policy.root;
            let missing = if by_apt {
                Outcome::NeedsRoot
            } else {
                Outcome::Missing
            };
            report.item(NAME, missing(text));
            None
        }
    }
}

fn install(policy: Policy, report: &Report) -> Result<()> {
    let Err(rustup) = install_by_rustup(report) else {
        return Ok(());
    };
    report.note(&format!("rustup: {rustup:#}"));
    let way_out = format!("`rustup toolchain install {KNOWN_NIGHTLY} --component rust-src`");
    if Manager::detect() != Some(Manager::Apt) {
        bail!("{rustup:#}; with rustup online: {way_out}");
    }
    if !policy.root {
        bail!("{rustup:#}; as root, setup takes Debian's rustc-web; with rustup online: {way_out}");
    }
    report.note(&format!("installing {}", DEBIAN_PACKAGES.join(" ")));
    apt::install(&DEBIAN_PACKAGES)
        .with_context(|| format!("Debian's packages cannot be had; with rustup online: {way_out}"))
        .map(|_| ())
}

/// Asks rustup for the library's source, and for a toolchain only when none
/// that is installed has a fitting LLVM.
fn install_by_rustup(report: &Report) -> Result<()> {
    let rustup = find_program("rustup").context("not installed")?;
    if env::var_os("RUSTUP_AUTO_INSTALL").is_some_and(|value| value == "0") {
        bail!("RUSTUP_AUTO_INSTALL=0 tells it to install nothing unasked");
    }
    let mut command = Command::new(rustup);
    let limit = match rustup_toolchains().into_iter().find(|dir| llvm_fits(dir)) {
        Some(toolchain) => {
            let name = toolchain.file_name().unwrap_or_default();
            command
                .args(["component", "add", "rust-src", "--toolchain"])
                .arg(name);
            COMPONENT_LIMIT
        }
        None => {
            command.args(["toolchain", "install", KNOWN_NIGHTLY]);
            command.args(["--profile", "minimal", "--component", "rust-src"]);
            TOOLCHAIN_LIMIT
        }
    };
    report.note(&format!("trying `{}`", process::spell(&command)));
    process::run_for(&mut command, limit)
}

/// Where compilers may be, the best first.
fn sysroots() -> Vec<PathBuf> {
    let mut sysroots = rustup_toolchains();
    for dir in ["/usr", "/usr/local"].map(PathBuf::from) {
        if dir.join("bin/rustc").is_file() {
            sysroots.push(dir);
        }
    }
    sysroots
}

/// rustup's toolchains: nightlies first, the newest name first, links to
/// others last.
fn rustup_toolchains() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".rustup")));
    let Some(entries) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else {
        return Vec::new();
    };
    let mut toolchains: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    toolchains.sort_by_key(|path| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Reverse((!path.is_symlink(), name.starts_with("nightly"), name))
    });
    toolchains
}

fn llvm_fits(sysroot: &Path) -> bool {
    Version::of(&sysroot.join("bin/rustc")).is_ok_and(|version| version.llvm_major() == LLVM_MAJOR)
}

/// Checks one compiler; the error says what it lacks.
fn inspect(sysroot: &Path) -> Result<EbpfRustc> {
    let source = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !source.is_file() {
        bail!("lacks rust-src");
    }
    let rustc = sysroot.join("bin/rustc");
    let version = Version::of(&rustc)?;
    if version.llvm_major() != LLVM_MAJOR {
        bail!("has LLVM {}, bpf-linker reads {LLVM_MAJOR}", version.llvm);
    }
    let llvm = find_llvm(sysroot)
        .with_context(|| format!("its LLVM {LLVM_MAJOR} library is not in a file of its own"))?;
    let cargo = sysroot.join("bin/cargo");
    // A distribution's cargo may be older than its rustc: take it from a
    // toolchain that is one piece.
    let whole = cargo.is_file() && !sysroot.starts_with("/usr");
    Ok(EbpfRustc {
        rustc,
        cargo: whole.then_some(cargo),
        llvm,
        release: version.release,
        llvm_version: version.llvm,
    })
}

/// The shared LLVM of a compiler: beside it in rustup's toolchains, among the
/// system's libraries in a distribution.
fn find_llvm(sysroot: &Path) -> Option<PathBuf> {
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    let llvm_lib = format!("lib/llvm-{LLVM_MAJOR}/lib");
    let dirs = ["lib", multiarch.as_str(), "lib64", llvm_lib.as_str()];
    dirs.into_iter().find_map(|dir| {
        let mut files: Vec<PathBuf> = fs::read_dir(sysroot.join(dir))
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        // rustup's `libLLVM-22-rust-….so` is a linker script that cannot be
        // loaded; the library is the one with the version in its suffix.
        let wanted = format!("libLLVM.so.{LLVM_MAJOR}");
        files.into_iter().find(|file| {
            file.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&wanted))
        })
    })
}

/// What `rustc -vV` says that we need.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    release: String,
    llvm: String,
}

impl Version {
    fn of(rustc: &Path) -> Result<Self> {
        let text = process::capture(Command::new(rustc).arg("-vV"))?;
        Self::parse(&text).with_context(|| format!("{} -vV names no LLVM", rustc.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let release = field("release: ")?.to_owned();
        let llvm = field("LLVM version: ")?.to_owned();
        Some(Self { release, llvm })
    }

    fn llvm_major(&self) -> u32 {
        let major = self.llvm.split('.').next().unwrap_or_default();
        // 0 is no LLVM's number, so it fits nowhere.
        major.parse().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_the_compilers_own_words() {
        let text = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nrelease: 1.95.0\n\
                    LLVM version: 22.1.2\n";
        let version = Version::parse(text).unwrap();
        assert_eq!(
            version,
            Version {
                release: "1.95.0".into(),
                llvm: "22.1.2".into()
            }
        );
        assert_eq!(version.llvm_major(), 22);
    }

    #[test]
    fn version_without_llvm_is_refused() {
        assert_eq!(Version::parse("release: 1.95.0\n"), None);
        let odd = Version {
            release: "1".into(),
            llvm: "unknown".into(),
        };
        assert_eq!(odd.llvm_major(), 0);
    }

    #[test]
    fn toolchain_without_source_is_refused_by_name_of_the_lack() {
        let dir = tempfile::tempdir().unwrap();
        let error = inspect(dir.path()).err().unwrap().to_string();
        assert_eq!(error, "lacks rust-src");
    }

    #[test]
    fn library_is_taken_and_linker_script_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("lib");
        fs::create_dir(&lib).unwrap();
        for name in [
            "libLLVM-22-rust-1.95.0-stable.so",
            "libLLVM.so.22.1-rust-1.95.0-stable",
        ] {
            fs::write(lib.join(name), "").unwrap();
        }
        assert_eq!(
            find_llvm(dir.path()),
            Some(lib.join("libLLVM.so.22.1-rust-1.95.0-stable"))
        );
    }
}
