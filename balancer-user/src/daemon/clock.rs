//! The wall clock, held against one that nobody sets.
//!
//! Nothing that the daemon does goes by the wall clock: probes, drains, ramps,
//! holds and rates have a clock of their own. It stands in what people read:
//! incidents, history, the log. Where it is set while the daemon runs, that is
//! said, and what would be thrown away or warned of by age goes by the smaller
//! of the two ages.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::controller::Controller;
use super::unix_now;
use crate::revision::UnixSeconds;

/// What is corrected by less is what a clock that is kept right does.
const LEAST: Duration = Duration::from_secs(10);
/// How long it is told of.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Both clocks.
#[derive(Debug)]
pub(super) struct Clock {
    /// The wall clock at the start, less what the other one had.
    offset: i128,
    /// The same as last looked.
    last: i128,
    /// When it was set last, and by how much.
    set: Option<(Instant, i128)>,
}

impl Clock {
    pub(super) fn new() -> Self {
        let offset = offset();
        Self {
            offset,
            last: offset,
            set: None,
        }
    }

    /// The time that it would be, had nobody set the clock since the start.
    fn steady(&self) -> UnixSeconds {
        let steady = i128::from(unix_now()) - (self.last - self.offset) / NANOS;
        u64::try_from(steady).unwrap_or_default()
    }

    /// Now for ages: one that nobody set forward.
    pub(super) fn now_for_ages(&self) -> UnixSeconds {
        self.steady().min(unix_now())
    }

    /// Takes what the clocks say; by how many seconds it was set since the last
    /// look.
    fn look(&mut self, offset: i128, now: Instant) -> Option<i128> {
        let by = offset - std::mem::replace(&mut self.last, offset);
        if by.unsigned_abs() < LEAST.as_nanos() {
            return None;
        }
        // The two clocks are not read at the same moment.
        let seconds = (by + by.signum() * NANOS / 2) / NANOS;
        self.set = Some((now, seconds));
        Some(seconds)
    }

    /// That it was set a while ago, in a sentence.
    pub(super) fn problem(&self, now: Instant) -> Option<String> {
        let (at, seconds) = self.set?;
        let ago = now.saturating_duration_since(at);
        (ago < REMEMBERED).then(|| format!("the clock was set {}", in_words(seconds)))
    }
}

const NANOS: i128 = 1_000_000_000;

/// How far the wall clock is ahead of the time since boot, in nanoseconds.
fn offset() -> i128 {
    let nanos = |clock| {
        let now = clock_gettime(clock).map(Duration::from).unwrap_or_default();
        now.as_nanos() as i128
    };
    nanos(ClockId::CLOCK_REALTIME) - nanos(ClockId::CLOCK_BOOTTIME)
}

fn in_words(seconds: i128) -> String {
    let by = Duration::from_secs(seconds.unsigned_abs() as u64);
    let way = if seconds < 0 { "back" } else { "forward" };
    format!("{way} by {}", humantime::format_duration(by))
}

impl Controller {
    /// Says it where the clock was set.
    pub(super) fn look_at_clock(&mut self) {
        if let Some(seconds) = self.clock.look(offset(), Instant::now()) {
            tracing::warn!(
                by_seconds = seconds as i64,
                "the clock was set {}; what was noted before has times of the old one",
                in_words(seconds)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_that_is_set_is_told_of_for_a_while_and_one_that_is_kept_right_is_not() {
        let mut clock = Clock {
            offset: 0,
            last: 0,
            set: None,
        };
        let now = Instant::now();
        assert_eq!(clock.look(NANOS / 2, now), None);
        assert_eq!(clock.look(-NANOS, now), None);
        assert_eq!(clock.problem(now), None);
        assert_eq!(clock.look(7199 * NANOS, now), Some(7200));
        let said = "the clock was set forward by 2h";
        assert_eq!(clock.problem(now).as_deref(), Some(said));
        assert_eq!(clock.look(3599 * NANOS + 999, now), Some(-3600));
        let said = "the clock was set back by 1h";
        assert_eq!(clock.problem(now).as_deref(), Some(said));
        assert_eq!(clock.problem(now + REMEMBERED), None);
    }

    #[test]
    fn ages_do_not_grow_by_a_clock_that_was_set_forward() {
        let day = 86_400 * NANOS;
        let of = |last| Clock {
            offset: 0,
            last,
            set: None,
        };
        let near = |one: u64, other: u64| one.abs_diff(other) <= 1;
        assert!(near(of(0).now_for_ages(), unix_now()));
        assert!(near(of(day).now_for_ages(), unix_now() - 86_400));
        // Nor do they by one that was set back.
        assert!(near(of(-day).now_for_ages(), unix_now()));
    }
}
