//! What the watch looks at, gathered once a second.
//!
//! Counters of all members are there anyway. Handshakes are read of those
//! members only that got a new flow lately, so that services without traffic
//! cost nothing.

mod certificates;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balancer_common::layout::HandshakeCounters;

use super::controller::Controller;
use crate::api::types::DriftFinding;
use crate::config::model::{Affinity, Backend, Protocol, Service};
use crate::dataplane::Opened;
use crate::desired::{BackendState, Seat, Standing};
use crate::watch::{BackendLook, Clients, Kind, Look, ServiceLook, Sign, drains};

/// Seconds after its last new flow for which a member's handshakes are read:
/// as long as one may take to fail, and as the watch remembers.
const BUSY_SECONDS: u8 = 10;
/// Whose flows were opened lately is asked of that time.
const LATELY: Duration = Duration::from_secs(5);
/// A difference in the kernel that was put right is told of for that long.
const REPAIRED: Duration = Duration::from_secs(10);

/// What is read for the watch alone.
#[derive(Default)]
struct Gathered {
    handshakes: BTreeMap<u32, HandshakeCounters>,
    /// Clients' addresses, by the counter of the member that they were sent to.
    openings: HashMap<u32, Vec<[u8; 16]>>,
}

impl Controller {
    /// Looks at all services, and at what else is known to be wrong.
    pub(super) fn look_for_incidents(&mut self) {
        let gathered = self.gather();
        let services = self.config.services.iter();
        let look = Look {
            at: self.started.elapsed(),
            services: services
                .map(|service| self.service_look(service, &gathered))
                .collect(),
        };
        let mut signs = self.incidents.watch.look(&look);
        signs.extend(self.relieve(&look, &signs));
        signs.extend(self.look_at_certificates());
        signs.extend(self.old_drains());
        signs.extend(self.drift_signs());
        signs.extend(self.node_signs());
        self.tell_of(look.at, signs);
        self.note_standing(&look);
        self.publish(&look);
    }

