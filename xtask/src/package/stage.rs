//! The tree that is to be installed, with modes that do not depend on ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// A tree under the hand; paths in it are without the first slash.
pub(super) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// An empty one, in place of what was there.
    pub(super) fn create(root: &Path) -> Result<Self> {
        let stage = Self {
            root: root.to_owned(),
        };
        if root.exists() {
            stage.remove()?;
        }
        make_directory(root, 0o755)?;
        Ok(stage)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, place: &str) -> PathBuf {
        self.root.join(place)
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.root).with_context(|| self.root.display().to_string())
    }

    /// A directory with those above it.
    pub(super) fn directory(&self, place: &str, mode: u32) -> Result<PathBuf> {
        let path = self.path(place);
        let mut missing: Vec<&Path> = path.ancestors().take_while(|it| !it.exists()).collect();
        while let Some(above) = missing.pop() {
            make_directory(above, 0o755)?;
        }
        set_mode(&path, mode)?;
        Ok(path)
    }

    /// A copy of a file, readable for all.
    pub(super) fn file(&self, from: &Path, place: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| from.display().to_string())?;
        self.write(place, &bytes, 0o644)
    }

    /// A copy of a program.
    pub(super) fn program(&self, from: &Path, place: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| from.display().to_string())?;
        self.write(place, &bytes, 0o755)
    }

    /// A file with this text.
    pub(super) fn text(&self, place: &str, text: &str) -> Result<()> {
        self.write(place, text.as_bytes(), 0o644)
    }

    fn write(&self, place: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.path(place);
        if let Some((above, _)) = place.rsplit_once('/') {
            self.directory(above, 0o755)?;
        }
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        set_mode(&path, mode)
    }

    /// All files but those of `DEBIAN`, by name.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in entries(&directory)? {
                if entry.is_dir() {
                    open.push(entry);
                } else {
                    found.push(entry);
                }
            }
        }
        found.retain(|it| !it.starts_with(self.path("DEBIAN")));
        found.sort();
        Ok(found)
    }
}

/// What is in a directory.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || directory.display().to_string();
    let entries = fs::read_dir(directory).with_context(cannot)?;
    entries
        .map(|entry| Ok(entry.with_context(cannot)?.path()))
        .collect()
}

/// Compresses a file as Debian wants it, without name and date.
pub(super) fn compress(file: &Path) -> Result<()> {
    process::capture(Command::new("gzip").args(["--best", "--no-name"]).arg(file))?;
    let mut name = file.as_os_str().to_owned();
    name.push(".gz");
    set_mode(Path::new(&name), 0o644)
}

fn make_directory(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir(path).with_context(|| path.display().to_string())?;
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_asked_for_and_a_second_stage_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        let stage = Stage::create(&root).unwrap();
        stage.directory("etc/balancer", 0o750).unwrap();
        stage.text("usr/share/a", "text").unwrap();
        let mode = |place| {
            fs::metadata(stage.path(place))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };
        assert_eq!(mode("etc"), 0o755);
        assert_eq!(mode("etc/balancer"), 0o750);
        assert_eq!(mode("usr/share/a"), 0o644);
        stage.text("DEBIAN/control", "x").unwrap();
        assert_eq!(stage.files().unwrap(), [stage.path("usr/share/a")]);
        compress(&stage.path("usr/share/a")).unwrap();
        assert!(stage.path("usr/share/a.gz").is_file());
        let again = Stage::create(&root).unwrap();
        assert_eq!(again.files().unwrap(), [] as [PathBuf; 0]);
    }
}
