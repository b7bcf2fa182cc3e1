//! What the daemon says of itself.

use std::time::Instant;

use balancer_common::layout::{HandshakeCounters, MemberCounters};

use super::controller::Controller;
use super::hops;
use super::protocol::UnderWay;
use crate::api::types::{Apply, BackendStatus, HandshakeStatus, Reload, ServiceStatus, Status};
use crate::config::model::{Health, Protocol, Service};
use crate::dataplane::Counters;
use crate::desired::{BackendState, Seat, Standing};
use crate::health::Monitor;
use crate::probe::scheduler::TargetId;

impl Controller {
    pub(super) fn status(&mut self) -> Status {
        let mut problems = Vec::new();
        let counters = self
            .dataplane
            .counters(&self.builder.counters())
            .unwrap_or_else(|error| {
                problems.push(format!("counters cannot be read: {error}"));
                Counters::default()
            });
        let now = Instant::now();
        let services: Vec<ServiceStatus> = self
            .config
            .services
            .iter()
            .map(|service| self.service_status(service, &counters, now))
            .collect();
        for service in &services {
            problems.extend(service_problems(service));
        }
        problems.extend(self.node_problems());
        problems.extend(self.verifier.problems(now));
        problems.extend(self.group.problems());
        problems.extend(self.pressure.problems());
        problems.extend(self.incidents.problems());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            config_file: self.config_path.display().to_string(),
            runtime_changes: super::origin::sentences(&self.origin),
            revision: self.number,
            change_under_way: self.under_way.as_ref().map(UnderWay::describe),
            last_reload: self.last_reload.as_ref().map(|reload| Reload {
                ago_seconds: reload.at.elapsed().as_secs(),
                succeeded: reload.succeeded,
                summary: reload.summary.clone(),
            }),
            last_apply: self.last_apply.as_ref().map(|apply| Apply {
                ago_seconds: apply.at.elapsed().as_secs(),
                cause: apply.cause.clone(),
                duration_micros: apply.duration.as_micros() as u64,
                succeeded: apply.succeeded,
            }),
            features: self
                .dataplane
                .features()
                .names()
                .map(ToOwned::to_owned)
                .collect(),
            interfaces: self.interfaces.status(),
            services,
            reasons: counters
                .reasons
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.name().to_owned(), *count))
                .collect(),
            problems,
            incidents: self.incidents.open(),
            capture: self.capture_status(),
        }
    }

    /// What is wrong with the node and no incident, a sentence each.
    pub(super) fn node_problems(&self) -> Vec<String> {
        let mut problems = self.interfaces.problems(Instant::now());
        problems.extend(self.storage_problem());
        problems.extend(self.pins.problem());
        problems.extend(self.lane.problems());
        problems.extend(self.crowds.problems());
        if let Some(apply) = self.last_apply.as_ref().filter(|apply| !apply.succeeded) {
            problems.push(format!("the last change was not applied: {}", apply.cause));
        }
        problems
    }

    /// What could not be written to the state directory and is tried again.
    fn storage_problem(&self) -> Option<String> {
        let directory = self.store.directory().display();
        if let Some(why) = self.seats.failure() {
            return Some(format!(
                "state directory {directory}: {why}; changes are refused, and a restart would \
                 begin its flow records anew"
            ));
        }
        let number = self.unsaved.keys().next()?;
        Some(format!(
            "state directory {directory}: what became of revision {number} cannot be written; \
             make room there"
        ))
    }

    fn service_status(
        &self,
        service: &Service,
        counters: &Counters,
        now: Instant,
    ) -> ServiceStatus {
        let seats = self.builder.seats(&service.name);
        let seat = |name: &str| seats.iter().flatten().find(|seat| *seat.backend == *name);
        let seen = |counter: u32| {
            let counted = counters.members.get(&counter).copied().unwrap_or_default();
            measure(
                service.protocol,
                &self.rates.since_baseline(counter, &counted),
            )
        };
        let all_seen: u64 = seats.iter().flatten().map(|seat| seen(seat.counter)).sum();
        let slot_count = self.builder.slot_count(&service.name);
        let standing = Standing::of(service, &self.world);
        let backends: Vec<BackendStatus> = service
            .backends
            .iter()
            .map(|backend| {
                let seat = seat(&backend.name);
                let mut status =
                    self.backend_status((service, standing), &backend.name, seat, counters);
                status.share_expected = match slot_count {
                    0 => 0.0,
                    all => f64::from(status.slot_count) / f64::from(all),
                };
                status.share_seen = seat
                    .filter(|_| all_seen > 0)
                    .map(|seat| seen(seat.counter) as f64 / all_seen as f64);
                status
            })
            .collect();
        let settles_at = self.builder.settles_at(&service.name);
        ServiceStatus {
            name: service.name.clone(),
            address: service.address,
            ports: service.ports.to_string(),
            protocol: service.protocol.to_string(),
            forward: service.forward.to_string(),
            probe: service.health.as_ref().map(Health::summary),
            state: state(&backends, standing).to_owned(),
            slot_count,
            counted_since_change: all_seen,
            settling_seconds: settles_at.map(|at| at.saturating_duration_since(now).as_secs()),
            backends,
        }
    }

    fn backend_status(
        &self,
        (service, standing): (&Service, Standing),
        name: &str,
        seat: Option<&Seat>,
        counters: &Counters,
    ) -> BackendStatus {
        let id = TargetId {
            service: service.name.clone(),
            backend: name.to_owned(),
        };
        let target = self.scheduler.states().one(&id);
        let monitor = target.as_ref().map(|target| &target.monitor);
        let counted = seat
            .and_then(|seat| counters.members.get(&seat.counter).copied())
            .unwrap_or_default();
        let rate = seat
            .map(|seat| self.rates.of(seat.counter))
            .unwrap_or_default();
        let backend = service.backend(name);
        let state = backend.map(|backend| standing.state(service, backend, &self.world));
        let state = match state {
            Some(BackendState::Up) if self.world.relieved.contains_key(&id) => {
                match self.world.relieved[&id] {
                    0 => "out",
                    _ => "trickle",
                }
            }
            Some(BackendState::Up) if self.world.ramps.contains_key(&id) => "slow-start",
            state => state.map_or("gone", BackendState::name),
        };
        BackendStatus {
            name: name.to_owned(),
            address: backend.map_or(service.address, |backend| backend.address),
            port: backend.and_then(|backend| backend.port),
            weight: backend.map_or(0, |backend| backend.weight),
            state: state.to_owned(),
            since_seconds: monitor.map(|monitor| monitor.since().elapsed().as_secs()),
            last_failure: monitor.and_then(last_failure),
            next_hop: backend.map_or_else(String::new, |backend| {
                hops::describe(&self.config.node, service, backend, &self.found)
            }),
            slot_count: seat.map_or(0, |seat| seat.slot_count),
            share_expected: 0.0,
            share_seen: None,
            flows: counted.flows,
            packets: counted.packets,
            bytes: counted.bytes,
            resets: counted.resets,
            handshakes: seat
                .and_then(|seat| counters.handshakes.get(&seat.counter))
                .map(handshakes),
            flows_per_second: rate.flows,
            packets_per_second: rate.packets,
            bits_per_second: rate.bits,
        }
    }
}

