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

use balancer_common::layout::{Member, MemberCounters, Target};
use balancer_common::verdict::Reason;
use balancer_user::dataplane::trial::{Action, Outcome};
use balancer_user::dataplane::{Counters, ServiceId, ServiceKey, ServiceState, State};

use affinity::{FlowName, Owner, Records};
use fragment::{Fragments, Origin};
use parse::{Flow, Opening};

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
            let slot = service.table.slots().expect("as in `pick`")[at];
            self.records
                .keep(service, slot, &FlowName::of(id, &flow), owner);
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

    /// A packet went to the member with that counter.
    fn count(&mut self, counter: u32, flow: &Flow, (hash, opening, is_new): (u64, Opening, bool)) {
        let counters = self.members.entry(counter).or_default();
        counters.packets += 1;
        counters.bytes += flow.ip_len as u64;
        counters.flows += u64::from(is_new);
        counters.resets += u64::from(flow.is_reset);
        let is_sampled = (hash % (1 << 32)) < u64::from(self.state.settings.handshake_sample);
        if flow.protocol == 6 && is_sampled {
            self.handshakes.see(hash, counter, opening, flow.is_reset);
        }
    }

    /// The owner of a flow, the slot and the hash that led there. A `bound` flow
    /// has its member already, and then one whose packet names it.
    fn pick(
        &self,
        flow: &Flow,
        id: ServiceId,
        opening: Opening,
        (bound, named): (Option<u16>, Named),
    ) -> Result<(Owner, usize, u64), Reason> {
        let service = &self.state.services[&id];
        let slots = service
            .table
            .slots()
            .expect("a state of the model has slots");
        let hash = hash::flow(&self.state.flow_keys, flow);
        if slots.is_empty() && !matches!(named, Named::Member(_)) {
            return Err(Reason::NoBackend);
        }
        let at = if service.flags & Target::AFFINITY_SOURCE == 0 {
            hash::slot(hash, slots.len())
        } else {
            hash::slot(hash::of_source(&self.state.flow_keys, flow), slots.len())
        };
        let name = FlowName::of(id, flow);
        let owner = match (bound, named) {
            (Some(member), _) | (None, Named::Member(member)) => Owner::of(member),
            (None, _) => self.records.owner(service, slots[at], opening, &name),
        };
        member(service, owner.member).ok_or(Reason::BadTable)?;
        if alive(service, owner.member).is_none() {
            return Err(Reason::NoBackend);
        }
        Ok((owner, at, hash))
    }

    /// An ICMP error goes to the backend of the flow that it is about, or tells
    /// the client what does not fit a tunnel.
    fn judge_error(&mut self, frame: &[u8], outcome: &mut Outcome) -> Result<(), Reason> {
        let told = match icmp_error::read(frame, |address| self.has_address(address)) {
            icmp_error::Read::Other => return Err(Reason::NotTcpUdp),
            icmp_error::Read::Unmatched => return Err(Reason::ErrorUnmatched),
            icmp_error::Read::About(told) => told,
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
        let (owner, at, hash) = self.pick(&flow, id, opening, (None, Named::Nobody))?;
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
        outcome.frame = forward::send(frame, &own, member, hash)?;
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

    /// The frame that leaves for the member, in a way that is a member's index,
    /// the flow's hash, and whether `fullnat` knows the flow.
    fn deliver(
        &mut self,
        frame: &[u8],
        flow: &Flow,
        opening: Opening,
        id: ServiceId,
        (index, hash, is_known): (u16, u64, bool),
    ) -> Result<Vec<u8>, Reason> {
        let service = &self.state.services[&id];
        let member = member(service, index).ok_or(Reason::BadTable)?;
        let clamped = match opening {
            Opening::Syn if service.flags & Target::CLAMP_MSS != 0 => {
                mss::clamp(frame, flow, service.options.mss)
            }
            _ => frame.to_vec(),
        };
        let frame = &clamped;
        match member.kind {
            Member::NAT => {
                let ethernet = forward::ethernet(frame, member);
                self.translations.request(frame, flow, id, member, ethernet)
            }
            Member::FULLNAT => self.translations.full_request(
                frame,
                flow,
                (id, &self.state.settings.nat),
                (index, member),
                (forward::ethernet(frame, member), is_known),
            ),
            _ => forward::send(frame, flow, member, hash),
        }
    }

    /// A service whose packets are rewritten looks at the TTL first, and its
    /// flows may have a member already.
    fn follow(&mut self, frame: &[u8], flow: &Flow, id: ServiceId) -> Result<Option<u16>, Reason> {
        let service = &self.state.services[&id];
        if service.flags & (Target::NAT | Target::FULLNAT) != 0 {
            nat::check_ttl(flow)?;
        }
        if service.flags & Target::FULLNAT == 0 {
            return Ok(None);
        }
        let members = &service.members;
        Ok(self.translations.member_of(frame, flow, id, members))
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

/// Whether the packet goes back, as an error that tells its client what fits.
fn told_what_fits(
    frame: &[u8],
    flow: &Flow,
    member: &Member,
    outcome: &mut Outcome,
) -> Result<bool, Reason> {
    match forward::check(flow, member) {
        Ok(()) => return Ok(false),
        Err(Reason::ExceedsMtu) => {}
        Err(reason) => return Err(reason),
    }
    outcome.frame = too_big::answer(frame, flow, member)?;
    outcome.reason = Reason::TooBigAnswered;
    outcome.action = Action::Tx;
    Ok(true)
}

/// What a packet says of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// It is no packet that names one.
    Nobody,
    /// Nobody who lives has the id.
    Unknown,
    /// The member of that index.
    Member(u16),
}

/// What a packet says of its server; one that a translation keeps with a
/// member is not asked.
fn named_server(service: &ServiceState, frame: &[u8], flow: &Flow, kept: Option<u16>) -> Named {
    let is_later = matches!(flow.part, parse::Part::Later(_));
    if service.flags & Target::QUIC == 0 || flow.protocol != 17 || is_later || kept.is_some() {
        return Named::Nobody;
    }
    let packet = &frame[flow.ip_at..flow.ip_at + flow.ip_len];
    let datagram = &packet[flow.header_len + 8..];
    let offset = usize::from(service.options.server_id_offset);
    let len = usize::from(service.options.server_id_len);
    match quic::server_id(datagram, offset, len) {
        None => Named::Nobody,
        Some(id) => match service.server_ids.get(&id) {
            Some(index) if alive(service, *index).is_some() => Named::Member(*index),
            _ => Named::Unknown,
        },
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
