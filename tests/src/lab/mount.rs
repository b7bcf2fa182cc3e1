//! Small disks, read-only ones, and no mount left behind.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A disk of its own below a [`Scratch`](super::cleanup::Scratch), which
/// unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts an empty disk of so many bytes over a directory.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount(path: &Path, size: u64) -> Result<Self> {
        let disk = Self {
            path: path.to_owned(),
        };
        let options = format!("size={size},mode=0755");
        mount(
            Some("blb-disk"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("cannot mount {}", path.display()))?;
        Ok(disk)
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When something else than the end of the disk stops that.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.ballast())?;
        // A file takes whole pages, and one byte more has no place.
        for piece in [4096, 1] {
            loop {
                match file.write(&vec![0x5a; piece]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling the disk"),
                }
            }
        }
        let error = fs::write(self.path.join("one-more"), "x").err();
        let _ = fs::remove_file(self.path.join("one-more"));
        ensure!(
            error.is_some_and(|it| it.kind() == ErrorKind::StorageFull),
            "the disk is not full"
        );
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When it cannot.
    pub fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    /// Has nobody write there by its path any more, or again. The disk itself
    /// cannot be remounted while a daemon holds a file open that it writes to;
    /// what comes over it can.
    ///
    /// # Errors
    /// When a mount cannot be changed.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        if !read_only {
            return Ok(umount2(&self.path, MntFlags::MNT_DETACH)?);
        }
        let bind = MsFlags::MS_BIND;
        mount(
            Some(&self.path),
            &self.path,
            None::<&str>,
            bind,
            None::<&str>,
        )?;
        let flags = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &self.path, None::<&str>, flags, None::<&str>)
            .with_context(|| format!("{} stays writable", self.path.display()))
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

/// Mounts a bpffs of its own over a directory below a
/// [`Scratch`](super::cleanup::Scratch), which unmounts it.
///
/// # Errors
/// When it cannot be mounted.
pub fn mount_bpffs(path: &Path) -> Result<()> {
    let options = None::<&str>;
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount a bpffs at {}", path.display()))
}

/// Unmounts what is mounted there, though somebody has it open, as `umount
/// --lazy` does.
///
/// # Errors
/// When nothing is mounted there.
pub fn unmount_lazily(path: &Path) -> Result<()> {
    umount2(path, MntFlags::MNT_DETACH)
        .with_context(|| format!("cannot unmount {}", path.display()))
}

/// Unmounts whatever is mounted below a directory.
pub(super) fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<&Path> = points
        .map(Path::new)
        .filter(|point| *point != directory && point.starts_with(directory))
        .collect();
    // What is mounted inside of a mount goes first.
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        // A daemon that still ends keeps its open files, and nobody sees them.
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cleanup::Scratch;

    #[test]
    fn small_disk_fills_and_goes_with_its_directory() {
        let scratch = Scratch::create("disk").unwrap();
        let path = scratch.path().join("inside");
        fs::create_dir(&path).unwrap();
        let disk = SmallDisk::mount(&path, 65_536).unwrap();
        disk.fill().unwrap();
        disk.make_room().unwrap();
        fs::write(path.join("file"), "x").unwrap();
        disk.set_read_only(true).unwrap();
        let error = fs::write(path.join("file"), "y").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
        disk.set_read_only(false).unwrap();
        fs::write(path.join("file"), "y").unwrap();
        disk.set_read_only(true).unwrap();
        let top = scratch.path().to_owned();
        drop(scratch);
        assert!(!top.exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(path.to_str().unwrap()), "{mounts}");
    }
}