/// Why a backend is not well; none if it is.
pub(super) fn last_failure(monitor: &Monitor) -> Option<String> {
    let is_unwell = monitor.bad_in_row() > 0 || !monitor.state().is_eligible();
    let failure = monitor.last_failure().filter(|_| is_unwell);
    let failure = failure.map(|(_, failure)| failure.to_string());
    let Some((until, falls)) = monitor.held() else {
        return failure;
    };
    let seconds = until.saturating_duration_since(Instant::now()).as_secs();
    let last = failure.unwrap_or_default();
    Some(format!(
        "fell {falls} times, each soon after it had come up, and is kept out for {seconds} s \
         more; the last time: {last}"
    ))
}

fn handshakes(counted: &HandshakeCounters) -> HandshakeStatus {
    HandshakeStatus {
        started: counted.started,
        repeated: counted.repeated,
        finished: counted.finished,
        unfinished: counted.abandoned,
        unknown: counted.displaced,
        log2_micros: counted.histogram.to_vec(),
    }
}

/// What a share is counted in: UDP has no sign of a new flow.
fn measure(protocol: Protocol, counted: &MemberCounters) -> u64 {
    match protocol {
        Protocol::Tcp => counted.flows,
        Protocol::Udp => counted.packets,
    }
}

fn state(backends: &[BackendStatus], standing: Standing) -> &'static str {
    let with = |state: &str| {
        backends
            .iter()
            .filter(|backend| backend.state == state)
            .count()
    };
    let up = backends.iter().filter(|backend| backend.is_up()).count();
    let down = with("down") + with("unproven") + with("held");
    match (up, down) {
        _ if standing.fails_open => "fail-open",
        _ if standing.uses_backups => "on-backups",
        // Those that are held get what nobody else could.
        (0, _) if standing.uses_held => "degraded",
        (0, _) => "down",
        (_, 0) => "up",
        _ => "degraded",
    }
}

fn service_problems(service: &ServiceStatus) -> Vec<String> {
    let mut problems = Vec::new();
    match service.state.as_str() {
        "down" => problems.push(format!(
            "service {} is down: no backend gets traffic",
            service.name
        )),
        "fail-open" => problems.push(format!(
            "service {} fails open: too few backends are healthy, so all are used",
            service.name
        )),
        "on-backups" => problems.push(format!(
            "service {} uses its backups: too few of its primary pool are healthy",
            service.name
        )),
        _ => {}
    }
    for backend in &service.backends {
        if matches!(backend.state.as_str(), "down" | "unproven" | "held") {
            let why = backend.last_failure.as_deref().unwrap_or("not yet proven");
            problems.push(format!(
                "service {}: backend {} is {}: {why}",
                service.name, backend.name, backend.state
            ));
        }
        if backend.next_hop != "resolved" && backend.slot_count > 0 {
            problems.push(format!(
                "service {}: backend {} gets no packets: {}",
                service.name, backend.name, backend.next_hop
            ));
        }
    }
    problems
}
