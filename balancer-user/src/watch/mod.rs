//! The watch: what goes wrong with nobody's change under way, found from
//! what is counted, once a second.
//!
//! [`Watch::look`] takes a [`Look`], what is known in one second, and gives
//! the signs that are there now; [`incident::Book`] makes incidents of them,
//! which open once and close once. Pure: time and counters are arguments, and
//! an hour is simulated in a moment.

mod ailing;
mod answers;
pub mod certificates;
pub mod drains;
mod heat;
pub mod incident;
mod skew;
mod sources;
mod states;
mod traffic;

#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use balancer_common::layout::HandshakeCounters;

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
    /// Whether too few of the primary pool are healthy, so that backups are
    /// used.
    pub uses_backups: bool,
    /// Whether too few are left, so that those are used that are held back.
    pub uses_held: bool,
    /// How often slots may have moved until now; wraps.
    pub moves: u32,
    /// Who opens its flows, by a sample of those opened lately.
    pub clients: Clients,
}

/// Of the flows that were sampled lately, how many came from the address that
/// opened most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Clients {
    /// Flows in the sample.
    pub sampled: u64,
    /// Whose are most, and how many.
    pub busiest: Option<(IpAddr, u64)>,
}

/// A backend in one second.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendLook {
    /// Its name.
    pub name: Arc<str>,
    /// Its share of the slots.
    pub share: f64,
    /// Whether it takes traffic, and why not.
    pub state: BackendState,
    /// Why its last probe was bad, where its probes have taken it down, keep
    /// it out, or fail since the daemon knows it.
    pub last_failure: Option<String>,
    /// How long its last good probes took, the latest first; fewer where there
    /// were fewer.
    pub probes: [Option<Duration>; PROBES],
    /// New flows so far. A count that goes back begins anew.
    pub flows: u64,
    /// Bytes of its clients so far, likewise.
    pub bytes: u64,
    /// Packets of clients with RST so far, likewise.
    pub resets: u64,
    /// Timed handshakes so far; none where no flows came lately.
    pub handshakes: Option<Box<HandshakeCounters>>,
}

/// Good probes whose times are looked at.
pub const PROBES: usize = 3;

/// What a sign is of; one word for it in log, events and metrics.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An interface is gone or down, or takes less than before.
    Interface,
    /// New flows do not go by the slots.
    Skew,
    /// A backend's probes fail.
    BackendDown,
    /// A backend goes up and down, and is kept out for a time.
    BackendHeld,
    /// A backend's certificate ends soon, or has ended.
    CertificateEnds,
    /// A backend gets less, as its clients' handshakes do not finish.
    BackendRelieved,
    /// Too few of the primary pool are healthy, so backups are used.
    BackupsUsed,
    /// No backend of a service is up.
    ServiceDown,
    /// Too few backends are healthy, so all are used.
    FailOpen,
    /// New flows have ceased to come.
    TrafficStopped,
    /// Far more new flows come than before.
    TrafficSurge,
    /// Clients do not finish handshakes.
    Handshakes,
    /// Handshakes take long.
    Slow,
    /// Clients reset their flows.
    Resets,
    /// One client address opens most of the flows.
    OneSource,
    /// A backend gets most of the bytes, though not of the flows.
    HotByBytes,
    /// The kernel holds something else than was written.
    Drift,
    /// What is in the kernel is pinned no more.
    Pins,
    /// The wall clock was set.
    Clock,
    /// A table of the kernel program is nearly full.
    MapCapacity,
    /// Another balancer of the group has another configuration.
    PeerDigest,
    /// A backend was drained by command long ago.
    OldDrain,
    /// A change waits for its confirmation.
    Unconfirmed,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Skew => "skew",
            Self::BackendDown => "backend-down",
            Self::BackendHeld => "backend-held",
            Self::CertificateEnds => "certificate-ends",
            Self::BackendRelieved => "backend-relieved",
            Self::BackupsUsed => "backups-used",
            Self::ServiceDown => "service-down",
            Self::FailOpen => "fail-open",
            Self::TrafficStopped => "traffic-stopped",
            Self::TrafficSurge => "traffic-surge",
            Self::Handshakes => "handshakes",
            Self::Slow => "slow",
            Self::Resets => "resets",
            Self::OneSource => "one-source",
            Self::HotByBytes => "hot-by-bytes",
            Self::Drift => "drift",
            Self::Pins => "pins",
            Self::Clock => "clock",
            Self::MapCapacity => "map-capacity",
            Self::PeerDigest => "peer-digest",
            Self::OldDrain => "old-drain",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq)]
pub struct Sign {
    /// What.
    pub kind: Kind,
    /// Of which service; empty where it is of the whole node.
    pub service: String,
    /// Of which of its backends, if of one.
    pub backend: Option<String>,
    /// With figures, expected and seen.
    pub what: String,
    /// What is most likely behind it.
    pub cause: String,
}

