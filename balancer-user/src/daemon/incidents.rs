//! Incidents are told to the log and to whoever listens, and kept for those
//! who ask later.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot};

use super::controller::Controller;
use super::notifying::Notifier;
use super::probe_times::ProbeTimes;
use super::sampling::Sampling;
use super::store::Store;
use super::unix_now;
use crate::api::events::Heard;
use crate::config::model::Config;
use crate::health::State;
use crate::metrics::{CertificateObserved, MAX_CLOSED};
use crate::probe::scheduler::TargetSpec;
use crate::revision::Outcome;
use crate::watch::incident::{Book, Event, Incident, Since};
use crate::watch::{Kind, Sign, Watch};

/// Events that are kept for those who ask later.
const KEPT: usize = 1000;
/// Events that a slow listener may be behind.
const MAX_BEHIND: usize = 256;

/// Those of them that a restart goes on with.
const STORED: usize = 100;

/// What a restart goes on with.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    /// The number of the last one.
    last: u64,
    open: Vec<Incident>,
    opened: Vec<(Kind, u64)>,
    events: Vec<Event>,
}

/// What the watch knows, and who listens.
pub(super) struct Incidents {
    /// What it looks at is in [`super::looking`].
    pub(super) watch: Watch,
    /// Counters whose handshakes are read, and for how many seconds more.
    pub(super) busy: HashMap<u32, u8>,
    pub(super) probe_times: ProbeTimes,
    pub(super) sampling: Sampling,
    /// Those that probes were shown.
    pub(super) certificates: Vec<CertificateObserved>,
    book: Book,
    kept: VecDeque<Event>,
    /// How many were opened, by kind.
    opened: BTreeMap<Kind, u64>,
    /// Whether the disk knows less than we do, and why it could not be told.
    is_unsaved: bool,
    failure: Option<String>,
    live: broadcast::Sender<Event>,
    pub(super) notifier: Notifier,
}

impl Default for Incidents {
    fn default() -> Self {
        Self {
            watch: Watch::default(),
            busy: HashMap::new(),
            probe_times: ProbeTimes::default(),
            sampling: Sampling::default(),
            certificates: Vec::new(),
            book: Book::default(),
            kept: VecDeque::new(),
            opened: BTreeMap::new(),
            is_unsaved: false,
            failure: None,
            live: broadcast::Sender::new(MAX_BEHIND),
            notifier: Notifier::default(),
        }
    }
}

