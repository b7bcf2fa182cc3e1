//! What the balancer should do with every packet, decided in plain Rust.
//!
//! Written from the RFCs and from the rules that `balancer-common` documents,
//! and sharing nothing with the packet path but the layouts and the names of
//! the reasons: its own parser, its own hash, its own encapsulation with the
//! checksum summed in full, and an ordinary map for the service lookup. What
//! both get wrong in the same way has to be in the documents.
//!
//! A packet is judged in this order, and the first fault names the reason:
//! what tells its service ([`parse::flow`], and of a later fragment the
//! record of the first), the service, the rest of the packet
//! ([`parse::transport`]), the owner of its flow ([`affinity`]), then next
//! hop, MTU and kind of that owner. Before the service is known a packet
//! passes, from there on it is dropped.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use balancer_common::layout::{Member, MemberCounters};
use balancer_common::verdict::Reason;
use balancer_user::dataplane::trial::{Action, Outcome};
use balancer_user::dataplane::{Counters, ServiceId, ServiceKey, ServiceState, State};

use affinity::Records;
use fragment::{Fragments, Origin};
use parse::{Flow, Opening};
use steps::{Named, named_server, told_what_fits};

pub mod affinity;
pub mod build;
pub mod decap;
pub mod echo;
pub mod forward;
pub mod fragment;
pub mod handshake;
pub mod hash;
pub mod icmp_error;
pub mod mss;
pub mod nat;
pub mod parse;
pub mod quic;
pub mod sources;
mod steps;
pub mod too_big;

/// Interface that test runs pretend a frame came in on: the loopback.
pub const INGRESS: u32 = 1;

/// A balancer in plain memory.
#[derive(Debug, Clone)]
pub struct Model {
    state: State,
    services: HashMap<ServiceKey, ServiceId>,
    records: Records,
    translations: nat::Table,
    fragments: Fragments,
    members: BTreeMap<u32, MemberCounters>,
    opened: sources::Opened,
    handshakes: handshake::Handshakes,
    reasons: [u64; Reason::COUNT],
}

impl Model {
    /// A balancer that holds a state and has seen no packet.
    ///
    /// # Panics
    /// When two services share a key.
    pub fn new(state: &State) -> Self {
        Self {
            state: state.clone(),
            services: index(state),
            records: Records::default(),
            translations: nat::Table::default(),
            fragments: Fragments::default(),
            members: BTreeMap::new(),
            opened: sources::Opened::default(),
            handshakes: handshake::Handshakes::default(),
            reasons: [0; Reason::COUNT],
        }
    }

    /// Changes the state; records and counters stay.
    ///
    /// # Panics
    /// When two services share a key.
    pub fn change(&mut self, state: &State) {
        self.state = state.clone();
        self.services = index(state);
    }

    /// How many flows have a record, or a translation, in the largest table.
    pub fn record_count(&self) -> usize {
        self.records.count().max(self.translations.len())
    }

    /// How many packets in fragments are remembered.
    pub fn fragment_count(&self) -> usize {
        self.fragments.count()
    }

    /// How many sampled handshakes are under way.
    pub fn waiting_handshakes(&self) -> usize {
        self.handshakes.waiting()
    }

    /// What the counters should say: every member that got a packet, and all
    /// reasons.
    pub fn counters(&self) -> Counters {
        Counters {
            members: self.members.clone(),
            handshakes: self.handshakes.counted().clone(),
            reasons: Reason::ALL
                .iter()
                .map(|reason| (*reason, self.reasons[*reason as usize]))
                .collect(),
        }
    }

    /// What should happen to a frame; keeps records and counts.
    pub fn run(&mut self, frame: &[u8]) -> Outcome {
        let mut outcome = Outcome {
            action: Action::Pass,
            reason: Reason::Forwarded,
            service: None,
            member: None,
            slot: None,
            hash: None,
            frame: Vec::new(),
        };
        match self.judge(frame, &mut outcome) {
            Ok(()) => {}
            Err(reason) => {
                outcome.reason = reason;
                // A packet that is not for a service is never dropped. That a
                // later fragment is for one, its address alone has to tell.
                outcome.action = match (outcome.service, reason) {
                    (_, Reason::ErrorUnmatched) => Action::Pass,
                    (Some(_), _) | (None, Reason::FragmentUnknown) => Action::Drop,
                    (None, _) => Action::Pass,
                };
                outcome.frame = frame.to_vec();
            }
        }
        self.reasons[outcome.reason as usize] += 1;
        outcome
    }

