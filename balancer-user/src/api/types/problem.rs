//! Refusals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a request was refused (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// What kind of refusal, in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Object, value, limit and way out.
    pub detail: String,
}

impl Problem {
    /// A refusal with an HTTP status.
    pub fn new(title: &str, status: u16, detail: impl Into<String>) -> Self {
        Self {
            title: title.to_owned(),
            status,
            detail: detail.into(),
        }
    }
}

/// A [`Problem`] as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct TypedProblem {
    /// A URI for the title, for programs: `urn:balancer:problem:not-found`.
    #[serde(rename = "type")]
    kind: String,
    /// The rest.
    #[serde(flatten)]
    problem: Problem,
}

impl From<Problem> for TypedProblem {
    fn from(problem: Problem) -> Self {
        let kind = problem.title.replace(' ', "-");
        Self {
            kind: format!("urn:balancer:problem:{kind}"),
            problem,
        }
    }
}
