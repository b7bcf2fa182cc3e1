//! Backends whose clients fare badly, though no probe need say so.
//!
//! Each backend's recent seconds are held against the same seconds of its
//! siblings and against its own past ([`ailments`]). Where no one stands out
//! and most fare worse than before, it is a sign of the service.

use std::time::Duration;

use super::{BackendLook, Kind, ServiceLook, Sign};
use crate::desired::BackendState;
use crate::verdict::Counted;
use crate::verdict::ailments::{self, Ailment};

/// What is recent is between one and two of these long.
const HALF: Duration = Duration::from_secs(3);
/// What was begun while a backend was down is known that much after it came up.
const AFTERMATH: Duration = Duration::from_secs(4);
/// Chance alone brings a sign about with no more than this probability,
/// though looks are many.
const SIGNIFICANCE: f64 = 1e-7;
/// The same for each of many that agree.
const LOOSE: f64 = 1e-3;
/// Less than this share of bad ones is nobody's incident.
const LEAST_SHARE: f64 = 0.05;
/// New flows of the past that are remembered; beyond, older ones fade.
const PAST_FLOWS: u64 = 100_000;

/// What is known of each backend of a service, in their order; nothing of
/// those whose handshakes nobody read.
#[derive(Debug, Default)]
pub(super) struct Ward(Vec<Option<Box<Patient>>>);

/// What was counted until now and until two earlier moments, and what came
/// before them.
#[derive(Debug)]
struct Patient {
    now: Counted,
    older: (Duration, Counted),
    newer: (Duration, Counted),
    past: Counted,
    /// When it was last seen down.
    down: Option<Duration>,
}

impl Patient {
    fn begin(at: Duration, now: Counted) -> Self {
        Self {
            now,
            older: (at, now),
            newer: (at, now),
            past: Counted::default(),
            down: None,
        }
    }

    /// Takes what was counted. What became of flows to a backend that is down
    /// is told by its probes.
    fn take(&mut self, at: Duration, now: Counted, is_up: bool) {
        self.now = now;
        if !is_up {
            self.down = Some(at);
        }
        if self.down.is_some_and(|down| at < down + AFTERMATH) {
            (self.older, self.newer) = ((at, now), (at, now));
        }
    }

    fn recent(&self) -> Counted {
        self.now.since(&self.older.1)
    }

    /// Moves on. What is wrong is not to become what is usual.
    fn roll(&mut self, at: Duration, is_well: bool) {
        if at < self.newer.0 + HALF {
            return;
        }
        if is_well {
            self.past = self.past.and(&self.newer.1.since(&self.older.1));
            if self.past.flows > PAST_FLOWS {
                self.past = self.past.half();
            }
        }
        self.older = self.newer;
        self.newer = (at, self.now);
    }
}

impl Ward {
    /// Forgets everybody: the backends are others.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What is wrong with the backends in this second.
    pub(super) fn look(&mut self, at: Duration, service: &ServiceLook) -> Vec<Sign> {
        if service.backends.iter().all(|it| it.handshakes.is_none()) {
            self.0.clear();
            return Vec::new();
        }
        self.0.resize_with(service.backends.len(), || None);
        for (patient, backend) in self.0.iter_mut().zip(&service.backends) {
            let Some(now) = counted(backend) else {
                *patient = None;
                continue;
            };
            let begin = || Box::new(Patient::begin(at, now));
            let is_up = matches!(backend.state, BackendState::Up | BackendState::Draining);
            patient.get_or_insert_with(begin).take(at, now, is_up);
        }
        let signs = self.signs(service);
        for (patient, backend) in self.0.iter_mut().zip(&service.backends) {
            let ails = |it: &Sign| {
                let name = it.backend.as_deref();
                name.is_none_or(|name| *name == *backend.name)
            };
            if let Some(patient) = patient {
                patient.roll(at, !signs.iter().any(ails));
            }
        }
        signs
    }

    /// Whether clients repeat many of their SYNs to the backend at that place.
    /// Each counts as a new flow, so its share of these tells nothing.
    pub(super) fn is_repeating(&self, place: usize) -> bool {
        let patient = self.0.get(place).and_then(Option::as_ref);
        patient.is_some_and(|patient| {
            let handshakes = patient.recent().handshakes;
            handshakes.repeated as f64 > LEAST_SHARE * handshakes.started as f64
        })
    }

    /// Median of the recent handshakes with the backend at that place.
    pub(super) fn handshake_micros(&self, place: usize) -> Option<u32> {
        let patient = self.0.get(place)?.as_ref()?;
        let bucket = patient.recent().quantile(0.5)?;
        1_u32.checked_shl(u32::try_from(bucket).ok()?)
    }

