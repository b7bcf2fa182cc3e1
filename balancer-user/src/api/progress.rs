//! What is told of a change while it is under way: one JSON object a line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::ShareChange;
use crate::revision::{Figures, Revision};

/// An event of a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// What the change does, before anything happens.
    Planned {
        /// One sentence.
        summary: String,
        /// Shares of the backends it touches.
        shares: Vec<ShareChange>,
        /// Warnings of the check.
        warnings: Vec<String>,
    },
    /// It was rehearsed in a private copy of the kernel program.
    Rehearsed {
        /// One sentence.
        summary: String,
    },
    /// There is nothing to change.
    Nothing {
        /// One sentence.
        summary: String,
    },
    /// It is stored as a revision, and pending.
    Pending {
        /// The revision's number.
        revision: u64,
    },
    /// New backends have to pass their probes before they get traffic.
    Proving {
        /// Those that have not, and why; empty if all have.
        missing: Vec<String>,
    },
    /// A stage begins.
    Stage {
        /// Its number, from 1.
        stage: usize,
        /// How many there are.
        of: usize,
        /// Percent of the slots that move which have moved with it.
        percent: u8,
        /// How long it is watched.
        hold_millis: u64,
    },
    /// What is seen, once a second.
    Figures {
        /// Of the backends of the services that change.
        figures: Vec<Figures>,
        /// Until the present wait is over.
        remaining_millis: u64,
    },
    /// Something remarkable that is no harm.
    Note {
        /// One sentence.
        text: String,
    },
    /// A stage was held without harm.
    Good {
        /// Percent of the slots that move which have moved.
        percent: u8,
    },
    /// All has moved, and a person has to confirm it.
    Confirm {
        /// How long it waits.
        within_millis: u64,
    },
    /// The change is over.
    Over {
        /// With its outcome.
        revision: Box<Revision>,
    },
}

impl Progress {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Nothing { .. } | Self::Over { .. })
    }
}
