//! The health of one backend, decided from the outcomes of its probes.
//!
//! Pure: no sockets, no clock, no randomness; `now` and random numbers are
//! arguments. The probes are [`crate::probe`], what a state means for the
//! table is the plan's business.
//!
//! ```text
//!                 rise good in a row            fall bad in a row
//!   Unproven ─────────────────────────▶  Up  ─────────────────────▶ Down
//!                                         ▲                           │
//!                                         └───────────────────────────┘
//!                                              rise good in a row
//! ```
//!
//! | state    | good outcome             | bad outcome                | no evidence |
//! |----------|--------------------------|----------------------------|-------------|
//! | Unproven | `rise`-th in a row: Up   | stays                      | stays       |
//! | Up       | stays                    | `fall`-th in a row: Down   | stays       |
//! | Down     | `rise`-th in a row: Up,  | stays                      | stays       |
//! |          | or Held, see `damping`    |                            |             |
//! | Held     | Up once its time is over | `fall`-th in a row: Down   | stays       |
//!
//! A good outcome ends a row of bad ones and the other way round. An outcome
//! that is no evidence ([`Evidence::None`]) neither adds to a row nor ends
//! one. Only `Up` is eligible for new flows: a backend gets none until it is
//! proven. One that is `Held` keeps the flows that it has.
//!
//! # How long a dead server still gets new flows
//!
//! Probes start at most one `interval` apart: jitter only makes them earlier,
//! and a probe that hangs ends at its `timeout`, which is below the interval
//! (rule `probe-timing`), so it never delays the next. The first probe to
//! start after a server's death therefore starts at most one interval after
//! it, and the `fall`-th at most `fall` x `interval` after it. Hence, counted
//! from the death:
//!
//! - a server that refuses or resets is down after `fall` x `interval` at
//!   most (plus one round trip), as such a probe fails at once;
//! - a server that hangs, or whose host is gone without a word, is down after
//!   `fall` x `interval` + `timeout` at most.
//!
//! Counted from the start of the first probe that fails it is one interval
//! less. A timer wakes up to 1 ms late, once a probe; the 100 ms that are
//! allowed on top are for that and for the change of the table.

mod at_vip;
mod damping;
mod durations;
mod outcome;

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

pub use at_vip::{AtVip, Fault};
pub use durations::{Durations, STEPS};
pub use outcome::{Evidence, Failure, Outcome, Phase, WRONG_SERVER, shortened};

use self::damping::Damping;
use crate::config::model::{self, Flap};

/// The least time between two probes, so that no setting makes a busy loop.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// The most, so that no setting makes a time that cannot be added to another.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a backend works, as far as its probes know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// New; not yet passed `rise` probes in a row.
    Unproven,
    /// Works.
    Up,
    /// Has worked and no longer does.
    Down,
    /// Works, and is kept out for a time as it has gone up and down.
    Held,
}

impl State {
    /// Whether the backend may get new flows.
    pub fn is_eligible(self) -> bool {
        self == Self::Up
    }

    /// Whether its probes pass, so that flows that it has may go on.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Up | Self::Held)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unproven => "unproven",
            Self::Up => "up",
            Self::Down => "down",
            Self::Held => "held",
        })
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state from now on.
    pub to: State,
    /// When it changed.
    pub at: Instant,
}

/// How often probes are made and how many of them decide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Good outcomes in a row that make a backend up; 0 acts as 1.
    pub rise: u32,
    /// Bad outcomes in a row that make a backend down; 0 acts as 1.
    pub fall: u32,
    /// The longest time between the starts of two probes.
    pub interval: Duration,
    /// The share of the interval (0 to 1) by which a probe may be earlier.
    pub jitter: f64,
    /// The interval while a row that may change the state has begun, where
    /// it is shorter.
    pub fast_interval: Duration,
    /// What is done with a backend that goes up and down.
    pub flap: Flap,
}

impl Timing {
    /// The longest time from a server's death to `Down`, for the slowest kind
    /// of death: one that hangs each probe until its timeout.
    pub fn worst_detection(&self, timeout: Duration) -> Duration {
        self.interval
            .saturating_mul(self.fall.max(1))
            .saturating_add(timeout)
    }
}

impl From<&model::Health> for Timing {
    fn from(health: &model::Health) -> Self {
        Self {
            rise: health.rise,
            fall: health.fall,
            interval: health.interval,
            jitter: health.jitter,
            fast_interval: health.fast_interval.unwrap_or(health.interval),
            flap: health.flap,
        }
    }
}

/// How many probes ended how, since the monitor began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Probes that passed.
    pub passed: u64,
    /// Probes that failed on the backend's side.
    pub failed: u64,
    /// Probes that failed on our own side.
    pub local: u64,
    /// Changes of state; many of them mean that the backend flaps.
    pub transitions: u64,
    /// How long those took that say something about the backend.
    pub durations: Durations,
}

/// Follows the outcomes of one backend's probes.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitor {
    timing: Timing,
    state: State,
    since: Instant,
    begun: Instant,
    last_start: Option<Instant>,
    good_in_row: u32,
    bad_in_row: u32,
    local_in_row: u32,
    counts: Counts,
    last_outcome: Option<(Instant, Outcome)>,
    last_failure: Option<(Instant, Failure)>,
    certificate_ends: Option<SystemTime>,
    damping: Damping,
}

