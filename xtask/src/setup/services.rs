//! Keeps services that packages bring along from starting, now or at boot.
//!
//! nginx, iperf3 and HAProxy start a daemon when installed; here they are only
//! programs for the lab. Two things hold them off: a `policy-rc.d` that denies
//! every start while apt runs, and afterwards switching off what is enabled
//! that was not before. A `policy-rc.d` of the user's is set aside and put back,
//! also when a run was killed half-way: the next one starts by putting back.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use crate::process;

const POLICY_DIR: &str = "/usr/sbin";
const MARK: &str = "# Placed by `cargo xtask setup`, for as long as it runs.";

/// Services stay off from [`Quiet::begin`] to [`Quiet::end`].
pub(super) struct Quiet {
    before: BTreeSet<Enabled>,
    _policy: Denial,
}

impl Quiet {
    /// Denies every start from now on.
    pub(super) fn begin() -> Result<Self> {
        let before = enabled(Path::new("/etc"));
        Ok(Self {
            before,
            _policy: Denial::place(Path::new(POLICY_DIR))?,
        })
    }

    /// Switches off what has been enabled meanwhile, and names it.
    pub(super) fn end(self) -> Result<Vec<String>> {
        let after = enabled(Path::new("/etc"));
        let mut names = BTreeSet::new();
        for new in after.difference(&self.before) {
            new.switch_off()?;
            names.insert(new.name().to_owned());
        }
        Ok(names.into_iter().collect())
    }
}

/// A service that starts at boot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Enabled {
    /// By a link in a `*.wants` directory.
    Unit { name: String, link: PathBuf },
    /// By a start link of a System V run level.
    Script(String),
}

impl Enabled {
    fn name(&self) -> &str {
        match self {
            Self::Unit { name, .. } => name.trim_end_matches(".service"),
            Self::Script(name) => name,
        }
    }

    fn switch_off(&self) -> Result<()> {
        match self {
            Self::Script(name) => {
                process::capture(Command::new("update-rc.d").args([name, "disable"]))?;
            }
            Self::Unit { name, .. } if process::find_program("systemctl").is_some() => {
                let mut systemctl = Command::new("systemctl");
                systemctl.args(["disable", "--quiet"]);
                if Path::new("/run/systemd/system").is_dir() {
                    systemctl.arg("--now");
                }
                process::capture(systemctl.arg(name))?;
            }
            Self::Unit { link, .. } => {
                fs::remove_file(link).with_context(|| link.display().to_string())?;
            }
        }
        Ok(())
    }
}

/// All that starts at boot, as the links below `etc` say.
fn enabled(etc: &Path) -> BTreeSet<Enabled> {
    let mut found = BTreeSet::new();
    for dir in entries(&etc.join("systemd/system")) {
        if dir.extension().is_some_and(|it| it == "wants") {
            found.extend(entries(&dir).into_iter().filter_map(|link| {
                let name = link.file_name()?.to_str()?.to_owned();
                Some(Enabled::Unit { name, link })
            }));
        }
    }
    for level in 2..=5 {
        for link in entries(&etc.join(format!("rc{level}.d"))) {
            let name = link
                .file_name()
                .and_then(|it| it.to_str())
                .unwrap_or_default();
            // `S01nginx`: start, order, name.
            if let Some(name) = name.strip_prefix('S').and_then(|rest| rest.get(2..)) {
                found.insert(Enabled::Script(name.to_owned()));
            }
        }
    }
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// A `policy-rc.d` that denies every start, while this value lives.
///
/// Signals that would end us wait until it is gone, for apt as well: one that is
/// stopped between two packages leaves the system half-configured.
struct Denial {
    policy: PathBuf,
    saved: PathBuf,
    signals: SigSet,
}

impl Denial {
    fn place(dir: &Path) -> Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block()?;
        let denial = Self {
            policy: dir.join("policy-rc.d"),
            saved: dir.join("policy-rc.d.before-balancer-setup"),
            signals,
        };
        // What a killed run has left.
        denial.put_back()?;
        if denial.policy.exists() {
            fs::rename(&denial.policy, &denial.saved).with_context(|| denial.describe())?;
        }
        let script = format!("#!/bin/sh\n{MARK}\nexit 101\n");
        fs::write(&denial.policy, script).with_context(|| denial.describe())?;
        fs::set_permissions(&denial.policy, fs::Permissions::from_mode(0o755))
            .with_context(|| denial.describe())?;
        Ok(denial)
    }

    /// Leaves the file as it was before us; does nothing when it is.
    fn put_back(&self) -> Result<()> {
        let ours = fs::read(&self.policy)
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(MARK));
        if ours {
            fs::remove_file(&self.policy).with_context(|| self.describe())?;
        }
        // One that somebody wrote after a run was killed is newer than ours.
        if self.policy.exists() {
            return Ok(());
        }
        match fs::rename(&self.saved, &self.policy) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| self.describe())
            }
            _ => Ok(()),
        }
    }

    fn describe(&self) -> String {
        format!(
            "{} (set aside as {})",
            self.policy.display(),
            self.saved.display()
        )
    }
}

impl Drop for Denial {
    fn drop(&mut self) {
        if let Err(error) = self.put_back() {
            eprintln!("warning: {error:#}; remove or restore it by hand, or no service will start");
        }
        if let Err(errno) = self.signals.thread_unblock() {
            eprintln!("warning: signals stay blocked: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn policy_of_the_user_is_back_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        fs::write(&policy, "theirs").unwrap();
        let denial = Denial::place(dir.path()).unwrap();
        assert!(fs::read_to_string(&policy).unwrap().ends_with("exit 101\n"));
        drop(denial);
        assert_eq!(fs::read_to_string(&policy).unwrap(), "theirs");
        assert_eq!(entries(dir.path()), [policy]);
    }

    #[test]
    fn without_a_policy_none_is_left() {
        let dir = tempfile::tempdir().unwrap();
        drop(Denial::place(dir.path()).unwrap());
        assert_eq!(entries(dir.path()), [] as [PathBuf; 0]);
    }

    #[test]
    fn killed_run_is_repaired_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        fs::write(&policy, "theirs").unwrap();
        std::mem::forget(Denial::place(dir.path()).unwrap());
        drop(Denial::place(dir.path()).unwrap());
        assert_eq!(fs::read_to_string(&policy).unwrap(), "theirs");
    }

    #[test]
    fn signals_wait_while_it_is_in_place_and_no_longer() {
        let waits = || SigSet::thread_get_mask().unwrap().contains(Signal::SIGINT);
        let dir = tempfile::tempdir().unwrap();
        let denial = Denial::place(dir.path()).unwrap();
        assert!(waits());
        drop(denial);
        assert!(!waits());
    }

    #[test]
    fn both_kinds_of_start_links_are_seen() {
        let etc = tempfile::tempdir().unwrap();
        let wants = etc.path().join("systemd/system/multi-user.target.wants");
        let rc3 = etc.path().join("rc3.d");
        fs::create_dir_all(&wants).unwrap();
        fs::create_dir_all(&rc3).unwrap();
        symlink("/lib/x", wants.join("nginx.service")).unwrap();
        symlink("../init.d/haproxy", rc3.join("S01haproxy")).unwrap();
        symlink("../init.d/off", rc3.join("K01off")).unwrap();
        let names: Vec<String> = enabled(etc.path())
            .iter()
            .map(|it| it.name().to_owned())
            .collect();
        assert_eq!(names, ["nginx", "haproxy"]);
    }
}
