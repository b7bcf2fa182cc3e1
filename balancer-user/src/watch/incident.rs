//! Incidents: a sign that lasts, from when it is first seen to its end.
//!
//! One sign is one incident, however often it is seen, and it ends when the
//! sign has been gone for a while, so that what comes and goes is told once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Kind, Sign};
use crate::revision::UnixSeconds;

/// A sign that is gone for that long is over.
const GONE: Duration = Duration::from_secs(5);

/// The revision in force, for telling who changed what before it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Since {
    /// Its number.
    pub revision: u64,
    /// Who made it.
    pub author: String,
    /// What it did.
    pub summary: String,
    /// How long before the incident it came into force.
    pub seconds_before: u64,
}

/// Something that is or was wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its number, from 1 on.
    pub number: u64,
    /// What it is of.
    pub kind: Kind,
    /// The service's name.
    pub service: String,
    /// The backend's, if it is of one.
    pub backend: Option<String>,
    /// What is expected and seen, as last looked.
    pub what: String,
    /// What is most likely behind it.
    pub cause: String,
    /// The command that helps.
    pub command: String,
    /// When it was seen first.
    pub opened_at: UnixSeconds,
    /// When it was over.
    pub closed_at: Option<UnixSeconds>,
    /// The revision in force then.
    pub since: Option<Since>,
}

impl Incident {
    /// How long it lasted, if it is over.
    pub fn seconds(&self) -> Option<u64> {
        Some(self.closed_at?.saturating_sub(self.opened_at))
    }
}

impl std::fmt::Display for Incident {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "service {}", self.service)?;
        if let Some(backend) = &self.backend {
            write!(f, ": backend {backend}")?;
        }
        let separator = if self.backend.is_some() { " " } else { ": " };
        write!(f, "{separator}{}; {}", self.what, self.cause)
    }
}

/// What happened to an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It began.
    Opened {
        /// The incident.
        incident: Incident,
    },
    /// It is over.
    Closed {
        /// The incident.
        incident: Incident,
    },
}

impl Event {
    /// The incident that it is about.
    pub fn incident(&self) -> &Incident {
        match self {
            Self::Opened { incident } | Self::Closed { incident } => incident,
        }
    }
}

type Key = (Kind, String, Option<String>);

/// The incidents that are open.
#[derive(Debug, Default)]
pub struct Book {
    open: BTreeMap<Key, (Incident, Duration)>,
    last: u64,
}

impl Book {
    /// The incidents that are open, the gravest kinds first.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values().map(|(incident, _)| incident)
    }

    /// Takes all signs of one look. `since` is the revision in force.
    pub fn take(
        &mut self,
        at: Duration,
        now: UnixSeconds,
        signs: Vec<Sign>,
        since: Option<&Since>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for sign in signs {
            let key = (sign.kind, sign.service.clone(), sign.backend.clone());
            if let Some((incident, seen)) = self.open.get_mut(&key) {
                (incident.what, *seen) = (sign.what, at);
                continue;
            }
            self.last += 1;
            let incident = Incident {
                number: self.last,
                kind: sign.kind,
                command: command(&sign, since),
                service: sign.service,
                backend: sign.backend,
                what: sign.what,
                cause: sign.cause,
                opened_at: now,
                closed_at: None,
                since: since.cloned(),
            };
            self.open.insert(key, (incident.clone(), at));
            events.push(Event::Opened { incident });
        }
        let is_over = |_: &Key, (_, seen): &mut (Incident, Duration)| at >= *seen + GONE;
        let over = self.open.extract_if(.., is_over);
        events.extend(over.map(|(_, (mut incident, _))| {
            incident.closed_at = Some(now);
            Event::Closed { incident }
        }));
        events
    }
}

/// A change that came into force that short before is the first suspect.
const SUSPICIOUS: u64 = 600;

fn command(sign: &Sign, since: Option<&Since>) -> String {
    let backend = sign.backend.as_deref().unwrap_or_default();
    match sign.kind {
        Kind::Skew => "balancer verify".to_owned(),
        _ if since.is_some_and(|it| it.seconds_before <= SUSPICIOUS && it.revision > 1) => {
            "balancer rollback".to_owned()
        }
        Kind::BackendDown => format!("balancer backend drain {} {backend}", sign.service),
        Kind::ServiceDown | Kind::FailOpen => "balancer status".to_owned(),
        Kind::TrafficStopped | Kind::TrafficSurge => "balancer check --live FILE".to_owned(),
    }
}
