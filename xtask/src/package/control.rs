//! What `dpkg` reads of a package: control, checksums, scripts, change log.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::stage::{self, Stage};
use crate::process;
use crate::workspace::Workspace;

const DESCRIPTION: &str = "layer-4 load balancer in XDP
 An XDP program in the kernel hashes each TCP or UDP flow to the address of a
 service onto one of its backends; a controller in user space probes the
 backends, keeps the kernel's tables right, counts and watches.
 .
 Every change is checked, planned, rehearsed in the real kernel program, applied
 in stages, watched, and undone by itself when it does harm. The balancer says
 within seconds, by name, which service is off, which revision did it and how to
 undo it.";

/// What a package says of itself.
pub(super) struct Control {
    pub(super) version: String,
    pub(super) architecture: String,
    pub(super) maintainer: String,
    pub(super) depends: String,
    /// The change log's, seconds since 1970.
    pub(super) date_secs: u64,
}

impl Control {
    /// Writes the change log and all of `DEBIAN`; everything else is to be
    /// there.
    pub(super) fn write(&self, workspace: &Workspace, stage: &Stage) -> Result<()> {
        let log = "usr/share/doc/balancer/changelog.Debian";
        stage.text(log, &self.change_log()?)?;
        stage::compress(&stage.path(log))?;
        for script in ["preinst", "postinst", "prerm", "postrm"] {
            let from = workspace.path("deploy/debian").join(script);
            stage.program(&from, &format!("DEBIAN/{script}"))?;
        }
        let files = stage.files()?;
        stage.text("DEBIAN/md5sums", &checksums(stage, &files)?)?;
        stage.text("DEBIAN/control", &self.text(installed_kib(&files)?))
    }

    fn text(&self, installed_kib: u64) -> String {
        let Self {
            version,
            architecture,
            maintainer,
            depends,
            ..
        } = self;
        format!(
            "Package: balancer\nVersion: {version}\nArchitecture: {architecture}\n\
             Maintainer: {maintainer}\nInstalled-Size: {installed_kib}\nDepends: {depends}\n\
             Section: net\nPriority: optional\nDescription: {DESCRIPTION}\n"
        )
    }

    fn change_log(&self) -> Result<String> {
        let Self {
            version,
            maintainer,
            date_secs,
            ..
        } = self;
        let mut date = Command::new("date");
        date.env("LC_ALL", "C").args(["--utc", "--rfc-email"]);
        let date = process::capture(date.arg(format!("--date=@{date_secs}")))?;
        Ok(format!(
            "balancer ({version}) unstable; urgency=medium\n\n  * Built from the repository; see \
             changelog.gz for what is new.\n\n -- {maintainer}  {}\n",
            date.trim()
        ))
    }
}

fn checksums(stage: &Stage, files: &[std::path::PathBuf]) -> Result<String> {
    let root = stage.root();
    let places = files.iter().map(|file| file.strip_prefix(root));
    let places: Vec<&Path> = places
        .collect::<Result<_, _>>()
        .context("outside of the stage")?;
    process::capture(Command::new("md5sum").args(places).current_dir(root))
}

/// As Debian counts: whole KiB a file.
fn installed_kib(files: &[std::path::PathBuf]) -> Result<u64> {
    let len = |file: &std::path::PathBuf| Ok(file.metadata()?.len().div_ceil(1024));
    files.iter().map(len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_log_is_in_the_form_that_debian_reads() {
        let control = Control {
            version: "1.2.3-1".into(),
            architecture: "amd64".into(),
            maintainer: "A <a@b.example>".into(),
            depends: "libc6".into(),
            date_secs: 86_400,
        };
        let log = control.change_log().unwrap();
        assert!(log.starts_with("balancer (1.2.3-1) unstable;"), "{log}");
        assert!(
            log.ends_with(" -- A <a@b.example>  Fri, 02 Jan 1970 00:00:00 +0000\n"),
            "{log}"
        );
        let text = control.text(7);
        assert!(
            text.contains("\nInstalled-Size: 7\n") && text.ends_with(".\n"),
            "{text}"
        );
    }
}
