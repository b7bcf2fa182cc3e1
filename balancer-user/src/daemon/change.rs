//! Where changes come from: a command or a file; [`super::history`] has the
//! way back.
//!
//! Each becomes a [`Proposal`], checked, and goes the way of
//! [`super::protocol`]: there is no other one into force. Whatever fails
//! leaves all as it was.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::controller::{Controller, LastReload};
use super::preparing::{Prepared, Ready, Reply, Wanted};
use super::protocol::{Pace, Proposal};
use super::{origin, store};
use crate::api::progress::Progress;
use crate::api::server::Begun;
use crate::api::types::{ApplyRequest, ChangeRequest, Changed, How, Problem};
use crate::change::{self, Edit};
use crate::config;
use crate::config::diagnostic::Report;
use crate::config::model::Config;
use crate::config::parse::apply::check_stages;
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
            summary: edited.edit.to_string(),
            dry_run: request.dry_run,
            duration_micros: None,
            revision: None,
        };
        if request.dry_run {
            return Ok(changed);
        }
        let mut origin = self.origin.clone();
        origin::note(&mut origin, edited.edit);
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
    pub(super) fn apply(&mut self, request: ApplyRequest, author: Author, reply: Reply) {
        let file_digest = digest(&request.text);
        let is_own =
            std::fs::read_to_string(&self.config_path).is_ok_and(|own| own == request.text);
        let mut origin = Origin {
            file_digest,
            ..Origin::default()
        };
        let mut summary = format!("{} is applied", request.name);
        if !is_own {
            // A restart reads the daemon's own file: it must not take that
            // one for newer.
            origin.file_digest = self.origin.file_digest.clone();
            let applied = format!("the file {} was applied", request.name);
            origin.changes = vec![Edit::Whole(applied)];
        }
        self.say_what_is_undone(&mut summary);
        let wanted = Wanted {
            name: request.name,
            text: request.text,
            origin,
            cause: Cause::Apply,
            summary,
            author,
            how: request.how,
        };
        self.prepare(wanted, reply);
    }

    /// Reads the file again; a bad one changes nothing.
    pub(super) fn reload(&mut self, author: Author, reply: Reply) {
        let text = match config::read_regular(&self.config_path) {
            Ok(text) => text,
            Err(error) => {
                let problem = Problem::new("file not read", 422, error.to_string());
                return self.refuse(Cause::Reload, problem, reply);
            }
        };
        let mut summary = "the file is in force".to_owned();
        self.say_what_is_undone(&mut summary);
        let wanted = Wanted {
            name: self.config_path.display().to_string(),
            origin: Origin {
                file_digest: digest(&text),
                ..Origin::default()
            },
            text,
            cause: Cause::Reload,
            summary,
            author,
            how: How::default(),
        };
        self.prepare(wanted, reply);
    }

    fn say_what_is_undone(&self, summary: &mut String) {
        if !self.origin.changes.is_empty() {
            summary.push_str("; changes made by command are undone: ");
            let changes: Vec<_> = self.origin.changes.iter().map(Edit::to_string).collect();
            summary.push_str(&changes.join(", "));
        }
    }

    /// Begins to bring into force what was judged, rehearsed and found good.
    pub(super) async fn on_prepared(&mut self, prepared: Prepared) {
        self.preparing = None;
        let Prepared {
            wanted,
            outcome,
            reply,
        } = prepared;
        let cause = wanted.cause;
        let begun = match outcome {
            Ok(ready) => self.begin_prepared(wanted, ready).await,
            Err(problem) => Err(problem),
        };
        match begun {
            Ok(begun) => drop(reply.send(Ok(begun))),
            Err(problem) => self.refuse(cause, problem, reply),
        }
    }

    async fn begin_prepared(&mut self, wanted: Wanted, mut ready: Ready) -> Begun {
        let Wanted {
            mut origin,
            cause,
            mut summary,
            author,
            how,
            ..
        } = wanted;
        let mut next = ready.config;
        // It says what the text was written against, not what is in force.
        next.based_on = None;
        let pace = pace(&next, &how)?;
        log_findings(&ready.report);
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
        let warnings = warnings(&ready.report);
        let events = vec![
            Progress::Planned {
                summary: summary.clone(),
                shares,
                warnings: warnings.iter().cloned().collect(),
            },
            Progress::Rehearsed {
                summary: ready.rehearsal.summary(),
            },
        ];
        let proposal = Proposal {
            config: next,
            origin,
            cause,
            summary,
            author,
            reason: how.reason,
            allowed: allowed(&ready.report),
            plan: serde_json::to_value(ready.plan.for_record()).ok(),
            warnings,
        };
        self.begin_change(proposal, pace, events).await
    }

    /// Tells whoever asked, and the log, that nothing changed.
    pub(super) fn refuse(&mut self, cause: Cause, problem: Problem, reply: Reply) {
        let detail = problem.detail.trim_end();
        if cause == Cause::Reload {
            tracing::error!("file not taken, the old configuration stays\n{detail}");
            // A report ends with its own summary.
            let last = detail.lines().last().unwrap_or_default();
            self.last_reload = Some(LastReload {
                at: Instant::now(),
                succeeded: false,
                summary: format!("{}: {last}", problem.title),
            });
        } else {
            tracing::warn!(cause = cause.name(), title = %problem.title, "change refused\n{detail}");
        }
        // A client that went away needs no answer.
        let _ = reply.send(Err(problem));
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
}

/// A channel with one event, and its end.
pub(super) fn only(event: Progress) -> mpsc::Receiver<Progress> {
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
