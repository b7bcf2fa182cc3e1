//! The one loop that owns everything: it reads what is, works out what
//! should be, applies the difference and counts.
//!
//! Events only wake it. Probe results, changed routes, a finished drain, a
//! command and the timer all end in [`Controller::reconcile`], which builds
//! the desired state anew and applies what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balancer_common::layout::Member;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::capturing::Captures;
use super::clock::Clock;
use super::crowds::Crowds;
use super::hops::{self, Found, Solicit};
use super::host::Looks;
use super::incidents::Incidents;
use super::interfaces::Interfaces;
use super::lookup::Lookup;
use super::peers::Group;
use super::pins::PinDir;
use super::planning;
use super::preparing::Done;
use super::pressure::Pressure;
use super::protocol::{Known, UnderWay};
use super::rates::Rates;
use super::resume::Seats;
use super::revisions::Revisions;
use super::settling;
use super::store::Store;
use super::supervisor::Supervisor;
use super::telemetry::Telemetry;
use super::verify::Verifier;
use crate::api::server::Command;
use crate::api::types::Said;
use crate::change::TableMemo;
use crate::config::model::{Config, Seed};
use crate::config::render;
use crate::dataplane::{Dataplane, Error, Plan, plan};
use crate::desired::{Builder, Built, Ramps, Relief, World, of_all_hashes, probed};
use crate::moment::{self, Moment};
use crate::netlink::{Changes, Netlink};
use crate::probe::scheduler::{Events, Scheduler, TargetSpec};
use crate::probe::vip::Lane;
use crate::revision::{Origin, Revision};

/// How often counters are sampled and missing neighbours asked again.
const TICK: Duration = Duration::from_secs(1);

/// Everything the daemon knows.
pub(super) struct Controller {
    pub(super) config_path: PathBuf,
    /// What is in force.
    pub(super) config: Config,
    /// What that is made of.
    pub(super) origin: Origin,
    /// The number of its revision.
    pub(super) number: Option<u64>,
    pub(super) revisions: Revisions,
    /// Revisions whose outcome could not be stored.
    pub(super) unsaved: BTreeMap<u64, Revision>,
    pub(super) under_way: Option<UnderWay>,
    /// The change that is being prepared, in one sentence.
    pub(super) preparing: Option<String>,
    /// Where what is done beside the loop comes back to it.
    pub(super) done: mpsc::Sender<Done>,
    pub(super) seed: Seed,
    pub(super) tables: Arc<TableMemo>,
    /// What the check says of the configuration in force.
    pub(super) warnings: BTreeSet<String>,
    pub(super) store: Store,
    pub(super) pins: PinDir,
    pub(super) builder: Builder,
    pub(super) seats: Seats,
    pub(super) world: World,
    pub(super) ramps: Ramps,
    pub(super) relief: Relief,
    pub(super) dataplane: Box<dyn Dataplane>,
    pub(super) scheduler: Scheduler,
    pub(super) lane: Lane,
    pub(super) netlink: Netlink,
    pub(super) found: Arc<Found>,
    pub(super) lookup: Lookup,
    pub(super) rates: Rates,
    pub(super) started: Instant,
    pub(super) clock: Clock,
    pub(super) interfaces: Interfaces,
    pub(super) last_apply: Option<LastApply>,
    pub(super) last_reload: Option<LastReload>,
    pub(super) looks: Looks,
    pub(super) verifier: Verifier,
    pub(super) group: Group,
    pub(super) pressure: Pressure,
    pub(super) crowds: Crowds,
    pub(super) incidents: Incidents,
    pub(super) telemetry: Telemetry,
    pub(super) captures: Captures,
    pub(super) supervisor: Supervisor,
}

/// The last change of the kernel's tables.
pub(super) struct LastApply {
    pub(super) at: Instant,
    pub(super) cause: String,
    pub(super) duration: Duration,
    pub(super) succeeded: bool,
}

/// The last re-reading of the file.
pub(super) struct LastReload {
    pub(super) at: Instant,
    pub(super) succeeded: bool,
    pub(super) summary: String,
}

/// Where the loop's events come from.
pub(super) struct Sources {
    pub(super) probes: Events,
    pub(super) network: Changes,
    pub(super) found: mpsc::Receiver<Found>,
    pub(super) beside: mpsc::Receiver<Done>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) hangup: tokio::signal::unix::Signal,
}

