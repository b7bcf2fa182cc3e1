//! Plans: what a file would do, and what the rules say of the step to it.
//!
//! Nothing changes. The controller's loop only hands out what runs
//! ([`Controller::base`]); reading, comparing and proving new backends is done
//! beside it, as it takes seconds where a file is large or a server is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::controller::Controller;
use super::existing::Questions;
use super::judged::{self, Ground};
use crate::api::types::{PlanRequest, Planned, Problem};
use crate::change::TableMemo;
use crate::config::check::{self, rules};
use crate::config::diagnostic::Report;
use crate::config::model::{Config, Service};
use crate::config::parse;
use crate::config::spans::Spans;
use crate::dataplane::heap;
use crate::plan::{self, Base, Held, OperatorDrain, Plan, Proofs};
use crate::probe::prove::prove_by;
use crate::probe::scheduler::TargetId;
use crate::probe::vip::Lane;

/// Why findings are allowed that a request names, where it does not say.
const REASON: &str = "allowed for this change";

/// Findings that are allowed for one change.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// Rules whose findings are.
    pub(super) allow: Vec<String>,
    /// Why.
    pub(super) reason: Option<String>,
}

/// Calls of [`tidy_up`] after which memory that was in use for a while is
/// returned; 0 where none was.
static WASTE: AtomicU8 = AtomicU8::new(TICKS_TO_WAIT);
/// What is done once is often done again at once.
const TICKS_TO_WAIT: u8 = 2;

/// Notes that much memory was in use.
pub(super) fn note_waste() {
    WASTE.store(TICKS_TO_WAIT, Ordering::Relaxed);
}

/// Returns memory that was used by a plan, a rehearsal or the start. To be
/// called once a second.
pub(super) fn tidy_up() {
    judged::forget_old(Instant::now());
    let waste = WASTE.load(Ordering::Relaxed);
    WASTE.store(waste.saturating_sub(1), Ordering::Relaxed);
    if waste == 1 {
        tokio::task::block_in_place(heap::trim);
    }
}

/// Each holds a copy of what runs and of the file: the next one waits.
static PLANNING: Semaphore = Semaphore::const_new(1);

/// A text that was looked at, with all that can be said before a change.
pub(super) struct Judged {
    /// What it would do; none if the check refuses it.
    pub(super) plan: Option<Plan>,
    /// The configuration, drains made by command in it; none likewise.
    pub(super) config: Option<Config>,
    /// Findings of the check and of the rules about the step.
    pub(super) report: Report,
}

impl Controller {
    /// What runs, as far as a plan has to know it.
    pub(super) fn base(&self) -> Base {
        let services = self.config.services.iter();
        let held = services.filter_map(|service| {
            let rate = |counter| self.rates.of(counter).flows;
            let held = Held::of(&self.builder, service, rate)?;
            Some((service.name.clone(), held))
        });
        let now = self.clock.now_for_ages();
        let drains = self.origin.drains.iter().map(|drain| OperatorDrain {
            id: TargetId {
                service: drain.service.clone(),
                backend: drain.backend.clone(),
            },
            age: Some(Duration::from_secs(now.saturating_sub(drain.since))),
        });
        Base {
            revision: self.number,
            config: Some(self.config.clone()),
            health: self.world.health.clone(),
            held: held.collect(),
            drains: drains.collect(),
        }
    }

    /// Plans beside the loop.
    pub(super) fn plan(
        &mut self,
        mut request: PlanRequest,
        reply: oneshot::Sender<Result<Planned, Problem>>,
    ) {
        // What is between two configurations is nothing to compare with.
        if let Err(problem) = self.busy() {
            let _ = reply.send(Err(problem));
            return;
        }
        let questions = match Questions::of(&mut request) {
            Ok(questions) => questions,
            Err(problem) => {
                let _ = reply.send(Err(problem));
                return;
            }
        };
        let scene = questions.is_any().then(|| self.scene());
        let blueprint = self.dataplane.blueprint();
        let (base, tables) = (self.base(), Arc::clone(&self.tables));
        let lane = self.lane.clone();
        tokio::spawn(async move {
            let color = request.color;
            let terms = Terms {
                allow: request.allow,
                reason: None,
            };
            let whose = For::Plan;
            let judged = judge(
                base,
                tables,
                &lane,
                request.name,
                request.text,
                (&terms, whose),
            )
            .await;
            let planned = match judged {
                Ok(judged) => questions.answered(judged, scene, blueprint, color).await,
                Err(problem) => Err(problem),
            };
            // A client that went away needs no answer.
            let _ = reply.send(planned);
        });
    }
}

/// What a text is judged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// To be shown; the change may be asked for next.
    Plan,
    /// To be brought into force.
    Change,
}

