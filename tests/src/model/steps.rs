//! The steps of a verdict, from a flow to the frame that leaves.

use balancer_common::layout::{Member, Target};
use balancer_common::verdict::Reason;
use balancer_user::dataplane::trial::Action;
use balancer_user::dataplane::{ServiceId, ServiceState};

use super::affinity::Owner;
use super::parse::{self, Flow, Opening};
use super::{Model, Outcome, alive, forward, hash, member, mss, nat, quic, too_big};

impl Model {
    /// A packet went to the member with that counter.
    pub(super) fn count(
        &mut self,
        counter: u32,
        flow: &Flow,
        (hash, opening, is_new): (u64, Opening, bool),
    ) {
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
    pub(super) fn pick(
        &self,
        flow: &Flow,
        id: ServiceId,
        opening: Opening,
        (bound, named): (Option<u16>, Named),
    ) -> Result<(Owner, usize, u64), Reason> {
        let service = &self.state.services[&id];
        let slot_count = service.table.slot_count() as usize;
        let hash = hash::flow(&self.state.flow_keys, flow);
        if slot_count == 0 && !matches!(named, Named::Member(_)) {
            return Err(Reason::NoBackend);
        }
        let at = if service.flags & Target::AFFINITY_SOURCE == 0 {
            hash::slot(hash, slot_count)
        } else {
            hash::slot(hash::of_source(&self.state.flow_keys, flow), slot_count)
        };
        let owner = match (bound, named) {
            (Some(member), _) | (None, Named::Member(member)) => Owner::of(member),
            (None, _) => {
                let slot = service.table.slot(at as u32);
                let slot = slot.expect("a state of the model has slots");
                self.records.owner(service, slot, opening, id, flow)
            }
        };
        member(service, owner.member).ok_or(Reason::BadTable)?;
        if alive(service, owner.member).is_none() {
            return Err(Reason::NoBackend);
        }
        Ok((owner, at, hash))
    }

    /// The frame that leaves for the member, in a way that is a member's index,
    /// the flow's hash, and whether `fullnat` knows the flow.
    pub(super) fn deliver(
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
    pub(super) fn follow(
        &mut self,
        frame: &[u8],
        flow: &Flow,
        id: ServiceId,
    ) -> Result<Option<u16>, Reason> {
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

    /// Likewise of an error, which is about a flow that there is.
    pub(super) fn follow_error(&self, flow: &Flow, id: ServiceId) -> Result<Option<u16>, Reason> {
        let service = &self.state.services[&id];
        if service.flags & (Target::NAT | Target::FULLNAT) != 0 {
            nat::check_ttl(flow)?;
        }
        if service.flags & Target::FULLNAT == 0 {
            return Ok(None);
        }
        let known = self.translations.known(flow, id, &service.members);
        Ok(Some(known.ok_or(Reason::ErrorUnmatched)?))
    }
}

/// Whether the packet goes back, as an error that tells its client what fits.
pub(super) fn told_what_fits(
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
pub(super) enum Named {
    /// It is no packet that names one.
    Nobody,
    /// Nobody who lives has the id.
    Unknown,
    /// The member of that index.
    Member(u16),
}

/// What a packet says of its server; one that a translation keeps with a
/// member is not asked.
pub(super) fn named_server(
    service: &ServiceState,
    frame: &[u8],
    flow: &Flow,
    kept: Option<u16>,
) -> Named {
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
