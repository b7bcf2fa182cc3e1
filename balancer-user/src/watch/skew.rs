//! Whether new flows go where the slots say.
//!
//! Over the last seconds, in windows of three lengths, the flows of each
//! backend are held against what its slots were in each of those seconds.
//! Three things have to be together: a chi-square test over all backends, an
//! exact binomial test of the one that stands out most (which chance alone
//! passes a few times a year at most), and an effect that matters. So few flows
//! never alarm, and with many flows no small difference does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF, DiscreteCDF};

use super::{Kind, ServiceLook, Sign, is_same};

/// Seconds that windows reach back, the shortest first.
const WINDOWS: [u64; 3] = [2, 10, 30];
/// Chance alone brings a chi-square that high with no more than this
/// probability.
const SIGNIFICANCE: f64 = 1e-6;
/// The same for the backend that stands out, times their number. Where few
/// flows come, this weighs false alarms against time: at 100 flows a second to
/// four backends, a share that is a quarter too large stands out in half a
/// minute by 7.9 standard deviations of what it should be, and this asks for
/// 5.5 of them. Chance passes it ten times a year at most, were each window of
/// each second one of its own.
const BACKEND_SIGNIFICANCE: f64 = 1e-7;
/// A share that is wrong by less than this factor is nobody's trouble. Half a
/// minute at 100 flows a second shows one of 1.25 as anything above 1.17.
const LEAST_EFFECT: f64 = 1.15;
/// And by less than this much of all flows.
const LEAST_SHARE: f64 = 0.01;
/// Without flows for so many seconds nothing is known any more.
const SILENCE: u64 = 5;
/// With so many flows to expect in the shortest window, a share that is off
/// by less than this factor there has come right.
const SURE: f64 = 400.0;
const RIGHT: f64 = 1.1;
/// A cell of the test is to have as many flows at least.
const LEAST_EXPECTED: f64 = 5.0;

/// The last seconds.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// The names that the counts are of.
    names: Vec<Arc<str>>,
    seconds: VecDeque<Second>,
}

#[derive(Debug)]
struct Second {
    at: Duration,
    /// For each backend: flows seen, and what its slots gave it of all.
    cells: Vec<(u32, f32)>,
}

/// Sums over a window.
struct Sums {
    seen: Vec<u64>,
    expected: Vec<f64>,
}

impl Windows {
    /// Takes the flows of a second in which no slot moved.
    pub(super) fn take<'a>(
        &mut self,
        at: Duration,
        names: impl ExactSizeIterator<Item = &'a Arc<str>> + Clone,
        counted: &[(u64, f64)],
    ) {
        let mut pairs = names.clone().zip(&self.names);
        if names.len() != self.names.len() || !pairs.all(|(one, other)| is_same(one, other)) {
            self.names = names.cloned().collect();
            self.seconds.clear();
        }
        let total: u64 = counted.iter().map(|(flows, _)| flows).sum();
        self.forget(at);
        if total == 0 {
            return;
        }
        let cell = |(flows, share): &(u64, f64)| {
            let seen = u32::try_from(*flows).unwrap_or(u32::MAX);
            (seen, (share * total as f64) as f32)
        };
        let cells = counted.iter().map(cell).collect();
        self.seconds.push_back(Second { at, cells });
    }

    fn forget(&mut self, at: Duration) {
        let longest = Duration::from_secs(WINDOWS[WINDOWS.len() - 1]);
        while let Some(first) = self.seconds.front()
            && first.at + longest <= at
        {
            self.seconds.pop_front();
        }
    }

    fn sums(&self, at: Duration, length: u64) -> Sums {
        let length = Duration::from_secs(length);
        let mut sums = Sums {
            seen: vec![0; self.names.len()],
            expected: vec![0.0; self.names.len()],
        };
        let within = self.seconds.iter().rev();
        for second in within.take_while(|it| it.at + length > at) {
            for (index, (seen, expected)) in second.cells.iter().enumerate() {
                sums.seen[index] += u64::from(*seen);
                sums.expected[index] += f64::from(*expected);
            }
        }
        sums
    }

    /// The backend whose flows are most off, if that is no chance.
    pub(super) fn sign(&self, at: Duration, service: &ServiceLook) -> Option<Sign> {
        let silence = Duration::from_secs(SILENCE);
        let is_silent = self.seconds.back().is_none_or(|it| it.at + silence < at);
        if self.names.len() < 2 || is_silent {
            return None;
        }
        let latest = self.sums(at, WINDOWS[0]);
        WINDOWS.iter().find_map(|length| {
            let sums = self.sums(at, *length);
            let found = sums.outlier().filter(|it| !latest.is_right(*it))?;
            let total = sums.total();
            let percent = |of: f64| of * 100.0 / total as f64;
            let (seen, expected) = (sums.seen[found] as f64, sums.expected[found]);
            Some(Sign {
                kind: Kind::Skew,
                service: service.name.clone(),
                backend: Some(self.names[found].to_string()),
                what: format!(
                    "got {:.1} % of {total} new flows in {length} s, its slots are {:.1} %",
                    percent(seen),
                    percent(expected)
                ),
                cause: "the kernel's table is not the one of this revision: `balancer verify` \
                        shows where"
                    .to_owned(),
            })
        })
    }
}