/// Checks a text, plans it and proves its new backends. A change takes what a
/// plan found a moment ago, where that goes by the same.
///
/// # Errors
/// When a rule of the terms is none that can be allowed.
pub(super) async fn judge(
    base: Base,
    tables: Arc<TableMemo>,
    lane: &Lane,
    name: String,
    text: String,
    (terms, whose): (&Terms, For),
) -> Result<Judged, Problem> {
    check_allowable(&terms.allow)?;
    let _turn = PLANNING.acquire().await;
    let began = Instant::now();
    let first = Arc::clone(&tables);
    let asked = terms.clone();
    let read = beside(move || {
        let ground = Ground::of(&base, &name, &text, &asked);
        // A reason stands beside what is allowed, and a plan has none.
        let is_asked_alike = asked.reason.is_none() || asked.allow.is_empty();
        if whose == For::Change
            && is_asked_alike
            && let Some(known) = judged::take(&ground, began)
        {
            return Err(Box::new(known));
        }
        let read = Read::of(&base, name, text, &first);
        Ok((base, ground, read))
    });
    let (base, ground, mut read) = match read.await? {
        Ok(read) => read,
        Err(known) => return Ok(*known),
    };
    allow_in(&mut read.report, terms);
    let (Some(step), false) = (read.step, read.report.has_errors()) else {
        return Ok(Judged {
            plan: None,
            config: None,
            report: read.report,
        });
    };
    let read_for = began.elapsed();
    let proofs = prove_by(lane, &step.config, plan::to_prove(&base, &step.config)).await;
    let proved_for = began.elapsed() - read_for;
    let is_proven = proofs.is_empty();
    let (spans, mut report) = (read.spans, read.report);
    let judged = beside(move || {
        let plan = match proofs.values().all(Result::is_ok) {
            true => step.plan,
            false => plan::make(&base, &step.config, &proofs, &tables),
        };
        let found = plan::findings(&base, &step.config, &spans, &plan, &proofs);
        (plan.with_drains_on(step.drains_on), step.config, found)
    });
    let (plan, config, found) = judged.await?;
    report.extend(found);
    allow_in(&mut report, terms);
    tracing::debug!(took = ?began.elapsed(), ?proved_for, summary = %plan.summary, "planned");
    let mut judged = Judged {
        plan: Some(plan),
        config: Some(config),
        report,
    };
    // What a probe said is asked again.
    if whose == For::Plan && is_proven && !judged.report.has_errors() {
        judged::keep(ground, &mut judged, Instant::now());
    }
    Ok(judged)
}

/// A text as it was read.
struct Read {
    step: Option<Step>,
    spans: Spans,
    report: Report,
}

/// What a faultless text would do.
struct Step {
    config: Config,
    drains_on: Vec<(String, String)>,
    /// With new backends that prove themselves.
    plan: Plan,
}

impl Read {
    fn of(base: &Base, name: String, text: String, tables: &TableMemo) -> Self {
        let mut parsed = parse::parse(&text);
        if let (Some(read), Some(running)) = (&mut parsed.config, &base.config) {
            read.share(running);
        }
        let step = parsed.config.clone().map(|mut config| {
            let drains_on = plan::carry_drains(base, &mut config);
            // Before the check: it then finds all tables built.
            let plan = plan::make(base, &config, &Proofs::new(), tables);
            Step {
                config,
                drains_on,
                plan,
            }
        });
        let mut findings = std::mem::take(&mut parsed.findings);
        let counts = |service: &Service, size: u32| tables.slot_counts(service, size);
        findings.extend(check::check(&parsed, Some(&counts)));
        Self {
            step,
            spans: parsed.spans,
            report: Report::new(name, text, findings),
        }
    }
}

/// Does long work where nobody waits for the thread.
pub(super) async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    note_waste();
    done.map_err(|error| Problem {
        title: "not planned".to_owned(),
        status: 500,
        detail: format!("the plan could not be made, which is a fault of the balancer: {error}"),
    })
}

fn check_allowable(allow: &[String]) -> Result<(), Problem> {
    let refusal = allow.iter().find_map(|id| rules::find_allowable(id).err());
    match refusal {
        None => Ok(()),
        Some((message, help)) => Err(Problem {
            title: "bad request".to_owned(),
            status: 400,
            detail: format!("{message}; {help}"),
        }),
    }
}

fn allow_in(report: &mut Report, terms: &Terms) {
    let reason = terms.reason.as_deref().unwrap_or(REASON);
    for id in &terms.allow {
        // Known to be allowable.
        let _ = report.allow(id, reason);
    }
}

pub(super) fn planned(judged: Judged, color: bool) -> Planned {
    let report = judged.report;
    Planned {
        plan: judged.plan,
        errors: report.errors(),
        warnings: report.warnings(),
        allowed: report.allowed(),
        text: report.render(color),
        report: report.to_json(),
        recorded: None,
        captured: None,
    }
}