impl Controller {
    /// Runs until dropped.
    pub(super) async fn run(&mut self, sources: &mut Sources) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let resync = self.config.node.resync_interval;
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + resync, resync);
        resync.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let settling = self.builder.next_settling();
            let change = self.change_deadline();
            tokio::select! {
                Some(events) = sources.probes.recv() => self.on_probes(&events).await,
                () = sources.network.changed() => self.on_network().await,
                Some(found) = sources.found.recv() => self.on_found(found).await,
                Some(command) = sources.commands.recv() => self.on_command(command).await,
                Some(done) = sources.beside.recv() => self.on_done(done).await,
                _ = sources.hangup.recv() => self.on_hangup(),
                () = until(settling) => self.on_settled(),
                () = until(change) => self.on_change_deadline().await,
                _ = tick.tick() => self.on_tick().await,
                _ = look.tick() => self.verify_some().await,
                _ = resync.tick() => self.resync().await,
            }
            self.reload_over();
            // Whoever asked has the answer; the next change finds all ready.
            if let Err(error) = tokio::task::block_in_place(|| self.dataplane.settle()) {
                tracing::error!(%error, "cannot wait for packets under way");
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        // A client that went away needs no answer.
        match command {
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Change(request, author, reply) => {
                drop(reply.send(self.change(&request, author).await));
            }
            Command::Plan(request, reply) => self.plan(request, reply),
            Command::Apply(request, author, reply) => {
                self.apply(request, author, reply);
            }
            Command::Reload(author, reply) => self.reload(author, reply),
            Command::Rollback(request, author, reply) => {
                self.roll_back(request, author, reply).await;
            }
            Command::Confirm(author, reply) => {
                let said = self.confirm(&author).await;
                drop(reply.send(said.map(|summary| Said { summary })));
            }
            Command::History(reply) => drop(reply.send(self.history())),
            Command::Revision(number, reply) => drop(reply.send(self.stored_revision(number))),
            Command::Config(reply) => {
                drop(reply.send(render::render(&self.config)));
            }
            Command::Verify(reply) => drop(reply.send(self.verify().await)),
            Command::Repair(reply) => drop(reply.send(self.verify_and_repair().await)),
            Command::Events(reply) => self.events(reply),
            Command::Capture(request, author, reply) => self.capture(&request, author, reply),
            Command::CaptureStop(request, author, reply) => {
                drop(reply.send(self.stop_capture(&request, &author)));
            }
            Command::Blueprint(reply) => drop(reply.send(self.dataplane.blueprint())),
            Command::Explain(request, mut shadow, reply) => {
                drop(reply.send(self.explain(&request, &mut shadow)));
            }
        }
    }

    async fn on_tick(&mut self) {
        match self.dataplane.loads(self.builder.counter_count()) {
            Ok(counters) => self.rates.sample(Instant::now(), counters),
            Err(error) => tracing::warn!(%error, "counters cannot be read"),
        }
        if hops::is_missing(&self.config, &self.found) {
            self.start_lookup(Solicit::Missing);
        }
        if self.lane.is_blocked() {
            self.lead_probes().await;
        }
        if self
            .ramps
            .is_due(&self.config.services, &self.world, Instant::now())
        {
            let _ = self.reconcile("a slow start goes on", Instant::now());
        }
        self.end_capture();
        self.look_at_clock();
        self.look_for_incidents();
        self.save_unsaved();
        self.tell_peers();
        self.count_records();
        self.crowds.look(Instant::now());
        self.look_at_change().await;
        if self.preparing.is_none() {
            planning::tidy_up();
        }
        self.tell_supervisor();
    }

    /// Compares all with the kernel at once, and tries again what failed.
    async fn resync(&mut self) {
        self.verify().await;
        let _ = self.reconcile("repair", Instant::now());
        self.look_up_interfaces().await;
        self.start_lookup(Solicit::All);
    }

    /// Builds the desired state and applies what differs from the kernel's.
    pub(super) fn reconcile(&mut self, cause: &str, began: Instant) -> Result<(), Error> {
        let now = Instant::now();
        settling::end_rounds(&mut self.builder, &mut *self.dataplane, now);
        let built = self.build(now);
        self.telemetry.doubt();
        for index in &built.fresh_counters {
            self.rates.forget(*index);
        }
        let plan = plan(&built.state, self.dataplane.written());
        if plan.is_empty() {
            return Ok(());
        }
        let is_told =
            plan.flow_keys.is_some() || !plan.upsert.is_empty() || !plan.remove.is_empty();
        let begin_anew = self.with_other_tables(&plan);
        self.follow_capture(&built.state);
        let result = tokio::task::block_in_place(|| {
            self.seats.prepare(&self.store, &self.builder);
            moment::passed(Moment::SeatsStored);
            self.dataplane.reset_counters(&built.fresh_counters)?;
            self.dataplane.bring(&plan, &built.state)
        });
        let duration = began.elapsed();
        if result.is_ok() && !is_told {
            // Nothing that anybody asked for, and nothing that moves a flow.
            tracing::debug!(%cause, "applied");
            return Ok(());
        }
        self.last_apply = Some(LastApply {
            at: now,
            cause: match &result {
                Ok(()) => cause.to_owned(),
                Err(error) => format!("{cause}: {error}"),
            },
            duration,
            succeeded: result.is_ok(),
        });
        match &result {
            Ok(()) => {
                tracing::info!(%cause, micros = duration.as_micros() as u64, "applied");
                self.seats.commit();
                self.rebase(&begin_anew);
            }
            Err(error) => tracing::error!(%cause, %error, "not applied; the old tables stay"),
        }
        result
    }

    /// The state that the configuration, or the change under way, wants.
    pub(super) fn build(&mut self, now: Instant) -> Built {
        let is_changing = self.under_way.is_some();
        let (services, world) = (&self.config.services, &mut self.world);
        self.ramps.follow(services, world, is_changing, now);
        self.relief.limit(services, world);
        let staging = self.under_way.as_ref().and_then(UnderWay::staging);
        let mut built = match staging {
            Some(staging) => self
                .builder
                .build_staged(staging, &self.seed, &self.world, now),
            None => self
                .builder
                .build(&self.config, &self.seed, &self.world, now),
        };
        // Few flows go to who gets the first percent: each one counts.
        let is_watched = self.under_way.as_ref().is_some_and(UnderWay::is_watched);
        let least = self.config.node.handshake_sample;
        built.state.settings.handshake_sample = of_all_hashes(match is_watched && least > 0.0 {
            true => 1.0,
            false => self.incidents.sampling.share(least),
        });
        built
    }

    /// Counters of the members of services that get another table.
    fn with_other_tables(&self, plan: &Plan) -> Vec<u32> {
        let written = &self.dataplane.written().services;
        plan.upsert
            .iter()
            .filter(|(id, service)| {
                let before = written.get(id);
                before.map(|before| &before.table) != Some(&service.table)
            })
            .flat_map(|(_, service)| &service.members)
            // An empty seat has no counter of its own.
            .filter(|member| member.kind != Member::NONE)
            .map(|member| member.counter)
            .collect()
    }

    /// Shares seen are counted from a table's last change on.
    fn rebase(&mut self, changed: &[u32]) {
        if let Ok(counters) = self.dataplane.counters(changed) {
            self.rates.set_baseline(counters.members);
        }
    }

    /// Probes what the configuration names.
    ///
    /// A server that was up under another probe is until the new one says
    /// otherwise: it has its flows, and a change of a path is no reason to cut
    /// them. Of a server that a name did not mean before it is `known` what was
    /// proven.
    pub(super) fn retarget(&mut self, before: &Config, known: &Known) {
        let mut specs = TargetSpec::from_services(&self.config.services);
        for spec in &mut specs {
            let service = before.service(&spec.id.service);
            let was = service.and_then(|it| Some((it, it.backend(&spec.id.backend)?)));
            if let Some((service, backend)) = was
                && backend.address == spec.address.ip()
            {
                spec.initial = probed(service, backend, &self.world);
            } else if let Some(state) = known.get(&(spec.id.clone(), spec.address)) {
                spec.initial = *state;
            }
        }
        for error in self.scheduler.set_targets(specs) {
            tracing::error!(%error, "cannot be probed");
        }
        self.world.health = self.scheduler.states().health();
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
