//! The task of one target: sleep, probe, let the monitor judge, tell.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::events::{Sender, Stamped};
use super::target::{Event, TargetId};
use super::{Attempt, Shared, Watched};
use crate::config::model::ProbeKind;
use crate::health::{Failure, Outcome};
use crate::probe::vip::Passage;

/// Probes one target until it is aborted.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) events: Sender,
    pub(super) watched: Arc<Watched>,
    pub(super) id: TargetId,
    pub(super) incarnation: u64,
    pub(super) kind: ProbeKind,
    pub(super) address: SocketAddr,
    pub(super) via: Option<Passage>,
    /// `None` until the probe can be prepared.
    pub(super) attempt: Option<Attempt>,
    pub(super) retimed: Arc<Notify>,
    pub(super) random: Random,
}

impl Task {
    pub(super) async fn run(mut self) {
        loop {
            let unit = self.random.unit();
            let now = Instant::now().into_std();
            let due = self.watched.judge().monitor.next_probe(now, unit);
            let due = self.shared.together(due).max(now);
            tokio::select! {
                () = sleep_until(Instant::from_std(due)) => {}
                () = self.retimed.notified() => continue,
            }
            let event = self.probe_once(due).await;
            let incarnation = self.incarnation;
            let stamped = Stamped { incarnation, event };
            self.events.send(&self.shared, stamped).await;
        }
    }

    /// Makes a probe that was due then, and lets the monitor judge it.
    async fn probe_once(&mut self, due: std::time::Instant) -> Event {
        let shared = Arc::clone(&self.shared);
        let permit = shared.permit().await;
        let start = Instant::now().into_std();
        shared.lateness().take(start.saturating_duration_since(due));
        let timeout = {
            let mut judge = self.watched.judge();
            judge.monitor.start_probe(start);
            judge.timeout
        };
        let outcome = self.attempt(timeout).await;
        drop(permit);
        let end = Instant::now().into_std();
        let transition = self.watched.judge().monitor.record(end, &outcome);
        Event {
            id: self.id.clone(),
            outcome,
            transition,
        }
    }

    async fn attempt(&mut self, timeout: Duration) -> Outcome {
        let local = |text| Outcome::Failed {
            reason: Failure::Local(text),
            duration: Duration::ZERO,
        };
        let attempt = match &self.attempt {
            Some(attempt) => Arc::clone(attempt),
            None => match (self.shared.prepare)(&self.kind) {
                Ok(attempt) => Arc::clone(self.attempt.insert(attempt)),
                Err(error) => return local(error.to_string()),
            },
        };
        // A panic would end this task, and the target would keep its state
        // for ever without being looked at.
        let way = self.shared.lane.way(self.address, self.via.as_ref());
        let probe = AssertUnwindSafe(attempt(self.id.clone(), way, timeout)).catch_unwind();
        match probe.await {
            Ok(outcome) => outcome,
            Err(_) => {
                tracing::error!("{}: the probe panicked; this is a bug", self.id);
                local("the probe panicked, which is a bug of the balancer".into())
            }
        }
    }
}

/// SplitMix64: spreads probes, keeps no secret.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn seeded() -> Self {
        // Without entropy all balancers would probe in step; no more than that.
        Self(getrandom::u64().unwrap_or(0))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in 0..1, with the 53 bits that an `f64` holds.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
