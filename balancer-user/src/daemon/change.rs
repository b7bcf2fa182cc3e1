//! Where changes come from: a command, a file, an earlier revision.
//!
//! Each becomes a [`Proposal`], checked, and goes the way of
//! [`super::protocol`]: there is no other one into force. Whatever fails
//! leaves all as it was.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::controller::{Controller, LastReload};
use super::protocol::{Pace, Proposal, UnderWay};
use super::{origin, store};
use crate::api::progress::Progress;
use crate::api::server::Begun;
use crate::api::types::{
    ApplyRequest, ChangeRequest, Changed, History, How, Problem, RollbackRequest, StoredRevision,
};
use crate::change;
use crate::config::diagnostic::Report;
use crate::config::model::{Config, Service};
use crate::config::parse::apply::check_stages;
use crate::config::{self, Examined};
use crate::plan::needs_restart;
use crate::revision::{Allowed, Author, Cause, OperatorDrain, Origin, Revision, digest};

impl Controller {
    /// An everyday change: in force at once, and watched.
    pub(super) async fn change(
        &mut self,
        request: &ChangeRequest,
        author: Author,
    ) -> Result<Changed, Problem> {
        let began = Instant::now();
        if !request.dry_run {
            self.make_way()?;
        }
        let edited = change::edit(&self.config, &request.change, &self.tables)
            .map_err(|detail| Problem::new("change refused", 409, detail))?;
        let warnings = warnings(&edited.report);
        let mut changed = Changed {
            shares: change::share_changes(&self.config, &edited.config, &self.tables),
            // What was so before is in the log since the file was read.
            warnings: warnings.difference(&self.warnings).cloned().collect(),
            summary: edited.summary,
            dry_run: request.dry_run,
            duration_micros: None,
            revision: None,
        };
        if request.dry_run {
            return Ok(changed);
        }
        let mut origin = self.origin.clone();
        origin::note(&mut origin, &request.change, &changed.summary);
        let proposal = Proposal {
            config: edited.config,
            origin,
            cause: Cause::Command,
            summary: changed.summary.clone(),
            author,
            reason: None,
            allowed: allowed(&edited.report),
            plan: serde_json::to_value(&changed.shares).ok(),
            warnings,
        };
        changed.revision = Some(self.commit_at_once(proposal, began).await?);
        changed.duration_micros = Some(began.elapsed().as_micros() as u64);
        Ok(changed)
    }

    /// Brings a file into force, in stages.
    pub(super) async fn apply(&mut self, request: ApplyRequest, author: Author) -> Begun {
        self.make_way()?;
        let counts = |service: &Service, size: u32| self.tables.slot_counts(service, size);
        let examined = config::examine(&request.name, request.text, Some(&counts));
        let is_own = std::fs::read_to_string(&self.config_path)
            .is_ok_and(|own| own == examined.report.text());
        let mut origin = Origin {
            file_digest: digest(examined.report.text()),
            ..Origin::default()
        };
        let mut summary = format!("{} is applied", request.name);
        if !is_own {
            // A restart reads the daemon's own file: it must not take that
            // one for newer.
            origin = self.origin.clone();
            origin.changes = vec![format!("the file {} was applied", request.name)];
        }
        self.say_what_is_undone(&mut summary);
        self.propose_file(examined, origin, Cause::Apply, summary, author, request.how)
            .await
    }

    /// Reads the file again; a bad one changes nothing.
    pub(super) async fn reload(&mut self, author: Author) -> Begun {
        let begun = self.try_reload(author).await;
        if let Err(problem) = &begun {
            tracing::error!(
                "file not taken, the old configuration stays\n{}",
                problem.detail.trim_end()
            );
            // A report ends with its own summary.
            let last = problem.detail.trim_end().lines().last();
            self.last_reload = Some(LastReload {
                at: Instant::now(),
                succeeded: false,
                summary: format!("{}: {}", problem.title, last.unwrap_or_default()),
            });
        }
        begun
    }

