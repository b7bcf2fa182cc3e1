//! Backends whose probes pass, but take far longer than those of their
//! siblings and than they used to.

use std::time::Duration;

use super::{BackendLook, Kind, ServiceLook, Sign};
use crate::desired::BackendState;

/// Slow is what takes so many times what is usual,
const TIMES: f64 = 3.0;
/// and so much longer.
const LONGER: f64 = 0.05;
/// It is over at so many times what is usual.
const CALM: f64 = 2.0;
/// What one look counts in what is usual: half of it is of the last four
/// minutes.
const WEIGHT: f64 = 1.0 / 360.0;

/// What is usual for each backend of a service, in their order.
#[derive(Debug, Default)]
pub(super) struct Answers(Vec<Usual>);

#[derive(Debug, Clone, Copy, Default)]
struct Usual {
    /// Seconds that a probe takes; none before the first.
    seconds: Option<f64>,
    is_slow: bool,
}

impl Answers {
    /// Forgets everything: the backends are others.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Who is slow.
    pub(super) fn look(&mut self, service: &ServiceLook) -> Vec<Sign> {
        self.0.resize(service.backends.len(), Usual::default());
        let all: Vec<Option<f64>> = service.backends.iter().map(quickest).collect();
        let mut signs = Vec::new();
        for (at, (backend, usual)) in service.backends.iter().zip(&mut self.0).enumerate() {
            let Some(now) = all[at] else {
                usual.is_slow = false;
                continue;
            };
            let siblings = median(
                all.iter()
                    .enumerate()
                    .filter_map(|(other, it)| it.filter(|_| other != at)),
            );
            // One backend alone has only its past.
            let Some(expected) = siblings.into_iter().chain(usual.seconds).reduce(f64::max) else {
                usual.seconds = Some(now);
                continue;
            };
            let times = if usual.is_slow { CALM } else { TIMES };
            usual.is_slow = now > times * expected && now > expected + LONGER;
            if usual.is_slow {
                // Who was taken out waits for its repair, and harms nobody.
                if !is_taken_out(backend.state) {
                    signs.push(sign(service, backend, now, expected));
                }
                continue;
            }
            let before = usual.seconds.unwrap_or(now);
            usual.seconds = Some(before + (now - before) * WEIGHT);
        }
        signs
    }
}

fn is_taken_out(state: BackendState) -> bool {
    matches!(state, BackendState::Draining | BackendState::Disabled)
}

/// Seconds that the quickest of the last probes took, if there were enough.
fn quickest(backend: &BackendLook) -> Option<f64> {
    let times: Option<Vec<Duration>> = backend.probes.iter().copied().collect();
    Some(times?.into_iter().min()?.as_secs_f64())
}

fn median(times: impl Iterator<Item = f64>) -> Option<f64> {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn sign(service: &ServiceLook, backend: &BackendLook, now: f64, expected: f64) -> Sign {
    Sign {
        kind: Kind::Slow,
        service: service.name.clone(),
        backend: Some(backend.name.to_string()),
        what: format!(
            "is slow: its last {} probes took {:.0} ms or more, {:.0} ms is usual",
            super::PROBES,
            now * 1000.0,
            expected * 1000.0
        ),
        cause: "the server, or the way to it, is slow; it answers, and the table is right: its \
                load, its disks or what it asks"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(answers: &mut Answers, millis: &[u64], count: usize) -> Vec<Sign> {
        looks_in(answers, BackendState::Up, millis, count)
    }

    fn looks_in(
        answers: &mut Answers,
        state: BackendState,
        millis: &[u64],
        count: usize,
    ) -> Vec<Sign> {
        let backend = |(at, millis): (usize, &u64)| BackendLook {
            name: format!("web-{at}").into(),
            share: 0.25,
            state,
            last_failure: None,
            probes: [Some(Duration::from_millis(*millis)); super::super::PROBES],
            flows: 0,
            bytes: 0,
            resets: 0,
            handshakes: None,
        };
        let service = ServiceLook {
            name: "web".to_owned(),
            backends: millis.iter().enumerate().map(backend).collect(),
            ..ServiceLook::default()
        };
        (0..count).fold(Vec::new(), |_, _| answers.look(&service))
    }

    #[test]
    fn backend_that_has_become_slow_is_named_until_it_is_not() {
        let mut answers = Answers::default();
        assert_eq!(looks(&mut answers, &[1, 2, 1, 1], 100), []);
        let signs = looks(&mut answers, &[1, 202, 1, 1], 1);
        let [sign] = &signs[..] else {
            panic!("{signs:?}");
        };
        assert_eq!(
            (sign.kind, sign.backend.as_deref()),
            (Kind::Slow, Some("web-1"))
        );
        assert!(sign.what.contains("took 202 ms"), "{}", sign.what);
        assert_eq!(looks(&mut answers, &[1, 202, 1, 1], 3600).len(), 1);
        assert_eq!(looks(&mut answers, &[1, 2, 1, 1], 1), []);
    }

    #[test]
    fn backend_that_was_taken_out_is_named_again_only_when_it_is_back_and_still_slow() {
        use BackendState::{Disabled, Draining, Up};
        let mut answers = Answers::default();
        assert_eq!(looks(&mut answers, &[1, 2, 1, 1], 100), []);
        for (state, count) in [(Up, 1), (Draining, 0), (Disabled, 0), (Up, 1)] {
            let signs = looks_in(&mut answers, state, &[1, 202, 1, 1], 60);
            assert_eq!(signs.len(), count, "{state:?}: {signs:?}");
        }
    }

    #[test]
    fn backend_that_is_slow_from_the_start_is_held_against_its_siblings() {
        let mut answers = Answers::default();
        assert_eq!(looks(&mut answers, &[1, 1, 300], 1).len(), 1);
    }

    #[test]
    fn what_all_share_and_what_is_a_few_milliseconds_is_no_sign() {
        let mut answers = Answers::default();
        assert_eq!(looks(&mut answers, &[300, 300, 310], 10), []);
        let mut answers = Answers::default();
        assert_eq!(looks(&mut answers, &[1, 1, 40], 10), []);
    }

    #[test]
    fn backend_without_siblings_is_held_against_its_past() {
        let mut answers = Answers::default();
        assert_eq!(looks(&mut answers, &[3], 10), []);
        assert_eq!(looks(&mut answers, &[203], 1).len(), 1);
    }
}