impl Sums {
    fn total(&self) -> u64 {
        self.seen.iter().sum()
    }

    /// The cell that stands out most, if all three tests say that it does.
    fn outlier(&self) -> Option<usize> {
        let total = self.total();
        let square = |seen: f64, expected: f64| (seen - expected).powi(2) / expected;
        let (mut cells, mut statistic) = (0_u32, 0.0);
        // What has few flows to expect counts together.
        let (mut few_seen, mut few_expected) = (0.0, 0.0);
        for (seen, expected) in self.seen.iter().zip(&self.expected) {
            let seen = *seen as f64;
            if *expected < LEAST_EXPECTED {
                (few_seen, few_expected) = (few_seen + seen, few_expected + expected);
                continue;
            }
            cells += 1;
            statistic += square(seen, *expected);
        }
        if few_expected >= LEAST_EXPECTED || few_seen >= LEAST_EXPECTED {
            cells += 1;
            statistic += square(few_seen, few_expected.max(LEAST_EXPECTED));
        }
        let freedom = cells.checked_sub(1).filter(|it| *it > 0)?;
        let chance = ChiSquared::new(f64::from(freedom)).ok()?.sf(statistic);
        if chance >= SIGNIFICANCE {
            return None;
        }
        let outliers = (0..self.seen.len()).filter(|at| self.matters(*at, total));
        outliers.max_by(|a, b| {
            let of =
                |at: usize| square(self.seen[at] as f64, self.expected[at].max(LEAST_EXPECTED));
            of(*a).total_cmp(&of(*b))
        })
    }

    /// Whether a cell is surely as it should be.
    fn is_right(&self, at: usize) -> bool {
        let (seen, expected) = (self.seen[at] as f64, self.expected[at]);
        let ratio = seen.max(1.0) / expected.max(1.0);
        expected >= SURE && ratio.max(1.0 / ratio) < RIGHT
    }

    fn matters(&self, at: usize, total: u64) -> bool {
        let (seen, expected) = (self.seen[at] as f64, self.expected[at]);
        let ratio = seen.max(1.0) / expected.max(1.0);
        if ratio.max(1.0 / ratio) < LEAST_EFFECT
            || (seen - expected).abs() < LEAST_SHARE * total as f64
        {
            return false;
        }
        let share = (expected / total as f64).clamp(0.0, 1.0);
        let Ok(binomial) = Binomial::new(share, total) else {
            return false;
        };
        let seen = self.seen[at];
        let chance = if ratio > 1.0 {
            seen.checked_sub(1).map_or(1.0, |below| binomial.sf(below))
        } else {
            binomial.cdf(seen)
        };
        chance * (self.seen.len() as f64) < BACKEND_SIGNIFICANCE
    }
}
