//! What the loop publishes for who scrapes, once a second.
//!
//! Most of it is shared with the second before: names and counter indexes are
//! gone through only after the tables may have changed, and copied only where
//! they did. Where nothing is served, nothing is published.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::controller::Controller;
use super::protocol::UnderWay;
use super::unix_now;
use crate::config::model::{Protocol, Service};
use crate::dataplane::shadow::Blueprint;
use crate::desired::BackendState;
use crate::metrics::scrape::{Published, Scraper};
use crate::metrics::{
    BackendObserved, MAX_INCIDENTS, MAX_REVISIONS, MapObserved, Observed, RateObserved,
    RevisionObserved, ServiceObserved, Shape, Unix, WriteObserved,
};
use crate::revision::{Outcome, Revision};
use crate::watch::{Look, ServiceLook};

/// What was published, and to whom.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    published: watch::Sender<Published>,
    /// In the order of the services; a change of the tables makes them doubtful.
    shapes: Vec<Arc<Shape>>,
    is_doubtful: bool,
}

impl Telemetry {
    /// The tables, or who sits where, may be others from now on.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
    }
}

impl Controller {
    /// Answers scrapes.
    pub(super) fn scraper(&self) -> Arc<Scraper> {
        let published = self.telemetry.published.subscribe();
        let entrances = self.crowds.entrances.clone();
        Arc::new(Scraper::new(published, self.scheduler.states(), entrances))
    }

    /// What is published, for the status page.
    pub(super) fn published(&self) -> watch::Receiver<Published> {
        self.telemetry.published.subscribe()
    }

    /// Publishes what is known, and what the watch has just looked at.
    pub(super) fn publish(&mut self, look: &Look) {
        if self.config.node.listen.is_none() {
            return;
        }
        let services = self.config.services.len();
        if self.telemetry.is_doubtful || self.telemetry.shapes.len() != services {
            self.refresh_shapes();
        }
        let blueprint = self.dataplane.blueprint();
        let observed = self.observed(look, blueprint.as_ref());
        self.telemetry.published.send_replace(Published {
            observed: Arc::new(observed),
            blueprint,
            counter_count: self.builder.counter_count(),
        });
    }

    fn refresh_shapes(&mut self) {
        let known: HashMap<Arc<str>, Arc<Shape>> = self
            .telemetry
            .shapes
            .drain(..)
            .map(|shape| (Arc::clone(&shape.service), shape))
            .collect();
        let shapes = self.config.services.iter().map(|service| {
            let before = known.get(service.name.as_str());
            let owners = || self.builder.owners(&service.name);
            let same = before.filter(|it| is_same(it, service, owners()));
            let make = || Arc::new(shape(service, owners()));
            same.map_or_else(make, Arc::clone)
        });
        self.telemetry.shapes = shapes.collect();
        self.telemetry.is_doubtful = false;
    }

    fn observed(&self, look: &Look, blueprint: Option<&Blueprint>) -> Observed {
        let services = self.config.services.iter().zip(&self.telemetry.shapes);
        let services = services.zip(&look.services);
        let ramping: HashSet<(&str, &str)> = self
            .world
            .ramps
            .keys()
            .map(|id| (id.service.as_str(), id.backend.as_str()))
            .collect();
        let at = unix_now_exactly();
        let ago = |then: Instant| at - then.elapsed().as_secs_f64();
        let (mut incidents, open_incidents) = (self.incidents.open(), self.incidents.by_kind());
        incidents.truncate(MAX_INCIDENTS);
        Observed {
            at,
            started_at: ago(self.started),
            services: services
                .map(|((service, shape), look)| {
                    self.service_observed(service, shape, look, &ramping)
                })
                .collect(),
            revision: self
                .number
                .and_then(|number| self.revisions.one(number))
                .map(in_short),
            last_change: self.revisions.last_over().map(in_short),
            is_change_under_way: self.under_way.is_some(),
            last_reload: self
                .last_reload
                .as_ref()
                .map(|it| (ago(it.at), it.succeeded)),
            last_write: self.last_apply.as_ref().map(|it| WriteObserved {
                at: ago(it.at),
                seconds: it.duration.as_secs_f64(),
                succeeded: it.succeeded,
            }),
            incidents,
            open_incidents,
            opened: self.incidents.opened(),
            maps: blueprint.map_or_else(Vec::new, |it| self.maps(it)),
            interfaces: self.interfaces.modes(),
            handshake_sample: self
                .incidents
                .sampling
                .share(self.config.node.handshake_sample),
            drifts: self.verifier.drifts(),
            webhooks: self.incidents.notifier.observed(),
            peers: (self.config.node.peers.len(), self.group.problems().len()),
            revisions: self
                .revisions
                .newest()
                .take(MAX_REVISIONS)
                .map(in_short)
                .collect(),
            change_under_way: self.under_way.as_ref().map(UnderWay::describe),
            closed: self.incidents.closed(),
            is_capturing: self.captures.is_on(),
            certificates: self.incidents.certificates.clone(),
            problems: self.node_problems(),
        }
    }

