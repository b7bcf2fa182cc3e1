use super::*;

fn answer(status: u16, millis: f64) -> Answer {
    Answer {
        said: Ok(status),
        took: Duration::from_secs_f64(millis / 1000.0),
    }
}

fn silence() -> Answer {
    Answer {
        said: Err("connection refused".to_owned()),
        took: Duration::from_millis(1),
    }
}

const SUBJECT: usize = 3;

/// Three siblings, and a subject that comes last.
fn comparison(role: Role, is_before: bool) -> Comparison {
    let siblings = ["a", "b", "c"].map(|name| (name.to_owned(), Role::Sibling));
    let all = siblings.into_iter().chain([("d".to_owned(), role)]);
    Comparison::new("web", &["/".to_owned()], all, is_before)
}

/// So many rounds in which siblings and subject answer like this.
fn ask(
    comparison: &mut Comparison,
    rounds: usize,
    sibling: impl Fn(usize) -> Answer,
    subject: impl Fn(usize) -> Answer,
) {
    for round in 0..rounds {
        for at in 0..SUBJECT {
            comparison.add(at, 0, sibling(round * SUBJECT + at));
        }
        comparison.add(SUBJECT, 0, subject(round));
    }
}

fn harms(comparison: &Comparison) -> Vec<String> {
    let harms = judge(std::slice::from_ref(comparison));
    harms.iter().map(ToString::to_string).collect()
}

const NONE: [String; 0] = [];

#[test]
fn errors_that_no_sibling_has_are_named_with_figures() {
    let mut asked = comparison(Role::New, false);
    ask(&mut asked, 8, |_| answer(200, 1.0), |_| answer(500, 1.0));
    assert_eq!(
        harms(&asked),
        [
            "service web: backend d answers GET / with 500 (8 of 8), its siblings with 200 (0 of \
             24 errors)"
        ]
    );
    let mut asked = comparison(Role::New, false);
    ask(&mut asked, 8, |_| answer(204, 1.0), |_| silence());
    assert_eq!(
        harms(&asked),
        [
            "service web: backend d does not answer GET /: connection refused (8 of 8), its \
             siblings with 204 (0 of 24 errors)"
        ]
    );
}

#[test]
fn errors_count_in_any_role_before_a_change_and_after() {
    for role in [Role::New, Role::Raised] {
        for is_before in [true, false] {
            let mut asked = comparison(role, is_before);
            ask(&mut asked, 12, |_| answer(200, 1.0), |_| answer(503, 1.0));
            assert_eq!(harms(&asked).len(), 1, "{role:?} {is_before}");
        }
    }
}

#[test]
fn few_errors_and_errors_of_all_are_no_harm() {
    let every = |share: usize| {
        move |at: usize| match at % share {
            0 => answer(500, 1.0),
            _ => answer(200, 1.0),
        }
    };
    let mut asked = comparison(Role::New, false);
    ask(&mut asked, 60, |_| answer(200, 1.0), every(30));
    assert_eq!(harms(&asked), NONE);
    for share in [1, 2, 4] {
        let mut asked = comparison(Role::New, false);
        ask(&mut asked, 60, every(share), every(share));
        assert_eq!(harms(&asked), NONE, "one in {share}");
    }
    // A third of a backend's answers is seen soon enough.
    let mut asked = comparison(Role::New, false);
    ask(&mut asked, 24, |_| answer(200, 1.0), every(3));
    assert_eq!(harms(&asked).len(), 1);
}

#[test]
fn slow_answers_are_named_with_figures() {
    let mut asked = comparison(Role::New, true);
    ask(&mut asked, 12, |_| answer(200, 3.0), |_| answer(200, 305.0));
    assert!(asked.is_proven());
    assert_eq!(
        harms(&asked),
        [
            "service web: backend d answers GET / slowly: in 305.0 ms in the median of 12, 95 % \
             of its siblings' 36 in 3.0 ms or less"
        ]
    );
}

#[test]
fn little_slower_or_slow_at_times_is_no_harm() {
    let mut asked = comparison(Role::New, false);
    ask(&mut asked, 60, |_| answer(200, 3.0), |_| answer(200, 23.0));
    assert_eq!(harms(&asked), NONE);
    // A pause of a runtime that takes a quarter of the answers with it.
    let mut asked = comparison(Role::New, false);
    let paused = |round| answer(200, if round % 4 == 0 { 900.0 } else { 3.0 });
    ask(&mut asked, 60, |_| answer(200, 3.0), paused);
    assert_eq!(harms(&asked), NONE);
    // Heavy pages: another 100 ms are not much beside them.
    let mut asked = comparison(Role::New, false);
    ask(
        &mut asked,
        60,
        |_| answer(200, 800.0),
        |_| answer(200, 900.0),
    );
    assert_eq!(harms(&asked), NONE);
}

#[test]
fn server_that_was_as_slow_before_is_not_held_up() {
    // From another zone: 300 ms, before the change and after it.
    for is_before in [true, false] {
        let mut asked = comparison(Role::Raised, is_before);
        ask(&mut asked, 12, |_| answer(200, 3.0), |_| answer(200, 303.0));
        assert_eq!(harms(&asked), NONE, "{is_before}");
        if is_before {
            asked.begin_stage();
        }
        ask(&mut asked, 24, |_| answer(200, 3.0), |_| answer(200, 303.0));
        assert_eq!(harms(&asked), NONE, "{is_before}");
        asked.begin_stage();
        ask(&mut asked, 24, |_| answer(200, 3.0), |_| answer(200, 603.0));
        assert_eq!(harms(&asked).len(), 1, "{is_before}");
    }
}