    async fn try_reload(&mut self, author: Author) -> Begun {
        self.make_way()?;
        let counts = |service: &Service, size: u32| self.tables.slot_counts(service, size);
        let examined = config::load(&self.config_path, Some(&counts))
            .map_err(|error| Problem::new("file not read", 422, error.to_string()))?;
        let origin = Origin {
            file_digest: digest(examined.report.text()),
            ..Origin::default()
        };
        let mut summary = "the file is in force".to_owned();
        self.say_what_is_undone(&mut summary);
        let how = How::default();
        self.propose_file(examined, origin, Cause::Reload, summary, author, how)
            .await
    }

    fn say_what_is_undone(&self, summary: &mut String) {
        if !self.origin.changes.is_empty() {
            summary.push_str("; changes made by command are undone: ");
            summary.push_str(&self.origin.changes.join(", "));
        }
    }

    /// Brings an earlier configuration into force again, or undoes the change
    /// that is under way.
    pub(super) async fn roll_back(&mut self, request: RollbackRequest, author: Author) -> Begun {
        if request.revision.is_none()
            && let Some(revision) = self.undo_by_wish(&author).await
        {
            return Ok(only(Progress::Over {
                revision: Box::new(revision),
            }));
        }
        self.make_way()?;
        let refused = |detail: String| Problem::new("cannot be rolled back to", 409, detail);
        let number = match (request.revision, self.number) {
            (Some(number), _) => number,
            (None, Some(current)) => match self.revisions.last_good_before(current) {
                Some(revision) => revision.number,
                None => {
                    let detail = format!("there is no good revision before {current}");
                    return Err(refused(detail));
                }
            },
            (None, None) => return Err(refused("no revision is in force".to_owned())),
        };
        if Some(number) == self.number {
            return Err(refused(format!("revision {number} is in force")));
        }
        let stored = self
            .revisions
            .load(number)
            .map_err(|error| refused(format!("{error:#}")))?;
        let counts = |service: &Service, size: u32| self.tables.slot_counts(service, size);
        let name = format!("revision {number}");
        let examined = config::examine(name, stored.config, Some(&counts));
        let origin = Origin {
            file_digest: self.origin.file_digest.clone(),
            changes: vec![format!("rolled back to revision {number}")],
            drains: stored.revision.origin.drains,
        };
        let summary = format!("back to revision {number} ({})", stored.revision.summary);
        self.propose_file(
            examined,
            origin,
            Cause::Rollback,
            summary,
            author,
            request.how,
        )
        .await
    }

    /// Checks a file's text and begins to bring it into force.
    async fn propose_file(
        &mut self,
        examined: Examined,
        mut origin: Origin,
        cause: Cause,
        mut summary: String,
        author: Author,
        how: How,
    ) -> Begun {
        let Examined {
            config, mut report, ..
        } = examined;
        for rule in &how.allow {
            let reason = how.reason.as_deref().unwrap_or("allowed for this change");
            report
                .allow(rule, reason)
                .map_err(|error| Problem::new("bad request", 400, error))?;
        }
        let mut next = match config {
            Some(config) if !report.has_errors() => config,
            _ => {
                let detail = format!("{}{}", report.render(false), report.summary());
                return Err(Problem::new("file refused", 422, detail));
            }
        };
        check_fixed(&self.config, &next)?;
        next.based_on = None;
        let pace = pace(&next, &how)?;
        log_findings(&report);
        if cause != Cause::Rollback {
            origin.drains = store::carry_drains(&mut next, self.origin.drains.clone());
        }
        for drain in &origin.drains {
            let OperatorDrain {
                service, backend, ..
            } = drain;
            summary.push_str(&format!("; service {service}: {backend} drains on"));
        }
        if self.config == next && self.origin == origin {
            let summary = "the file says what is in force already".to_owned();
            if cause == Cause::Reload {
                self.reloaded(true, &summary);
            }
            return Ok(only(Progress::Nothing { summary }));
        }
        let shares = change::share_changes(&self.config, &next, &self.tables);
        let warnings = warnings(&report);
        let planned = Progress::Planned {
            summary: summary.clone(),
            shares: shares.clone(),
            warnings: warnings.iter().cloned().collect(),
        };
        let proposal = Proposal {
            config: next,
            origin,
            cause,
            summary,
            author,
            reason: how.reason,
            allowed: allowed(&report),
            plan: serde_json::to_value(&shares).ok(),
            warnings,
        };
        self.begin_change(proposal, pace, planned).await
    }

