//! What is known of a change under way.

use std::collections::BTreeSet;
use std::time::Instant;

use tokio::sync::mpsc;

use super::{Known, Origin, Pace, Progress, Proving, Revision, Stage, Staging, Watched, unix_now};

/// A change under way.
pub(in crate::daemon) struct UnderWay {
    pub(super) revision: Revision,
    pub(super) staging: Staging,
    /// What the configuration before it is made of.
    pub(super) origin_before: Origin,
    pub(super) number_before: Option<u64>,
    pub(super) warnings_before: BTreeSet<String>,
    pub(super) pace: Pace,
    pub(super) step: Step,
    pub(super) watched: Watched,
    pub(super) proving: Proving,
    pub(super) known: Known,
    pub(super) listener: Option<mpsc::Sender<Progress>>,
    pub(super) began: Instant,
}

/// What a change waits for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// New backends have no traffic until they have passed their probes.
    Proving { until: Instant },
    /// A stage is watched.
    Holding { until: Instant },
    /// All has moved, and a person has to say that it is good.
    Confirming { until: Instant },
    /// It is committed and in force, and undone if it does harm.
    Watching { until: Instant },
}

impl UnderWay {
    /// Where the change is between two configurations; none once it is
    /// committed.
    pub(in crate::daemon) fn staging(&self) -> Option<&Staging> {
        (!self.is_committed()).then_some(&self.staging)
    }

    /// Whether flows are watched closely.
    pub(in crate::daemon) fn is_watched(&self) -> bool {
        !self.pace.hold.is_zero()
    }

    /// Whether it waits for a person.
    pub(super) fn is_unconfirmed(&self) -> bool {
        matches!(self.step, Step::Confirming { .. })
    }

    pub(super) fn is_committed(&self) -> bool {
        matches!(self.step, Step::Watching { .. })
    }

    pub(super) fn until(&self) -> Instant {
        match self.step {
            Step::Proving { until }
            | Step::Holding { until }
            | Step::Confirming { until }
            | Step::Watching { until } => until,
        }
    }

    /// Number of the stage it is at, from 1; 0 before the first.
    pub(super) fn stage(&self) -> usize {
        self.revision.stages.len()
    }

    /// One sentence for who has to wait for it.
    pub(in crate::daemon) fn describe(&self) -> String {
        let Revision {
            number,
            author,
            summary,
            ..
        } = &self.revision;
        let at = match self.step {
            Step::Proving { .. } => "its new backends are being proven".to_owned(),
            Step::Holding { .. } => format!(
                "it is at stage {} of {}, {} % of the slots that move",
                self.stage(),
                self.pace.stages.len(),
                self.staging.percent()
            ),
            Step::Confirming { .. } => "it waits for `balancer confirm`".to_owned(),
            Step::Watching { .. } => "it is in force and watched".to_owned(),
        };
        let seconds = self.began.elapsed().as_secs();
        format!("revision {number} by {author}, begun {seconds} s ago ({summary}): {at}")
    }

    pub(super) fn begin_stage(&mut self, percent: u8) {
        self.revision.stages.push(Stage {
            percent: f64::from(percent),
            began_at: unix_now(),
            good: None,
            figures: Vec::new(),
        });
    }

    pub(super) fn end_stage(&mut self, good: bool) {
        let figures = self.watched.figures();
        if let Some(stage) = self.revision.stages.last_mut() {
            stage.good = Some(good);
            stage.figures = figures;
        }
    }

    pub(super) fn tell(&self, progress: Progress) {
        if let Some(listener) = &self.listener {
            // One that does not read, or is gone, misses it.
            let _ = listener.try_send(progress);
        }
    }
}
