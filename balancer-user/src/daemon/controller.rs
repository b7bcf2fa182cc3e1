//! The one loop that owns everything: it reads what is, works out what
//! should be, applies the difference and counts.
//!
//! Events only wake it. Probe results, changed routes, a finished drain, a
//! command and the timer all end in [`Controller::reconcile`], which builds
//! the desired state anew and applies what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::hops::{self, Found};
use super::rates::Rates;
use super::store::{self, Running, Store};
use crate::api::server::Command;
use crate::api::types::{ChangeRequest, Changed, Problem};
use crate::change::{self, TableMemo};
use crate::config;
use crate::config::model::{Config, Seed, Service};
use crate::dataplane::capacity::Capacity;
use crate::dataplane::{Dataplane, Error, Plan, State, plan};
use crate::desired::{Builder, World};
use crate::netlink::{Changes, Netlink};
use crate::probe::scheduler::{Event, Events, Scheduler, TargetSpec};

/// How often counters are sampled and missing neighbours asked again.
const TICK: Duration = Duration::from_secs(1);

/// Everything the daemon knows.
pub(super) struct Controller {
    pub(super) config_path: PathBuf,
    /// What is in force.
    pub(super) config: Config,
    pub(super) running: Running,
    pub(super) seed: Seed,
    pub(super) tables: TableMemo,
    pub(super) store: Store,
    pub(super) builder: Builder,
    pub(super) world: World,
    pub(super) dataplane: Box<dyn Dataplane>,
    /// What the kernel was last told or last said.
    pub(super) actual: State,
    pub(super) scheduler: Scheduler,
    pub(super) netlink: Netlink,
    pub(super) found: Found,
    pub(super) rates: Rates,
    pub(super) started: Instant,
    /// Interfaces without our program, as last looked up.
    pub(super) modes: BTreeMap<String, String>,
    pub(super) last_apply: Option<LastApply>,
    pub(super) last_reload: Option<LastReload>,
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
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) hangup: tokio::signal::unix::Signal,
}