#[test]
fn new_server_may_warm_up_before_it_gets_traffic() {
    let mut asked = comparison(Role::New, true);
    let cold = |round| answer(200, if round < 12 { 700.0 } else { 3.0 });
    ask(&mut asked, 12, |_| answer(200, 3.0), cold);
    assert_eq!(harms(&asked).len(), 1);
    ask(&mut asked, 12, |_| answer(200, 3.0), |_| answer(200, 3.0));
    assert_eq!(harms(&asked), NONE);
}

#[test]
fn nothing_is_said_without_siblings_or_without_enough_of_them() {
    let only = [("d".to_owned(), Role::New)];
    let mut asked = Comparison::new("web", &["/".to_owned()], only.into_iter(), false);
    for _ in 0..60 {
        asked.add(0, 0, answer(500, 900.0));
    }
    assert_eq!(harms(&asked), NONE);
    assert!(!asked.is_proven());
    let mut asked = comparison(Role::New, false);
    ask(&mut asked, 2, |_| answer(200, 1.0), |_| answer(500, 1.0));
    assert_eq!(harms(&asked), NONE);
}

#[test]
fn each_path_is_judged_by_itself() {
    let backends = [("a".to_owned(), Role::Sibling), ("d".to_owned(), Role::New)];
    let paths = ["/".to_owned(), "/cart".to_owned()];
    let mut asked = Comparison::new("web", &paths, backends.into_iter(), false);
    for _ in 0..12 {
        // A path may be slow, or fail, as long as it does so everywhere.
        for backend in 0..2 {
            asked.add(backend, 0, answer(500, 900.0));
        }
        asked.add(0, 1, answer(200, 1.0));
        asked.add(1, 1, answer(502, 1.0));
    }
    let found = harms(&asked);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("answers GET /cart with 502 (12 of 12)"),
        "{found:?}"
    );
}

#[test]
fn what_a_backend_said_that_is_not_up_is_forgotten() {
    let mut asked = comparison(Role::New, false);
    ask(&mut asked, 12, |_| answer(200, 1.0), |_| silence());
    assert_eq!(asked.answers("d").unwrap().errors, 12);
    asked.forget("d");
    assert_eq!(harms(&asked), NONE);
    assert_eq!(asked.answers("d"), Some(Answers::default()));
}

#[test]
fn figures_of_a_stage_count_from_its_beginning() {
    let mut asked = comparison(Role::New, true);
    ask(&mut asked, 12, |_| answer(200, 2.0), |_| answer(500, 1.0));
    asked.begin_stage();
    let mixed = |round| answer(if round < 3 { 500 } else { 200 }, round as f64);
    ask(&mut asked, 8, |_| answer(200, 2.0), mixed);
    let expected = Answers {
        asked: 8,
        errors: 3,
        median_micros: Some(5000),
    };
    assert_eq!(asked.answers("d"), Some(expected));
    assert_eq!(asked.answers("e"), None);
}

#[test]
fn other_kind_of_answer_than_all_siblings_is_told_and_no_harm() {
    let mut asked = comparison(Role::New, true);
    ask(&mut asked, 12, |_| answer(200, 1.0), |_| answer(404, 1.0));
    assert_eq!(harms(&asked), NONE);
    assert_eq!(
        notes(&[asked]),
        ["service web: backend d answers GET / with 404, its siblings with 200"]
    );
    let mut asked = comparison(Role::New, true);
    let mixed = |at| answer(if at % 2 == 0 { 200 } else { 302 }, 1.0);
    ask(&mut asked, 12, mixed, |_| answer(404, 1.0));
    assert_eq!(notes(&[asked]), NONE);
}

/// Uniform in 0 to 1, by a generator of our own.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as f64 / u64::MAX as f64
    }

    /// A time whose tail is as heavy as they come: of finite mean and no
    /// variance (Pareto with 1.5).
    fn heavy(&mut self, least: f64) -> f64 {
        least / (1.0 - self.unit()).powf(1.0 / 1.5)
    }
}

/// Servers that are alike, looked at in every round of half a minute.
#[test]
fn equal_servers_with_heavy_tails_raise_no_alarm() {
    for seed in 1..=240_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let least = [0.5, 20.0, 60.0, 300.0][seed as usize % 4];
        let failing = [0.0, 0.01, 0.2][seed as usize % 3];
        let is_before = seed % 2 == 0;
        let mut asked = comparison(Role::New, is_before);
        for round in 0..120 {
            for at in 0..=SUBJECT {
                let status = if random.unit() < failing { 500 } else { 200 };
                asked.add(at, 0, answer(status, random.heavy(least)));
            }
            let found = harms(&asked);
            assert!(found.is_empty(), "seed {seed}, round {round}: {found:?}");
        }
    }
}

#[test]
fn true_faults_are_found_before_traffic_and_within_a_short_hold() {
    for seed in 1..=300_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for (is_before, fault) in [(true, 0), (false, 0), (true, 1), (false, 1)] {
            let mut asked = comparison(Role::New, is_before);
            for _ in 0..12 {
                for at in 0..=SUBJECT {
                    let took = random.heavy(2.0).min(900.0);
                    let answer = match (at, fault) {
                        (SUBJECT, 0) => answer(500, took),
                        (SUBJECT, _) => answer(200, took + 300.0),
                        _ => answer(200, took),
                    };
                    asked.add(at, 0, answer);
                }
            }
            assert_eq!(harms(&asked).len(), 1, "seed {seed}, fault {fault}");
        }
    }
}
