//! What was in force, and the way back.

use super::change::only;
use super::controller::Controller;
use super::preparing::{Reply, Wanted};
use super::protocol::UnderWay;
use super::revisions::Stored;
use crate::api::progress::Progress;
use crate::api::types::{History, Problem, RollbackRequest, StoredRevision};
use crate::change::Edit;
use crate::revision::{Author, Cause, Origin, Revision};

impl Controller {
    /// Brings an earlier configuration into force again, or undoes the change
    /// that is under way.
    pub(super) async fn roll_back(
        &mut self,
        request: RollbackRequest,
        author: Author,
        reply: Reply,
    ) {
        if request.revision.is_none()
            && let Some(revision) = self.undo_by_wish(&author).await
        {
            let revision = Box::new(revision);
            // A client that went away needs no answer.
            let _ = reply.send(Ok(only(Progress::Over { revision })));
            return;
        }
        match self.earlier(request.revision) {
            Ok(stored) => {
                let number = stored.revision.number;
                // What that one went back to is in its own record: who goes to
                // and fro is not to have a sentence that grows.
                let what = match stored.revision.cause {
                    Cause::Rollback => "a rollback",
                    _ => &stored.revision.summary,
                };
                let wanted = Wanted {
                    name: format!("revision {number}"),
                    text: stored.config,
                    origin: Origin {
                        file_digest: self.origin.file_digest.clone(),
                        changes: vec![Edit::Whole(format!("rolled back to revision {number}"))],
                        drains: stored.revision.origin.drains,
                    },
                    cause: Cause::Rollback,
                    summary: format!("back to revision {number} ({what})"),
                    author,
                    how: request.how,
                };
                self.prepare(wanted, reply);
            }
            Err(detail) => {
                let problem = Problem::new("cannot be rolled back to", 409, detail);
                self.refuse(Cause::Rollback, problem, reply);
            }
        }
    }

    /// The revision of that number; none is the last good one before that in
    /// force.
    fn earlier(&self, number: Option<u64>) -> Result<Stored, String> {
        let number = match (number, self.number) {
            (Some(number), _) => number,
            (None, Some(current)) => match self.revisions.undone_after(current) {
                Some(undone) => return Err(self.gone_already(undone, current)),
                None => match self.revisions.last_good_before(current) {
                    Some(revision) => revision.number,
                    None => return Err(format!("there is no good revision before {current}")),
                },
            },
            (None, None) => return Err("no revision is in force".to_owned()),
        };
        if Some(number) == self.number {
            return Err(format!("revision {number} is in force"));
        }
        self.revisions
            .load(number)
            .map_err(|error| format!("{error:#}"))
    }

    /// Who asks to go back may not know yet that this has happened: nobody is
    /// to end two revisions back by that.
    fn gone_already(&self, undone: &Revision, current: u64) -> String {
        let (number, outcome) = (undone.number, undone.outcome.name());
        let further = match self.revisions.last_good_before(current) {
            Some(before) => format!("; further back goes `balancer rollback {}`", before.number),
            None => String::new(),
        };
        format!("revision {number} is {outcome} already, and {current} is in force{further}")
    }

    /// All revisions.
    pub(super) fn history(&self) -> History {
        let (revisions, damaged) = self.revisions.all();
        History {
            in_force: self.number,
            change_under_way: self.under_way.as_ref().map(UnderWay::describe),
            revisions,
            damaged,
        }
    }

    /// One revision.
    pub(super) fn stored_revision(&self, number: u64) -> Result<StoredRevision, Problem> {
        let stored = self.revisions.load(number);
        let stored =
            stored.map_err(|error| Problem::new("no such revision", 404, format!("{error:#}")))?;
        Ok(StoredRevision {
            revision: stored.revision,
            config: stored.config,
        })
    }
}
