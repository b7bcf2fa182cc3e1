//! Who got the flows of a load test, against what the slots gave them.

use serde::{Deserialize, Serialize};
use statrs::distribution::{ChiSquared, ContinuousCDF};

/// Chance alone brings a distribution that odd no more often than this.
const SIGNIFICANCE: f64 = 1e-6;
/// A cell of the test is to have as many flows at least.
const LEAST_EXPECTED: f64 = 5.0;

/// A backend as the balancer told of it at some moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// New flows since it was known; of any client.
    pub flows: u64,
    /// Its slots as a share of the table, 0 to 1.
    pub share: f64,
}

/// What a backend got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its name.
    pub backend: String,
    /// New flows during the test.
    pub flows: u64,
    /// What its slots gave it of all flows, 0 to 1.
    pub expected: f64,
    /// What it got of all flows, 0 to 1.
    pub seen: f64,
}

/// Adds up what backends got from one look to the next.
#[derive(Debug, Default)]
pub struct Shares {
    last: Vec<Seen>,
    sums: Vec<Sum>,
}

#[derive(Debug)]
struct Sum {
    name: String,
    flows: u64,
    expected: f64,
}

impl Shares {
    /// Takes a look. Slots that moved between two looks are counted half as
    /// they were and half as they are. Counters that were set back begin anew.
    pub fn take(&mut self, look: Vec<Seen>) {
        let before = |name: &str| self.last.iter().find(|it| it.name == name);
        let pairs = look
            .iter()
            .map(|now| (before(&now.name).unwrap_or(now), now));
        let deltas: Vec<(&Seen, u64, f64)> = pairs
            .map(|(was, now)| {
                let flows = now.flows.checked_sub(was.flows).unwrap_or(now.flows);
                (now, flows, f64::midpoint(was.share, now.share))
            })
            .collect();
        let total: u64 = deltas.iter().map(|(_, flows, _)| flows).sum();
        for (now, flows, share) in deltas {
            let known = self.sums.iter().position(|it| it.name == now.name);
            let at = known.unwrap_or_else(|| {
                self.sums.push(Sum {
                    name: now.name.clone(),
                    flows: 0,
                    expected: 0.0,
                });
                self.sums.len() - 1
            });
            self.sums[at].flows += flows;
            self.sums[at].expected += share * total as f64;
        }
        self.last = look;
    }

    /// Flows of all backends.
    pub fn flows(&self) -> u64 {
        self.sums.iter().map(|it| it.flows).sum()
    }

    /// What came of it; nothing where no flow came.
    pub fn result(&self) -> Vec<Share> {
        let total = self.flows() as f64;
        if total == 0.0 {
            return Vec::new();
        }
        let sums = self.sums.iter();
        sums.map(|it| Share {
            backend: it.name.clone(),
            flows: it.flows,
            expected: it.expected / total,
            seen: it.flows as f64 / total,
        })
        .collect()
    }
}

/// By which factor the share is off that is off most, and whose it is; none
/// where chance may have done it.
pub fn skew(shares: &[Share]) -> Option<(&Share, f64)> {
    let total: u64 = shares.iter().map(|it| it.flows).sum();
    let expected = |it: &Share| it.expected * total as f64;
    let square = |it: &Share| {
        let expected = expected(it).max(LEAST_EXPECTED);
        (it.flows as f64 - expected).powi(2) / expected
    };
    let freedom = shares.len().checked_sub(1).filter(|it| *it > 0)?;
    let statistic = shares.iter().map(square).sum();
    let chance = ChiSquared::new(freedom as f64).ok()?.sf(statistic);
    if chance >= SIGNIFICANCE {
        return None;
    }
    // Of two that are off alike, the one with too many suffers.
    let most = shares
        .iter()
        .max_by(|a, b| square(a).total_cmp(&square(b)).then(a.flows.cmp(&b.flows)))?;
    let ratio = (most.flows as f64).max(1.0) / expected(most).max(1.0);
    Some((most, ratio.max(1.0 / ratio)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(of: &[(u64, f64)]) -> Vec<Seen> {
        let seen = |(at, (flows, share)): (usize, &(u64, f64))| Seen {
            name: format!("web-{at}"),
            flows: *flows,
            share: *share,
        };
        of.iter().enumerate().map(seen).collect()
    }

    #[test]
    fn flows_before_the_test_do_not_count_and_moved_slots_do() {
        let mut shares = Shares::default();
        shares.take(look(&[(1000, 0.5), (7, 0.5)]));
        shares.take(look(&[(1100, 0.5), (107, 0.5)]));
        shares.take(look(&[(1200, 0.0), (407, 1.0)]));
        let result = shares.result();
        assert_eq!((result[0].flows, result[1].flows), (200, 400));
        assert!(
            (result[0].expected - 200.0 / 600.0).abs() < 1e-9,
            "{result:?}"
        );
        assert!((result[1].seen - 400.0 / 600.0).abs() < 1e-9, "{result:?}");
        assert_eq!(skew(&result), None);
    }

    #[test]
    fn counters_that_began_anew_are_not_taken_for_less_than_nothing() {
        let mut shares = Shares::default();
        shares.take(look(&[(1000, 0.5), (1000, 0.5)]));
        shares.take(look(&[(30, 0.5), (1030, 0.5)]));
        assert_eq!(shares.flows(), 60);
    }

    #[test]
    fn one_server_that_gets_most_is_named_and_chance_is_not() {
        let mut shares = Shares::default();
        shares.take(look(&[(0, 0.25); 4]));
        shares.take(look(&[(251, 0.25), (260, 0.25), (240, 0.25), (249, 0.25)]));
        assert_eq!(skew(&shares.result()), None);
        shares.take(look(&[(951, 0.25), (360, 0.25), (340, 0.25), (349, 0.25)]));
        let result = shares.result();
        let (most, factor) = skew(&result).unwrap();
        assert_eq!(most.backend, "web-0");
        assert!((factor - 1.902).abs() < 0.001, "{factor}");
        assert_eq!(skew(&[]), None);
    }
}