    /// What is noted when a change is over.
    pub(super) fn changed(&mut self, revision: &Revision) {
        if revision.cause == Cause::Reload {
            let succeeded = revision.is_committed();
            let summary = match &revision.outcome {
                crate::revision::Outcome::Undone { why, .. } => format!("undone: {why}"),
                _ => revision.summary.clone(),
            };
            self.reloaded(succeeded, &summary);
        }
    }

    fn reloaded(&mut self, succeeded: bool, summary: &str) {
        tracing::info!(%summary, succeeded, "file read again");
        self.last_reload = Some(LastReload {
            at: Instant::now(),
            succeeded,
            summary: summary.to_owned(),
        });
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

/// A channel with one event, and its end.
fn only(event: Progress) -> mpsc::Receiver<Progress> {
    let (sender, receiver) = mpsc::channel(1);
    // There is room for one.
    let _ = sender.try_send(event);
    receiver
}

/// The pace that is asked for; what is left out is as the new file has it.
fn pace(config: &Config, how: &How) -> Result<Pace, Problem> {
    let stages = how.stages.clone();
    let stages = stages.unwrap_or_else(|| config.apply.stages.clone());
    if let Err(fault) = check_stages(&stages) {
        let detail = format!("`stages` {fault}; write ascending percents up to 100");
        return Err(Problem::new("bad request", 400, detail));
    }
    let hold = how.hold_millis.map(Duration::from_millis);
    Ok(Pace {
        stages,
        hold: hold.unwrap_or(config.apply.hold),
        confirm_within: how.confirm_within_millis.map(Duration::from_millis),
    })
}

/// Findings that were allowed.
fn allowed(report: &Report) -> Vec<Allowed> {
    let allowed = report.findings().iter().filter_map(|finding| {
        Some(Allowed {
            rule: finding.rule.to_owned(),
            message: finding.message.clone(),
            reason: finding.allowed.clone()?,
        })
    });
    allowed.collect()
}

/// Whether the same servers are reached and probed in the same way.
pub(super) fn same_backends(old: &Config, new: &Config) -> bool {
    old.services.len() == new.services.len()
        && old.services.iter().zip(&new.services).all(|(old, new)| {
            old.name == new.name
                && old.ports == new.ports
                && old.health == new.health
                && old.backends.len() == new.backends.len()
                && old.backends.iter().zip(&new.backends).all(|(old, new)| {
                    old.name == new.name
                        && old.address == new.address
                        && old.port == new.port
                        && old.mac == new.mac
                })
        })
}

/// Keys that only a start reads.
fn check_fixed(old: &Config, new: &Config) -> Result<(), Problem> {
    let changed: Vec<String> = needs_restart(&old.node, &new.node)
        .into_iter()
        .map(|key| format!("node.{key}"))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "{} changed, which only a restart takes; with keep_forwarding = true it loses no packet",
        changed.join(", ")
    );
    Err(Problem::new("needs a restart", 409, detail))
}

/// What the check found and nobody fixed stands in the log as well.
pub(super) fn log_findings(report: &Report) {
    for finding in report.findings() {
        let (rule, message) = (&finding.rule, &finding.message);
        match &finding.allowed {
            Some(reason) => tracing::info!(%rule, %message, allowed = %reason, "check"),
            None => tracing::warn!(%rule, %message, "check"),
        }
    }
}

pub(super) fn warnings(report: &Report) -> BTreeSet<String> {
    report
        .findings()
        .iter()
        .map(|finding| format!("{}: {}", finding.rule, finding.message))
        .collect()
}
