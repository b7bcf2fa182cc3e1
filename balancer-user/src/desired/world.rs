//! What is known beside the file, and who gets flows by it.
//!
//! A service's backends stand in two pools. While enough of the primary pool
//! are healthy its backups stand by; with fewer they are used as well. With
//! too few of all, everybody who is wanted is used, healthy or not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::model::{Backend, Pool, Service};
use crate::health;
use crate::member::Hop;
use crate::probe::scheduler::TargetId;

/// Below this share of healthy weight, those are used, too, that are only
/// held back for having gone up and down: a fault that they all have, such as
/// that of a switch, must not take the service down.
const HOLD_ABOVE: f64 = 0.5;

/// What is known of the world outside the file.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// States of the probed backends; one that is not here is unproven.
    pub health: BTreeMap<TargetId, health::State>,
    /// Ways to the backends; one that is not here has none.
    pub hops: BTreeMap<IpAddr, Hop>,
    /// Backends in their slow start: how much of their share they have, in
    /// percent. One that is not here has all of it.
    pub ramps: BTreeMap<TargetId, u8>,
    /// Backends that are relieved, as their clients' handshakes do not
    /// finish, likewise.
    pub relieved: BTreeMap<TargetId, u8>,
}

/// Why a backend gets new flows or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendState {
    /// Gets its share.
    Up,
    /// A backup that could get its share, and is not needed.
    Standby,
    /// Not yet passed its probes.
    Unproven,
    /// Failed its probes.
    Down,
    /// Passes its probes, and is kept out for having gone up and down.
    Held,
    /// An operator's wish: no new flows, old ones kept.
    Draining,
    /// Weight 0.
    Disabled,
}

impl BackendState {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Up,
        Self::Standby,
        Self::Unproven,
        Self::Down,
        Self::Held,
        Self::Draining,
        Self::Disabled,
    ];

    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Standby => "standby",
            Self::Unproven => "unproven",
            Self::Down => "down",
            Self::Held => "held",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// How a service stands as a whole, which decides about each backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Too few are healthy, so that all that are wanted are used.
    pub fails_open: bool,
    /// Too few of the primary pool are healthy, so that backups are used.
    pub uses_backups: bool,
    /// Too few would be left without those that are held.
    pub uses_held: bool,
}

impl Standing {
    /// Of a service in this world.
    pub fn of(service: &Service, world: &World) -> Self {
        let mut weights = Weights::default();
        for backend in service.backends.iter().filter(|it| is_wanted(it)) {
            let weight = f64::from(backend.weight);
            let state = probed(service, backend, world);
            match backend.pool {
                Pool::Primary => weights.primary += weight,
                Pool::Backup => {}
            }
            match (backend.pool, state) {
                (Pool::Primary, health::State::Up) => weights.healthy += weight,
                (Pool::Primary, health::State::Held) => weights.held += weight,
                (Pool::Backup, health::State::Up) => weights.backups += weight,
                (Pool::Backup, health::State::Held) => weights.held_backups += weight,
                (_, health::State::Unproven | health::State::Down) => {}
            }
        }
        weights.standing(service)
    }

    /// Whether a backend in this state gets new flows.
    pub fn takes(self, state: BackendState) -> bool {
        match state {
            BackendState::Up => true,
            BackendState::Held => self.uses_held || self.fails_open,
            BackendState::Standby | BackendState::Unproven | BackendState::Down => self.fails_open,
            BackendState::Draining | BackendState::Disabled => false,
        }
    }

    /// The state of a backend of the service.
    pub fn state(self, service: &Service, backend: &Backend, world: &World) -> BackendState {
        if backend.drain {
            return BackendState::Draining;
        }
        if backend.weight == 0 {
            return BackendState::Disabled;
        }
        match probed(service, backend, world) {
            health::State::Up if backend.pool == Pool::Backup && !self.uses_backups => {
                BackendState::Standby
            }
            health::State::Up => BackendState::Up,
            health::State::Held => BackendState::Held,
            health::State::Unproven => BackendState::Unproven,
            health::State::Down => BackendState::Down,
        }
    }
}