impl Monitor {
    /// A backend of which nothing is known.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self::resumed(timing, State::Unproven, now)
    }

    /// A backend whose state an earlier controller found; its rows begin
    /// anew. A controller that adopts a running table must not take flows
    /// from backends that were proven a second ago.
    pub fn resumed(timing: Timing, state: State, now: Instant) -> Self {
        Self {
            timing,
            state,
            since: now,
            begun: now,
            last_start: None,
            good_in_row: 0,
            bad_in_row: 0,
            local_in_row: 0,
            counts: Counts::default(),
            last_outcome: None,
            last_failure: None,
            certificate_ends: None,
            damping: Damping::default(),
        }
    }

    /// Uses other timing from now on and keeps state, rows and counts. A row
    /// that is already long enough for a smaller `rise` or `fall` takes
    /// effect with the next outcome that lengthens it.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Notes that a probe starts; the next is due one interval from here.
    pub fn start_probe(&mut self, now: Instant) {
        self.last_start = Some(now);
    }

    /// Takes in the outcome of a probe.
    pub fn record(&mut self, now: Instant, outcome: &Outcome) -> Option<Transition> {
        self.last_outcome = Some((now, outcome.clone()));
        if let Some(reason) = outcome.failure() {
            self.last_failure = Some((now, reason.clone()));
        }
        // While probes fail, what it last showed is what is known.
        self.certificate_ends = outcome.certificate_ends().or(self.certificate_ends);
        if outcome.evidence() != Evidence::None {
            self.counts.durations.take(outcome.duration());
        }
        match outcome.evidence() {
            Evidence::Good => {
                self.counts.passed += 1;
                self.good_in_row = self.good_in_row.saturating_add(1);
                self.bad_in_row = 0;
                self.local_in_row = 0;
            }
            Evidence::Bad => {
                self.counts.failed += 1;
                self.bad_in_row = self.bad_in_row.saturating_add(1);
                self.good_in_row = 0;
                self.local_in_row = 0;
            }
            Evidence::None => {
                self.counts.local += 1;
                self.local_in_row = self.local_in_row.saturating_add(1);
                return None;
            }
        }
        let to = self.next_state(now);
        if to == self.state {
            return None;
        }
        if (self.state, to) == (State::Up, State::Down) {
            let was_up = now.saturating_duration_since(self.since);
            self.damping.fall(&self.timing.flap, was_up, now);
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        self.counts.transitions += 1;
        Some(Transition { from, to, at: now })
    }

    /// The state that the rows as they now are lead to.
    fn next_state(&self, now: Instant) -> State {
        let has_risen = self.good_in_row >= self.timing.rise.max(1);
        match self.state {
            State::Up | State::Held if self.is_failing() => State::Down,
            State::Unproven | State::Down | State::Held if has_risen => {
                match self.damping.holds(&self.timing.flap, now) {
                    true => State::Held,
                    false => State::Up,
                }
            }
            state => state,
        }
    }

    /// Whether a row that may change the state has begun.
    fn is_changing(&self) -> bool {
        match self.state {
            State::Up | State::Held => self.bad_in_row > 0,
            State::Unproven | State::Down => self.good_in_row > 0,
        }
    }

    /// When the next probe starts, never before `now`. `random_unit` is
    /// uniform between 0 and 1. The first probes of monitors that begin
    /// together are spread over one interval; after that jitter keeps them
    /// apart, and only ever makes a probe earlier, as the time it takes to
    /// notice a death rests on the interval.
    pub fn next_probe(&self, now: Instant, random_unit: f64) -> Instant {
        let random = share(random_unit);
        let interval = match self.is_changing() {
            true => self.timing.fast_interval.min(self.timing.interval),
            false => self.timing.interval,
        };
        let interval = interval.clamp(MIN_INTERVAL, MAX_INTERVAL);
        let due = match self.last_start {
            None => self.begun + interval.mul_f64(random),
            Some(start) => start + interval.mul_f64(1.0 - share(self.timing.jitter) * random),
        };
        due.max(now)
    }

    /// The backend's state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it is in that state.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// How often it is probed and how many probes decide.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// How many probes ended how.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Good outcomes since the last bad one.
    pub fn good_in_row(&self) -> u32 {
        self.good_in_row
    }

    /// Bad outcomes since the last good one.
    pub fn bad_in_row(&self) -> u32 {
        self.bad_in_row
    }

    /// Whether so many were bad in a row as take a backend down, also one that
    /// never was up.
    pub fn is_failing(&self) -> bool {
        self.bad_in_row >= self.timing.fall.max(1)
    }

    /// Failures of our own since the last evidence. While this grows the
    /// state is only what was last known: worth an incident, no verdict.
    pub fn local_in_row(&self) -> u32 {
        self.local_in_row
    }

    /// Until when it is kept out for having gone up and down, and how many
    /// times in a row it fell soon after it had come up.
    pub fn held(&self) -> Option<(Instant, u32)> {
        let until = self.damping.held_until()?;
        (self.state == State::Held).then(|| (until, self.damping.falls()))
    }

    /// The last outcome and when it came.
    pub fn last_outcome(&self) -> Option<(Instant, &Outcome)> {
        self.last_outcome.as_ref().map(|(at, last)| (*at, last))
    }

    /// When the certificate ends that the server last showed.
    pub fn certificate_ends(&self) -> Option<SystemTime> {
        self.certificate_ends
    }

    /// The last failure and when it came; kept after the backend recovers.
    pub fn last_failure(&self) -> Option<(Instant, &Failure)> {
        self.last_failure.as_ref().map(|(at, last)| (*at, last))
    }
}

/// A number as a share: within 0 and 1, and 0 for what is no number.
fn share(number: f64) -> f64 {
    if number.is_nan() {
        0.0
    } else {
        number.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests;