/// What is remembered of all services.
#[derive(Debug, Default)]
pub struct Watch {
    services: BTreeMap<String, History>,
}

/// What is remembered of a service.
#[derive(Debug, Default)]
pub struct History {
    /// Each backend at the last look.
    last: Vec<Last>,
    moves: u32,
    skew: skew::Windows,
    /// The last second's flows went by a table that was put right in it.
    was_repaired: bool,
    traffic: traffic::Level,
    ailing: ailing::Ward,
    heat: heat::Heat,
    answers: answers::Answers,
    sources: sources::Sources,
}

#[derive(Debug)]
struct Last {
    name: Arc<str>,
    flows: u64,
    bytes: u64,
    share: f64,
}

impl Watch {
    /// What is remembered of a service that was looked at.
    pub fn history(&self, service: &str) -> Option<&History> {
        self.services.get(service)
    }

    /// Forgets whose flows were seen until now: they went by tables that nobody
    /// wrote, and that are right again.
    pub fn forget_shares(&mut self) {
        for history in self.services.values_mut() {
            history.skew = skew::Windows::default();
            history.was_repaired = true;
        }
    }

    /// Takes what is known in one second; gives all that is wrong then.
    pub fn look(&mut self, look: &Look) -> Vec<Sign> {
        let there: HashSet<&str> = look.services.iter().map(|it| it.name.as_str()).collect();
        self.services
            .retain(|name, _| there.contains(name.as_str()));
        let mut signs = Vec::new();
        for service in &look.services {
            match self.services.get_mut(&service.name) {
                Some(history) => history.look(look.at, service, &mut signs),
                None => {
                    let mut history = History::default();
                    history.look(look.at, service, &mut signs);
                    self.services.insert(service.name.clone(), history);
                }
            }
            states::signs(service, &mut signs);
        }
        signs
    }
}

impl History {
    /// Median of the handshakes of the last seconds with the backend at that
    /// place, in microseconds, as a power of two; none where none was timed.
    pub fn handshake_micros(&self, place: usize) -> Option<u32> {
        self.ailing.handshake_micros(place)
    }

    fn look(&mut self, at: Duration, service: &ServiceLook, signs: &mut Vec<Sign>) {
        let backends = &service.backends;
        let is_same = self.last.len() == backends.len()
            && self
                .last
                .iter()
                .zip(backends)
                .all(|(last, now)| is_same(&last.name, &now.name));
        if !is_same {
            // Nobody knows how much of it is of this second.
            let now = backends.iter().map(|it| Last {
                name: it.name.clone(),
                flows: it.flows,
                bytes: it.bytes,
                share: it.share,
            });
            self.last = now.collect();
            self.ailing.clear();
            self.heat.clear();
            self.answers.clear();
            return;
        }
        // Where slots moved since the last look, nobody knows which flows
        // came before and which after it.
        let mut is_settled = !std::mem::take(&mut self.was_repaired);
        // Two moves within a second may leave each with its share.
        is_settled &= std::mem::replace(&mut self.moves, service.moves) == service.moves;
        let mut total = 0;
        let mut second = Vec::with_capacity(backends.len());
        let mut bytes = Vec::with_capacity(backends.len());
        for (last, now) in self.last.iter_mut().zip(backends) {
            let gained = now.flows.checked_sub(last.flows).unwrap_or(now.flows);
            bytes.push(now.bytes.checked_sub(last.bytes).unwrap_or(now.bytes));
            is_settled &= last.share == now.share;
            (last.flows, last.bytes, last.share) = (now.flows, now.bytes, now.share);
            total += gained;
            second.push((gained, now.share));
        }
        self.traffic.take(total);
        signs.extend(self.traffic.sign(service));
        signs.extend(self.ailing.look(at, service));
        if !signs
            .iter()
            .any(|it| it.kind == Kind::Slow && it.service == service.name)
        {
            signs.extend(self.answers.look(service));
        }
        self.heat.take(&bytes);
        signs.extend(self.heat.sign(service));
        self.sources.take(&service.clients);
        signs.extend(self.sources.sign(service));
        if !service.is_even {
            return;
        }
        if is_settled {
            let names = backends.iter().map(|it| &it.name);
            self.skew.take(at, names, &second);
        }
        let skew = self.skew.sign(at, service);
        signs.extend(skew.filter(|skew| {
            let is_its = |it: &BackendLook| skew.backend.as_deref() == Some(&*it.name);
            let place = service.backends.iter().position(is_its);
            !place.is_some_and(|place| self.ailing.is_repeating(place))
        }));
    }
}

/// Whether two names are the same: mostly they are even in the same place.
fn is_same(one: &Arc<str>, other: &Arc<str>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}
