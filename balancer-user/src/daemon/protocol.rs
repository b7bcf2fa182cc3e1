//! The change protocol: how a configuration comes into force, and how it is
//! undone.
//!
//! ```text
//! staged    pending -> new backends proven -> stage, hold, verdict -> ...
//!           -> last stage, hold, verdict -> confirmed -> committed
//! at once   committed -> in force -> watched for a hold
//! ```
//!
//! Whatever goes wrong on the way (a probe, the kernel, a verdict, a
//! confirmation that does not come, somebody's wish) undoes the change, and
//! its revision says why. A daemon that ends in the middle leaves a pending
//! revision, which its successor never takes for the one in force.

mod ending;
mod judging;
mod proving;
mod under_way;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

pub(super) use proving::Known;
use proving::Proving;
use under_way::Step;
pub(super) use under_way::UnderWay;

use super::controller::Controller;
use super::first_probes::proving_limit;
use super::lookup::same_backends;
use super::revisions::Stored;
use super::watching::Watched;
use super::{hops, unix_now};
use crate::api::progress::Progress;
use crate::api::server::Begun;
use crate::api::types::Problem;
use crate::config::model::Config;
use crate::config::render;
use crate::desired::Staging;
use crate::moment::{self, Moment};
use crate::revision::{Allowed, Author, Cause, Origin, Outcome, Revision, Stage, VERSION, digest};

/// Events that a slow client may be behind.
const MAX_BEHIND: usize = 256;

/// A configuration that somebody wants, checked.
pub(super) struct Proposal {
    pub(super) config: Config,
    pub(super) origin: Origin,
    pub(super) cause: Cause,
    pub(super) summary: String,
    pub(super) author: Author,
    pub(super) reason: Option<String>,
    pub(super) allowed: Vec<Allowed>,
    pub(super) plan: Option<serde_json::Value>,
    /// What the check says of it.
    pub(super) warnings: BTreeSet<String>,
}

/// How a change comes into force.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pace {
    /// Percent of the slots that move, ascending to 100.
    pub(super) stages: Vec<u8>,
    /// How long each stage is watched.
    pub(super) hold: Duration,
    /// How long a person has to confirm it.
    pub(super) confirm_within: Option<Duration>,
}

impl Controller {
    /// When the change under way goes on by itself.
    pub(super) fn change_deadline(&self) -> Option<Instant> {
        self.under_way.as_ref().map(UnderWay::until)
    }

    /// Why nothing else may be changed now: a change is being prepared or is
    /// in its stages.
    pub(super) fn busy(&self) -> Result<(), Problem> {
        let staged = self.under_way.as_ref().filter(|it| !it.is_committed());
        let change = staged.map(UnderWay::describe);
        match change.or_else(|| self.preparing.clone()) {
            None => Ok(()),
            Some(change) => Err(Problem::new(
                "another change is under way",
                409,
                format!(
                    "one change at a time: {change}; wait for it, or end it with `balancer \
                     rollback`"
                ),
            )),
        }
    }

    /// Refuses while another change is busy; one that is only watched any
    /// more is good enough with that.
    pub(super) fn make_way(&mut self) -> Result<(), Problem> {
        self.busy()?;
        self.end_watch();
        Ok(())
    }

