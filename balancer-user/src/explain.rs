//! Which backend a flow gets, and why.
//!
//! The kernel program itself answers, in a private copy: over the tables of
//! the running balancer ([`crate::dataplane::shadow`]) or with those of a file
//! ([`crate::dataplane::trial`]). What it answers is put beside what is known
//! of the slot, the records and the backends, in names. Pure but for whom it
//! asks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use balancer_common::layout::{FlowRecord, Member, NatKey, Slot, Target};
use balancer_common::parse::{PROTOCOL_TCP, PROTOCOL_UDP};
use balancer_common::verdict::{Disposition, Reason};

use crate::api::types::{
    ExplainRequest, ExplainedBackend, ExplainedPacket, ExplainedRecord, ExplainedSlot, Explanation,
    Transport,
};
use crate::config::model::{Protocol, Service};
use crate::dataplane::shadow::Recorded;
use crate::dataplane::trial::Outcome;
use crate::dataplane::{Error, ServiceId, ServiceState};
use crate::rehearsal::NamedState;
use crate::rehearsal::flows::{self, Flow};
use crate::rehearsal::packet::{self, Kind};

/// Bytes of what the packets carry: enough for a QUIC connection id, and
/// zeros, which name no server.
const PAYLOAD: [u8; 40] = [0; 40];

/// What is known of the service and its backends beside the tables.
pub trait Known {
    /// The service of that name.
    fn service(&self, name: &str) -> Option<&Service>;
    /// A backend of a service.
    fn backend(&self, service: &Service, name: &str) -> Option<ExplainedBackend>;
}

/// Whether the question can be asked.
///
/// # Errors
/// Why not.
pub fn check(request: &ExplainRequest) -> Result<(), String> {
    let (source, destination) = (request.source, request.destination);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!(
            "{source} and {destination} are of two families; no packet has both"
        ));
    }
    Ok(())
}

/// Asks for each packet of the flow and says why. `ask` runs a frame of this
/// five-tuple in the copy of the program.
///
/// # Errors
/// The copy could not be asked.
pub fn explain(
    request: &ExplainRequest,
    tables: &str,
    named: &NamedState,
    known: &impl Known,
    mut ask: impl FnMut(&[u8], NatKey) -> Result<(Outcome, Recorded), Error>,
) -> Result<Explanation, Error> {
    let (protocol, kinds): (_, &[Kind]) = match request.protocol {
        Transport::Tcp => (Protocol::Tcp, &[Kind::Syn, Kind::Segment]),
        Transport::Udp => (Protocol::Udp, &[Kind::Datagram]),
    };
    let flow = Flow {
        client: request.source,
        service: request.destination,
        protocol,
    };
    let mut answers = Vec::new();
    for kind in kinds {
        let frame = packet::build(&flow, *kind, 0, &PAYLOAD);
        let (outcome, recorded) = ask(&frame, key(request))?;
        answers.push((*kind, outcome, recorded));
    }
    Ok(Explainer {
        flow,
        named,
        known,
        answers,
    }
    .explanation(request, tables))
}

/// The five-tuple as `NAT` has it.
fn key(request: &ExplainRequest) -> NatKey {
    let padded = |address: IpAddr| match address {
        IpAddr::V4(address) => {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&address.octets());
            padded
        }
        IpAddr::V6(address) => address.octets(),
    };
    let [a, b] = request.source.port().to_be_bytes();
    let [c, d] = request.destination.port().to_be_bytes();
    NatKey {
        source: padded(request.source.ip()),
        destination: padded(request.destination.ip()),
        ports: [a, b, c, d],
        protocol: u32::from(match request.protocol {
            Transport::Tcp => PROTOCOL_TCP,
            Transport::Udp => PROTOCOL_UDP,
        }),
    }
}

struct Explainer<'a, K> {
    flow: Flow,
    named: &'a NamedState,
    known: &'a K,
    answers: Vec<(Kind, Outcome, Recorded)>,
}