    fn judge(&mut self, frame: &[u8], outcome: &mut Outcome) -> Result<(), Reason> {
        let mut flow = match parse::flow(frame) {
            Err(Reason::NotTcpUdp) => {
                return match self.judge_echo(frame, outcome) {
                    Err(Reason::NotTcpUdp) => self.judge_error(frame, outcome),
                    answered => answered,
                };
            }
            flow => flow?,
        };
        let has_address = self.has_address(flow.destination);
        let origin = self.fragments.claim(&mut flow, has_address)?;
        let Some(id) = self.service_of(&flow) else {
            if has_address {
                self.fragments.remember(&flow, Origin::default());
            }
            return self.judge_reply(frame, &flow, outcome);
        };
        outcome.service = Some(id);
        let opening = parse::transport(frame, &mut flow)?;
        sources::filter(&self.state.services[&id], flow.source)?;
        let kept = self.follow(frame, &flow, id)?;
        let service = &self.state.services[&id];
        // A later fragment goes where the first one went.
        let first = origin.filter(|first| {
            first.service == Some(id) && alive(service, first.member) == Some(first.incarnation)
        });
        let named = named_server(service, frame, &flow, kept);
        let bound = kept.or(first.map(|first| first.member));
        let (owner, at, hash) = self.pick(&flow, id, opening, (bound, named))?;
        let member = member(service, owner.member).ok_or(Reason::BadTable)?;
        let is_new = opening == Opening::Syn || owner.is_first;
        outcome.member = Some(owner.member);
        outcome.slot = Some(at as u32);
        outcome.hash = Some(hash);
        if is_new {
            sources::limit(&mut self.opened, id, service, flow.source)?;
        }
        let origin = Origin {
            service: Some(id),
            member: owner.member,
            incarnation: member.incarnation,
        };
        self.fragments.remember(&flow, origin);
        if !matches!(named, Named::Member(_)) {
            let slot = service.table.slot(at as u32).expect("as in `pick`");
            self.records.keep(service, slot, (id, &flow), owner);
        }
        if told_what_fits(frame, &flow, member, outcome)? {
            return Ok(());
        }
        let (egress, counter) = (member.egress, member.counter);
        let way = (owner.member, hash, kept.is_some());
        outcome.frame = self.deliver(frame, &flow, opening, id, way)?;
        outcome.action = match egress {
            0 | INGRESS => Action::Tx,
            _ => Action::Redirect,
        };
        self.count(counter, &flow, (hash, opening, is_new));
        if matches!(named, Named::Unknown) {
            outcome.reason = Reason::UnknownServerId;
        }
        Ok(())
    }

    /// An ICMP error goes to the backend of the flow that it is about, or tells
    /// the client what does not fit a tunnel.
    fn judge_error(&mut self, frame: &[u8], outcome: &mut Outcome) -> Result<(), Reason> {
        let told = match icmp_error::read(frame, |address| self.has_address(address)) {
            icmp_error::Read::Other => return Err(Reason::NotTcpUdp),
            icmp_error::Read::Unmatched => return Err(Reason::ErrorUnmatched),
            icmp_error::Read::About(told) => told,
            icmp_error::Read::Sent(told) => return self.judge_sent(frame, &told, outcome),
        };
        let flow = told.flow;
        let id = self.service_of(&flow).ok_or(Reason::ErrorUnmatched)?;
        outcome.service = Some(id);
        if flow.ttl == 0 {
            return Err(Reason::TtlExpired);
        }
        if flow.ip_at + flow.ip_len > frame.len() {
            return Err(Reason::BadLength);
        }
        let opening = match flow.protocol {
            17 => Opening::None,
            _ => Opening::Established,
        };
        let kept = self.follow_error(&flow, id)?;
        let (owner, at, hash) = self.pick(&flow, id, opening, (kept, Named::Nobody))?;
        let member = member(&self.state.services[&id], owner.member).ok_or(Reason::BadTable)?;
        outcome.member = Some(owner.member);
        outcome.slot = Some(at as u32);
        outcome.hash = Some(hash);
        if !told.is_about(member, hash) {
            return Err(Reason::ErrorUnmatched);
        }
        if let Some(answer) = told.answer(frame, member) {
            outcome.frame = answer?;
            outcome.reason = Reason::TooBigAnswered;
            outcome.action = Action::Tx;
            return Ok(());
        }
        forward::check(&flow, member)?;
        // Of its own family, which the flow's need not be.
        let own = Flow {
            destination: told.asked,
            ..flow
        };
        outcome.frame = match member.kind {
            Member::NAT | Member::FULLNAT => {
                let ethernet = forward::ethernet(frame, member);
                let ends = self.translations.error_ends(&flow, member);
                nat::rewrite_error(frame, &told, ethernet, ends)
            }
            _ => forward::send(frame, &own, member, hash)?,
        };
        outcome.reason = Reason::ErrorForwarded;
        outcome.action = match member.egress {
            0 | INGRESS => Action::Tx,
            _ => Action::Redirect,
        };
        let counters = self.members.entry(member.counter).or_default();
        counters.packets += 1;
        counters.bytes += flow.ip_len as u64;
        Ok(())
    }