    /// Takes a configuration into force at once: first to the disk, then to
    /// the kernel; where the kernel refuses it, all is as before.
    pub(super) async fn commit_at_once(
        &mut self,
        proposal: Proposal,
        began: Instant,
    ) -> Result<u64, Problem> {
        self.make_way()?;
        let hold = proposal.config.apply.hold;
        let scene = (!hold.is_zero()).then(|| self.scene());
        let pace = Pace {
            stages: vec![100],
            hold,
            confirm_within: None,
        };
        let step = Step::Watching {
            until: Instant::now() + hold,
        };
        let outcome = Outcome::Committed { at: unix_now() };
        let mut change = self.under_way_by(proposal, outcome, pace, step, began)?;
        change.begin_stage(100);
        let (number, cause) = (change.revision.number, change.revision.summary.clone());
        self.number = Some(number);
        self.take_config(change.staging.after().clone(), &change.known)
            .await;
        self.under_way = Some(change);
        if let Err(error) = self.reconcile(&cause, began) {
            self.undo(&format!("the kernel refused it: {error}")).await;
            let detail = format!("the kernel refused the change, all is as before: {error}");
            return Err(Problem::new("not applied", 500, detail));
        }
        match scene {
            Some(scene) => {
                self.rehearse_beside(number, self.config.clone(), scene);
                self.begin_comparing(false);
            }
            None => self.under_way = None,
        }
        Ok(number)
    }

    /// The change that waits for a person.
    pub(super) fn unconfirmed(&self) -> Option<String> {
        let change = self.under_way.as_ref()?;
        change.is_unconfirmed().then(|| change.describe())
    }

    /// Whether that revision is in force and watched.
    pub(super) fn is_watched(&self, revision: u64) -> bool {
        let change = self.under_way.as_ref();
        change.is_some_and(|it| it.is_committed() && it.revision.number == revision)
    }

    /// Begins to take a configuration into force in stages; what becomes of
    /// it is told over the channel.
    pub(super) async fn begin_change(
        &mut self,
        proposal: Proposal,
        pace: Pace,
        events: Vec<Progress>,
    ) -> Begun {
        self.make_way()?;
        let now = Instant::now();
        let until = now + proving_limit(&proposal.config);
        let step = Step::Proving { until };
        let mut change = self.under_way_by(proposal, Outcome::Pending, pace, step, now)?;
        let (sender, receiver) = mpsc::channel(MAX_BEHIND);
        change.listener = Some(sender);
        for event in events {
            change.tell(event);
        }
        change.tell(Progress::Pending {
            revision: change.revision.number,
        });
        tracing::info!(
            revision = change.revision.number,
            author = %change.revision.author,
            summary = %change.revision.summary,
            "change begins"
        );
        self.take_config(change.staging.config().clone(), &change.known)
            .await;
        self.under_way = Some(change);
        if let Err(error) = self.reconcile("new backends get seats", now) {
            self.undo(&format!("the kernel refused it: {error}")).await;
            return Ok(receiver);
        }
        moment::passed(Moment::Proving);
        self.begin_proving();
        self.begin_comparing(true);
        self.tell_who_is_missing();
        self.go_on_if_proven().await;
        Ok(receiver)
    }

    /// Stores the revision of a proposal.
    fn under_way_by(
        &mut self,
        proposal: Proposal,
        outcome: Outcome,
        pace: Pace,
        step: Step,
        began: Instant,
    ) -> Result<UnderWay, Problem> {
        moment::passed(Moment::Accepted);
        let config = render::render(&proposal.config);
        let revision = Revision {
            version: VERSION,
            number: self.revisions.next_number(),
            parent: self.number,
            made_at: unix_now(),
            author: proposal.author,
            cause: proposal.cause,
            summary: proposal.summary,
            reason: proposal.reason,
            allowed: proposal.allowed,
            plan: proposal.plan,
            origin: proposal.origin.clone(),
            stages: Vec::new(),
            outcome,
            config_digest: digest(&config),
        };
        let stored = Stored { revision, config };
        self.revisions.add(&stored).map_err(|error| {
            let detail = format!("the change cannot be stored, so it was not made: {error}");
            Problem::new("not stored", 507, detail)
        })?;
        let now = self.clock.now_for_ages();
        self.revisions.prune(proposal.config.apply.keep, now);
        let before = self.config.clone();
        Ok(UnderWay {
            watched: self.watch(&before, &proposal.config),
            proving: Proving::default(),
            known: Known::new(),
            staging: Staging::new(before, proposal.config, 0),
            origin_before: std::mem::replace(&mut self.origin, proposal.origin),
            number_before: self.number,
            warnings_before: std::mem::replace(&mut self.warnings, proposal.warnings),
            revision: stored.revision,
            pace,
            step,
            listener: None,
            began,
        })
    }

