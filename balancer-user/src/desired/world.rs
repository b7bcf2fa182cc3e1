//! What is known beside the file, and who gets flows by it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::model::{Backend, Service};
use crate::health;
use crate::member::Hop;
use crate::probe::scheduler::TargetId;

/// What is known of the world outside the file.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// States of the probed backends; one that is not here is unproven.
    pub health: BTreeMap<TargetId, health::State>,
    /// Ways to the backends; one that is not here has none.
    pub hops: BTreeMap<IpAddr, Hop>,
}

/// Why a backend gets new flows or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendState {
    /// Gets its share.
    Up,
    /// Not yet passed its probes.
    Unproven,
    /// Failed its probes.
    Down,
    /// An operator's wish: no new flows, old ones kept.
    Draining,
    /// Weight 0.
    Disabled,
}

impl BackendState {
    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unproven => "unproven",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// The state of a backend as configuration and health have it.
pub fn backend_state(service: &Service, backend: &Backend, world: &World) -> BackendState {
    if backend.drain {
        return BackendState::Draining;
    }
    if backend.weight == 0 {
        return BackendState::Disabled;
    }
    match probed(service, backend, world) {
        health::State::Up => BackendState::Up,
        health::State::Unproven => BackendState::Unproven,
        health::State::Down => BackendState::Down,
    }
}

/// What the probes say of a backend; one without a probe is up.
pub fn probed(service: &Service, backend: &Backend, world: &World) -> health::State {
    if service.health.is_none() {
        return health::State::Up;
    }
    let id = TargetId {
        service: service.name.clone(),
        backend: backend.name.clone(),
    };
    let unproven = health::State::Unproven;
    world.health.get(&id).copied().unwrap_or(unproven)
}

/// Whether flows that a backend has may go on: its probes passed, or too few
/// of its siblings' did. A drain whose time is over ends them nevertheless.
pub fn keeps_flows(service: &Service, backend: &Backend, world: &World) -> bool {
    probed(service, backend, world) == health::State::Up || fails_open(service, world)
}

/// Whether too few are healthy, so that all that are wanted are used.
pub fn fails_open(service: &Service, world: &World) -> bool {
    let Some(threshold) = service.fail_open_below else {
        return false;
    };
    let wanted = |backend: &&Backend| !backend.drain && backend.weight > 0;
    let weight = |backend: &Backend| f64::from(backend.weight);
    let all: f64 = service.backends.iter().filter(wanted).map(weight).sum();
    let healthy: f64 = service
        .backends
        .iter()
        .filter(|backend| backend_state(service, backend, world) == BackendState::Up)
        .map(weight)
        .sum();
    all > 0.0 && healthy / all < threshold
}

/// The backends that get new flows, with their positions.
pub fn eligible<'a>(
    service: &'a Service,
    world: &'a World,
) -> impl Iterator<Item = (usize, &'a Backend)> {
    let open = fails_open(service, world);
    let is_eligible = move |backend: &Backend| match backend_state(service, backend, world) {
        BackendState::Up => true,
        BackendState::Unproven | BackendState::Down => open,
        BackendState::Draining | BackendState::Disabled => false,
    };
    let backends = service.backends.iter().enumerate();
    backends.filter(move |(_, backend)| is_eligible(backend))
}