impl<K: Known> Explainer<'_, K> {
    fn explanation(&self, request: &ExplainRequest, tables: &str) -> Explanation {
        let id = self
            .answers
            .iter()
            .find_map(|(_, outcome, _)| outcome.service);
        let name = id.and_then(|id| self.named.names.service(id));
        let slot = id.and_then(|id| self.slot(id));
        let records = id.map(|id| self.records(id)).unwrap_or_default();
        let packets: Vec<ExplainedPacket> = self.packets();
        let service = name.and_then(|name| self.known.service(name));
        let mut names: BTreeSet<&str> = BTreeSet::new();
        names.extend(packets.iter().filter_map(|it| it.backend.as_deref()));
        names.extend(records.iter().filter_map(|it| it.backend.as_deref()));
        if let Some((_, slot)) = &slot {
            names.extend(slot.current.as_deref());
            names.extend(slot.previous.as_deref());
        }
        let backends: Vec<ExplainedBackend> = service
            .map(|service| {
                let of_name = |name: &str| self.known.backend(service, name);
                names.into_iter().filter_map(of_name).collect()
            })
            .unwrap_or_default();
        let mut because = Vec::new();
        self.say_service(&mut because, service);
        if let Some((number, slot)) = &slot {
            say_slot(&mut because, slot, *number);
        }
        because.extend(records.iter().map(say_record));
        because.extend(backends.iter().map(say_backend));
        Explanation {
            flow: *request,
            tables: tables.to_owned(),
            packets,
            service: name.map(str::to_owned),
            slot: slot.map(|(_, slot)| slot),
            records,
            backends,
            because,
        }
    }

    fn packets(&self) -> Vec<ExplainedPacket> {
        let packets = self.answers.iter().map(|(kind, outcome, _)| {
            let goes = outcome.reason.disposition() == Disposition::Forward;
            let seat = outcome.service.zip(outcome.member).filter(|_| goes);
            let backend = seat.and_then(|(id, member)| self.named.names.backend(id, member));
            ExplainedPacket {
                packet: kind.name().to_owned(),
                verdict: outcome.action.name().to_owned(),
                reason: outcome.reason.name().to_owned(),
                backend: backend.map(str::to_owned),
            }
        });
        packets.collect()
    }

    fn state(&self, id: ServiceId) -> Option<&ServiceState> {
        self.named.state.services.get(&id)
    }

    fn backend(&self, id: ServiceId, member: u16) -> Option<String> {
        self.named.names.backend(id, member).map(str::to_owned)
    }

    /// Where the hash leads to, as the program told. It tells nothing of a
    /// flow that it has picked no backend for.
    fn slot(&self, id: ServiceId) -> Option<(Slot, ExplainedSlot)> {
        let told = self
            .answers
            .iter()
            .find_map(|(_, outcome, _)| outcome.slot.zip(outcome.hash));
        let (at, hash) = told?;
        let state = self.state(id)?;
        let slot = state.table.slot(at)?;
        let explained = ExplainedSlot {
            slot: at,
            slot_count: state.table.slot_count(),
            hash: format!("{hash:016x}"),
            by_source: state.flags & Target::AFFINITY_SOURCE != 0,
            current: self.backend(id, slot.current()),
            previous: self.backend(id, slot.previous()),
            in_change: slot.is_unsettled(),
            era: slot.era(),
        };
        Some((slot, explained))
    }

    fn records(&self, id: ServiceId) -> Vec<ExplainedRecord> {
        let Some(recorded) = self.answers.last().map(|(_, _, recorded)| recorded) else {
            return Vec::new();
        };
        let slot = self.slot(id).map(|(slot, _)| slot);
        let mut records = Vec::new();
        let flows = [
            ("flows", &recorded.flow),
            ("probation", &recorded.probation),
        ];
        for (table, record) in flows {
            let Some(record) = record else { continue };
            let doubt = self.doubt(id, slot, record);
            records.push(ExplainedRecord {
                table: table.to_owned(),
                backend: self.seated(id, record.member, record.incarnation),
                counts: doubt.is_none(),
                why: doubt
                    .unwrap_or(
                        "the slot is in change, and its backend lives; the SYN of another flow goes \
                         by the slot",
                    )
                    .to_owned(),
            });
        }
        for record in [&recorded.request, &recorded.reply].into_iter().flatten() {
            let seat = self.seated(id, record.member, record.incarnation);
            let is_its = record.service == id;
            let why = match (is_its, &seat) {
                (false, _) => "it is of another service",
                (true, None) => "its backend has gone",
                (true, Some(_)) => "the flow is translated, and stays with its backend",
            };
            if records
                .iter()
                .any(|it: &ExplainedRecord| it.table == "translations")
            {
                continue;
            }
            records.push(ExplainedRecord {
                table: "translations".to_owned(),
                counts: is_its && seat.is_some(),
                backend: seat,
                why: why.to_owned(),
            });
        }
        records
    }

    /// Who has the seat that a record names, if it is still the same one.
    fn seated(&self, id: ServiceId, member: u16, incarnation: u16) -> Option<String> {
        let seat = self.state(id)?.members.get(usize::from(member))?;
        (seat.incarnation == incarnation)
            .then(|| self.backend(id, member))
            .flatten()
    }

    /// Why the program does not go by a record.
    fn doubt(
        &self,
        id: ServiceId,
        slot: Option<Slot>,
        record: &FlowRecord,
    ) -> Option<&'static str> {
        let state = self.state(id)?;
        let has_all = state.flags & Target::AFFINITY_FLOW != 0;
        let member = state.members.get(usize::from(record.member));
        match (member, slot) {
            (None, _) => Some("its backend has gone"),
            (Some(member), _) if member.incarnation != record.incarnation => {
                Some("its backend has gone, another one has its seat")
            }
            (Some(member), _) if member.flags & Member::ALIVE == 0 => Some("its backend is down"),
            (_, Some(slot)) if !has_all && !slot.is_unsettled() => {
                Some("the slot is settled, so no record is asked for")
            }
            (_, Some(slot)) if !has_all && record.era != u32::from(slot.era()) => {
                Some("it is of an earlier change of the slot")
            }
            _ => None,
        }
    }

    fn say_service(&self, because: &mut Vec<String>, service: Option<&Service>) {
        let flow = &self.flow;
        let Some(service) = service else {
            because.push(format!(
                "no service takes {}/{}, so the packet passes up the host's stack",
                flow.service, flow.protocol
            ));
            return;
        };
        because.push(format!(
            "{}/{} is service {}, which forwards by {}",
            flow.service, flow.protocol, service.name, service.forward
        ));
        match flows::refusal(service, flow.client.ip()) {
            Some(Reason::SourceDenied) => because.push(format!(
                "the service denies {}: `deny_sources` has the longest prefix that holds it",
                flow.client.ip()
            )),
            Some(_) => because.push(format!(
                "no prefix of the service's `allow_sources` holds {}",
                flow.client.ip()
            )),
            None => {}
        }
        let limited =
            |(_, outcome, _): &(Kind, Outcome, Recorded)| outcome.reason == Reason::SourceLimited;
        if self.answers.iter().any(limited) {
            because.push(format!(
                "the prefix of {} has opened as many flows as `source_limit` lets it; the next \
                 one may pass in a moment",
                flow.client.ip()
            ));
        }
    }
}