    /// Makes a configuration the one that is probed, reached and built.
    async fn take_config(&mut self, config: Config, known: &Known) {
        let old = std::mem::replace(&mut self.config, config);
        if !same_backends(&old, &self.config) {
            self.look_up_new().await;
            self.retarget(&old, known);
            self.incidents.probe_times.keep_only(&self.config);
        }
    }

    /// Goes on where something was waited for until now.
    pub(super) async fn on_change_deadline(&mut self) {
        let now = Instant::now();
        let Some(change) = self.under_way.as_ref().filter(|it| it.until() <= now) else {
            return;
        };
        match change.step {
            Step::Proving { .. } => {
                let missing = self.not_proven();
                if missing.is_empty() {
                    // Slow siblings answered too rarely to compare with.
                    return self.next_stage().await;
                }
                let why = format!("not proven in time: {}", missing.join("; "));
                self.undo(&why).await;
            }
            Step::Holding { .. } => {
                // The last look is at the end of the hold.
                if self.does_no_harm().await {
                    self.end_stage().await;
                }
            }
            Step::Confirming { .. } => {
                let waited = self.confirm_limit().unwrap_or_default();
                let waited = humantime::format_duration(waited);
                self.undo(&format!("nobody confirmed it within {waited}"))
                    .await;
            }
            Step::Watching { .. } => {
                if self.does_no_harm().await {
                    self.end_watch();
                }
            }
        }
    }

    fn confirm_limit(&self) -> Option<Duration> {
        self.under_way.as_ref()?.pace.confirm_within
    }

    /// Begins the next stage; after the last one it is for a person to say,
    /// or over.
    async fn next_stage(&mut self) {
        loop {
            let Some(mut change) = self.under_way.take() else {
                return;
            };
            let stages = change.pace.stages.clone();
            let Some(percent) = stages.get(change.stage()).copied() else {
                self.under_way = Some(change);
                return self.after_last_stage().await;
            };
            change.staging.set_percent(percent);
            change.begin_stage(percent);
            let hold = change.pace.hold;
            change.step = Step::Holding {
                until: Instant::now() + hold,
            };
            change.tell(Progress::Stage {
                stage: change.stage(),
                of: stages.len(),
                percent,
                hold_millis: millis(hold),
            });
            let cause = format!("revision {}: {percent} % moved", change.revision.number);
            self.take_config(change.staging.config().clone(), &change.known)
                .await;
            self.under_way = Some(change);
            if let Err(error) = self.reconcile(&cause, Instant::now()) {
                self.undo(&format!("the kernel refused it: {error}")).await;
                return;
            }
            moment::passed(Moment::StageBegan);
            self.begin_counting();
            if !hold.is_zero() {
                return;
            }
            self.note_stage(true);
        }
    }

    fn note_stage(&mut self, good: bool) {
        if let Some(change) = &mut self.under_way {
            change.end_stage(good);
        }
    }

    /// The hold is over without harm.
    async fn end_stage(&mut self) {
        self.note_stage(true);
        moment::passed(Moment::StageHeld);
        if let Some(change) = &self.under_way {
            change.tell(Progress::Good {
                percent: change.staging.percent(),
            });
        }
        self.next_stage().await;
    }

    async fn after_last_stage(&mut self) {
        let Some(limit) = self.confirm_limit() else {
            return self.commit().await;
        };
        if let Some(change) = &mut self.under_way {
            change.step = Step::Confirming {
                until: Instant::now() + limit,
            };
            change.tell(Progress::Confirm {
                within_millis: millis(limit),
            });
            tracing::info!(
                revision = change.revision.number,
                "waits for `balancer confirm`"
            );
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
