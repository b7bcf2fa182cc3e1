//! What a test with packets tells, and whether that is good enough.

use serde::{Deserialize, Serialize};

use super::super::shares::Share;
use super::super::verdict::{self, Judged};

/// What became of the packets of a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// Handed to the driver.
    pub sent: u64,
    /// Not sent, as it would have been too late.
    pub missed: u64,
}

/// What a backend got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Got {
    /// Its name.
    pub backend: String,
    /// Packets of UDP, or flows of TCP, that the balancer counted for it.
    pub counted: u64,
    /// What its slots gave it of all, 0 to 1.
    pub expected: f64,
    /// What it got of all, 0 to 1.
    pub seen: f64,
}

/// A test with packets that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked, as it was typed.
    pub target: String,
    /// The address and port that it was.
    pub address: String,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// Packets wished for a second.
    pub rate_wanted: f64,
    /// How long it was to last, in seconds.
    pub seconds_wanted: f64,
    /// How long it lasted, in seconds.
    pub seconds_taken: f64,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// Distinct flows.
    pub flows: u32,
    /// The first source address.
    pub source: String,
    /// How many of them took turns.
    pub sources: u32,
    /// Bytes of a frame, without its check sequence.
    pub frame_bytes: usize,
    /// The interface that they left by.
    pub interface: String,
    /// The Ethernet address that they went to.
    pub next_hop: String,
    /// Packets that the driver was handed.
    pub sent: u64,
    /// Packets that were not sent, as it would have been too late.
    pub missed: u64,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// The service that the balancer was asked about, where it was.
    pub service: Option<String>,
    /// What the balancer counted for the service meanwhile, of all clients:
    /// packets of UDP, flows of TCP.
    pub counted: Option<u64>,
    /// What was sent and not counted.
    pub lost: Option<u64>,
    /// What backends got of it.
    pub shares: Vec<Got>,
    /// Each limit and what was seen.
    pub verdict: Vec<Judged>,
}

/// What a test with packets has to show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Most of the packets sent that may get lost, 0 to 1; judged where there
    /// is somebody who counts, unless it was asked for.
    pub lost: Option<f64>,
    /// Least of the packets due that have to be sent, 0 to 1.
    pub made: f64,
    /// Most by which a backend's share may be off, as a factor.
    pub skew: f64,
}

impl Report {
    /// Whether all is within its limits.
    pub fn passed(&self) -> bool {
        self.verdict.iter().all(|it| it.passed)
    }

    /// Takes what the balancer counted.
    pub fn count(&mut self, shares: &[Share]) {
        let counted = shares.iter().map(|it| it.flows).sum();
        self.counted = Some(counted);
        self.lost = Some(self.sent.saturating_sub(counted));
        let got = shares.iter().map(|it| Got {
            backend: it.backend.clone(),
            counted: it.flows,
            expected: it.expected,
            seen: it.seen,
        });
        self.shares = got.collect();
    }

    /// The shares by flows: packets of one flow all go to one backend, so chance
    /// is to be told by flows.
    fn by_flows(&self) -> Vec<Share> {
        let flows = f64::from(self.flows).min(self.sent as f64);
        let shares = self.shares.iter().map(|it| Share {
            backend: it.backend.clone(),
            flows: (it.seen * flows).round() as u64,
            expected: it.expected,
            seen: it.seen,
        });
        shares.collect()
    }
}

