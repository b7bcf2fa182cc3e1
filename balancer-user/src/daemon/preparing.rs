//! What comes before a change, beside the loop: the check, the plan, the
//! proof of new backends and the rehearsal. Nothing is changed by it, and
//! packets, probes and other questions go on meanwhile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::capturing::Over;
use super::controller::Controller;
use super::hops::{self, Found, Solicit};
use super::planning::{For, Judged, Terms, beside, judge};
use crate::api::server::Begun;
use crate::api::types::{How, Problem};
use crate::config::diagnostic::Report;
use crate::config::model::{Config, Seed};
use crate::dataplane::heap;
use crate::desired::{Builder, World};
use crate::health;
use crate::member::Hop;
use crate::netlink::Netlink;
use crate::plan::{Plan, Proofs, needs_restart};
use crate::probe::scheduler::TargetSpec;
use crate::rehearsal::{Candidate, NamedState, Names, Rehearsal, rehearse};
use crate::revision::{Author, Cause, Origin};

/// Rules about the step that a rollback is not held up by: it leads to where
/// all was well.
const NOT_FOR_ROLLBACKS: &[&str] = &["blast-radius", "undrains", "churn", "old-drain"];
/// Differences from the plan that are told one by one.
const MAX_TOLD: usize = 5;

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Begun>;

/// A configuration that somebody wants, as text.
pub(super) struct Wanted {
    /// What it is called in messages.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) origin: Origin,
    pub(super) cause: Cause,
    pub(super) summary: String,
    pub(super) author: Author,
    pub(super) how: How,
}

/// The same once all that can be known before the change is known.
pub(super) struct Prepared {
    pub(super) wanted: Wanted,
    pub(super) outcome: Result<Ready, Problem>,
    pub(super) reply: Reply,
}

/// What comes back to the loop.
pub(super) enum Done {
    /// A change that is to begin, or not.
    Prepared(Box<Prepared>),
    /// What a rehearsal beside a change that is in force already says.
    Rehearsed {
        /// The change's revision.
        revision: u64,
        /// How it went.
        outcome: Result<Rehearsal, Problem>,
    },
    /// Servers were proven, or not, that the scheduler does not know.
    Proven {
        /// The change's revision.
        revision: u64,
        /// How it went.
        proofs: Proofs,
    },
    /// Nothing more is told of a capture.
    Captured(Box<Over>),
    /// Enough answers were heard to compare them before the first stage.
    Compared,
}

/// Nothing is against it.
pub(super) struct Ready {
    pub(super) config: Config,
    pub(super) plan: Plan,
    pub(super) report: Report,
    pub(super) rehearsal: Rehearsal,
}

/// What a rehearsal needs of the controller.
pub(super) struct Scene {
    pub(super) running: Config,
    seed: Seed,
    pub(super) in_force: NamedState,
    /// Has the tables of the services that do not change.
    builder: Builder,
    netlink: Netlink,
    found: Arc<Found>,
}

impl Scene {
    /// The ways to the backends of a configuration: those that are known, and
    /// what the kernel says of the others.
    async fn hops(&mut self, config: &Config) -> BTreeMap<IpAddr, Hop> {
        let mut new = hops::addresses(config);
        new.retain(|address, _| !self.found.contains_key(address));
        if !new.is_empty() {
            let found = hops::ask(&self.netlink, new, Solicit::Missing).await;
            Arc::make_mut(&mut self.found).extend(found);
        }
        hops::for_members(config, &self.found)
    }
}

impl Controller {
    /// Prepares a change; [`Controller::on_prepared`] goes on.
    pub(super) fn prepare(&mut self, wanted: Wanted, reply: Reply) {
        if let Err(problem) = self.make_way() {
            return self.refuse(wanted.cause, problem, reply);
        }
        self.preparing = Some(format!("{}, by {}", wanted.summary, wanted.author));
        let (mut base, tables) = (self.base(), Arc::clone(&self.tables));
        let mut terms = Terms {
            allow: wanted.how.allow.clone(),
            reason: wanted.how.reason.clone(),
        };
        if wanted.cause == Cause::Rollback {
            // Its drains are those of the revision.
            base.drains.clear();
            terms
                .allow
                .extend(NOT_FOR_ROLLBACKS.iter().map(ToString::to_string));
            terms.reason.get_or_insert("a rollback".to_owned());
        }
        let scene = self.scene();
        let (done, lane) = (self.done.clone(), self.lane.clone());
        tokio::spawn(async move {
            let (name, text) = (wanted.name.clone(), wanted.text.clone());
            let outcome = whole(async move {
                let terms = (&terms, For::Change);
                let judged = judge(base, tables, &lane, name, text, terms).await?;
                ready(judged, scene).await
            });
            let outcome = outcome.await;
            // Nobody is left to tell when the daemon ends.
            let prepared = Box::new(Prepared {
                wanted,
                outcome,
                reply,
            });
            let _ = done.send(Done::Prepared(prepared)).await;
            // The tables of the rehearsal are gone, and the stages have theirs.
            let _ = tokio::task::spawn_blocking(heap::trim).await;
        });
    }