fn say_slot(because: &mut Vec<String>, slot: &ExplainedSlot, of: Slot) {
    let by = if slot.by_source {
        "by the client's address"
    } else {
        "by addresses and ports"
    };
    because.push(format!(
        "{by} the flow falls into slot {} of {} (hash {})",
        slot.slot, slot.slot_count, slot.hash
    ));
    let name = |name: &Option<String>| name.as_deref().unwrap_or("nobody").to_owned();
    let current = name(&slot.current);
    because.push(if !of.is_unsettled() {
        format!("the slot is settled: it is {current}'s")
    } else if of.current() == of.previous() {
        format!("the slot is in change and goes back to {current}, which had it before")
    } else {
        format!(
            "the slot is in change: new flows are {current}'s, flows that began before are {}'s",
            name(&slot.previous)
        )
    });
}

fn say_record(record: &ExplainedRecord) -> String {
    let backend = record
        .backend
        .as_deref()
        .unwrap_or("a backend that has gone");
    let verb = if record.counts {
        "counts"
    } else {
        "does not count"
    };
    format!(
        "a record in {} names {backend} and {verb}: {}",
        record.table, record.why
    )
}

fn say_backend(backend: &ExplainedBackend) -> String {
    let failure = backend.last_failure.as_ref();
    let failure = failure.map(|it| format!(" ({it})")).unwrap_or_default();
    format!(
        "{} ({}) is {}{failure}, its next hop {}; weight {}, {} slots, {:.1} %",
        backend.backend,
        backend.address,
        backend.state,
        backend.next_hop,
        backend.weight,
        backend.slot_count,
        backend.share_expected * 100.0
    )
}
