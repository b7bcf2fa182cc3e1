//! The watch at work: what was counted is looked at every second, and
//! incidents are told to the log and to whoever listens.

use std::collections::{HashMap, VecDeque};

use tokio::sync::{broadcast, oneshot};

use super::controller::Controller;
use super::unix_now;
use crate::api::events::Heard;
use crate::config::model::{Affinity, Protocol, Service};
use crate::desired::{self, BackendState, Seat, backend_state};
use crate::revision::Outcome;
use crate::watch::incident::{Book, Event, Incident, Since};
use crate::watch::{BackendLook, Kind, Look, ServiceLook, Watch};

/// Events that are kept for those who ask later.
const KEPT: usize = 1000;
/// Events that a slow listener may be behind.
const MAX_BEHIND: usize = 256;

/// What the watch knows, and who listens.
pub(super) struct Incidents {
    watch: Watch,
    book: Book,
    kept: VecDeque<Event>,
    live: broadcast::Sender<Event>,
}

impl Default for Incidents {
    fn default() -> Self {
        Self {
            watch: Watch::default(),
            book: Book::default(),
            kept: VecDeque::new(),
            live: broadcast::Sender::new(MAX_BEHIND),
        }
    }
}

impl Incidents {
    /// Those that are open.
    pub(super) fn open(&self) -> Vec<Incident> {
        self.book.open().cloned().collect()
    }

    /// A sentence for each that nothing else in the status says.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let is_news = |it: &&Incident| {
            matches!(
                it.kind,
                Kind::Skew | Kind::TrafficStopped | Kind::TrafficSurge
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
                let revision = incident.since.as_ref().map(|since| since.revision);
                let command = &incident.command;
                tracing::error!(
                    incident = number, %kind, %service, backend, revision, %command, "{incident}"
                );
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

    /// Looks at all services.
    pub(super) fn look_for_incidents(&mut self) {
        let look = Look {
            at: self.started.elapsed(),
            services: self
                .config
                .services
                .iter()
                .map(|service| self.service_look(service))
                .collect(),
        };
        let signs = self.incidents.watch.look(&look);
        let since = self.since();
        let (at, now) = (look.at, unix_now());
        for event in self.incidents.book.take(at, now, signs, since.as_ref()) {
            self.incidents.tell(event);
        }
    }

    fn service_look(&self, service: &Service) -> ServiceLook {
        let seats = self.builder.seats(&service.name);
        let seats: HashMap<&str, &Seat> = seats
            .iter()
            .flatten()
            .map(|seat| (seat.backend.as_str(), seat))
            .collect();
        let all = f64::from(self.builder.slot_count(&service.name).max(1));
        let backends = service.backends.iter().map(|backend| {
            let seat = seats.get(backend.name.as_str());
            let state = backend_state(service, backend, &self.world);
            let is_down = state == BackendState::Down;
            BackendLook {
                name: backend.name.clone(),
                share: seat.map_or(0.0, |seat| f64::from(seat.slot_count) / all),
                state,
                last_failure: is_down.then(|| self.last_failure(&service.name, &backend.name)),
                flows: seat.map_or(0, |seat| self.rates.counted(seat.counter).flows),
            }
        });
        ServiceLook {
            name: service.name.clone(),
            backends: backends.collect(),
            is_even: service.protocol == Protocol::Tcp && service.affinity != Affinity::Source,
            fails_open: desired::fails_open(service, &self.world),
        }
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