    /// An error about what was sent to a backend in a client's name goes to the
    /// client.
    fn judge_sent(
        &self,
        frame: &[u8],
        told: &icmp_error::Told,
        outcome: &mut Outcome,
    ) -> Result<(), Reason> {
        let flow = &told.flow;
        let service = self.translations.service_of(flow);
        outcome.service = Some(service.ok_or(Reason::NotTcpUdp)?);
        if flow.ttl > 0 && flow.ip_at + flow.ip_len > frame.len() {
            return Err(Reason::BadLength);
        }
        outcome.frame = self.translations.error_reply(frame, told)?;
        outcome.action = Action::Tx;
        outcome.reason = Reason::ErrorForwarded;
        Ok(())
    }

    /// A packet to no service's address: a backend's, or nobody's.
    fn judge_reply(
        &mut self,
        frame: &[u8],
        flow: &Flow,
        outcome: &mut Outcome,
    ) -> Result<(), Reason> {
        let service = self.translations.service_of(flow);
        outcome.service = Some(service.ok_or(Reason::NoService)?);
        parse::transport(frame, &mut flow.clone())?;
        outcome.frame = self.translations.reply(frame, flow)?;
        self.fragments.remember(flow, Origin::default());
        outcome.action = Action::Tx;
        outcome.reason = Reason::ReplyForwarded;
        Ok(())
    }

    /// The port itself before any port.
    fn judge_echo(&self, frame: &[u8], outcome: &mut Outcome) -> Result<(), Reason> {
        let (asked, answer) = echo::answer(frame).ok_or(Reason::NotTcpUdp)?;
        if !self.state.settings.answer_echo || !self.has_address(asked) {
            return Err(Reason::NotTcpUdp);
        }
        outcome.action = Action::Tx;
        outcome.reason = Reason::EchoAnswered;
        outcome.frame = answer;
        Ok(())
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.services.keys().any(|key| key.address == address)
    }

    fn service_of(&self, flow: &Flow) -> Option<ServiceId> {
        let key = |port| ServiceKey {
            address: flow.destination,
            port,
            protocol: flow.protocol,
        };
        let found = self.services.get(&key(flow.ports[1]));
        found.or_else(|| self.services.get(&key(0))).copied()
    }
}

fn index(state: &State) -> HashMap<ServiceKey, ServiceId> {
    let mut services = HashMap::new();
    for (id, service) in &state.services {
        for key in &service.keys {
            let other = services.insert(*key, *id);
            assert!(other.is_none(), "{key:?} leads to {other:?} and {id}");
        }
    }
    services
}

/// The member of that index, unless the table names nobody.
fn member(service: &ServiceState, index: u16) -> Option<&Member> {
    let member = service.members.get(usize::from(index))?;
    (member.kind != Member::NONE).then_some(member)
}

/// Its incarnation, if it is alive: the dead are neither asked for their
/// flows nor recorded.
fn alive(service: &ServiceState, index: u16) -> Option<u16> {
    let member = member(service, index)?;
    (member.flags & Member::ALIVE != 0).then_some(member.incarnation)
}
