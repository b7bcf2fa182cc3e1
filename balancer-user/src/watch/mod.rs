//! The watch: what goes wrong with nobody's change under way, found from
//! what is counted, once a second.
//!
//! [`Watch::look`] takes a [`Look`], what is known in one second, and gives
//! the signs that are there now; [`incident::Book`] makes incidents of them,
//! which open once and close once. Pure: time and counters are arguments, and
//! an hour is simulated in a moment.

pub mod incident;
mod skew;
mod traffic;

#[cfg(test)]
mod simulation;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::desired::BackendState;

/// What is known in one second.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// When, from any fixed moment on.
    pub at: Duration,
    /// The services.
    pub services: Vec<ServiceLook>,
}

/// A service in one second.
#[derive(Debug, Clone, Default)]
pub struct ServiceLook {
    /// Its name.
    pub name: String,
    /// Its backends.
    pub backends: Vec<BackendLook>,
    /// Whether every new flow goes by its own hash and is counted, so that
    /// shares of flows are shares of slots.
    pub is_even: bool,
    /// Whether too few backends are healthy, so that all are used.
    pub fails_open: bool,
}

/// A backend in one second.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendLook {
    /// Its name.
    pub name: String,
    /// Its share of the slots.
    pub share: f64,
    /// Whether it takes traffic, and why not.
    pub state: BackendState,
    /// Why its last probe was bad.
    pub last_failure: Option<String>,
    /// New flows so far. A count that goes back begins anew.
    pub flows: u64,
}

/// What a sign is of; one word for it in log, events and metrics.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// New flows do not go by the slots.
    Skew,
    /// A backend's probes fail.
    BackendDown,
    /// No backend of a service is up.
    ServiceDown,
    /// Too few backends are healthy, so all are used.
    FailOpen,
    /// New flows have ceased to come.
    TrafficStopped,
    /// Far more new flows come than before.
    TrafficSurge,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skew => "skew",
            Self::BackendDown => "backend-down",
            Self::ServiceDown => "service-down",
            Self::FailOpen => "fail-open",
            Self::TrafficStopped => "traffic-stopped",
            Self::TrafficSurge => "traffic-surge",
        }
    }
}

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq)]
pub struct Sign {
    /// What.
    pub kind: Kind,
    /// Of which service.
    pub service: String,
    /// Of which of its backends, if of one.
    pub backend: Option<String>,
    /// With figures, expected and seen.
    pub what: String,
    /// What is most likely behind it.
    pub cause: String,
}

/// What is remembered of each service.
#[derive(Debug, Default)]
pub struct Watch {
    services: BTreeMap<String, History>,
}

#[derive(Debug, Default)]
struct History {
    /// Name, flows counted and share of each backend at the last look.
    last: Vec<(String, u64, f64)>,
    skew: skew::Windows,
    traffic: traffic::Level,
}

impl Watch {
    /// Takes what is known in one second; gives all that is wrong then.
    pub fn look(&mut self, look: &Look) -> Vec<Sign> {
        self.services
            .retain(|name, _| look.services.iter().any(|it| it.name == *name));
        let mut signs = Vec::new();
        for service in &look.services {
            let history = self.services.entry(service.name.clone()).or_default();
            history.look(look.at, service, &mut signs);
            states(service, &mut signs);
        }
        signs
    }
}

impl History {
    fn look(&mut self, at: Duration, service: &ServiceLook, signs: &mut Vec<Sign>) {
        let backends = &service.backends;
        let is_same = self.last.len() == backends.len()
            && self
                .last
                .iter()
                .zip(backends)
                .all(|(last, now)| last.0 == now.name);
        if !is_same {
            // Nobody knows how much of it is of this second.
            let now = backends
                .iter()
                .map(|it| (it.name.clone(), it.flows, it.share));
            self.last = now.collect();
            return;
        }
        // Where slots moved since the last look, nobody knows which flows
        // came before and which after it.
        let mut is_settled = true;
        let mut total = 0;
        let mut second = Vec::with_capacity(backends.len());
        for ((_, flows, share), now) in self.last.iter_mut().zip(backends) {
            let gained = now.flows.checked_sub(*flows).unwrap_or(now.flows);
            is_settled &= *share == now.share;
            (*flows, *share) = (now.flows, now.share);
            total += gained;
            second.push((gained, now.share));
        }
        self.traffic.take(total);
        signs.extend(self.traffic.sign(service));
        if !service.is_even {
            return;
        }
        if is_settled {
            let names = backends.iter().map(|it| it.name.as_str());
            self.skew.take(at, names, &second);
        }
        signs.extend(self.skew.sign(at, service));
    }
}

/// What the states of the backends say by themselves.
fn states(service: &ServiceLook, signs: &mut Vec<Sign>) {
    let of = |state: BackendState| service.backends.iter().filter(move |it| it.state == state);
    let (up, down) = (of(BackendState::Up).count(), of(BackendState::Down).count());
    let mut add = |kind, backend: Option<&BackendLook>, what: String, cause: String| {
        signs.push(Sign {
            kind,
            service: service.name.clone(),
            backend: backend.map(|it| it.name.clone()),
            what,
            cause,
        });
    };
    for backend in of(BackendState::Down) {
        let why = backend.last_failure.as_deref().unwrap_or("no probe passes");
        add(
            Kind::BackendDown,
            Some(backend),
            format!("is down: {why}"),
            "the server does not answer its probe as the file asks".to_owned(),
        );
    }
    if up == 0 && down > 0 && !service.fails_open {
        let what = format!("no backend is up, {down} are down: its packets are dropped");
        let cause = "the servers, or the way to them: all probes fail".to_owned();
        add(Kind::ServiceDown, None, what, cause);
    }
    if service.fails_open {
        let all = service.backends.len();
        let what = format!("{up} of {all} backends are healthy, so all of them get traffic");
        let cause = "fewer are up than fail_open_below asks for".to_owned();
        add(Kind::FailOpen, None, what, cause);
    }
}