impl Controller {
    /// Runs until dropped.
    pub(super) async fn run(&mut self, sources: &mut Sources) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let resync = self.config.node.resync_interval;
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + resync, resync);
        resync.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let settling = self.builder.next_settling();
            tokio::select! {
                Some(event) = sources.probes.recv() => self.on_probe(&event),
                () = sources.network.changed() => self.on_network("routes or neighbours changed").await,
                Some(command) = sources.commands.recv() => self.on_command(command).await,
                _ = sources.hangup.recv() => { let _ = self.reload().await; }
                () = until(settling) => self.on_settled(),
                _ = tick.tick() => self.on_tick().await,
                _ = resync.tick() => self.resync().await,
            }
        }
    }

    /// Leaves the kernel as the configuration wants it left.
    pub(super) fn stop(&mut self) {
        if self.config.node.keep_forwarding {
            tracing::info!("stopped; forwarding goes on, `balancer unload` ends it");
            return;
        }
        match self.dataplane.detach() {
            Ok(()) => tracing::info!("stopped and detached"),
            Err(error) => tracing::error!(%error, "not detached; `balancer unload` may help"),
        }
    }

    fn on_probe(&mut self, event: &Event) {
        let Some(transition) = event.transition else {
            return;
        };
        let (service, backend) = (&event.id.service, &event.id.backend);
        let cause = match event.outcome.failure() {
            Some(failure) => format!("backend {backend} is {}: {failure}", transition.to),
            None => format!("backend {backend} is {}", transition.to),
        };
        tracing::info!(%service, %backend, from = %transition.from, to = %transition.to, %cause, "health");
        self.world.health.insert(event.id.clone(), transition.to);
        let _ = self.reconcile(&format!("service {service}: {cause}"), Instant::now());
    }

    pub(super) async fn on_network(&mut self, cause: &str) {
        let began = Instant::now();
        self.look_up_interfaces().await;
        self.look_up_hops().await;
        let _ = self.reconcile(cause, began);
    }

    async fn on_command(&mut self, command: Command) {
        // A client that went away needs no answer.
        match command {
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Change(request, reply) => drop(reply.send(self.change(&request).await)),
            Command::Reload(reply) => drop(reply.send(self.reload().await)),
            Command::Config(reply) => {
                drop(reply.send(config::render::render(&self.config)));
            }
        }
    }

    fn on_settled(&mut self) {
        let _ = self.reconcile("flows of earlier owners ran out of time", Instant::now());
    }

    async fn on_tick(&mut self) {
        match self.dataplane.counters(&self.builder.counters()) {
            Ok(counters) => self.rates.sample(Instant::now(), counters.members),
            Err(error) => tracing::warn!(%error, "counters cannot be read"),
        }
        hops::solicit_missing(&self.netlink, &self.config, &self.found).await;
    }

    /// Reads the kernel's tables back and repairs what differs.
    async fn resync(&mut self) {
        match tokio::task::block_in_place(|| self.dataplane.read_state()) {
            Ok(state) => {
                let drift = plan(&self.actual, &state);
                if !drift.is_empty() {
                    tracing::error!(
                        services = ?drift.upsert.keys().chain(&drift.remove).collect::<Vec<_>>(),
                        "the kernel's tables are not what was written; repairing"
                    );
                }
                self.actual = state;
            }
            Err(error) => tracing::error!(%error, "the kernel's tables cannot be read"),
        }
        self.on_network("resync").await;
    }

    /// Builds the desired state and applies what differs from the kernel's.
    pub(super) fn reconcile(&mut self, cause: &str, began: Instant) -> Result<(), Error> {
        let now = Instant::now();
        let built = self
            .builder
            .build(&self.config, &self.seed, &self.world, now);
        for index in &built.fresh_counters {
            self.rates.forget(*index);
        }
        let plan = plan(&built.state, &self.actual);
        if plan.is_empty() {
            return Ok(());
        }
        let result = tokio::task::block_in_place(|| {
            self.dataplane.reset_counters(&built.fresh_counters)?;
            match self.dataplane.apply(&plan) {
                Err(Error::Full { map, needed, limit }) => {
                    tracing::info!(map, needed, limit, "growing the maps");
                    let capacity = Capacity::grown_for(&built.state);
                    self.dataplane.replace(capacity, &built.state)
                }
                other => other,
            }
        });
        let duration = began.elapsed();
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
                self.rebase(&plan);
                self.actual = built.state;
            }
            Err(error) => tracing::error!(%cause, %error, "not applied; the old tables stay"),
        }
        result
    }

    /// Shares seen are counted from a table's last change on.
    fn rebase(&mut self, plan: &Plan) {
        let changed: Vec<u32> = plan
            .upsert
            .iter()
            .filter(|(id, service)| {
                let before = self.actual.services.get(id);
                before.map(|before| &before.table) != Some(&service.table)
            })
            .flat_map(|(_, service)| service.members.iter().map(|member| member.counter))
            .collect();
        if let Ok(counters) = self.dataplane.counters(&changed) {
            self.rates.set_baseline(counters.members);
        }
    }

    async fn change(&mut self, request: &ChangeRequest) -> Result<Changed, Problem> {
        let began = Instant::now();
        let edited = change::edit(&self.config, &request.change, &self.tables)
            .map_err(|detail| refused("change refused", 409, detail))?;
        let mut changed = Changed {
            shares: change::share_changes(&self.config, &edited.config, &self.tables),
            warnings: warnings(&edited.report),
            summary: edited.summary,
            dry_run: request.dry_run,
            duration_micros: None,
        };
        if request.dry_run {
            return Ok(changed);
        }
        let mut running = self.running.clone();
        running.changes.push(changed.summary.clone());
        running.note_drain(&request.change);
        self.adopt(edited.config, running, &changed.summary, began)
            .await?;
        changed.duration_micros = Some(began.elapsed().as_micros() as u64);
        Ok(changed)
    }

    /// Reads the file again; a bad one changes nothing.
    pub(super) async fn reload(&mut self) -> Result<Changed, Problem> {
        let result = self.try_reload().await;
        let summary = match &result {
            Ok(changed) => changed.summary.clone(),
            Err(problem) => problem.detail.clone(),
        };
        match &result {
            Ok(_) => tracing::info!(%summary, "file read again"),
            Err(_) => tracing::error!("file not taken, the old configuration stays\n{summary}"),
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
            _ => return Err(refused("file refused", 422, examined.report.render(false))),
        };
        check_fixed(&self.config, &next)?;
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
        Ok(Changed {
            summary,
            dry_run: false,
            shares,
            warnings: warnings(&examined.report),
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
        running.config = config::render::render(&config);
        self.store.save(&running).map_err(|error| {
            refused(
                "not stored",
                507,
                format!("the change cannot be stored, so it was not made: {error}"),
            )
        })?;
        let old_config = std::mem::replace(&mut self.config, config);
        let old_running = std::mem::replace(&mut self.running, running);
        if addresses(&old_config) != addresses(&self.config) {
            self.look_up_hops().await;
        }
        self.world.hops = hops::for_members(&self.config, &self.found);
        self.retarget();
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

    /// Probes what the configuration names.
    pub(super) fn retarget(&mut self) {
        for error in self
            .scheduler
            .set_targets(TargetSpec::from_services(&self.config.services))
        {
            tracing::error!(%error, "cannot be probed");
        }
        self.world.health = self
            .scheduler
            .states()
            .all()
            .into_iter()
            .map(|target| (target.id, target.monitor.state()))
            .collect();
    }

    pub(super) async fn look_up_hops(&mut self) {
        self.found = hops::ask(&self.netlink, &self.config).await;
        hops::solicit_missing(&self.netlink, &self.config, &self.found).await;
        self.world.hops = hops::for_members(&self.config, &self.found);
    }

    /// Notes where the program is, and attaches it to an interface that was
    /// made anew.
    pub(super) async fn look_up_interfaces(&mut self) {
        let mut modes = BTreeMap::new();
        for name in self.config.node.interfaces.clone() {
            let mode = match self.netlink.link(&name).await {
                Ok(Some(link)) => match link.xdp {
                    Some(xdp) => format!("{:?}", xdp.mode).to_lowercase(),
                    None => self.reattach(&name),
                },
                Ok(None) => "missing".to_owned(),
                Err(error) => format!("unknown ({error})"),
            };
            if self.modes.get(&name) != Some(&mode) {
                tracing::info!(interface = %name, %mode, "interface");
            }
            modes.insert(name, mode);
        }
        self.modes = modes;
    }

    fn reattach(&mut self, interface: &str) -> String {
        match tokio::task::block_in_place(|| self.dataplane.attach(interface)) {
            Ok(()) => {
                tracing::warn!(%interface, "the program was gone; attached again");
                "attached".to_owned()
            }
            Err(error) => {
                tracing::error!(%interface, %error, "the program is gone");
                "detached".to_owned()
            }
        }
    }
}

impl Running {
    fn note_drain(&mut self, change: &crate::api::types::Change) {
        use crate::api::types::Change;
        match change {
            Change::BackendDrain { service, backend } => {
                self.drains.push((service.clone(), backend.clone()));
            }
            Change::BackendUndrain { service, backend }
            | Change::BackendRemove { service, backend } => {
                self.drains.retain(|(s, b)| (s, b) != (service, backend));
            }
            _ => {}
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn addresses(config: &Config) -> BTreeSet<std::net::IpAddr> {
    config
        .services
        .iter()
        .flat_map(|service| &service.backends)
        .map(|backend| backend.address)
        .collect()
}

/// Keys that only a start reads.
fn check_fixed(old: &Config, new: &Config) -> Result<(), Problem> {
    let (old, new) = (&old.node, &new.node);
    let fixed = [
        ("interfaces", old.interfaces == new.interfaces),
        ("xdp_mode", old.xdp_mode == new.xdp_mode),
        ("seed", old.seed == new.seed),
        ("socket", old.socket == new.socket),
        ("state_dir", old.state_dir == new.state_dir),
        ("pin_dir", old.pin_dir == new.pin_dir),
        (
            "resync_interval",
            old.resync_interval == new.resync_interval,
        ),
    ];
    let changed: Vec<String> = fixed
        .iter()
        .filter(|(_, same)| !same)
        .map(|(key, _)| format!("node.{key}"))
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

fn warnings(report: &config::diagnostic::Report) -> Vec<String> {
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
