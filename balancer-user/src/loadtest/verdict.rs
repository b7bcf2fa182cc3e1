//! What is good enough, and whether it was.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::report::Report;
use super::shares::{Share, skew};

/// What a test has to show.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Most of the requests that may fail, 0 to 1.
    pub failures: f64,
    /// Least of the wished requests that have to be made, 0 to 1.
    pub made: f64,
    /// Most that 99 of 100 may take.
    pub p99: Option<Duration>,
    /// Most by which a backend's share may be off, as a factor.
    pub skew: f64,
}

/// One of them, held against what was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Of what.
    pub name: String,
    /// The limit, as text.
    pub limit: String,
    /// What was seen, as text.
    pub seen: String,
    /// Whether that is within the limit.
    pub passed: bool,
}

impl Thresholds {
    /// Judges a report.
    pub fn judge(&self, report: &Report) -> Vec<Judged> {
        let made = report.answered + report.failed;
        let of = |part: u64, all: u64| match all {
            0 => 0.0,
            _ => part as f64 / all as f64,
        };
        let failed = of(report.failed, made);
        let share_made = of(made, made + report.skipped);
        let mut judged = vec![
            Judged {
                name: "requests that failed".to_owned(),
                limit: format!("at most {}", percent(self.failures)),
                seen: format!("{} ({} of {made})", percent(failed), report.failed),
                // A test in which nothing happened shows nothing.
                passed: failed <= self.failures && made > 0,
            },
            Judged {
                name: "requests made, of those due".to_owned(),
                limit: format!("at least {}", percent(self.made)),
                seen: percent(share_made),
                passed: share_made >= self.made,
            },
        ];
        if let Some(limit) = self.p99 {
            let limit = limit.as_secs_f64() * 1e3;
            let seen = report.times.map(|it| it.p99);
            judged.push(Judged {
                name: "99 of 100 took".to_owned(),
                limit: format!("at most {limit:.1} ms"),
                seen: seen.map_or("nothing was answered".to_owned(), |it| {
                    format!("{it:.1} ms")
                }),
                passed: seen.is_some_and(|it| it <= limit),
            });
        }
        if !report.shares.is_empty() {
            judged.push(shares(&report.shares, self.skew));
        }
        if report.interrupted {
            judged.push(interrupted(report.seconds_wanted, report.seconds_taken));
        }
        judged
    }
}

/// Whether backends got what they should, by a factor of `limit` at most.
pub(super) fn shares(shares: &[Share], limit: f64) -> Judged {
    let skew = skew(shares);
    Judged {
        name: "shares of backends".to_owned(),
        limit: format!("off by a factor of {limit:.2} at most"),
        seen: match skew {
            None => "as expected".to_owned(),
            Some((most, factor)) => format!(
                "{} got {}, expected {}: a factor of {factor:.2}",
                most.backend,
                percent(most.seen),
                percent(most.expected)
            ),
        },
        passed: skew.is_none_or(|(_, factor)| factor <= limit),
    }
}

/// Of a test that somebody ended early; in seconds.
pub(super) fn interrupted(wanted: f64, taken: f64) -> Judged {
    Judged {
        name: "duration".to_owned(),
        limit: format!("{wanted:.0} s"),
        seen: format!("interrupted after {taken:.0} s"),
        passed: false,
    }
}

pub(super) fn percent(share: f64) -> String {
    let digits = if share > 0.0 && share < 0.001 { 4 } else { 1 };
    format!("{:.digits$} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::super::report::testing::report;
    use super::*;

    const LIMITS: Thresholds = Thresholds {
        failures: 0.0,
        made: 0.95,
        p99: Some(Duration::from_millis(10)),
        skew: 1.25,
    };

    fn faults(report: &Report) -> Vec<String> {
        let judged = LIMITS.judge(report);
        let bad = judged.into_iter().filter(|it| !it.passed);
        bad.map(|it| format!("{}: {}", it.name, it.seen)).collect()
    }

    #[test]
    fn good_report_passes_all() {
        assert_eq!(faults(&report()), [""; 0]);
    }

    #[test]
    fn each_limit_is_held() {
        let mut failed = report();
        failed.failed = 1;
        assert_eq!(
            faults(&failed),
            ["requests that failed: 0.0999 % (1 of 1001)"]
        );
        let mut skipped = report();
        skipped.skipped = 1000;
        assert_eq!(faults(&skipped), ["requests made, of those due: 50.0 %"]);
        let mut slow = report();
        slow.times.as_mut().unwrap().p99 = 10.5;
        assert_eq!(faults(&slow), ["99 of 100 took: 10.5 ms"]);
        let mut skewed = report();
        skewed.shares = [(700, "web-0"), (300, "web-1")]
            .map(|(flows, name)| Share {
                backend: name.to_owned(),
                flows,
                expected: 0.5,
                seen: flows as f64 / 1000.0,
            })
            .to_vec();
        assert_eq!(
            faults(&skewed),
            ["shares of backends: web-0 got 70.0 %, expected 50.0 %: a factor of 1.40"]
        );
        let mut ended = report();
        ended.interrupted = true;
        assert_eq!(faults(&ended), ["duration: interrupted after 10 s"]);
    }

    #[test]
    fn nothing_made_is_no_success() {
        let mut nothing = report();
        nothing.answered = 0;
        nothing.times = None;
        assert_eq!(faults(&nothing).len(), 3);
    }
}