    fn signs(&self, service: &ServiceLook) -> Vec<Sign> {
        let known: Vec<(&BackendLook, Counted, &Counted)> = service
            .backends
            .iter()
            .zip(&self.0)
            .filter_map(|(backend, patient)| {
                let patient = patient.as_ref()?;
                Some((backend, patient.recent(), &patient.past))
            })
            .collect();
        let all = known
            .iter()
            .fold(Counted::default(), |sum, (_, recent, _)| sum.and(recent));
        let mut signs = Vec::new();
        for (backend, recent, past) in &known {
            let siblings = all.since(recent);
            let found = ailments::of(recent, past, &siblings, SIGNIFICANCE);
            let found = found.filter(|it| it.share >= LEAST_SHARE);
            signs.extend(found.map(|it| of_backend(service, backend, it)));
        }
        if signs.is_empty() && known.len() > 1 {
            let past = known
                .iter()
                .fold(Counted::default(), |sum, (_, _, past)| sum.and(past));
            let nobody = Counted::default();
            let most = |kind| {
                let agrees = |(_, recent, past): &&(_, Counted, &Counted)| {
                    ailments::of(recent, past, &nobody, LOOSE).any(|it| it.kind == kind)
                };
                known.iter().filter(agrees).count() * 2 > known.len()
            };
            let found = ailments::of(&all, &past, &nobody, SIGNIFICANCE);
            let found = found.filter(|it| it.share >= LEAST_SHARE && most(it.kind));
            signs.extend(found.map(|it| of_service(service, &it)));
        }
        signs
    }
}

fn counted(backend: &BackendLook) -> Option<Counted> {
    Some(Counted {
        flows: backend.flows,
        resets: backend.resets,
        handshakes: **backend.handshakes.as_ref()?,
    })
}

fn of_backend(service: &ServiceLook, backend: &BackendLook, ailment: Ailment) -> Sign {
    let (kind, cause) = match ailment.kind {
        ailments::Kind::Handshakes => (
            Kind::Handshakes,
            "packets for the service's address do not reach its server, or its answers do not \
             reach the clients; its probes pass: the address on the server, its tunnel or a \
             filter, not the table",
        ),
        ailments::Kind::Slow => (
            Kind::Slow,
            "the server, or the way to it, is slow; its probes pass, and the table is right: its \
             load, its disks or what it asks",
        ),
        ailments::Kind::Resets => (
            Kind::Resets,
            "clients give up on the server, or it does not know their flows; its probes pass",
        ),
    };
    Sign {
        kind,
        service: service.name.clone(),
        backend: Some(backend.name.to_string()),
        what: ailment.what,
        cause: cause.to_owned(),
    }
}

