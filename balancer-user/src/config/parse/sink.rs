//! What reading a file leaves: faults, and, where somebody asks, what the
//! readers look for.

use serde_json::Value as Json;

use super::super::diagnostic::{Finding, Level};

/// Where a reading leaves what it has to say.
#[derive(Debug, Default)]
pub(super) struct Sink {
    /// The faults.
    pub(super) findings: Vec<Finding>,
    /// How many of them are errors.
    pub(super) faults: usize,
    /// What the readers look for, where somebody wants to know; see
    /// [`super::super::schema`].
    pub(super) traits: Option<Vec<Trait>>,
}

/// One thing that a reader looks for, at a config path such as
/// `service[0].port`.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Trait {
    /// A table with these keys.
    Keys(String, Vec<&'static str>),
    /// A value that this JSON Schema describes; of a list, its entries come
    /// next.
    Value(String, Json),
    /// A table.
    Table(String),
    /// An array of so many tables.
    Tables(String, usize),
    /// A key that must be there.
    Required(String),
}

impl Sink {
    pub(super) fn push(&mut self, finding: Finding) {
        self.faults += usize::from(finding.level == Level::Error);
        self.findings.push(finding);
    }

    pub(super) fn note(&mut self, note: impl FnOnce() -> Trait) {
        if let Some(traits) = &mut self.traits {
            traits.push(note());
        }
    }
}
