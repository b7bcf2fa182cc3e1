//! Changes of the configuration: by command, or by reading the file again.
//!
//! Both go the same way: checked, then stored on the disk, then applied to
//! the kernel. Whatever fails leaves all as it was.

use std::collections::BTreeSet;
use std::time::Instant;

use super::controller::{Controller, LastReload};
use super::hops;
use super::store::{self, Running};
use crate::api::types::{Change, ChangeRequest, Changed, Problem};
use crate::change;
use crate::config::diagnostic::Report;
use crate::config::model::{Config, Service};
use crate::config::{self, render};
use crate::plan::needs_restart;

impl Controller {
    pub(super) async fn change(&mut self, request: &ChangeRequest) -> Result<Changed, Problem> {
        let began = Instant::now();
        let edited = change::edit(&self.config, &request.change, &self.tables)
            .map_err(|detail| refused("change refused", 409, detail))?;
        let warnings = warnings(&edited.report);
        let mut changed = Changed {
            shares: change::share_changes(&self.config, &edited.config, &self.tables),
            // What was so before is in the log since the file was read.
            warnings: warnings.difference(&self.warnings).cloned().collect(),
            summary: edited.summary,
            dry_run: request.dry_run,
            duration_micros: None,
        };
        if request.dry_run {
            return Ok(changed);
        }
        let mut running = self.running.clone();
        running.note(&request.change, &changed.summary);
        self.adopt(edited.config, running, &changed.summary, began)
            .await?;
        self.warnings = warnings;
        changed.duration_micros = Some(began.elapsed().as_micros() as u64);
        Ok(changed)
    }

    /// Reads the file again; a bad one changes nothing.
    pub(super) async fn reload(&mut self) -> Result<Changed, Problem> {
        let result = self.try_reload().await;
        let summary = match &result {
            Ok(changed) => changed.summary.clone(),
            // A report ends with its own summary.
            Err(problem) => {
                let last = problem.detail.trim_end().lines().last();
                format!("{}: {}", problem.title, last.unwrap_or_default())
            }
        };
        match &result {
            Ok(_) => tracing::info!(%summary, "file read again"),
            Err(problem) => tracing::error!(
                "file not taken, the old configuration stays\n{}",
                problem.detail.trim_end()
            ),
        }
        self.last_reload = Some(LastReload {
            at: Instant::now(),
            succeeded: result.is_ok(),
            summary,
        });
        result
    }

    async fn try_reload(&mut self) -> Result<Changed, Problem> {
        let began = Instant::now();
        let counts = |service: &Service, size: u32| self.tables.slot_counts(service, size);
        let examined = config::load(&self.config_path, Some(&counts))
            .map_err(|error| refused("file not read", 422, error.to_string()))?;
        let mut next = match examined.config {
            Some(config) if !examined.report.has_errors() => config,
            _ => {
                let report = &examined.report;
                let detail = format!("{}{}", report.render(false), report.summary());
                return Err(refused("file refused", 422, detail));
            }
        };
        check_fixed(&self.config, &next)?;
        next.based_on = None;
        log_findings(&examined.report);
        let running = Running {
            file_digest: store::digest(examined.report.text()),
            changes: Vec::new(),
            drains: store::carry_drains(&mut next, self.running.drains.clone()),
            ..Running::default()
        };
        let mut summary = match self.config == next {
            true => "the file says what is in force already".to_owned(),
            false => "the file is in force".to_owned(),
        };
        if !self.running.changes.is_empty() {
            summary.push_str("; changes made by command are undone: ");
            summary.push_str(&self.running.changes.join(", "));
        }
        for (service, backend) in &running.drains {
            summary.push_str(&format!("; service {service}: {backend} drains on"));
        }
        let shares = change::share_changes(&self.config, &next, &self.tables);
        self.adopt(next, running, "the file was read again", began)
            .await?;
        self.warnings = warnings(&examined.report);
        self.looks.begin(&self.config);
        Ok(Changed {
            summary,
            dry_run: false,
            shares,
            warnings: self.warnings.iter().cloned().collect(),
            duration_micros: Some(began.elapsed().as_micros() as u64),
        })
    }

    /// Takes a configuration into force: first to the disk, then to the
    /// kernel; where the kernel refuses it, all is as before.
    async fn adopt(
        &mut self,
        config: Config,
        running: Running,
        cause: &str,
        began: Instant,
    ) -> Result<(), Problem> {
        let mut running = running;
        running.config = render::render(&config);
        self.store.save(&running).map_err(|error| {
            refused(
                "not stored",
                507,
                format!("the change cannot be stored, so it was not made: {error}"),
            )
        })?;
        let old_config = std::mem::replace(&mut self.config, config);
        let old_running = std::mem::replace(&mut self.running, running);
        if !same_backends(&old_config, &self.config) {
            self.look_up_new().await;
            self.retarget();
        }
        let Err(error) = self.reconcile(cause, began) else {
            return Ok(());
        };
        self.config = old_config;
        self.running = old_running;
        self.world.hops = hops::for_members(&self.config, &self.found);
        self.retarget();
        let _ = self.reconcile("undoing a change the kernel refused", Instant::now());
        if let Err(error) = self.store.save(&self.running) {
            tracing::error!(%error, "the refused change is still stored");
        }
        Err(refused(
            "not applied",
            500,
            format!("the kernel refused the change, all is as before: {error}"),
        ))
    }
}

impl Running {
    /// Notes a change made by command. Drains are kept apart, as they outlive
    /// a re-reading of the file.
    fn note(&mut self, change: &Change, summary: &str) {
        let same = |service: &str, backend: &str| {
            let (service, backend) = (service.to_owned(), backend.to_owned());
            move |drain: &(String, String)| drain.0 == service && drain.1 == backend
        };
        match change {
            Change::BackendDrain { service, backend } => {
                self.drains.push((service.clone(), backend.clone()));
                return;
            }
            Change::BackendUndrain { service, backend } => {
                let drained = same(service, backend);
                if let Some(at) = self.drains.iter().position(drained) {
                    self.drains.remove(at);
                    return;
                }
            }
            Change::BackendRemove { service, backend } => {
                let drained = same(service, backend);
                self.drains.retain(|drain| !drained(drain));
            }
            Change::ServiceRemove { service } => {
                self.drains.retain(|drain| drain.0 != *service);
            }
            Change::ServiceAdd { .. }
            | Change::BackendAdd { .. }
            | Change::BackendWeight { .. } => {}
        }
        self.changes.push(summary.to_owned());
    }

    /// All that a command changed, a sentence each.
    pub(super) fn sentences(&self) -> Vec<String> {
        let drains = self
            .drains
            .iter()
            .map(|(service, backend)| format!("service {service}: backend {backend} drains"));
        self.changes.iter().cloned().chain(drains).collect()
    }
}

/// Whether the same servers are reached and probed in the same way.
fn same_backends(old: &Config, new: &Config) -> bool {
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
    Err(refused("needs a restart", 409, detail))
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

fn refused(title: &str, status: u16, detail: String) -> Problem {
    Problem {
        title: title.to_owned(),
        status,
        detail,
    }
}
