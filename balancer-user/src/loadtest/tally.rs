//! What came of the requests of a load test, counted.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::{Deserialize, Serialize};

/// A request, or a connection of TCP, that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When it was to be made, since the test began.
    pub due: Duration,
    /// From then to its end.
    pub took: Duration,
    /// From then until there was a connection; none for the later ones of a
    /// connection, or where none came about.
    pub connected: Option<Duration>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Who answered, where answers say that.
    pub answered_by: Option<String>,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half took no longer.
    pub p50: f64,
    /// Nine of ten took no longer.
    pub p90: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// 999 of 1,000 took no longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// On average.
    pub mean: f64,
}

/// A second of the test, by when requests were to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Requests that ended well.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were not made, as too many were under way.
    pub skipped: u64,
    /// Of those that ended well; none where there are none.
    pub times: Option<Percentiles>,
}

/// Failures that are told apart; what a server makes up anew each time counts
/// together.
const MAX_NAMES: usize = 64;

/// The tally of a test.
#[derive(Debug)]
pub struct Tally {
    /// Nothing is ever in it.
    empty: Times,
    took: Times,
    connected: Times,
    failures: BTreeMap<String, u64>,
    answered_by: BTreeMap<String, u64>,
    seconds: Vec<OfSecond>,
}

#[derive(Debug)]
struct OfSecond {
    took: Times,
    failed: u64,
    skipped: u64,
}

/// Microseconds, three digits of which are kept; it grows with what comes, so
/// that nothing is too long for it.
#[derive(Debug, Clone)]
struct Times(Histogram<u32>);

impl Times {
    fn take(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // It grows to what it is given, while there is memory.
        let _ = self.0.record(micros);
    }

    fn percentiles(&self) -> Option<Percentiles> {
        let millis = |micros: u64| micros as f64 / 1e3;
        (!self.0.is_empty()).then(|| Percentiles {
            p50: millis(self.0.value_at_quantile(0.5)),
            p90: millis(self.0.value_at_quantile(0.9)),
            p99: millis(self.0.value_at_quantile(0.99)),
            p999: millis(self.0.value_at_quantile(0.999)),
            max: millis(self.0.max()),
            mean: self.0.mean() / 1e3,
        })
    }
}

impl Tally {
    /// Of nothing.
    ///
    /// # Errors
    /// When the histograms' bounds make no sense.
    pub fn new() -> Result<Self, CreationError> {
        let empty = Times(Histogram::new(3)?);
        Ok(Self {
            took: empty.clone(),
            connected: empty.clone(),
            empty,
            failures: BTreeMap::new(),
            answered_by: BTreeMap::new(),
            seconds: Vec::new(),
        })
    }

    /// Counts a request.
    pub fn take(&mut self, sample: Sample) {
        if let Some(connected) = sample.connected {
            self.connected.take(connected);
        }
        if let Some(name) = sample.answered_by {
            *self.answered_by.entry(name).or_default() += 1;
        }
        match sample.failure {
            Some(failure) => {
                self.second(sample.due).failed += 1;
                let is_told_apart =
                    self.failures.len() < MAX_NAMES || self.failures.contains_key(&failure);
                let name = match is_told_apart {
                    true => failure,
                    false => "others".to_owned(),
                };
                *self.failures.entry(name).or_default() += 1;
            }
            None => {
                self.took.take(sample.took);
                self.second(sample.due).took.take(sample.took);
            }
        }
    }

    /// Counts requests that were due then and were not made.
    pub fn skip(&mut self, due: Duration, requests: u64) {
        self.second(due).skipped += requests;
    }

    fn second(&mut self, due: Duration) -> &mut OfSecond {
        let at = due.as_secs() as usize;
        if self.seconds.len() <= at {
            let empty = || OfSecond {
                took: self.empty.clone(),
                failed: 0,
                skipped: 0,
            };
            self.seconds.resize_with(at + 1, empty);
        }
        &mut self.seconds[at]
    }

    /// Requests that ended well.
    pub fn answered(&self) -> u64 {
        self.took.0.len()
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Requests that were not made.
    pub fn skipped(&self) -> u64 {
        self.seconds.iter().map(|it| it.skipped).sum()
    }

    /// Failures by their names.
    pub fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }

    /// Answers by who gave them.
    pub fn answered_by(&self) -> &BTreeMap<String, u64> {
        &self.answered_by
    }

    /// Times of those that ended well.
    pub fn times(&self) -> Option<Percentiles> {
        self.took.percentiles()
    }

    /// Times until there was a connection.
    pub fn connect_times(&self) -> Option<Percentiles> {
        self.connected.percentiles()
    }

    /// Second by second.
    pub fn seconds(&self) -> Vec<Second> {
        let seconds = self.seconds.iter();
        seconds
            .map(|it| Second {
                answered: it.took.0.len(),
                failed: it.failed,
                skipped: it.skipped,
                times: it.took.percentiles(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(due: u64, took: u64, failure: Option<&str>) -> Sample {
        Sample {
            due: Duration::from_millis(due),
            took: Duration::from_millis(took),
            connected: Some(Duration::from_millis(took / 2)),
            failure: failure.map(str::to_owned),
            answered_by: failure.is_none().then(|| "web-1".to_owned()),
        }
    }

    #[test]
    fn requests_are_counted_in_the_second_that_they_were_due_in() {
        let mut tally = Tally::new().unwrap();
        for millis in 1..=100 {
            tally.take(sample(millis, millis, None));
        }
        tally.take(sample(1500, 7, Some("status 503")));
        tally.skip(Duration::from_millis(1600), 3);
        assert_eq!(
            (tally.answered(), tally.failed(), tally.skipped()),
            (100, 1, 3)
        );
        let times = tally.times().unwrap();
        assert!((times.p50 - 50.0).abs() < 0.1, "{times:?}");
        assert!((times.p99 - 99.0).abs() < 0.1, "{times:?}");
        assert!((times.max - 100.0).abs() < 0.1, "{times:?}");
        let seconds = tally.seconds();
        assert_eq!(
            (seconds[0].answered, seconds[1].failed, seconds[1].skipped),
            (100, 1, 3)
        );
        assert_eq!(seconds[1].times, None);
        assert_eq!(tally.failures()["status 503"], 1);
        assert_eq!(tally.answered_by()["web-1"], 100);
    }

    #[test]
    fn no_time_is_too_long() {
        let mut tally = Tally::new().unwrap();
        tally.take(sample(0, 3_600_000, None));
        let max = tally.times().unwrap().max;
        assert!((max - 3_600_000.0).abs() < 3_600.0, "{max}");
    }
}
