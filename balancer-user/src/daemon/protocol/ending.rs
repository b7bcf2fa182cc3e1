//! How a change ends: confirmed, committed or undone.

use std::time::Instant;

use crate::moment::{self, Moment};

use super::super::planning;
use super::{Author, Controller, Outcome, Problem, Progress, Revision, Step, unix_now};

impl Controller {
    /// Somebody says that the change is good.
    pub(in crate::daemon) async fn confirm(&mut self, author: &Author) -> Result<String, Problem> {
        let conflict = |detail: String| Err(Problem::new("nothing to confirm", 409, detail));
        let Some(change) = &mut self.under_way else {
            return conflict("no change is under way".to_owned());
        };
        match change.step {
            Step::Confirming { .. } => {}
            _ if change.is_committed() => {
                return conflict(format!("no change waits: {}", change.describe()));
            }
            // The stages go on, and nobody has to come back.
            _ if change.pace.confirm_within.is_some() => {
                change.pace.confirm_within = None;
                return Ok(format!(
                    "confirmed before its last stage: {}",
                    change.describe()
                ));
            }
            _ => {
                let detail = format!("it needs no confirmation: {}", change.describe());
                return conflict(detail);
            }
        }
        let number = change.revision.number;
        tracing::info!(revision = number, %author, "confirmed");
        self.commit().await;
        Ok(format!("revision {number} is confirmed"))
    }

    /// Makes the change what a restart begins with. Where that cannot be
    /// written down, it must not be in force.
    pub(super) async fn commit(&mut self) {
        let Some(change) = &mut self.under_way else {
            return;
        };
        moment::passed(Moment::BeforeCommit);
        change.revision.outcome = Outcome::Committed { at: unix_now() };
        if let Err(error) = self.revisions.note(&change.revision) {
            let why = format!("that it is good cannot be stored: {error}");
            self.undo(&why).await;
            return;
        }
        moment::passed(Moment::CommitStored);
        let Some(change) = self.under_way.take() else {
            return;
        };
        self.number = Some(change.revision.number);
        self.take_config(change.staging.after().clone(), &change.known)
            .await;
        let cause = format!("revision {} is committed", change.revision.number);
        // The state of the last stage, but for who has gone: it was accepted.
        let _ = self.reconcile(&cause, Instant::now());
        tracing::info!(revision = change.revision.number, "committed");
        moment::passed(Moment::Committed);
        planning::note_waste();
        self.look_at_host();
        self.changed(&change.revision);
        change.tell(Progress::Over {
            revision: Box::new(change.revision.clone()),
        });
    }

    /// The watch after a change is over, and it stays.
    pub(super) fn end_watch(&mut self) {
        let Some(mut change) = self.under_way.take() else {
            return;
        };
        if change.is_watched() {
            self.count_watched(&mut change.watched);
            change.end_stage(true);
            self.note(&change.revision);
            // Handshakes are timed as the file has it again.
            let _ = self.reconcile("the change is no longer watched", Instant::now());
        }
    }

    /// Somebody wants the change under way undone.
    pub(in crate::daemon) async fn undo_by_wish(&mut self, author: &Author) -> Option<Revision> {
        let change = self.under_way.as_ref()?;
        if change.is_committed() {
            return None;
        }
        self.undo(&format!("{author} wanted it")).await
    }

    /// Gives everything back to whom it belonged before the change.
    pub(in crate::daemon) async fn undo(&mut self, why: &str) -> Option<Revision> {
        let mut change = self.under_way.take()?;
        self.count_watched(&mut change.watched);
        change.end_stage(false);
        change.revision.outcome = Outcome::Undone {
            at: unix_now(),
            why: why.to_owned(),
        };
        let number = change.revision.number;
        tracing::error!(revision = number, %why, "change undone");
        moment::passed(Moment::UndoBegan);
        self.origin = change.origin_before.clone();
        self.number = change.number_before;
        self.warnings = change.warnings_before.clone();
        self.take_config(change.staging.before().clone(), &change.known)
            .await;
        let cause = format!("revision {number} is undone");
        if let Err(error) = self.reconcile(&cause, Instant::now()) {
            tracing::error!(%error, "the tables of before are not in force again");
        }
        moment::passed(Moment::TablesBack);
        self.note(&change.revision);
        moment::passed(Moment::Undone);
        self.changed(&change.revision);
        change.tell(Progress::Over {
            revision: Box::new(change.revision.clone()),
        });
        Some(change.revision)
    }

    /// Writes down what became of a revision, now or as soon as it can be.
    fn note(&mut self, revision: &Revision) {
        match self.revisions.note(revision) {
            Ok(()) => drop(self.unsaved.remove(&revision.number)),
            Err(error) => {
                self.revisions.remember(revision);
                let before = self.unsaved.insert(revision.number, revision.clone());
                // It is tried again each second.
                if before.is_none() {
                    tracing::error!(revision = revision.number, %error, "its outcome is not stored");
                }
            }
        }
    }

    /// Tries again to write down what could not be.
    pub(in crate::daemon) fn save_unsaved(&mut self) {
        if !self.seats.is_stored() {
            self.seats.prepare(&self.store, &self.builder);
        }
        for revision in self.unsaved.values().cloned().collect::<Vec<_>>() {
            self.note(&revision);
        }
    }
}