    /// Rehearses a change that is in force already: nobody waits for that
    /// where one backend is drained.
    pub(super) fn rehearse_beside(&self, revision: u64, config: Config, scene: Scene) {
        let done = self.done.clone();
        tokio::spawn(async move {
            let outcome = whole(rehearsed(config, scene)).await;
            let _ = done.send(Done::Rehearsed { revision, outcome }).await;
        });
    }

    /// Goes on with what was done beside the loop.
    pub(super) async fn on_done(&mut self, done: Done) {
        match done {
            Done::Prepared(prepared) => self.on_prepared(*prepared).await,
            Done::Proven { revision, proofs } => self.on_proven(revision, proofs).await,
            Done::Captured(over) => self.on_captured(*over),
            Done::Compared => self.go_on_if_proven().await,
            Done::Rehearsed { revision, outcome } => match outcome {
                Ok(rehearsal) => {
                    let summary = rehearsal.summary();
                    tracing::info!(revision, %summary, "rehearsed");
                }
                Err(problem) if self.is_watched(revision) => {
                    self.undo(&format!("{}: {}", problem.title, problem.detail))
                        .await;
                }
                Err(problem) => tracing::error!(revision, detail = %problem.detail, "rehearsal"),
            },
        }
    }

    /// What forwards now.
    pub(super) fn scene(&mut self) -> Scene {
        let state = self.build(Instant::now()).state;
        Scene {
            running: self.config.clone(),
            seed: self.seed,
            netlink: self.netlink.clone(),
            found: Arc::clone(&self.found),
            builder: self.builder.beside(),
            in_force: NamedState {
                names: Names::of(&self.builder, &state),
                state,
            },
        }
    }
}

/// What comes of a piece of work. One that panics is a fault of ours, and ends
/// that change: nobody would say that it is over, and no other could begin.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        let detail = format!(
            "the change could not be prepared, which is a fault of the balancer: {error}; all is \
             as before, please report it with the log"
        );
        Err(Problem::new("not prepared", 500, detail))
    })
}

async fn ready(judged: Judged, scene: Scene) -> Result<Ready, Problem> {
    let Judged {
        plan,
        config,
        report,
    } = judged;
    let (Some(plan), Some(config), false) = (plan, config, report.has_errors()) else {
        let detail = format!("{}{}", report.render(false), report.summary());
        return Err(Problem::new("file refused", 422, detail));
    };
    check_fixed(&scene.running, &config)?;
    let rehearsal = rehearsed(config.clone(), scene).await?;
    Ok(Ready {
        config,
        plan,
        report,
        rehearsal,
    })
}

/// Rehearses a configuration, were all of its backends up; a difference from
/// the plan is a refusal.
pub(super) async fn rehearsed(config: Config, scene: Scene) -> Result<Rehearsal, Problem> {
    let rehearsal = on_stage(config, scene, |scene, candidate| {
        rehearse(Some(&scene.in_force), candidate)
    });
    let rehearsal = rehearsal.await?.map_err(|error| {
        let detail = format!("the change cannot be rehearsed, so it is not made: {error}");
        Problem::new("not rehearsed", 500, detail)
    })?;
    if rehearsal.is_as_planned() {
        return Ok(rehearsal);
    }
    let told = rehearsal.differences.iter().take(MAX_TOLD);
    let told: Vec<String> = told.map(ToString::to_string).collect();
    let detail = format!("{}\n{}", rehearsal.summary(), told.join("\n"));
    Err(Problem::new(
        "the kernel program does not do as planned",
        409,
        detail,
    ))
}

/// Builds the tables of a configuration, were all of its backends up, and
/// does something with them where nobody waits for the thread.
pub(super) async fn on_stage<T: Send + 'static>(
    config: Config,
    mut scene: Scene,
    play: impl FnOnce(&Scene, &Candidate) -> T + Send + 'static,
) -> Result<T, Problem> {
    let specs = TargetSpec::from_services(&config.services);
    let up = specs.into_iter().map(|spec| (spec.id, health::State::Up));
    let world = World {
        health: up.collect::<BTreeMap<_, _>>(),
        hops: scene.hops(&config).await,
        ..World::default()
    };
    beside(move || {
        let mut builder = std::mem::take(&mut scene.builder);
        let state = builder
            .build(&config, &scene.seed, &world, Instant::now())
            .state;
        let candidate = Candidate {
            config,
            seed: scene.seed,
            world,
            tables: NamedState {
                names: Names::of(&builder, &state),
                state,
            },
        };
        play(&scene, &candidate)
    })
    .await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_is_a_change_that_is_refused() {
        let fault = || -> Result<u32, Problem> { panic!("index 7 is out of bounds") };
        let refused = whole(async move { fault() }).await.unwrap_err();
        assert_eq!(
            (refused.title.as_str(), refused.status),
            ("not prepared", 500)
        );
        let detail = &refused.detail;
        assert!(detail.contains("a fault of the balancer"), "{detail}");
        assert!(detail.contains("index 7 is out of bounds"), "{detail}");
        assert_eq!(whole(async { Ok(7) }).await.ok(), Some(7));
    }
}
