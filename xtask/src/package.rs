//! `package`: a Debian package of the binary and all that goes with it.
//!
//! The tree that is to be installed is staged under `target/package`, and
//! `dpkg-deb` makes the package of it: what stands in `deploy`, the binary, and
//! what the binary says of itself, its manual pages and completions. Owners,
//! modes and dates do not depend on who builds, and when.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::control::Control;
use self::stage::Stage;
use crate::workspace::Workspace;
use crate::{build, process};

mod control;
mod stage;

/// The revision of the packaging, behind the version of the program.
const PACKAGING: &str = "1";

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Version of the package, instead of the one of the program.
    #[arg(long)]
    version: Option<String>,
    /// Package this binary, and build none.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the package goes; `target/package` by default.
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// How the package is compressed, as dpkg-deb calls it; `none` is quick.
    #[arg(long, default_value = "xz")]
    compression: String,
}

/// Builds, stages and packs; the last line names the package.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    for program in ["dpkg-deb", "dpkg-shlibdeps"] {
        if process::find_program(program).is_none() {
            bail!("no {program}: a package needs dpkg and dpkg-dev; run `cargo xtask setup`");
        }
    }
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            build::run(workspace, &build::Args::default())?;
            workspace.balancer("release")
        }
    };
    let output = match &args.output {
        Some(output) => output.clone(),
        None => workspace.path("target/package"),
    };
    fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
    let version = match &args.version {
        Some(version) => version.clone(),
        None => format!("{}-{PACKAGING}", env!("CARGO_PKG_VERSION")),
    };
    let stage = Stage::create(&output.join("tree"))?;
    fill(workspace, &stage, &binary)?;
    let control = Control {
        version,
        architecture: process::capture(Command::new("dpkg").arg("--print-architecture"))?
            .trim()
            .to_owned(),
        maintainer: maintainer(workspace),
        depends: depends(&stage, &output)?,
        date_secs: date_secs(workspace)?,
    };
    control.write(workspace, &stage)?;
    let package = pack(&stage, &output, &control, &args.compression)?;
    println!("{}", workspace.display(&package));
    Ok(())
}

/// Everything but what `dpkg` itself reads.
fn fill(workspace: &Workspace, stage: &Stage, binary: &Path) -> Result<()> {
    stage.program(binary, "usr/bin/balancer")?;
    let deploy = |name: &str| workspace.path("deploy").join(name);
    // Where both deb-systemd-helper and systemd look on systems with one /usr
    // and without.
    stage.file(
        &deploy("balancer.service"),
        "lib/systemd/system/balancer.service",
    )?;
    stage.directory("etc/balancer", 0o750)?;
    let share = "usr/share/doc/balancer";
    for (from, to) in [
        ("balancer.toml", "examples/balancer.toml"),
        (
            "prometheus/balancer.rules.yml",
            "examples/prometheus/balancer.rules.yml",
        ),
        ("grafana/balancer.json", "examples/grafana/balancer.json"),
        ("debian/copyright", "copyright"),
    ] {
        stage.file(&deploy(from), &format!("{share}/{to}"))?;
    }
    for name in [
        "operations.md",
        "configuration.md",
        "changes.md",
        "metrics.md",
        "openapi.json",
    ] {
        stage.file(
            &workspace.path("docs").join(name),
            &format!("{share}/{name}"),
        )?;
    }
    stage.file(
        &deploy("debian/lintian-overrides"),
        "usr/share/lintian/overrides/balancer",
    )?;
    let say = |arguments: &[&str]| process::capture(Command::new(binary).args(arguments));
    stage.text(
        "usr/share/balancer/balancer.schema.json",
        &say(&["check", "--schema"])?,
    )?;
    for (shell, place) in [
        ("bash", "bash-completion/completions/balancer"),
        ("zsh", "zsh/vendor-completions/_balancer"),
        ("fish", "fish/vendor_completions.d/balancer.fish"),
    ] {
        stage.text(
            &format!("usr/share/{place}"),
            &say(&["completions", shell])?,
        )?;
    }
    let pages = stage.directory("usr/share/man/man1", 0o755)?;
    process::capture(Command::new(binary).args(["man", "--dir"]).arg(&pages))?;
    for page in stage::entries(&pages)? {
        stage::compress(&page)?;
    }
    stage.file(
        &workspace.path("CHANGELOG.md"),
        &format!("{share}/changelog"),
    )?;
    stage::compress(&stage.path(&format!("{share}/changelog")))
}

/// What the binary is linked with, as `Depends` has it.
fn depends(stage: &Stage, output: &Path) -> Result<String> {
    // It reads the names of the packages from a source tree.
    let source = Stage::create(&output.join("source"))?;
    source.text(
        "debian/control",
        "Source: balancer\n\nPackage: balancer\nArchitecture: any\n",
    )?;
    let mut command = Command::new("dpkg-shlibdeps");
    command.arg("-O").arg(stage.path("usr/bin/balancer"));
    let said = process::capture(command.current_dir(source.root()))?;
    source.remove()?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(line
        .context("dpkg-shlibdeps names no dependency")?
        .to_owned())
}

/// As other tools of Debian have it: `DEBFULLNAME` and `DEBEMAIL`, else git's.
fn maintainer(workspace: &Workspace) -> String {
    let git = |key: &str| {
        let mut command = Command::new("git");
        command.args(["config", key]).current_dir(workspace.root());
        let said = process::capture(&mut command).ok()?;
        Some(said.trim().to_owned()).filter(|it| !it.is_empty())
    };
    let name = env::var("DEBFULLNAME").ok().or_else(|| git("user.name"));
    let address = env::var("DEBEMAIL").ok().or_else(|| git("user.email"));
    format!(
        "{} <{}>",
        name.as_deref().unwrap_or("The balancer authors"),
        address.as_deref().unwrap_or("root@localhost")
    )
}

/// The date of everything in the package: `SOURCE_DATE_EPOCH`, or the last
/// commit's.
fn date_secs(workspace: &Workspace) -> Result<u64> {
    if let Ok(date) = env::var("SOURCE_DATE_EPOCH") {
        return date
            .parse()
            .context("SOURCE_DATE_EPOCH: no number of seconds");
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(workspace.root());
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    match process::capture(&mut git) {
        Ok(said) => said.trim().parse().context("date of the last commit"),
        // A tree without its history.
        Err(_) => Ok(now().context("the clock")?.as_secs()),
    }
}

fn pack(stage: &Stage, output: &Path, control: &Control, compression: &str) -> Result<PathBuf> {
    let Control {
        version,
        architecture,
        ..
    } = control;
    // The name has no epoch.
    let version = version
        .split_once(':')
        .map_or(version.as_str(), |(_, rest)| rest);
    let package = output.join(format!("balancer_{version}_{architecture}.deb"));
    let mut command = Command::new("dpkg-deb");
    command.env("SOURCE_DATE_EPOCH", control.date_secs.to_string());
    command
        .arg("--root-owner-group")
        .arg(format!("-Z{compression}"));
    command.arg("--build");
    process::capture(command.arg(stage.root()).arg(&package))?;
    Ok(package)
}