impl Incidents {
    /// Goes on with what an earlier daemon knew.
    pub(super) fn resume(store: &Store) -> Self {
        let known = match store.load_incidents() {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "incidents begin anew");
                Known::default()
            }
        };
        Self {
            book: Book::adopt(known.open, known.last),
            kept: known.events.into(),
            opened: known.opened.into_iter().collect(),
            ..Self::default()
        }
    }

    /// What is to be probed. Backends that were down are so, and their
    /// incidents stay open, until they prove otherwise: others are only not
    /// proven yet.
    pub(super) fn targets(&self, config: &Config) -> Vec<TargetSpec> {
        let mut specs = TargetSpec::from_services(&config.services);
        let down = self.book.open().filter(|it| it.kind == Kind::BackendDown);
        let down: BTreeSet<(&str, Option<&str>)> = down
            .map(|it| (it.service.as_str(), it.backend.as_deref()))
            .collect();
        for spec in &mut specs {
            if down.contains(&(spec.id.service.as_str(), Some(spec.id.backend.as_str()))) {
                spec.initial = State::Down;
            }
        }
        specs
    }

    /// Stores what the next daemon is to know, if the disk does not have it.
    fn save(&mut self, store: &Store) {
        if !self.is_unsaved {
            return;
        }
        let older = self.kept.len().saturating_sub(STORED);
        let known = Known {
            last: self.book.last(),
            open: self.open(),
            opened: self.opened.clone().into_iter().collect(),
            events: self.kept.iter().skip(older).cloned().collect(),
        };
        let saved = tokio::task::block_in_place(|| store.save_incidents(&known));
        self.is_unsaved = saved.is_err();
        let failure = saved.err().map(|error| error.to_string());
        // It is tried again each second.
        if let Some(error) = failure.as_ref().filter(|_| self.failure != failure) {
            tracing::warn!(%error, "incidents are not stored; a restart would open them anew");
        }
        self.failure = failure;
    }

    /// Those that are open.
    pub(super) fn open(&self) -> Vec<Incident> {
        self.book.open().cloned().collect()
    }

    /// The latest of those that are over, the latest first.
    pub(super) fn closed(&self) -> Vec<Incident> {
        let closed = self.kept.iter().rev().filter_map(|event| match event {
            Event::Closed { incident } => Some(incident.clone()),
            Event::Opened { .. } | Event::Updated { .. } => None,
        });
        closed.take(MAX_CLOSED).collect()
    }

    /// How many were opened, by kind.
    pub(super) fn opened(&self) -> BTreeMap<&'static str, u64> {
        let opened = self.opened.iter();
        opened.map(|(kind, count)| (kind.name(), *count)).collect()
    }

    /// How many are open, of each kind that there was.
    pub(super) fn by_kind(&self) -> BTreeMap<&'static str, u64> {
        let mut kinds: BTreeMap<_, _> = self.opened.keys().map(|kind| (kind.name(), 0)).collect();
        for incident in self.book.open() {
            *kinds.entry(incident.kind.name()).or_default() += 1;
        }
        kinds
    }

    /// A sentence for each that nothing else in the status says.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let is_news = |it: &&Incident| {
            !matches!(
                it.kind,
                Kind::Interface
                    | Kind::BackendDown
                    | Kind::ServiceDown
                    | Kind::FailOpen
                    | Kind::Drift
                    | Kind::Pins
                    | Kind::MapCapacity
                    | Kind::PeerDigest
            )
        };
        let open = self.book.open().filter(is_news);
        open.map(|it| format!("{}: {it}; try `{}`", it.kind.name(), it.command))
    }

    fn tell(&mut self, event: Event) {
        let incident = event.incident();
        let (number, kind) = (incident.number, incident.kind.name());
        let (service, backend) = (&incident.service, incident.backend.as_deref());
        match &event {
            Event::Opened { .. } => {
                *self.opened.entry(incident.kind).or_default() += 1;
                let revision = incident.since.as_ref().map(|since| since.revision);
                let command = &incident.command;
                tracing::error!(
                    incident = number, %kind, %service, backend, revision, %command, "{incident}"
                );
            }
            Event::Updated { .. } => {
                tracing::warn!(incident = number, %kind, %service, backend, "{incident}");
                // The latest says it all, and the openings are to stay.
                let is_older = |it: &Event| matches!(it, Event::Updated { incident, .. } if incident.number == number);
                self.kept.retain(|it| !is_older(it));
            }
            Event::Closed { .. } => {
                let seconds = incident.seconds();
                tracing::info!(incident = number, %kind, %service, backend, seconds, "over");
            }
        }
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        // Mostly nobody listens.
        let _ = self.live.send(event);
    }
}

impl Controller {
    /// What happened, and what will.
    pub(super) fn events(&self, reply: oneshot::Sender<Heard>) {
        let heard = Heard {
            past: self.incidents.kept.iter().cloned().collect(),
            live: self.incidents.live.subscribe(),
        };
        drop(reply.send(heard));
    }

    /// Takes all signs of a second.
    pub(super) fn tell_of(&mut self, at: Duration, signs: Vec<Sign>) {
        let since = self.since();
        let now = unix_now();
        let (book, repairs) = (&mut self.incidents.book, self.config.node.repair_drift);
        let events = book.take(at, now, signs, since.as_ref(), repairs);
        self.incidents.notifier.follow(&self.config.node.webhooks);
        let incidents = &mut self.incidents;
        incidents.notifier.set_open(incidents.book.open());
        for event in events {
            incidents.notifier.tell(&event);
            incidents.tell(event);
            incidents.is_unsaved = true;
        }
        incidents.save(&self.store);
    }

    /// The revision in force, and how long it has been.
    fn since(&self) -> Option<Since> {
        let revision = self.revisions.one(self.number?)?;
        let began = match &revision.outcome {
            Outcome::Committed { at } => *at,
            _ => revision.made_at,
        };
        Some(Since {
            revision: revision.number,
            author: revision.author.to_string(),
            summary: revision.summary.clone(),
            seconds_before: unix_now().saturating_sub(began),
        })
    }
}
