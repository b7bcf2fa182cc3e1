//! Where things are, and a cargo whose environment is known.
//!
//! Every build below goes to `<root>/target`, whatever the user's cargo is set
//! to: the object, the tools and the binary are looked for there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::unistd::Uid;

/// The root of the working tree.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The tree this xtask belongs to.
    pub(crate) fn find() -> Result<Self> {
        // Cargo sets the variable at run time, so a tree that was moved after
        // the build is still found.
        let manifest_dir = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        match manifest_dir.parent() {
            Some(root) if root.join("Cargo.lock").is_file() => Ok(Self {
                root: root.to_owned(),
            }),
            _ => bail!(
                "{}: no workspace above it; run `cargo xtask` from inside the tree",
                manifest_dir.display()
            ),
        }
    }

    /// The root itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// What of `path` a person at the root would type.
    pub(crate) fn display(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// The cargo that runs us, at the root, as if started from a plain shell.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        self.cargo_at(Path::new(&program), subcommand)
    }

    /// Like [`Self::cargo`], with the cargo of another toolchain.
    pub(crate) fn cargo_at(&self, program: &Path, subcommand: &str) -> Command {
        let mut command = Command::new(program);
        scrub(&mut command);
        command.arg(subcommand).current_dir(&self.root);
        command
    }

    /// Like [`Self::cargo`], with all output under `<root>/target`.
    pub(crate) fn cargo_in_target(&self, subcommand: &str) -> Command {
        let mut command = self.cargo(subcommand);
        command.arg("--target-dir").arg(self.path("target"));
        command
    }

    /// The `balancer` binary of a profile, `release` or `debug`.
    pub(crate) fn balancer(&self, profile: &str) -> PathBuf {
        self.root.join("target").join(profile).join("balancer")
    }
}

/// Takes out what `cargo run` puts into our environment for us alone.
///
/// Build scripts that watch these variables (ring's does) would otherwise run
/// again at every change between `cargo build` and `cargo xtask`.
fn scrub(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_cargos_own) {
            command.env_remove(name);
        }
    }
}

fn is_cargos_own(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_LINKS",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        "OUT_DIR",
    ];
    NAMES.contains(&name) || name.starts_with("CARGO_PKG_")
}

/// Refuses to go on without root, and says what for.
pub(crate) fn require_root(command: &str, purpose: &str) -> Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    bail!(
        "{command} needs root: it {purpose}; run `sudo -E env PATH=\"$PATH\" cargo xtask {command}`"
    )
}

/// `12.3 s` or `4 min 05 s`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    if secs < 60 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{} min {:02} s", secs / 60, secs % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_this_crate_is_found() {
        let workspace = Workspace::find().unwrap();
        assert!(workspace.path("xtask/Cargo.toml").is_file());
        assert_eq!(workspace.display(&workspace.path("a/b")), "a/b");
        assert_eq!(workspace.display(Path::new("/elsewhere")), "/elsewhere");
    }

    #[test]
    fn variables_of_cargo_run_go_and_settings_of_the_user_stay() {
        for gone in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "OUT_DIR"] {
            assert!(is_cargos_own(gone), "{gone}");
        }
        for kept in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_BUILD_JOBS",
            "PATH",
        ] {
            assert!(!is_cargos_own(kept), "{kept}");
        }
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(format_duration(Duration::from_millis(1_250)), "1.2 s");
        assert_eq!(format_duration(Duration::from_secs(245)), "4 min 05 s");
    }
}