fn of_service(service: &ServiceLook, ailment: &Ailment) -> Sign {
    let percent = ailment.share * 100.0;
    let (kind, what, cause) = match ailment.kind {
        ailments::Kind::Handshakes => (
            Kind::Handshakes,
            format!("{percent:.0} % of the handshakes do not finish, at all backends alike"),
            "the way back to the clients, or a flood of SYNs that nobody follows; no one backend \
             and not the table",
        ),
        ailments::Kind::Slow => (
            Kind::Slow,
            format!("{percent:.0} % of the handshakes are slow, at all backends alike"),
            "what the servers share, or the way to the clients; no one backend and not the table",
        ),
        ailments::Kind::Resets => (
            Kind::Resets,
            format!("clients reset {percent:.0} % of their flows, at all backends alike"),
            "the application, or something between it and the clients; no one backend and not \
             the table",
        ),
    };
    Sign {
        kind,
        service: service.name.clone(),
        backend: None,
        what,
        cause: cause.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::layout::HandshakeCounters;

    use super::*;
    use crate::watch::PROBES;

    /// Handshakes of a second: finished ones in this bucket, and bad ones.
    type Second = (u64, usize, u64);

    struct Hospital {
        ward: Ward,
        counted: Vec<Counted>,
        states: Vec<BackendState>,
        second: u64,
    }

    impl Hospital {
        fn new(backends: usize) -> Self {
            Self {
                ward: Ward::default(),
                counted: vec![Counted::default(); backends],
                states: vec![BackendState::Up; backends],
                second: 0,
            }
        }

        fn second(&mut self, seconds: &[Second]) -> Vec<Sign> {
            for (counted, (finished, bucket, bad)) in self.counted.iter_mut().zip(seconds) {
                counted.flows += finished + bad;
                counted.handshakes.started += finished + bad;
                counted.handshakes.repeated += bad;
                counted.handshakes.finished += finished;
                counted.handshakes.histogram[*bucket] += finished;
            }
            let backend = |(at, counted): (usize, &Counted)| BackendLook {
                name: format!("web-{at}").into(),
                share: 0.25,
                state: self.states[at],
                last_failure: None,
                probes: [None; PROBES],
                flows: counted.flows,
                bytes: 0,
                resets: counted.resets,
                handshakes: Some(Box::new(counted.handshakes)),
            };
            self.second += 1;
            let service = ServiceLook {
                name: "web".to_owned(),
                backends: self.counted.iter().enumerate().map(backend).collect(),
                ..ServiceLook::default()
            };
            self.ward.look(Duration::from_secs(self.second), &service)
        }

        fn hour(&mut self, seconds: &[Second]) {
            for _ in 0..3600 {
                assert_eq!(self.second(seconds), []);
            }
        }

        /// Seconds until the first sign, and all of that second.
        fn until(&mut self, seconds: &[Second]) -> (usize, Vec<Sign>) {
            (1..60)
                .map(|second| (second, self.second(seconds)))
                .find(|(_, signs)| !signs.is_empty())
                .expect("a sign within a minute")
        }
    }

    const WELL: Second = (20, 7, 0);

    #[test]
    fn backend_whose_handshakes_do_not_finish_is_named_within_seconds() {
        for usual in [0, 1] {
            let well = (20, 7, usual);
            let mut hospital = Hospital::new(4);
            hospital.hour(&[well; 4]);
            let (after, signs) = hospital.until(&[well, well, (0, 7, 20), well]);
            assert!(after <= 2, "{after}");
            let [sign] = &signs[..] else {
                panic!("{signs:?}");
            };
            assert_eq!(
                (sign.kind, sign.backend.as_deref()),
                (Kind::Handshakes, Some("web-2"))
            );
            // And for as long as it lasts, but no longer.
            for _ in 0..600 {
                assert_eq!(hospital.second(&[well, well, (0, 7, 20), well]).len(), 1);
            }
            let gone = (0..20).position(|_| hospital.second(&[well; 4]).is_empty());
            assert!(gone.is_some_and(|after| after <= 8), "{gone:?}");
        }
    }

    #[test]
    fn slow_backend_is_named_and_one_that_always_was_is_not() {
        let mut hospital = Hospital::new(4);
        hospital.hour(&[WELL, WELL, WELL, (20, 9, 0)]);
        let (after, signs) = hospital.until(&[(20, 17, 0), WELL, WELL, (20, 9, 0)]);
        assert!(after <= 3, "{after}");
        let [sign] = &signs[..] else {
            panic!("{signs:?}");
        };
        assert_eq!(
            (sign.kind, sign.backend.as_deref()),
            (Kind::Slow, Some("web-0"))
        );
        // Far away, but as far as ever.
        let far = (20, 17, 0);
        let mut hospital = Hospital::new(3);
        hospital.second(&[(0, 0, 0); 3]);
        hospital.hour(&[far; 3]);
    }

    #[test]
    fn what_all_suffer_from_is_the_services_and_names_no_backend() {
        let mut hospital = Hospital::new(4);
        hospital.hour(&[WELL; 4]);
        let (_, signs) = hospital.until(&[(10, 7, 30); 4]);
        let [sign] = &signs[..] else {
            panic!("{signs:?}");
        };
        assert_eq!(
            (sign.kind, sign.backend.as_deref()),
            (Kind::Handshakes, None)
        );
    }

    #[test]
    fn backend_whose_probes_fail_is_left_to_them_and_so_is_what_comes_of_it_late() {
        let mut hospital = Hospital::new(2);
        hospital.hour(&[WELL; 2]);
        hospital.states[1] = BackendState::Down;
        for _ in 0..10 {
            assert_eq!(hospital.second(&[WELL, (0, 7, 20)]), []);
        }
        hospital.states[1] = BackendState::Up;
        for _ in 0..3 {
            assert_eq!(hospital.second(&[WELL, (20, 7, 20)]), []);
        }
        hospital.hour(&[WELL; 2]);
        let (after, _) = hospital.until(&[WELL, (0, 7, 20)]);
        assert!(after <= 2, "its past is as it was: {after}");
    }

    #[test]
    fn few_handshakes_and_now_and_then_a_bad_one_are_no_sign() {
        let mut hospital = Hospital::new(2);
        for second in 0..3600_u64 {
            let bad = u64::from(second % 7 == 0);
            assert_eq!(
                hospital.second(&[(5, 7, bad), (5, 8, 0)]),
                [],
                "second {second}"
            );
        }
    }

    #[test]
    fn histogram_of_nobody_is_no_memory() {
        let mut ward = Ward::default();
        let backend = BackendLook {
            name: "web-1".into(),
            share: 1.0,
            state: BackendState::Up,
            last_failure: None,
            probes: [None; PROBES],
            flows: 7,
            bytes: 0,
            resets: 0,
            handshakes: Some(Box::new(HandshakeCounters::default())),
        };
        let mut service = ServiceLook {
            name: "web".to_owned(),
            backends: vec![backend],
            ..ServiceLook::default()
        };
        ward.look(Duration::ZERO, &service);
        assert_eq!(ward.0.len(), 1);
        service.backends[0].handshakes = None;
        ward.look(Duration::from_secs(1), &service);
        assert!(ward.0.is_empty());
    }
}
