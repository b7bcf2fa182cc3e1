//! What a backend suffers from, by what the kernel counted of its clients'
//! packets: handshakes that do not finish, that take long, and resets.
//!
//! A backend is held against its siblings and against its own past, whichever
//! is worse; what is as bad everywhere is not its own doing. Pure.

use statrs::distribution::{Binomial, DiscreteCDF};

use super::Counted;

/// Handshakes of at least 2^12 microseconds count as slow, whatever the
/// siblings do.
const SLOW_BUCKET: usize = 12;

/// What is wrong with the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Clients do not finish handshakes, or repeat their SYN.
    Handshakes,
    /// Handshakes take long.
    Slow,
    /// Clients reset their flows.
    Resets,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Ailment {
    /// What is wrong.
    pub kind: Kind,
    /// Of what was counted, the share that is bad.
    pub share: f64,
    /// With figures.
    pub what: String,
}

/// What was counted `now` that was not usual `before`, nor is at its
/// `siblings`, where chance would bring it about with a probability of less
/// than `significance`.
pub fn of(
    now: &Counted,
    before: &Counted,
    siblings: &Counted,
    significance: f64,
) -> impl Iterator<Item = Ailment> {
    let subject = Subject {
        now,
        before,
        siblings,
        significance,
    };
    [subject.handshakes(), subject.latency(), subject.resets()]
        .into_iter()
        .flatten()
}

struct Subject<'a> {
    now: &'a Counted,
    before: &'a Counted,
    siblings: &'a Counted,
    significance: f64,
}

impl Subject<'_> {
    /// How often something happens where nothing is wrong, by siblings or by
    /// the past, whichever is worse; one in twenty where nobody knows.
    fn usual_rate(&self, of: impl Fn(&Counted) -> (u64, u64)) -> f64 {
        let rate = |counted: &Counted| {
            let (bad, all) = of(counted);
            (bad as f64 + 1.0) / (all as f64 + 20.0)
        };
        match of(self.before).1 {
            0 => rate(self.siblings),
            _ => rate(self.siblings).max(rate(self.before)),
        }
    }

    /// Whether `bad` of `all` is far more than at twice the usual rate.
    fn is_more(&self, bad: u64, all: u64, usual: f64) -> bool {
        let chance = (2.0 * usual).min(0.9);
        bad > 0
            && Binomial::new(chance, all.max(bad))
                .is_ok_and(|binomial| binomial.sf(bad - 1) < self.significance)
    }

    fn handshakes(&self) -> Option<Ailment> {
        let of = |counted: &Counted| (counted.bad_handshakes(), counted.known_handshakes());
        let (bad, all) = of(self.now);
        if bad < 3 || !self.is_more(bad, all, self.usual_rate(of)) {
            return None;
        }
        let (sibling_bad, sibling_all) = of(self.siblings);
        Some(Ailment {
            kind: Kind::Handshakes,
            share: bad as f64 / all as f64,
            what: format!(
                "does not finish handshakes: {bad} of {all} failed or needed a second SYN, \
                 {sibling_bad} of {sibling_all} at its siblings"
            ),
        })
    }

    fn latency(&self) -> Option<Ailment> {
        let siblings = self.siblings.quantile(0.95);
        let usual = match self.before.timed() {
            0..20 => siblings?,
            _ => siblings.max(self.before.quantile(0.95))?,
        };
        let slow = (usual + 2).max(SLOW_BUCKET);
        let above = self.now.handshakes.histogram.iter().skip(slow);
        let (above, all) = (above.sum::<u64>(), self.now.timed());
        if above < 3 || !self.is_more(above, all, 0.025) {
            return None;
        }
        let micros = |bucket: usize| 1_u64 << bucket;
        Some(Ailment {
            kind: Kind::Slow,
            share: above as f64 / all as f64,
            what: format!(
                "is slow: {above} of {all} handshakes took {} or more, 95 % of the usual ones \
                 less than {}",
                millis(micros(slow)),
                millis(micros(usual + 1))
            ),
        })
    }

    fn resets(&self) -> Option<Ailment> {
        let of = |counted: &Counted| (counted.resets.min(counted.flows), counted.flows);
        let (bad, all) = of(self.now);
        if bad < 5 || !self.is_more(bad, all, self.usual_rate(of)) {
            return None;
        }
        let (sibling_bad, sibling_all) = of(self.siblings);
        Some(Ailment {
            kind: Kind::Resets,
            share: bad as f64 / all as f64,
            what: format!(
                "is reset by its clients: {bad} resets in {all} new flows, {sibling_bad} in \
                 {sibling_all} at its siblings"
            ),
        })
    }
}

pub(super) fn millis(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}
