//! `[apply]`: how a change comes into force.

use std::time::Duration;

/// How a change comes into force, and how long its revision is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apply {
    /// Percent of the slots that move which have moved after each stage,
    /// ascending; the last is 100.
    pub stages: Vec<u8>,
    /// How long each stage is watched before the next.
    pub hold: Duration,
    /// Which revisions are kept.
    pub keep: Keep,
}

/// Which revisions are kept; the one in force and the one before it always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// At most so many.
    pub revisions: u32,
    /// None that is older.
    pub age: Duration,
}
