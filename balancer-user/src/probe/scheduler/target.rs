//! What is probed, and what is told about it.

use std::fmt;
use std::net::SocketAddr;

use crate::config::model;
use crate::health::{Monitor, Outcome, State, Transition};
use crate::probe::PrepareError;
use crate::probe::vip::Passage;

/// Which backend of which service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId {
    /// The service's name.
    pub service: String,
    /// The backend's name.
    pub backend: String,
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}: backend {}", self.service, self.backend)
    }
}

/// A backend that is to be probed.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSpec {
    /// Which one.
    pub id: TargetId,
    /// The backend's own address, and the port that is probed.
    pub address: SocketAddr,
    /// The way of the probe, where it goes by the service's address.
    pub via: Option<Passage>,
    /// How it is probed; the port is already in `address`.
    pub health: model::Health,
    /// The state a new target begins with: `Unproven`, unless the table that
    /// the daemon adopted shows that it was found to be up or down.
    pub initial: State,
}

impl TargetSpec {
    /// The targets of these services, all unproven. A service without a
    /// probe has none; nor has one without any port to probe, which the check
    /// refuses.
    pub fn from_services(services: &[model::Service]) -> Vec<Self> {
        let backends = services.iter().flat_map(|service| {
            let backends = service.backends.iter();
            backends.map(move |backend| (service, backend))
        });
        backends
            .filter_map(|(service, backend)| Self::of(service, backend))
            .collect()
    }

    /// The target of one backend, unproven.
    pub fn of(service: &model::Service, backend: &model::Backend) -> Option<Self> {
        let health = service.health.as_ref()?;
        let port = service.probed_port(backend)?;
        Some(Self {
            id: TargetId {
                service: service.name.clone(),
                backend: backend.name.clone(),
            },
            address: SocketAddr::new(backend.address, port),
            via: Passage::of(service, backend),
            health: health.clone(),
            initial: State::Unproven,
        })
    }

    /// Whether what is known of one target holds for the other.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.address == other.address
            && self.via == other.via
            && self.health.kind == other.health.kind
    }
}

/// A target whose probe cannot be made as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetError {
    /// Which target.
    pub id: TargetId,
    /// What is wrong.
    pub error: PrepareError,
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.error)
    }
}

impl std::error::Error for TargetError {}

/// One probe was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Whose.
    pub id: TargetId,
    /// What it found.
    pub outcome: Outcome,
    /// The change of state that it brought about.
    pub transition: Option<Transition>,
}

/// What is known of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetStatus {
    /// Which one.
    pub id: TargetId,
    /// The backend's own address, and the port that is probed.
    pub address: SocketAddr,
    /// Its state, rows, counts and last outcomes.
    pub monitor: Monitor,
}