impl Thresholds {
    /// Judges a report.
    pub fn judge(&self, report: &Report) -> Vec<Judged> {
        let of = |part: u64, all: u64| match all {
            0 => 0.0,
            _ => part as f64 / all as f64,
        };
        let sent = of(report.sent, report.sent + report.missed);
        let mut judged = vec![Judged {
            name: "packets sent, of those due".to_owned(),
            limit: format!("at least {}", verdict::percent(self.made)),
            seen: verdict::percent(sent),
            // A test in which nothing happened shows nothing.
            passed: sent >= self.made && report.sent > 0,
        }];
        let limit = self.lost.unwrap_or(0.0);
        if self.lost.is_some() || report.lost.is_some() {
            let lost = report.lost.map(|it| of(it, report.sent));
            judged.push(Judged {
                name: "packets lost on the way".to_owned(),
                limit: format!("at most {}", verdict::percent(limit)),
                seen: match (lost, report.lost) {
                    (Some(share), Some(lost)) => {
                        format!("{} ({lost} of {})", verdict::percent(share), report.sent)
                    }
                    _ => "no balancer to count them; name its --metrics".to_owned(),
                },
                passed: lost.is_some_and(|it| it <= limit),
            });
        }
        if !report.shares.is_empty() {
            judged.push(verdict::shares(&report.by_flows(), self.skew));
        }
        if report.interrupted {
            let (wanted, taken) = (report.seconds_wanted, report.seconds_taken);
            judged.push(verdict::interrupted(wanted, taken));
        }
        judged
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// Six thousand packets in three seconds, none lost.
    pub(crate) fn report() -> Report {
        let mut report = Report {
            target: "udp://192.0.2.1:53".to_owned(),
            address: "192.0.2.1:53".to_owned(),
            began: 1_700_000_000,
            rate_wanted: 2000.0,
            seconds_wanted: 3.0,
            seconds_taken: 3.0,
            interrupted: false,
            flows: 500,
            source: "198.51.100.1".to_owned(),
            sources: 1,
            frame_bytes: 64,
            interface: "eth0".to_owned(),
            next_hop: "02:00:00:00:00:01".to_owned(),
            sent: 6000,
            missed: 0,
            seconds: vec![
                Second {
                    sent: 2000,
                    missed: 0,
                };
                3
            ],
            service: Some("dns".to_owned()),
            counted: None,
            lost: None,
            shares: Vec::new(),
            verdict: Vec::new(),
        };
        report.count(&shares([3000, 3000]));
        report
    }

    /// Of two backends that are to have half each.
    pub(crate) fn shares(counted: [u64; 2]) -> Vec<Share> {
        let all: u64 = counted.iter().sum();
        let share = |(at, flows): (usize, u64)| Share {
            backend: format!("dns-{at}"),
            flows,
            expected: 0.5,
            seen: flows as f64 / all as f64,
        };
        counted.into_iter().enumerate().map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{report, shares};
    use super::*;

    const LIMITS: Thresholds = Thresholds {
        lost: None,
        made: 0.95,
        skew: 1.25,
    };

    fn faults(limits: Thresholds, report: &Report) -> Vec<String> {
        let judged = limits.judge(report);
        let bad = judged.into_iter().filter(|it| !it.passed);
        bad.map(|it| format!("{}: {}", it.name, it.seen)).collect()
    }

    #[test]
    fn good_report_passes_all() {
        assert_eq!(faults(LIMITS, &report()), [""; 0]);
        assert_eq!(LIMITS.judge(&report()).len(), 3);
    }

    #[test]
    fn each_limit_is_held() {
        let mut late = report();
        (late.sent, late.missed) = (3000, 3000);
        assert_eq!(
            faults(LIMITS, &late),
            ["packets sent, of those due: 50.0 %"]
        );
        let mut lost = report();
        lost.count(&shares([2970, 2970]));
        assert_eq!(
            faults(LIMITS, &lost),
            ["packets lost on the way: 1.0 % (60 of 6000)"]
        );
        let lenient = Thresholds {
            lost: Some(0.01),
            ..LIMITS
        };
        assert_eq!(faults(lenient, &lost), [""; 0]);
        let mut skewed = report();
        skewed.count(&shares([4200, 1800]));
        assert_eq!(
            faults(LIMITS, &skewed),
            ["shares of backends: dns-0 got 70.0 %, expected 50.0 %: a factor of 1.40"]
        );
        let mut ended = report();
        ended.interrupted = true;
        assert_eq!(faults(LIMITS, &ended), ["duration: interrupted after 3 s"]);
    }

    #[test]
    fn chance_is_told_by_flows_and_not_by_packets() {
        // 60 to 40 of 6,000 is no chance; of 5 flows it is 3 to 2.
        let mut few = report();
        few.count(&shares([3600, 2400]));
        few.flows = 5;
        assert_eq!(
            faults(
                Thresholds {
                    skew: 1.1,
                    ..LIMITS
                },
                &few
            ),
            [""; 0]
        );
    }

    #[test]
    fn without_counters_losses_are_judged_only_where_that_was_asked() {
        let mut blind = report();
        (blind.counted, blind.lost) = (None, None);
        blind.shares.clear();
        assert_eq!(faults(LIMITS, &blind), [""; 0]);
        let asked = Thresholds {
            lost: Some(0.5),
            ..LIMITS
        };
        assert_eq!(faults(asked, &blind).len(), 1);
        blind.sent = 0;
        assert_eq!(faults(LIMITS, &blind).len(), 1);
    }
}
