//! Of the control API: what brings a configuration into force, and revisions.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::Problem;
use crate::revision::Revision;

/// A file that is to come into force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// What the file is called in messages.
    pub name: String,
    /// Its text.
    pub text: String,
    /// How it comes into force.
    #[serde(default)]
    pub how: How,
}

/// Longest name of a file in a request: as the system has it.
const MAX_NAME_LEN: usize = libc::PATH_MAX as usize;

/// What a file is called goes into the log and into findings.
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    let detail = if name.len() > MAX_NAME_LEN {
        format!("name: {} bytes, and {MAX_NAME_LEN} at most", name.len())
    } else if name.contains(char::is_control) {
        "name: has control characters; call the file something that can be printed".to_owned()
    } else {
        return Ok(());
    };
    Err(Problem::new("bad request", 422, detail))
}

/// How a change comes into force; what is left out is as the file has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct How {
    /// Rules whose findings are allowed for this change.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Why it is made.
    #[serde(default)]
    pub reason: Option<String>,
    /// Percent of the slots that move, ascending to 100.
    #[serde(default)]
    pub stages: Option<Vec<u8>>,
    /// How long each stage is watched.
    #[serde(default)]
    pub hold_millis: Option<u64>,
    /// How long it waits for a person to confirm it, and is undone then.
    #[serde(default)]
    pub confirm_within_millis: Option<u64>,
}

/// An earlier configuration that is to come into force again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision; none is the last good one before the one in force. While
    /// a change is under way, none undoes that.
    #[serde(default)]
    pub revision: Option<u64>,
    /// How it comes into force.
    #[serde(default)]
    pub how: How,
}

/// What was done, in one sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Said {
    /// The sentence.
    pub summary: String,
}

/// All revisions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// The one in force.
    pub in_force: Option<u64>,
    /// The change under way, in one sentence.
    pub change_under_way: Option<String>,
    /// The oldest first, without plans and figures of stages: a revision by
    /// itself has them.
    pub revisions: Vec<Revision>,
    /// Those that cannot be read, and why.
    pub damaged: BTreeMap<u64, String>,
}

/// A revision with its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StoredRevision {
    /// The revision.
    pub revision: Revision,
    /// The configuration, a file's text.
    pub config: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_would_fill_or_forge_the_log_is_refused() {
        assert_eq!(check_name("/etc/balancer/balancer.toml"), Ok(()));
        assert_eq!(check_name(&"ä".repeat(2048)), Ok(()));
        for name in ["a".repeat(4097), "a\nb".to_owned(), "\u{1b}[2J".to_owned()] {
            assert_eq!(check_name(&name).unwrap_err().status, 422);
        }
    }
}
