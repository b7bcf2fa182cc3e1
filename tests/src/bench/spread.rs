//! A figure of several rounds.

use serde::Serialize;

/// Median and deciles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the rounds were below.
    pub median: f64,
    /// A tenth of the rounds was below.
    pub p10: f64,
    /// A tenth of the rounds was above.
    pub p90: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = ((figures.len().saturating_sub(1)) as f64 * share).round() as usize;
            figures.get(index).copied().unwrap_or(f64::NAN)
        };
        Self {
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
            rounds: figures.len(),
        }
    }

    /// The same in another unit.
    pub(super) fn scaled(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            p10: self.p10 * factor,
            p90: self.p90 * factor,
            rounds: self.rounds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciles_are_figures_that_were_measured() {
        let spread = Spread::of((1..=11).map(f64::from).rev().collect());
        assert_eq!((spread.p10, spread.median, spread.p90), (2.0, 6.0, 10.0));
        assert_eq!(spread.rounds, 11);
    }
}
