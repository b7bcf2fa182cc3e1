//! Runs the flows of a service, and compares.

use std::collections::HashSet;

use balancer_common::verdict::Reason;

use super::flows::{Flow, Flows};
use super::owners::Owners;
use super::packet::{self, Kind};
use super::report::{BackendRehearsal, Difference, Rehearsal, ServiceRehearsal};
use super::script::{Expected, Named, Script, Step};
use super::{Candidate, Names};
use crate::config::model::{Forward, Protocol};
use crate::dataplane::object::possible_cpus;
use crate::dataplane::trial::{Action, Outcome, Trial};
use crate::dataplane::{Error, State};

/// Frames of a test run come in on the loopback device, which is always the
/// first.
const LOOPBACK: u32 = 1;
/// Of so many TCP flows one is of before the change: its first packet is no
/// SYN.
const OLD_FLOWS: u64 = 4;

/// The loaded copy.
pub(super) struct Stage<'a> {
    trial: Trial,
    names: &'a Names,
    /// Interface that frames come in on.
    arrival: u32,
    /// Flows of `fullnat` that a CPU has ports for, and how many of these
    /// may be used up.
    leases: u64,
    leased: u64,
}

/// What came of one packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Came {
    /// To the backend at this place in the file.
    To(u16),
    /// To that one, had there been a way.
    Lost(u16),
    Limited,
    Nowhere,
}

impl<'a> Stage<'a> {
    pub(super) fn new(trial: Trial, candidate: &'a Candidate) -> Result<Self, Error> {
        let node = &candidate.config.node;
        let first = node.interfaces.first().map(String::as_str);
        let index = first.and_then(|name| nix::net::if_::if_nametoindex(name).ok());
        let (low, high) = node.fullnat_ports;
        let ports = (u32::from(high) - u32::from(low) + 1) / possible_cpus()?.max(1);
        let sources = [
            &node.fullnat_sources_v4.len(),
            &node.fullnat_sources_v6.len(),
        ];
        let sources = sources.into_iter().filter(|count| **count > 0).min();
        let mut stage = Self {
            trial,
            names: &candidate.tables.names,
            arrival: index.unwrap_or(LOOPBACK),
            leases: u64::from(ports) * sources.copied().unwrap_or_default() as u64,
            leased: 0,
        };
        // An interface may not take frames of a test run: then they come in
        // on the loopback, from which all leave by another one.
        let probe = [0; packet::LEAST_LEN];
        if stage.trial.run_from(stage.arrival, &probe).is_err() {
            stage.arrival = LOOPBACK;
        }
        Ok(stage)
    }

    /// Another state in the same copy.
    pub(super) fn change(&mut self, state: &State) -> Result<(), Error> {
        self.trial.change(state)
    }

    /// Runs so many flows of a service; `before` is who has its flows now.
    pub(super) fn run(
        &mut self,
        rehearsal: &mut Rehearsal,
        script: &Script<'_>,
        before: Option<&Owners<'_>>,
        count: usize,
    ) -> Result<(), Error> {
        let mut figures = ServiceRehearsal {
            service: script.service.name.clone(),
            backends: backends(script),
            ..ServiceRehearsal::default()
        };
        let mut flows = Flows::of(script.service);
        // Flows of one client may all have one slot: as draws of a share they
        // count once.
        let mut slots_seen = HashSet::new();
        for _ in 0..count {
            let Some(flow) = flows.next() else { break };
            let (payload, names) = script.payload(flows.random());
            let traffic_class = flows.random().below(2) as u8 * 0xb8;
            let is_old = script.service.protocol == Protocol::Tcp
                && figures.flows % OLD_FLOWS == OLD_FLOWS - 1;
            let scene = Scene {
                flow: &flow,
                names,
                traffic_class,
                payload: &payload,
                is_old,
            };
            figures.flows += 1;
            let came = self.run_flow(rehearsal, &mut figures, script, &scene)?;
            let (Came::To(backend) | Came::Lost(backend)) = came else {
                continue;
            };
            if is_old || names != Named::Nobody {
                continue;
            }
            let (_, hash) = script.hashes(&flow);
            if slots_seen.insert(hash) {
                figures.backends[usize::from(backend)].flows += 1;
            }
            let slot = script.slot(hash);
            let was = before.filter(|before| before.len() == script.owners.len());
            figures.moved += u64::from(was.is_some_and(|was| was.new_at(slot) != backend));
        }
        rehearsal.flows += figures.flows;
        rehearsal.packets += figures.packets;
        rehearsal.services.push(figures);
        Ok(())
    }

    /// Runs the packets of a flow; gives what came of the first.
    fn run_flow(
        &mut self,
        rehearsal: &mut Rehearsal,
        figures: &mut ServiceRehearsal,
        script: &Script<'_>,
        scene: &Scene<'_>,
    ) -> Result<Came, Error> {
        self.make_room(script)?;
        let (kinds, mut is_old): (&[Kind], bool) = match script.service.protocol {
            Protocol::Udp => (&[Kind::Datagram, Kind::Datagram], false),
            Protocol::Tcp if scene.is_old => (&[Kind::Segment], true),
            Protocol::Tcp => (&[Kind::Syn, Kind::Segment], false),
        };
        let mut first = None;
        for kind in kinds {
            let step = Step {
                flow: scene.flow,
                kind: *kind,
                is_old,
                names: scene.names,
                is_held: script.service.forward == Forward::Fullnat
                    && matches!(first, Some(Came::To(_))),
            };
            let came = self.run_step(rehearsal, figures, script, &step, scene)?;
            first.get_or_insert(came);
            // A SYN that was stopped has left nothing behind.
            is_old |= came == Came::Limited;
            if matches!(came, Came::Nowhere | Came::Lost(_)) {
                break;
            }
        }
        Ok(first.unwrap_or(Came::Nowhere))
    }

