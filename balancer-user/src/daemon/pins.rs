//! The directory of the pins belongs to one daemon at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::bail;
use balancer_common::layout::LAYOUT_VERSION;
use nix::fcntl::Flock;

use super::store;
use crate::config::model::Node;
use crate::dataplane::attach;
use crate::dataplane::aya::Adopted;

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

/// Takes the directory, if what forwards from there can be gone on with, or may
/// be replaced.
pub(super) fn lock_pins(node: &Node, replace_tables: bool) -> anyhow::Result<PinDir> {
    attach::prepare_pin_dir(&node.pin_dir)?;
    let pins = PinDir {
        path: node.pin_dir.clone(),
        _lock: store::lock_directory(&node.pin_dir, "node.pin_dir")?,
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
