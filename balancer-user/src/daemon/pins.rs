//! The directory of the pins: it belongs to one daemon at a time, and is
//! followed where the bpffs that it is on is unmounted.
//!
//! The lock is an open descriptor of the directory, so that the bpffs and all
//! that is pinned there live on as long as the daemon does, though nobody finds
//! them by a path any more. What is pinned is pinned once more when there is a
//! bpffs again. The daemon mounts none while it runs: in a unit the mount would
//! be private to it, and gone with it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::bail;
use balancer_common::layout::LAYOUT_VERSION;
use nix::fcntl::Flock;

use super::controller::Controller;
use super::store;
use crate::config::model::Node;
use crate::dataplane::attach;
use crate::dataplane::aya::Adopted;

/// The directory of the pins, held against a second daemon; on drop it goes,
/// unless something is still pinned there.
pub(super) struct PinDir {
    path: PathBuf,
    lock: Flock<File>,
    /// Why nothing is pinned at its path.
    away: Option<String>,
}

impl Drop for PinDir {
    fn drop(&mut self) {
        // Fails where links are pinned, and is meant to.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Takes the directory, if what forwards from there can be gone on with, or may
/// be replaced.
pub(super) fn lock_pins(node: &Node, replace_tables: bool) -> anyhow::Result<PinDir> {
    attach::prepare_pin_dir(&node.pin_dir)?;
    let pins = PinDir {
        path: node.pin_dir.clone(),
        lock: lock(&node.pin_dir)?,
        away: None,
    };
    if !replace_tables {
        refuse_other_layout(&node.pin_dir)?;
    }
    Ok(pins)
}

/// Tables that were laid out otherwise are never read, and not thrown away
/// unasked.
fn refuse_other_layout(pin_dir: &Path) -> anyhow::Result<()> {
    let Some(version) = Adopted::other_layout(pin_dir)? else {
        return Ok(());
    };
    bail!(
        "tables of layout version {version} forward now under {}, and this build reads version \
         {LAYOUT_VERSION} only; they stay as they are. Start the build that wrote them, or replace \
         them with `balancer run --replace-tables`: in one step, but flow records and counters \
         begin anew, so connections whose slot has moved since they began may break",
        pin_dir.display()
    )
}

fn lock(path: &Path) -> anyhow::Result<Flock<File>> {
    store::lock_directory(path, "node.pin_dir")
}

impl PinDir {
    /// What is wrong with it, in a sentence.
    pub(super) fn problem(&self) -> Option<String> {
        let why = self.away.as_ref()?;
        Some(format!(
            "pin_dir {}: links and maps are pinned there no more: {why}",
            self.path.display()
        ))
    }

    /// Whether the path still leads to the directory that is held.
    fn is_in_place(&self) -> bool {
        let (Ok(there), Ok(held)) = (fs::metadata(&self.path), self.lock.metadata()) else {
            return false;
        };
        (there.dev(), there.ino()) == (held.dev(), held.ino())
    }

    /// Pins all once more at the path, if that is on a bpffs; how many pins.
    fn move_back(&mut self) -> anyhow::Result<usize> {
        anyhow::ensure!(attach::is_on_bpffs(&self.path), "no bpffs is mounted there");
        fs::create_dir_all(&self.path)?;
        let next = lock(&self.path)?;
        let is_empty = fs::read_dir(&self.path)?.next().is_none();
        anyhow::ensure!(
            is_empty,
            "another bpffs is there, and the directory not empty"
        );
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.lock.as_raw_fd()));
        match attach::pin_again(&held, &self.path) {
            Ok(pinned) => {
                self.lock = next;
                Ok(pinned)
            }
            Err(error) => {
                // Half of it would be taken for all by the next daemon.
                fs::remove_dir_all(&self.path)?;
                Err(error.into())
            }
        }
    }
}

impl Controller {
    /// Whether what is pinned can be found; where it can not, tries to pin it
    /// once more.
    pub(super) fn follow_pins(&mut self) -> bool {
        let pins = &mut self.pins;
        if pins.is_in_place() {
            return true;
        }
        match tokio::task::block_in_place(|| pins.move_back()) {
            Ok(count) => {
                pins.away = None;
                tracing::warn!(pin_dir = %pins.path.display(), pins = count, "pinned again");
            }
            Err(error) => {
                let why = format!("{error:#}");
                // It is tried again each second.
                if pins.away.as_ref() != Some(&why) {
                    tracing::error!(
                        pin_dir = %pins.path.display(), %why,
                        "links and maps are pinned no more; forwarding would end with this daemon"
                    );
                }
                pins.away = Some(why);
            }
        }
        pins.away.is_none()
    }
}
