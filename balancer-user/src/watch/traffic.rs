//! Whether a service's traffic has stopped or surges, against its own past.
//!
//! The past is an average that forgets within minutes, so that the course of
//! a day is no surprise. A service with little traffic is not judged.

use std::collections::VecDeque;

use super::{Kind, ServiceLook, Sign};

/// Seconds that are held against the past.
const RECENT: usize = 3;
/// Seconds that the past has to have.
const LEAST_PAST: u32 = 30;
/// What one second counts in the past: half of it is of the last 40 seconds.
const WEIGHT: f64 = 1.0 / 60.0;
/// Flows to expect of the recent seconds, below which they say nothing.
const LEAST_EXPECTED: f64 = 50.0;
/// Less than this share of what is to be expected is a stop.
const STOPPED: f64 = 0.02;
/// More than so many times that is a surge.
const SURGE: f64 = 5.0;
/// A stop or surge is over when this share, or so many times, is passed the
/// other way.
const RESUMED: f64 = 0.25;
const CALM: f64 = 2.0;

/// New flows a second, now and before.
#[derive(Debug, Default)]
pub(super) struct Level {
    recent: VecDeque<u64>,
    past: f64,
    seconds: u32,
    open: Option<Kind>,
}

impl Level {
    /// Takes the flows of a second.
    pub(super) fn take(&mut self, flows: u64) {
        self.recent.push_back(flows);
        if self.recent.len() <= RECENT {
            return;
        }
        let Some(oldest) = self.recent.pop_front() else {
            return;
        };
        // A stop is not to become what is usual while it lasts.
        if self.open.is_some() {
            return;
        }
        self.seconds = self.seconds.saturating_add(1);
        // At first all seconds weigh the same.
        let weight = WEIGHT.max(1.0 / f64::from(self.seconds));
        self.past += (oldest as f64 - self.past) * weight;
    }

    /// What is wrong with it.
    pub(super) fn sign(&mut self, service: &ServiceLook) -> Option<Sign> {
        let recent: u64 = self.recent.iter().sum();
        let expected = self.past * RECENT as f64;
        if self.seconds < LEAST_PAST || expected < LEAST_EXPECTED {
            return None;
        }
        let ratio = recent as f64 / expected;
        self.open = match self.open {
            Some(Kind::TrafficStopped) if ratio < RESUMED => self.open,
            Some(Kind::TrafficSurge) if ratio > CALM => self.open,
            _ if ratio < STOPPED => Some(Kind::TrafficStopped),
            _ if ratio > SURGE => Some(Kind::TrafficSurge),
            _ => None,
        };
        let kind = self.open?;
        let what = format!(
            "{recent} new flows in {RECENT} s, {expected:.0} were to be expected by the last minutes"
        );
        let cause = match kind {
            Kind::TrafficStopped => {
                "traffic does not arrive: the announcement of the address, the router or the \
                 clients; the table is as it was"
            }
            _ => "clients send more than before: a campaign, a retry storm or an attack",
        };
        Some(Sign {
            kind,
            service: service.name.clone(),
            backend: None,
            what,
            cause: cause.to_owned(),
        })
    }
}