    fn service_observed(
        &self,
        service: &Service,
        shape: &Arc<Shape>,
        look: &ServiceLook,
        ramping: &HashSet<(&str, &str)>,
    ) -> ServiceObserved {
        let watched = self.incidents.watch.history(&service.name);
        let is_ramping =
            |name: &str| !ramping.is_empty() && ramping.contains(&(service.name.as_str(), name));
        let backends = (0..).zip(&look.backends);
        let backends = backends.map(|(place, backend)| BackendObserved {
            state: backend.state,
            is_ramping: is_ramping(&backend.name),
            share: backend.share,
            recent: 0.0,
            rate: RateObserved::default(),
            probe_micros: backend.probes[0].map(micros),
            handshake_micros: watched.and_then(|it| it.handshake_micros(place)),
            failure: backend.last_failure.as_deref().map(Arc::from),
        });
        let mut backends: Vec<BackendObserved> = backends.collect();
        for (counter, position) in &shape.counters {
            let (recent, rate) = (self.rates.recent(*counter), self.rates.of(*counter));
            if let Some(backend) = backends.get_mut(*position as usize) {
                backend.rate += RateObserved {
                    flows: rate.flows as f32,
                    packets: rate.packets as f32,
                    bits: rate.bits as f32,
                };
                backend.recent += match service.protocol {
                    Protocol::Tcp => recent.flows,
                    Protocol::Udp => recent.packets,
                };
            }
        }
        for backend in &mut backends {
            // What came before a change of the table counts below nothing
            // until the next second.
            backend.recent = backend.recent.max(0.0);
        }
        ServiceObserved {
            shape: Arc::clone(shape),
            state: state(&backends, look),
            slot_count: self.builder.slot_count(&service.name),
            is_even: look.is_even,
            backends,
        }
    }

    fn maps(&self, blueprint: &Blueprint) -> Vec<MapObserved> {
        let written = &self.dataplane.written().services;
        let (mut keys_v4, mut keys_v6, mut members, mut slots, mut sources) = (0, 0, 0, 0, 0);
        for service in written.values() {
            let v4 = service
                .keys
                .iter()
                .filter(|it| it.address.is_ipv4())
                .count();
            keys_v4 += v4 as u64;
            keys_v6 += (service.keys.len() - v4 + service.server_ids.len()) as u64;
            members += service.members.len() as u64;
            slots += u64::from(service.table.slot_count());
            sources += service.sources.len() as u64;
        }
        let entries = |name| u64::from(blueprint.entries(name).unwrap_or_default());
        let map = |name, used, capacity| MapObserved {
            name,
            used,
            capacity,
        };
        let (flows, translations) = self.pressure.records();
        // What stands in two generations has room for half of it.
        vec![
            map("services_v4", Some(keys_v4), entries("SERVICES_V4") / 2),
            map("services_v6", Some(keys_v6), entries("SERVICES_V6") / 2),
            map("members", Some(members), entries("MEMBERS") / 2),
            map(
                "slots",
                Some(slots),
                entries("SLOTS") * u64::from(balancer_common::layout::SLOTS_PER_BLOCK),
            ),
            map("sources", Some(sources), entries("SOURCES")),
            map("flows", flows, entries("FLOWS")),
            map("translations", translations, entries("NAT")),
        ]
    }
}

fn shape<'a>(service: &Service, owners: impl Iterator<Item = (&'a str, u32)>) -> Shape {
    let backends = service.backends.iter();
    let positions: HashMap<&str, u32> = (0..)
        .zip(backends.clone())
        .map(|(position, backend)| (backend.name.as_str(), position))
        .collect();
    Shape {
        service: Arc::from(service.name.as_str()),
        backends: backends
            .map(|backend| (Arc::from(backend.name.as_str()), backend.weight))
            .collect(),
        counters: owners
            .filter_map(|(name, counter)| Some((counter, *positions.get(name)?)))
            .collect(),
    }
}

fn is_same<'a>(
    shape: &'a Shape,
    service: &Service,
    owners: impl Iterator<Item = (&'a str, u32)>,
) -> bool {
    let backends = service.backends.iter();
    let names = backends.map(|it| (it.name.as_str(), it.weight));
    let known = shape
        .backends
        .iter()
        .map(|(name, weight)| (&**name, *weight));
    let counters = shape.counters.iter().map(|(counter, position)| {
        let backend = shape.backends.get(*position as usize);
        (backend.map_or("", |(name, _)| &**name), *counter)
    });
    names.eq(known) && owners.eq(counters)
}

fn state(backends: &[BackendObserved], look: &ServiceLook) -> &'static str {
    let with = |state| backends.iter().filter(|it| it.state == state).count();
    let up = with(BackendState::Up);
    let out = [
        BackendState::Down,
        BackendState::Unproven,
        BackendState::Held,
    ];
    match out.map(with).iter().sum() {
        _ if look.fails_open => "fail-open",
        _ if look.uses_backups => "on-backups",
        _ if up == 0 && !look.uses_held => "down",
        0 => "up",
        _ => "degraded",
    }
}

fn in_short(revision: &Revision) -> RevisionObserved {
    let at = match &revision.outcome {
        Outcome::Pending => revision.made_at,
        Outcome::Committed { at } | Outcome::Undone { at, .. } | Outcome::Interrupted { at } => *at,
    };
    RevisionObserved {
        number: revision.number,
        author: revision.author.to_string(),
        cause: revision.cause.name(),
        outcome: revision.outcome.name(),
        at: at as Unix,
        summary: revision.summary.clone(),
        why: match &revision.outcome {
            Outcome::Undone { why, .. } => Some(why.clone()),
            _ => None,
        },
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn unix_now_exactly() -> Unix {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(unix_now() as Unix, |since| since.as_secs_f64())
}
