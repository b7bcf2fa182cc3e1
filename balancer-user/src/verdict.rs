//! Whether a change does harm, judged by what the kernel counted.
//!
//! A backend that a change gives more traffic to is held against its siblings
//! and against its own past; what is as bad everywhere is not the change's
//! doing. Every rule asks for so much that chance alone brings it about less
//! than once in a hundred thousand looks, and few flows never decide. Pure:
//! counters are arguments.

use balancer_common::layout::{HANDSHAKE_BUCKETS, HandshakeCounters};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::revision::Figures;

pub mod ailments;
pub mod answers;
pub mod panel;

/// Chance alone brings a finding about with no more than this probability.
const SIGNIFICANCE: f64 = 1e-5;
/// The same for shares, which are looked at for every backend each second.
const SHARE_SIGNIFICANCE: f64 = 1e-9;
/// New flows below which shares say nothing.
const LEAST_FLOWS: u64 = 200;
/// A share that is wrong by less than this factor is nobody's trouble.
const LEAST_EFFECT: f64 = 1.25;
/// New flows after which it is seen where a service's traffic goes.
const SEEN_FLOWS: u64 = 20;
/// One backend with more than this share of the traffic is looked at.
const DOMINANT: f64 = 0.5;
/// What of its share must be the change's doing.
const DOMINANT_RISE: f64 = 0.2;

/// What was counted of a backend in some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// New flows.
    pub flows: u64,
    /// Packets of clients with RST.
    pub resets: u64,
    /// Timed handshakes.
    pub handshakes: HandshakeCounters,
}

impl Counted {
    /// What came on top of `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (now, then) = (&self.handshakes, &earlier.handshakes);
        let mut histogram = now.histogram;
        for (bucket, then) in histogram.iter_mut().zip(then.histogram) {
            *bucket = bucket.saturating_sub(then);
        }
        Self {
            flows: self.flows.saturating_sub(earlier.flows),
            resets: self.resets.saturating_sub(earlier.resets),
            handshakes: HandshakeCounters {
                started: now.started.saturating_sub(then.started),
                repeated: now.repeated.saturating_sub(then.repeated),
                finished: now.finished.saturating_sub(then.finished),
                abandoned: now.abandoned.saturating_sub(then.abandoned),
                displaced: now.displaced.saturating_sub(then.displaced),
                histogram,
            },
        }
    }

    /// The sum.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.flows += other.flows;
        self.resets += other.resets;
        self.handshakes += &other.handshakes;
        self
    }

    /// Half of it all.
    #[must_use]
    pub fn half(&self) -> Self {
        let of = &self.handshakes;
        Self {
            flows: self.flows / 2,
            resets: self.resets / 2,
            handshakes: HandshakeCounters {
                started: of.started / 2,
                repeated: of.repeated / 2,
                finished: of.finished / 2,
                abandoned: of.abandoned / 2,
                displaced: of.displaced / 2,
                histogram: of.histogram.map(|count| count / 2),
            },
        }
    }

    /// Handshakes that went wrong: a SYN that had to be repeated shows a
    /// second after it was lost, the lack of an end only after three.
    fn bad_handshakes(&self) -> u64 {
        let counted = &self.handshakes;
        counted.abandoned.max(counted.repeated.min(counted.started))
    }

    /// Handshakes of which anything is known.
    fn known_handshakes(&self) -> u64 {
        self.handshakes.finished + self.bad_handshakes()
    }

    fn timed(&self) -> u64 {
        self.handshakes.histogram.iter().sum()
    }

    /// The first bucket up to which at least this share of the handshakes is.
    pub(crate) fn quantile(&self, share: f64) -> Option<usize> {
        let wanted = self.timed() as f64 * share;
        let mut sum = 0;
        (0..HANDSHAKE_BUCKETS).find(|bucket| {
            sum += self.handshakes.histogram[*bucket];
            sum > 0 && sum as f64 >= wanted
        })
    }
}

/// A backend of a service that changes.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its share of the slots now, 0 to 1.
    pub share: f64,
    /// Its share before the change and after all of it.
    pub share_before: f64,
    /// See [`Subject::share_before`].
    pub share_after: f64,
    /// Whether its name meant another server before the change.
    pub is_other: bool,
    /// Why its probes say that it is down, if they said otherwise when the
    /// change began.
    pub went_down: Option<String>,
    /// What was counted since the stage began.
    pub stage: Counted,
    /// What was counted before the change began.
    pub before: Counted,
}

impl Subject {
    /// Whether the change gives it traffic.
    fn gains(&self) -> bool {
        self.share_after > self.share_before || (self.is_other && self.share_after > 0.0)
    }
}

/// A service in the middle of a change.
#[derive(Debug, Clone, Default)]
pub struct Patient {
    /// Its name.
    pub service: String,
    /// Its backends.
    pub backends: Vec<Subject>,
    /// Whether every flow goes by its own hash, so that shares of flows are
    /// shares of slots.
    pub is_even: bool,
    /// Whether the file says that one backend may have most of the traffic.
    pub may_dominate: bool,
}

