//! The directory of the pins belongs to one daemon at a time.

use std::fs::File;
use std::path::PathBuf;

use nix::fcntl::Flock;

use super::store;
use crate::config::model::Node;
use crate::dataplane::attach;

/// The directory of the pins, held against a second daemon; on drop it goes,
/// unless something is still pinned there.
pub(super) struct PinDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for PinDir {
    fn drop(&mut self) {
        // Fails where links are pinned, and is meant to.
        let _ = std::fs::remove_dir(&self.path);
    }
}

pub(super) fn lock_pins(node: &Node) -> anyhow::Result<PinDir> {
    attach::prepare_pin_dir(&node.pin_dir)?;
    Ok(PinDir {
        path: node.pin_dir.clone(),
        _lock: store::lock_directory(&node.pin_dir, "node.pin_dir")?,
    })
}
