use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn timing(rise: u32, fall: u32) -> Timing {
    Timing {
        rise,
        fall,
        interval: SECOND,
        jitter: 0.2,
        fast_interval: SECOND,
        flap: OFF,
    }
}

const OFF: Flap = Flap {
    limit: 0,
    window: Duration::from_secs(60),
    hold: Duration::from_secs(30),
    hold_max: Duration::from_secs(100),
};

fn outcome(evidence: Evidence) -> Outcome {
    let duration = Duration::from_millis(3);
    match evidence {
        Evidence::Good => Outcome::Passed {
            duration,
            certificate_ends: None,
        },
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
    assert!(!State::Held.is_eligible() && State::Held.is_alive());
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
            transitions: 2,
            durations: monitor.counts().durations,
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
fn probes_come_faster_while_a_row_is_under_way() {
    let now = Instant::now();
    let timing = Timing {
        fast_interval: SECOND / 5,
        jitter: 0.0,
        ..timing(2, 2)
    };
    let mut monitor = Monitor::new(timing, now);
    let mut next = |outcomes: &str| {
        feed(&mut monitor, now, outcomes);
        monitor.start_probe(now);
        (monitor.next_probe(now, 0.0) - now, monitor.state())
    };
    let (fast, usual) = (SECOND / 5, SECOND);
    assert_eq!(next("b"), (usual, State::Unproven));
    assert_eq!(next("g"), (fast, State::Unproven));
    assert_eq!(next("g"), (usual, State::Up));
    assert_eq!(next("b"), (fast, State::Up));
    assert_eq!(next("g"), (usual, State::Up));
    assert_eq!(next("bb"), (usual, State::Down));
    assert_eq!(next("g"), (fast, State::Down));
}

fn flapping(limit: u32) -> Timing {
    Timing {
        flap: Flap { limit, ..OFF },
        ..timing(1, 1)
    }
}

#[test]
fn backend_that_falls_again_and_again_is_held_for_longer_and_longer() {
    let mut now = Instant::now();
    let mut monitor = Monitor::resumed(flapping(2), State::Up, now);
    let mut step = |seconds: u32, outcomes: &str| {
        now += SECOND * seconds;
        let states = feed(&mut monitor, now, outcomes);
        let held = monitor
            .held()
            .map(|(until, falls)| ((until - now).as_secs(), falls));
        (states, held)
    };
    use State::{Down, Held, Up};
    // Two falls are taken as they come.
    assert_eq!(step(5, "bg"), (vec![Down, Up], None));
    assert_eq!(step(5, "bg"), (vec![Down, Up], None));
    assert_eq!(step(5, "bg"), (vec![Down, Held], Some((30, 3))));
    assert_eq!(step(29, "g"), (vec![], Some((1, 3))));
    // A fall while it is held makes it down, and holds it no longer.
    assert_eq!(step(0, "bg"), (vec![Down, Held], Some((1, 3))));
    assert_eq!(step(1, "g"), (vec![Up], None));
    for (hold, falls) in [(60, 4), (100, 5), (100, 6)] {
        assert_eq!(step(5, "bg"), (vec![Down, Held], Some((hold, falls))));
        assert_eq!(step(hold as u32, "g"), (vec![Up], None));
    }
    // It has stayed up for long enough: what was is forgotten.
    assert_eq!(step(60, "bg"), (vec![Down, Up], None));
    assert_eq!(step(5, "bg"), (vec![Down, Up], None));
    assert_eq!(step(5, "bg"), (vec![Down, Held], Some((30, 3))));
}

#[test]
fn backend_that_recovers_only_after_its_time_is_up_at_once() {
    let mut now = Instant::now();
    let mut monitor = Monitor::resumed(flapping(1), State::Up, now);
    assert_eq!(
        feed(&mut monitor, now, "bgb"),
        [State::Down, State::Up, State::Down]
    );
    now += SECOND * 30;
    assert_eq!(feed(&mut monitor, now, "g"), [State::Up]);
    assert_eq!(monitor.held(), None);
    // Without a limit nobody is held, whatever was before.
    assert_eq!(feed(&mut monitor, now, "bg"), [State::Down, State::Held]);
    monitor.set_timing(flapping(0));
    assert_eq!(feed(&mut monitor, now, "g"), [State::Up]);
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
        fast in 0.01f64..=1.5,
        random in prop::collection::vec(0.0f64..=1.0, 1..40),
    ) {
        let begun = Instant::now();
        let death = begun + Duration::from_millis(death_millis);
        let hang = Duration::from_millis(hang_millis);
        let timing = Timing {
            rise: 1,
            fall,
            interval: SECOND,
            jitter,
            fast_interval: SECOND.mul_f64(fast),
            flap: OFF,
        };
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

    /// Whatever the probes say: nobody is held for longer than the longest
    /// hold after its last fall, and nobody is up before that.
    #[test]
    fn hold_is_bounded_and_kept(
        limit in 1u32..4,
        steps in prop::collection::vec((any::<bool>(), 0u64..90), 1..80),
    ) {
        let mut now = Instant::now();
        let flap = Flap { limit, ..OFF };
        let mut monitor = Monitor::resumed(flapping(limit), State::Up, now);
        let mut fell = None;
        for (good, seconds) in steps {
            now += Duration::from_secs(seconds);
            let before = monitor.held();
            let evidence = if good { Evidence::Good } else { Evidence::Bad };
            let change = monitor.record(now, &outcome(evidence));
            match change.map(|it| (it.from, it.to)) {
                Some((State::Up, State::Down)) => fell = Some(now),
                Some((State::Held, State::Up)) => {
                    prop_assert!(before.is_some_and(|(until, _)| until <= now));
                }
                _ => {}
            }
            if let Some((until, falls)) = monitor.held() {
                prop_assert!(falls > limit && until > now);
                prop_assert!(until <= fell.unwrap() + flap.hold_max);
            }
        }
    }
}