/// Harm that a change does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Harm {
    /// The service's name.
    pub service: String,
    /// The backend that shows it.
    pub backend: String,
    /// What, with figures.
    pub what: String,
}

impl std::fmt::Display for Harm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            service,
            backend,
            what,
        } = self;
        write!(f, "service {service}: backend {backend} {what}")
    }
}

/// All the harm that is seen, the plainest first.
pub fn judge(patient: &Patient) -> Vec<Harm> {
    let mut harms = Vec::new();
    let mut add = |subject: &Subject, what: String| {
        harms.push(Harm {
            service: patient.service.clone(),
            backend: subject.name.clone(),
            what,
        });
    };
    for subject in patient.backends.iter().filter(|it| it.gains()) {
        let siblings = siblings(patient, subject);
        if let Some(why) = &subject.went_down {
            add(subject, format!("is down since it gets traffic: {why}"));
        }
        for it in ailments::of(&subject.stage, &subject.before, &siblings, SIGNIFICANCE) {
            add(subject, it.what);
        }
    }
    for (subject, what) in dominance(patient).into_iter().chain(skew(patient)) {
        add(subject, what);
    }
    harms
}

/// What is written down of a stage.
pub fn figures(patient: &Patient) -> Vec<Figures> {
    let all: u64 = patient.backends.iter().map(|it| it.stage.flows).sum();
    let figures = |subject: &Subject| {
        let stage = &subject.stage;
        let known = stage.known_handshakes();
        Figures {
            service: patient.service.clone(),
            backend: subject.name.clone(),
            share_expected: subject.share,
            share_seen: share(stage.flows, all),
            flows: stage.flows,
            handshakes: known,
            handshakes_bad: share(stage.bad_handshakes(), known),
            handshake_micros: stage.quantile(0.5).map(|bucket| 1 << bucket),
            resets_a_flow: share(stage.resets, stage.flows),
            answers: None,
        }
    };
    patient.backends.iter().map(figures).collect()
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The sum of the backends that the change gives nothing to; of all others
/// where it gives something to each.
fn siblings(patient: &Patient, subject: &Subject) -> Counted {
    let others = || patient.backends.iter().filter(|it| it.name != subject.name);
    let sum = |sum: Counted, it: &Subject| sum.and(&it.stage);
    let unmoved = others()
        .filter(|it| !it.gains())
        .fold(Counted::default(), sum);
    if unmoved.flows > 0 {
        return unmoved;
    }
    others().fold(Counted::default(), sum)
}

/// A backend that the change gives most of the traffic, among three or more.
fn dominance(patient: &Patient) -> Option<(&Subject, String)> {
    let seen: u64 = patient.backends.iter().map(|it| it.stage.flows).sum();
    let in_use = patient.backends.iter().filter(|it| it.share_before > 0.0);
    if patient.may_dominate || seen < SEEN_FLOWS || in_use.count() < 3 {
        return None;
    }
    let subject = patient
        .backends
        .iter()
        .find(|it| it.share_after > DOMINANT)?;
    if subject.share_after - subject.share_before < DOMINANT_RISE {
        return None;
    }
    let percent = |share: f64| share * 100.0;
    Some((
        subject,
        format!(
            "gets {:.1} % of the traffic by this change, {:.1} % before it, and {:.1} % of the new \
             flows were seen there; if that is meant, allow `dominant-backend` in the file",
            percent(subject.share_after),
            percent(subject.share_before),
            percent(share(subject.stage.flows, seen).unwrap_or_default()),
        ),
    ))
}

/// The backend whose share of the new flows is most off its slots'.
fn skew(patient: &Patient) -> Option<(&Subject, String)> {
    let total: u64 = patient.backends.iter().map(|it| it.stage.flows).sum();
    if !patient.is_even || total < LEAST_FLOWS {
        return None;
    }
    let expected = |subject: &Subject| subject.share * total as f64;
    // The test is for cells of which each is to have some.
    let cells = patient.backends.iter().filter(|it| expected(it) >= 5.0);
    let cells: Vec<&Subject> = cells.collect();
    let square = |subject: &&Subject| {
        let expected = expected(subject);
        (subject.stage.flows as f64 - expected).powi(2) / expected
    };
    let statistic: f64 = cells.iter().map(square).sum();
    let freedom = cells.len().checked_sub(1).filter(|it| *it > 0)?;
    let chi_squared = ChiSquared::new(freedom as f64).ok()?;
    if chi_squared.sf(statistic) >= SHARE_SIGNIFICANCE {
        return None;
    }
    let worst = cells
        .iter()
        .max_by(|a, b| square(a).total_cmp(&square(b)))?;
    let ratio = worst.stage.flows as f64 / expected(worst);
    if ratio.max(1.0 / ratio) < LEAST_EFFECT {
        return None;
    }
    let percent = |share: f64| share * 100.0;
    Some((
        worst,
        format!(
            "got {:.1} % of {total} new flows, its slots are {:.1} %",
            percent(worst.stage.flows as f64 / total as f64),
            percent(worst.share)
        ),
    ))
}

#[cfg(test)]
mod tests;
