//! How long probes took, and how late they began, in steps as metrics tell
//! them.

use std::time::Duration;

/// Upper ends of the steps but for the last, which has all that took longer:
/// from a server on the same switch to the longest usual timeout.
pub const STEPS: [Duration; 12] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// Probes by a duration of theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Durations {
    /// Probes in each step.
    pub steps: [u64; STEPS.len() + 1],
    /// All of them together, in microseconds.
    pub sum_micros: u64,
}

impl Durations {
    /// Counts a probe.
    pub(crate) fn take(&mut self, took: Duration) {
        let at = STEPS.partition_point(|end| *end < took);
        self.steps[at] += 1;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_holds_its_own_end() {
        let mut durations = Durations::default();
        for micros in [0, 500, 501, 1000, 5_000_000, 5_000_001] {
            durations.take(Duration::from_micros(micros));
        }
        assert_eq!(durations.steps, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(durations.sum_micros, 10_002_002);
    }
}
