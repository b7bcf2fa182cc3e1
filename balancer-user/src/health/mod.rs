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
//! | Down     | `rise`-th in a row: Up   | stays                      | stays       |
//!
//! A good outcome ends a row of bad ones and the other way round. An outcome
//! that is no evidence ([`Evidence::None`]) neither adds to a row nor ends
//! one. Only `Up` is eligible for new flows: a backend gets none until it is
//! proven.
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

mod outcome;

use std::fmt;
use std::time::{Duration, Instant};

pub use outcome::{Evidence, Failure, Outcome, Phase, shortened};

use crate::config::model;

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
}

impl State {
    /// Whether the backend may get new flows.
    pub fn is_eligible(self) -> bool {
        self == Self::Up
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unproven => "unproven",
            Self::Up => "up",
            Self::Down => "down",
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
        let to = self.next_state();
        if to == self.state {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        self.counts.transitions += 1;
        Some(Transition { from, to, at: now })
    }

    /// The state that the rows as they now are lead to.
    fn next_state(&self) -> State {
        match self.state {
            State::Unproven | State::Down if self.good_in_row >= self.timing.rise.max(1) => {
                State::Up
            }
            State::Up if self.bad_in_row >= self.timing.fall.max(1) => State::Down,
            state => state,
        }
    }

    /// When the next probe starts, never before `now`. `random_unit` is
    /// uniform between 0 and 1. The first probes of monitors that begin
    /// together are spread over one interval; after that jitter keeps them
    /// apart, and only ever makes a probe earlier, as the time it takes to
    /// notice a death rests on the interval.
    pub fn next_probe(&self, now: Instant, random_unit: f64) -> Instant {
        let random = share(random_unit);
        let interval = self.timing.interval.clamp(MIN_INTERVAL, MAX_INTERVAL);
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

    /// Failures of our own since the last evidence. While this grows the
    /// state is only what was last known: worth an incident, no verdict.
    pub fn local_in_row(&self) -> u32 {
        self.local_in_row
    }

    /// The last outcome and when it came.
    pub fn last_outcome(&self) -> Option<(Instant, &Outcome)> {
        self.last_outcome.as_ref().map(|(at, last)| (*at, last))
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timing(rise: u32, fall: u32) -> Timing {
        Timing {
            rise,
            fall,
            interval: SECOND,
            jitter: 0.2,
        }
    }

    fn outcome(evidence: Evidence) -> Outcome {
        let duration = Duration::from_millis(3);
        match evidence {
            Evidence::Good => Outcome::Passed { duration },
            Evidence::Bad => Outcome::Failed {
                reason: Failure::Refused,
                duration,
            },
            Evidence::None => Outcome::Failed {
                reason: Failure::Local("too many open files".into()),
                duration,
            },
        }
    }

    fn feed(monitor: &mut Monitor, now: Instant, outcomes: &str) -> Vec<State> {
        let evidence = |letter| match letter {
            'g' => Evidence::Good,
            'b' => Evidence::Bad,
            _ => Evidence::None,
        };
        outcomes
            .chars()
            .filter_map(|letter| monitor.record(now, &outcome(evidence(letter))))
            .map(|transition| transition.to)
            .collect()
    }

    #[test]
    fn transitions_follow_the_table() {
        use State::{Down, Up};
        let cases: [(u32, u32, &str, &[State]); 9] = [
            (2, 3, "g", &[]),
            (2, 3, "gg", &[Up]),
            (2, 3, "gbg", &[]),
            (2, 3, "bbbbbb", &[]),
            (2, 3, "ggbbgbb", &[Up]),
            (2, 3, "ggbbb", &[Up, Down]),
            (2, 3, "ggbbbgbgg", &[Up, Down, Up]),
            (1, 1, "gbgb", &[Up, Down, Up, Down]),
            (0, 0, "gb", &[Up, Down]),
        ];
        let now = Instant::now();
        for (rise, fall, outcomes, expected) in cases {
            let mut monitor = Monitor::new(timing(rise, fall), now);
            assert_eq!(feed(&mut monitor, now, outcomes), expected, "{outcomes}");
        }
    }

    #[test]
    fn only_a_proven_backend_is_eligible() {
        assert!(State::Up.is_eligible());
        assert!(!State::Unproven.is_eligible());
        assert!(!State::Down.is_eligible());
    }

    #[test]
    fn local_failure_neither_adds_to_a_row_nor_ends_it() {
        let now = Instant::now();
        let mut monitor = Monitor::new(timing(2, 2), now);
        assert_eq!(feed(&mut monitor, now, "glg"), [State::Up]);
        assert_eq!(feed(&mut monitor, now, "llllll"), []);
        assert_eq!(monitor.local_in_row(), 6);
        assert_eq!(feed(&mut monitor, now, "blb"), [State::Down]);
        assert_eq!(monitor.local_in_row(), 0);
        assert_eq!(
            monitor.counts(),
            Counts {
                passed: 2,
                failed: 2,
                local: 8,
                transitions: 2
            }
        );
    }

    #[test]
    fn a_transition_sets_since_and_the_last_failure_outlives_recovery() {
        let begun = Instant::now();
        let mut monitor = Monitor::resumed(timing(1, 1), State::Up, begun);
        let down = monitor.record(begun + SECOND, &outcome(Evidence::Bad));
        let expected = Transition {
            from: State::Up,
            to: State::Down,
            at: begun + SECOND,
        };
        assert_eq!(down, Some(expected));
        monitor.record(begun + 2 * SECOND, &outcome(Evidence::Good));
        monitor.record(begun + 3 * SECOND, &outcome(Evidence::Good));
        assert_eq!(monitor.since(), begun + 2 * SECOND);
        assert_eq!(
            monitor.last_failure(),
            Some((begun + SECOND, &Failure::Refused))
        );
        let (at, last) = monitor.last_outcome().unwrap();
        assert_eq!((at, last.failure()), (begun + 3 * SECOND, None));
    }

    #[test]
    fn first_probes_spread_over_one_interval() {
        let now = Instant::now();
        let monitor = Monitor::new(timing(2, 3), now);
        assert_eq!(monitor.next_probe(now, 0.0), now);
        assert_eq!(monitor.next_probe(now, 0.25), now + SECOND / 4);
        assert_eq!(monitor.next_probe(now, 1.0), now + SECOND);
    }

    #[test]
    fn other_timing_keeps_state_and_rows() {
        let now = Instant::now();
        let mut monitor = Monitor::resumed(timing(2, 5), State::Up, now);
        assert_eq!(feed(&mut monitor, now, "bbb"), []);
        monitor.set_timing(timing(2, 3));
        assert_eq!(monitor.state(), State::Up);
        assert_eq!(feed(&mut monitor, now, "b"), [State::Down]);
    }

    #[test]
    fn hang_is_noticed_after_fall_intervals_and_a_timeout() {
        let timeout = Duration::from_millis(500);
        let bound = timing(2, 3).worst_detection(timeout);
        assert_eq!(bound, Duration::from_millis(3500));
    }

    /// The state from nothing but the last `rise` or `fall` outcomes.
    fn model(rise: usize, fall: usize, outcomes: &[Evidence]) -> State {
        let heard: Vec<_> = outcomes
            .iter()
            .filter(|evidence| **evidence != Evidence::None)
            .collect();
        let last = |end: usize, count: usize, wanted: Evidence| {
            end >= count && heard[end - count..end].iter().all(|one| **one == wanted)
        };
        let mut state = State::Unproven;
        for end in 1..=heard.len() {
            if last(end, rise, Evidence::Good) {
                state = State::Up;
            } else if state == State::Up && last(end, fall, Evidence::Bad) {
                state = State::Down;
            }
        }
        state
    }

    fn any_evidence() -> impl Strategy<Value = Evidence> {
        prop_oneof![
            4 => Just(Evidence::Good),
            4 => Just(Evidence::Bad),
            1 => Just(Evidence::None),
        ]
    }

    proptest! {
        #[test]
        fn health_agrees_with_the_model(
            rise in 1u32..5,
            fall in 1u32..5,
            outcomes in prop::collection::vec(any_evidence(), 0..60),
        ) {
            let now = Instant::now();
            let mut monitor = Monitor::new(timing(rise, fall), now);
            for (index, evidence) in outcomes.iter().enumerate() {
                let before = monitor.state();
                let transition = monitor.record(now, &outcome(*evidence));
                let expected = model(rise as usize, fall as usize, &outcomes[..=index]);
                prop_assert_eq!(monitor.state(), expected);
                let told = transition.map(|one| (one.from, one.to));
                prop_assert_eq!(told, (before != expected).then_some((before, expected)));
            }
        }

        /// The bound of the module's doc, simulated: a server that passes
        /// until it dies, then takes up to the timeout to fail each probe.
        #[test]
        fn a_death_is_noticed_within_the_bound(
            fall in 1u32..6,
            jitter in 0.0f64..=0.5,
            death_millis in 0u64..20_000,
            hang_millis in 0u64..999,
            random in prop::collection::vec(0.0f64..=1.0, 1..40),
        ) {
            let begun = Instant::now();
            let death = begun + Duration::from_millis(death_millis);
            let hang = Duration::from_millis(hang_millis);
            let timing = Timing { rise: 1, fall, interval: SECOND, jitter };
            let mut monitor = Monitor::resumed(timing, State::Up, begun);
            let mut random = random.iter().cycle();
            let mut now = begun;
            while monitor.state() == State::Up {
                now = monitor.next_probe(now, *random.next().unwrap());
                monitor.start_probe(now);
                if now < death {
                    monitor.record(now, &outcome(Evidence::Good));
                } else {
                    now += hang;
                    monitor.record(now, &outcome(Evidence::Bad));
                }
            }
            prop_assert!(now <= death + timing.worst_detection(hang));
        }
    }
}
