//! What a load test tells, for people and programs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::shares::Share;
use super::tally::{Percentiles, Second};
use super::verdict::Judged;

/// A load test that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked, as it was typed.
    pub target: String,
    /// The address and port that it was.
    pub address: String,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// Requests wished for a second.
    pub rate_wanted: f64,
    /// Requests a connection.
    pub requests_per_connection: u32,
    /// How long it was to last, in seconds.
    pub seconds_wanted: f64,
    /// How long it lasted, in seconds, without the wait for the last answers.
    pub seconds_taken: f64,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// Requests that ended well.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were not made, as too many were under way.
    pub skipped: u64,
    /// Why they failed.
    pub failures: BTreeMap<String, u64>,
    /// Times of those that ended well.
    pub times: Option<Percentiles>,
    /// Times until there was a connection.
    pub connect_times: Option<Percentiles>,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// The service that the balancer was asked about, where it was.
    pub service: Option<String>,
    /// What backends got, by the balancer's counters: flows of all clients.
    pub shares: Vec<Share>,
    /// Who answered, by what answers say of it.
    pub answered_by: BTreeMap<String, u64>,
    /// Each limit and what was seen.
    pub verdict: Vec<Judged>,
}

impl Report {
    /// Whether all is within its limits.
    pub fn passed(&self) -> bool {
        self.verdict.iter().all(|it| it.passed)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A thousand requests in ten seconds, all answered.
    pub(crate) fn report() -> Report {
        let times = Percentiles {
            p50: 1.0,
            p90: 2.0,
            p99: 3.0,
            p999: 4.0,
            max: 5.0,
            mean: 1.2,
        };
        Report {
            target: "http://192.0.2.1/".to_owned(),
            address: "192.0.2.1:80".to_owned(),
            began: 1_700_000_000,
            rate_wanted: 100.0,
            requests_per_connection: 1,
            seconds_wanted: 10.0,
            seconds_taken: 10.0,
            interrupted: false,
            answered: 1000,
            failed: 0,
            skipped: 0,
            failures: BTreeMap::new(),
            times: Some(times),
            connect_times: Some(times),
            seconds: vec![
                Second {
                    answered: 100,
                    failed: 0,
                    skipped: 0,
                    times: Some(times),
                };
                10
            ],
            service: None,
            shares: Vec::new(),
            answered_by: BTreeMap::new(),
            verdict: Vec::new(),
        }
    }
}