/// Sums of the weights of those that are wanted.
#[derive(Default)]
struct Weights {
    primary: f64,
    healthy: f64,
    held: f64,
    backups: f64,
    held_backups: f64,
}

impl Weights {
    fn standing(&self, service: &Service) -> Standing {
        let share = |weight: f64| weight / self.primary;
        // Without a primary that is wanted there is nothing to have a share of.
        let is_known = self.primary > 0.0;
        let uses_held = is_known && self.held > 0.0 && share(self.healthy) < HOLD_ABOVE;
        let healthy = match uses_held {
            true => self.healthy + self.held,
            false => self.healthy,
        };
        let threshold = service.fail_open_below.unwrap_or(0.0);
        // Healthy backups are better than primaries that are not.
        let too_few = healthy == 0.0 || share(healthy) < service.backup_below.max(threshold);
        let uses_backups = too_few && self.backups + self.held_backups > 0.0;
        let backups = match (uses_backups, uses_held || self.backups == 0.0) {
            (true, true) => self.backups + self.held_backups,
            (true, false) => self.backups,
            (false, _) => 0.0,
        };
        Standing {
            fails_open: is_known && share(healthy + backups) < threshold,
            uses_backups,
            uses_held: uses_held || (uses_backups && self.backups == 0.0),
        }
    }
}

fn is_wanted(backend: &Backend) -> bool {
    !backend.drain && backend.weight > 0
}

/// The state of a backend as configuration and health have it. Who asks for
/// all backends of a service takes its [`Standing`] once.
pub fn backend_state(service: &Service, backend: &Backend, world: &World) -> BackendState {
    let standing = match backend.pool {
        Pool::Backup => Standing::of(service, world),
        // It makes no difference to them.
        Pool::Primary => Standing {
            fails_open: false,
            uses_backups: false,
            uses_held: false,
        },
    };
    standing.state(service, backend, world)
}

/// What the probes say of a backend; one without a probe is up.
pub fn probed(service: &Service, backend: &Backend, world: &World) -> health::State {
    if service.health.is_none() {
        return health::State::Up;
    }
    let unproven = health::State::Unproven;
    let id = target(service, backend);
    world.health.get(&id).copied().unwrap_or(unproven)
}

/// How much of its share a backend has that is in its slow start or relieved,
/// in percent; none if it has all of it.
pub(super) fn ramp(service: &Service, backend: &Backend, world: &World) -> Option<u8> {
    if world.ramps.is_empty() && world.relieved.is_empty() {
        return None;
    }
    let id = target(service, backend);
    let parts = [world.ramps.get(&id), world.relieved.get(&id)];
    parts.into_iter().flatten().min().copied()
}

fn target(service: &Service, backend: &Backend) -> TargetId {
    TargetId {
        service: service.name.clone(),
        backend: backend.name.clone(),
    }
}

/// Whether flows that a backend has may go on: its probes pass, or too few
/// of its siblings' do. A drain whose time is over ends them nevertheless.
pub fn keeps_flows(service: &Service, backend: &Backend, world: &World) -> bool {
    probed(service, backend, world).is_alive() || fails_open(service, world)
}

/// Whether too few are healthy, so that all that are wanted are used.
pub fn fails_open(service: &Service, world: &World) -> bool {
    service.fail_open_below.is_some() && Standing::of(service, world).fails_open
}

/// The backends that get new flows, with their positions.
pub fn eligible<'a>(
    service: &'a Service,
    world: &'a World,
) -> impl Iterator<Item = (usize, &'a Backend)> {
    let standing = Standing::of(service, world);
    let backends = service.backends.iter().enumerate();
    backends.filter(move |(_, backend)| standing.takes(standing.state(service, backend, world)))
}