    fn run_step(
        &mut self,
        rehearsal: &mut Rehearsal,
        figures: &mut ServiceRehearsal,
        script: &Script<'_>,
        step: &Step<'_>,
        scene: &Scene<'_>,
    ) -> Result<Came, Error> {
        let frame = packet::build(step.flow, step.kind, scene.traffic_class, scene.payload);
        let outcome = self.trial.run_from(self.arrival, &frame)?;
        figures.packets += 1;
        let (hash, slot_hash) = script.hashes(step.flow);
        let slot = script.slot(slot_hash);
        let opens = step.kind != Kind::Segment;
        if outcome.reason == Reason::SourceLimited && script.service.source_limit.is_some() && opens
        {
            figures.limited += 1;
            return Ok(Came::Limited);
        }
        let expected = script.expect(step, slot);
        if let Some((what, expected, seen)) =
            self.compare(script, step.kind, &expected, (hash, slot), &frame, &outcome)
        {
            rehearsal.differ(Difference {
                service: script.service.name.clone(),
                flow: format!("{} {}", step.flow, step.kind.name()),
                what,
                expected,
                seen,
            });
        }
        // What is counted is what the program did.
        let went = outcome.member.and_then(|member| {
            let name = self.names.backend(script.id, member)?;
            script.place(name, member)
        });
        Ok(match (expected, went) {
            (Expected::Sent { backend, .. }, went) => Came::To(went.unwrap_or(backend)),
            (Expected::Dropped(reason), went) => {
                match reason {
                    Reason::NoNextHop => figures.no_next_hop += 1,
                    Reason::NoBackend => figures.no_backend += 1,
                    _ => figures.refused += 1,
                }
                match (reason, went) {
                    (Reason::NoNextHop, Some(backend)) => Came::Lost(backend),
                    _ => Came::Nowhere,
                }
            }
        })
    }

    /// What is different, what was expected and what was seen, if anything.
    fn compare(
        &self,
        script: &Script<'_>,
        kind: Kind,
        expected: &Expected,
        (hash, slot): (u64, u32),
        frame: &[u8],
        outcome: &Outcome,
    ) -> Option<(String, String, String)> {
        let (action, reason) = match expected {
            Expected::Dropped(reason) => (Action::Drop, *reason),
            Expected::Sent { backend, reason } => {
                let egress = script.way(*backend)?.egress();
                let action = if egress == 0 || egress == self.arrival {
                    Action::Tx
                } else {
                    Action::Redirect
                };
                (action, *reason)
            }
        };
        // Words are made only of what differs: nearly nothing does.
        let differs =
            |what: &str, expected: String, seen: String| Some((what.to_owned(), expected, seen));
        if (outcome.action, outcome.reason) != (action, reason) {
            let verdict =
                |action: Action, reason: Reason| format!("{} {}", action.name(), reason.name());
            let seen = verdict(outcome.action, outcome.reason);
            return differs("verdict", verdict(action, reason), seen);
        }
        if outcome.service != Some(script.id) {
            let name = |id| match self.names.service(id) {
                Some(name) => name.to_owned(),
                None => format!("number {id}"),
            };
            let seen = outcome.service.map_or_else(|| "none".to_owned(), name);
            return differs("service", script.service.name.clone(), seen);
        }
        let Expected::Sent { backend, .. } = expected else {
            return None;
        };
        let name = script.service.backends[usize::from(*backend)].name.as_str();
        let member = outcome.member;
        if member.and_then(|it| self.names.backend(script.id, it)) != Some(name) {
            return differs("backend", name.to_owned(), self.member(script, outcome));
        }
        if outcome.slot != Some(slot) {
            return differs("slot", slot.to_string(), told(outcome.slot));
        }
        if outcome.hash != Some(hash) {
            return differs("hash", format!("{hash:016x}"), told_hash(outcome.hash));
        }
        let way = script.way(*backend)?;
        let fault = way.fault(kind, hash, frame, &outcome.frame)?;
        Some((fault.what, fault.expected, fault.seen))
    }

    fn member(&self, script: &Script<'_>, outcome: &Outcome) -> String {
        match outcome.member {
            None => "none".to_owned(),
            Some(member) => match self.names.backend(script.id, member) {
                Some(name) => name.to_owned(),
                None => format!("member {member}, which is nobody's"),
            },
        }
    }

    /// Every port of `fullnat` is leased once for a backend, and here nobody
    /// ever closes a connection.
    fn make_room(&mut self, script: &Script<'_>) -> Result<(), Error> {
        if script.service.forward != Forward::Fullnat {
            return Ok(());
        }
        if self.leased >= self.leases {
            self.trial.forget_translations()?;
            self.leased = 0;
        }
        self.leased += 1;
        Ok(())
    }
}

/// A flow and what its packets have in common.
struct Scene<'a> {
    flow: &'a Flow,
    names: Named,
    traffic_class: u8,
    payload: &'a [u8],
    is_old: bool,
}

fn backends(script: &Script<'_>) -> Vec<BackendRehearsal> {
    let backends = script.service.backends.iter();
    backends
        .map(|backend| BackendRehearsal {
            backend: backend.name.clone(),
            ..BackendRehearsal::default()
        })
        .collect()
}

fn told(number: Option<u32>) -> String {
    number.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

fn told_hash(hash: Option<u64>) -> String {
    hash.map_or_else(|| "none".to_owned(), |hash| format!("{hash:016x}"))
}
