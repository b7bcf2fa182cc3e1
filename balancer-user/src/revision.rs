//! Revisions: every configuration that was to come into force, by number.
//!
//! A revision is never changed but for its stages and its outcome, and no
//! number is given twice: a rollback is a new revision with an old
//! configuration. The one in force is the newest whose outcome is
//! [`Outcome::Committed`]. Pure: time is an argument, files are the store's.

pub mod diff;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::change::Edit;

/// Version of a revision's file.
pub const VERSION: u32 = 1;

/// Seconds since 1970.
pub type UnixSeconds = u64;

/// One configuration, who wanted it and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// Version of this structure.
    pub version: u32,
    /// Its number, from 1 on.
    pub number: u64,
    /// The revision that was in force when it was made.
    pub parent: Option<u64>,
    /// When it was made.
    pub made_at: UnixSeconds,
    /// Who made it.
    pub author: Author,
    /// How it came.
    pub cause: Cause,
    /// What it does, in one sentence.
    pub summary: String,
    /// Why, in its author's words.
    pub reason: Option<String>,
    /// Findings that were allowed, by the file or for this change.
    pub allowed: Vec<Allowed>,
    /// The plan, as it was made before anything happened: see
    /// [`Plan::for_record`](crate::plan::Plan::for_record).
    pub plan: Option<serde_json::Value>,
    /// What it is made of beside the configuration.
    pub origin: Origin,
    /// The stages it went through.
    pub stages: Vec<Stage>,
    /// What became of it.
    pub outcome: Outcome,
    /// [`digest`] of the configuration, which lies beside it as a file.
    pub config_digest: String,
}

impl Revision {
    /// What a list of many has of it: neither the plan nor the figures of its
    /// stages, each of which may be megabytes.
    pub fn in_brief(mut self) -> Self {
        self.plan = None;
        for stage in &mut self.stages {
            stage.figures = Vec::new();
        }
        self
    }

    /// Whether it was in force and nothing undid it.
    pub fn is_committed(&self) -> bool {
        matches!(self.outcome, Outcome::Committed { .. })
    }
}

/// Who made a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Author {
    /// The user of the process that asked, by the kernel's word.
    pub user: String,
    /// The user who logged in, where that is another one (`sudo`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
}

impl Author {
    /// The daemon itself: at its start, or by a signal.
    pub fn daemon() -> Self {
        Self {
            user: "balancer".to_owned(),
            login: None,
        }
    }
}

impl std::fmt::Display for Author {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.login {
            Some(login) => write!(f, "{login} as {}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

/// How a revision came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The daemon started with a file.
    Start,
    /// The daemon read its file again.
    Reload,
    /// `apply`.
    Apply,
    /// An everyday command.
    Command,
    /// `rollback`.
    Rollback,
}

impl Cause {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Apply => "apply",
            Self::Command => "command",
            Self::Rollback => "rollback",
        }
    }
}

/// What a configuration is made of: a file, and what was changed since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// [`digest`] of the file's text.
    pub file_digest: String,
    /// What changes made by command since come to, a sentence each; not the
    /// drains.
    #[schemars(with = "Vec<String>")]
    pub changes: Vec<Edit>,
    /// Drains made by command: they outlive a re-reading of the file.
    pub drains: Vec<OperatorDrain>,
}

/// A backend that an operator drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperatorDrain {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// When.
    pub since: UnixSeconds,
}

/// A finding that was not heeded, on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Allowed {
    /// Id of its rule.
    pub rule: String,
    /// What was found.
    pub message: String,
    /// Why it was allowed.
    pub reason: String,
}

/// A stage that a change went through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stage {
    /// Percent of the slots that move which had moved.
    pub percent: f64,
    /// When it began.
    pub began_at: UnixSeconds,
    /// Whether its verdict was good; none if it was cut short.
    pub good: Option<bool>,
    /// Figures of the changed services' backends while it lasted.
    pub figures: Vec<Figures>,
}

/// What a backend did during a stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figures {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
    /// Share of the slots, 0 to 1.
    pub share_expected: f64,
    /// Share of the new flows; none if there were none.
    pub share_seen: Option<f64>,
    /// New flows.
    pub flows: u64,
    /// Timed handshakes that came to an end, good or bad.
    pub handshakes: u64,
    /// Of these, the share that did not finish or needed more than one SYN.
    pub handshakes_bad: Option<f64>,
    /// Median of the handshakes' times.
    pub handshake_micros: Option<u64>,
    /// Resets by clients, for each new flow.
    pub resets_a_flow: Option<f64>,
    /// What it said to comparison requests; none if it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

/// What a backend said to comparison requests during a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Answers {
    /// Requests.
    pub asked: u64,
    /// Of these, those with a status of 500 or more, or without an answer.
    pub errors: u64,
    /// Median time of the newest of the others.
    pub median_micros: Option<u64>,
}

/// What became of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Outcome {
    /// It is under way, or was when the daemon ended.
    Pending,
    /// It came into force.
    Committed {
        /// When.
        at: UnixSeconds,
    },
    /// It was undone.
    Undone {
        /// When.
        at: UnixSeconds,
        /// Why, with figures.
        why: String,
    },
    /// The daemon ended while it was pending; it is not in force.
    Interrupted {
        /// When that was noticed.
        at: UnixSeconds,
    },
}

impl Outcome {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Committed { .. } => "committed",
            Self::Undone { .. } => "undone",
            Self::Interrupted { .. } => "interrupted",
        }
    }
}

/// SHA-256 of a text, in hexadecimal digits.
pub fn digest(text: &str) -> String {
    use std::fmt::Write as _;
    let mut digits = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        // Writing to a `String` cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_sha_256() {
        assert_eq!(
            digest("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn author_behind_sudo_is_named_first() {
        let author = Author {
            user: "root".to_owned(),
            login: Some("operator".to_owned()),
        };
        assert_eq!(author.to_string(), "operator as root");
    }
}