    fn gather(&mut self) -> Gathered {
        let (mut busy, mut all_flows) = (HashMap::new(), 0.0);
        let is_tcp = |it: &&Service| it.protocol == Protocol::Tcp;
        for service in self.config.services.iter().filter(is_tcp) {
            for (_, counter) in self.builder.owners(&service.name) {
                let flows = self.rates.of(counter).flows;
                all_flows += flows;
                let left = if flows > 0.0 {
                    BUSY_SECONDS
                } else {
                    let known = self.incidents.busy.get(&counter);
                    known.map_or(0, |left| left.saturating_sub(1))
                };
                if left > 0 {
                    busy.insert(counter, left);
                }
            }
        }
        self.incidents.busy = busy;
        let least = self.config.node.handshake_sample;
        if self.incidents.sampling.follow(all_flows, least) {
            // What fails is told there, and tried again with the next change.
            let _ = self.reconcile("the share of timed handshakes", Instant::now());
        }
        if self.incidents.busy.is_empty() {
            return Gathered::default();
        }
        let members: Vec<u32> = self.incidents.busy.keys().copied().collect();
        let read = tokio::task::block_in_place(|| {
            let handshakes = self.dataplane.handshakes(&members)?;
            Ok::<_, crate::dataplane::Error>((handshakes, self.dataplane.openings(LATELY)?))
        });
        match read {
            Ok((handshakes, opened)) => {
                let mut openings: HashMap<u32, Vec<[u8; 16]>> = HashMap::new();
                for Opened { counter, source } in opened {
                    openings.entry(counter).or_default().push(source);
                }
                Gathered {
                    handshakes,
                    openings,
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the watch cannot read handshakes");
                Gathered::default()
            }
        }
    }

    fn service_look(&self, service: &Service, gathered: &Gathered) -> ServiceLook {
        let seats = self.builder.seats(&service.name);
        // Nearly always each has the seat of its place in the file.
        let seat = |at: usize, backend: &Backend| {
            let is_his = |seat: &&Seat| *seat.backend == *backend.name;
            let there = seats.get(at).and_then(Option::as_ref).filter(is_his);
            there.or_else(|| seats.iter().flatten().find(is_his))
        };
        let all = f64::from(self.builder.slot_count(&service.name).max(1));
        let standing = Standing::of(service, &self.world);
        let mut sources: HashMap<[u8; 16], u64> = HashMap::new();
        let backends = service.backends.iter().enumerate().map(|(at, backend)| {
            let seat = seat(at, backend);
            let opened = seat.and_then(|seat| gathered.openings.get(&seat.counter));
            for source in opened.into_iter().flatten() {
                *sources.entry(*source).or_default() += 1;
            }
            let state = standing.state(service, backend, &self.world);
            let share = seat.map_or(0.0, |seat| f64::from(seat.slot_count) / all);
            self.backend_look((service, backend), seat, (state, share), gathered)
        });
        ServiceLook {
            name: service.name.clone(),
            backends: backends.collect(),
            is_even: service.protocol == Protocol::Tcp && service.affinity != Affinity::Source,
            fails_open: standing.fails_open,
            uses_backups: standing.uses_backups,
            uses_held: standing.uses_held,
            moves: self.builder.moves(&service.name),
            clients: clients(&sources, service.address.is_ipv4()),
        }
    }

    fn backend_look(
        &self,
        (service, backend): (&Service, &Backend),
        seat: Option<&Seat>,
        (state, share): (BackendState, f64),
        gathered: &Gathered,
    ) -> BackendLook {
        let is_unwell = match state {
            BackendState::Down | BackendState::Held => true,
            BackendState::Unproven => self.is_failing(&service.name, &backend.name),
            _ => false,
        };
        let counted = seat.map(|seat| self.rates.counted(seat.counter));
        let counted = counted.unwrap_or_default();
        let handshakes = seat.and_then(|seat| gathered.handshakes.get(&seat.counter));
        BackendLook {
            name: seat.map_or_else(
                || backend.name.as_str().into(),
                |seat| Arc::clone(&seat.backend),
            ),
            share,
            state,
            probes: self.incidents.probe_times.of(&service.name, &backend.name),
            last_failure: is_unwell.then(|| self.last_failure(&service.name, &backend.name)),
            flows: counted.flows,
            bytes: counted.bytes,
            resets: counted.resets,
            handshakes: handshakes.map(|it| Box::new(*it)),
        }
    }

    /// Tells of drift as soon as it is found, not a second later.
    pub(super) fn look_for_drift(&mut self) {
        let signs = self.drift_signs();
        if !signs.is_empty() {
            self.tell_of(self.started.elapsed(), signs);
        }
    }

    /// Drains made by command that may be forgotten.
    fn old_drains(&self) -> Vec<Sign> {
        let now = self.clock.now_for_ages();
        let drains = self.origin.drains.iter().filter_map(|drain| {
            let age = Duration::from_secs(now.saturating_sub(drain.since));
            drains::sign((&drain.service, &drain.backend), age)
        });
        drains.collect()
    }

    /// What the kernel holds that nobody wrote.
    fn drift_signs(&self) -> Vec<Sign> {
        let lately = self.verifier.lately(Instant::now(), REPAIRED);
        let sign = |(service, findings): (Option<&str>, Vec<&DriftFinding>)| {
            let first = findings.first()?;
            let places = match findings.len() {
                1 => String::new(),
                count => format!("in {count} places, as "),
            };
            let backend = gainer(&findings);
            let who = match &backend {
                Some(_) => "has in the kernel what nobody wrote",
                None => "the kernel holds what nobody wrote",
            };
            Some(Sign {
                kind: Kind::Drift,
                service: service.unwrap_or_default().to_owned(),
                backend,
                what: format!("{who}, {places}{first}"),
                cause: "something else than the balancer writes to its maps or programs".to_owned(),
            })
        };
        lately.into_iter().filter_map(sign).collect()
    }

    /// What is wrong with the node, and is found elsewhere.
    fn node_signs(&self) -> Vec<Sign> {
        let of_node = |kind, what: String, cause: &str| Sign {
            kind,
            service: String::new(),
            backend: None,
            what,
            cause: cause.to_owned(),
        };
        let mut signs = Vec::new();
        if let Some((what, cause)) = self.interfaces.fault(Instant::now()) {
            signs.push(of_node(Kind::Interface, what, &cause));
        }
        if let Some(what) = self.clock.problem(Instant::now()) {
            let cause = "somebody set it, such as an NTP client; nothing that is forwarded or probed \
                         goes by it";
            signs.push(of_node(Kind::Clock, what, cause));
        }
        if let Some(what) = self.pins.problem() {
            let cause = "the bpffs was unmounted; packets are forwarded while this daemon lives, \
                         and a restart or a crash would end that: `mount -t bpf bpf /sys/fs/bpf`";
            signs.push(of_node(Kind::Pins, what, cause));
        }
        let full: Vec<String> = self.pressure.problems().collect();
        if !full.is_empty() {
            let cause = "more live flows than node.flow_table_size has room for";
            signs.push(of_node(Kind::MapCapacity, full.join("; "), cause));
        }
        let differing = self.group.problems();
        if !differing.is_empty() {
            let cause = "balancers of one group with different files send a flow two ways";
            signs.push(of_node(Kind::PeerDigest, differing.join("; "), cause));
        }
        if let Some(waiting) = self.unconfirmed() {
            let cause = "it is undone if nobody confirms it in time";
            signs.push(of_node(Kind::Unconfirmed, waiting, cause));
        }
        signs
    }
}

/// The backend that all differences are about, or that all slots have got.
fn gainer(findings: &[&DriftFinding]) -> Option<String> {
    let of = |it: &DriftFinding| match &it.slots {
        Some(_) => Some(it.seen.clone()),
        None => it.backend.clone(),
    };
    let first = of(findings.first()?)?;
    let is_his = |it: &&DriftFinding| of(it).is_some_and(|it| it == first);
    findings.iter().all(is_his).then_some(first)
}

/// The busiest of the clients.
fn clients(sources: &HashMap<[u8; 16], u64>, is_ipv4: bool) -> Clients {
    let address = |source: &[u8; 16]| match source {
        [a, b, c, d, ..] if is_ipv4 => IpAddr::from([*a, *b, *c, *d]),
        _ => IpAddr::from(*source),
    };
    // Of two alike, always the same one.
    let busiest = sources
        .iter()
        .max_by_key(|(source, flows)| (**flows, **source));
    Clients {
        sampled: sources.values().sum(),
        busiest: busiest.map(|(source, flows)| (address(source), *flows)),
    }
}
