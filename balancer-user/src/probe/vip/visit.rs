//! One probe by the VIP, from its socket's mark to what its failure means.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use socket2::SockRef;
use tokio::time::Instant;

use super::road::{NoRoad, Passage};
use super::tickets::{Ends, Fate};
use super::{Lane, lock};
use crate::health::{AtVip, Failure, Fault, Phase};
use crate::probe::Deadline;

/// Where a probe's packets go.
#[derive(Debug, Clone)]
pub enum Way {
    /// To that address, as the host's routes lead there.
    Straight(SocketAddr),
    /// By the VIP to one backend.
    Vip(Visit),
}

impl From<SocketAddr> for Way {
    fn from(address: SocketAddr) -> Self {
        Self::Straight(address)
    }
}

/// One probe by the VIP.
#[derive(Debug, Clone)]
pub struct Visit {
    pub(super) lane: Lane,
    pub(super) vip: SocketAddr,
    pub(super) passage: Passage,
    pub(super) fate: Arc<Fate>,
}

/// Held while a socket is used: its packets are sent on.
#[derive(Debug)]
pub(in crate::probe) struct Ticket {
    lane: Lane,
    ends: Ends,
    serial: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut outlet = lock(&self.lane.0.outlet);
        outlet.tickets.leave(self.ends, self.serial, now());
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Way {
    /// The address that is dialled.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Straight(address) => *address,
            Self::Vip(visit) => visit.vip,
        }
    }

    /// Has the packets of a fresh socket go this way; the ticket is to be held
    /// as long as the socket.
    pub(in crate::probe) fn enter(
        &self,
        socket: SockRef<'_>,
        deadline: &Deadline,
    ) -> Result<Option<Ticket>, Failure> {
        match self {
            Self::Straight(_) => Ok(None),
            Self::Vip(visit) => visit.enter(socket, deadline).map(Some),
        }
    }

    /// What a failure means on this way.
    pub(in crate::probe) fn explain(&self, failure: Failure) -> Failure {
        match self {
            Self::Straight(_) => failure,
            Self::Vip(visit) => visit.explain(failure),
        }
    }
}

impl Visit {
    fn enter(&self, socket: SockRef<'_>, deadline: &Deadline) -> Result<Ticket, Failure> {
        let (number, source) = self.number_and_source()?;
        let failed = |error| deadline.io_failure(&error, Phase::Connect);
        if let Some((_, names)) = &self.lane.0.host {
            socket.set_mark(names.number).map_err(failed)?;
        }
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?.as_socket();
        let Some(local) = local else {
            return Err(Failure::NoAddress);
        };
        let ends = Ends::new(self.passage.protocol, local, self.vip);
        let mut outlet = lock(&self.lane.0.outlet);
        let serial = outlet.tickets.take(ends, number, &self.fate, now());
        drop(outlet);
        Ok(Ticket {
            lane: self.lane.clone(),
            ends,
            serial,
        })
    }

    fn number_and_source(&self) -> Result<(u16, IpAddr), Failure> {
        let known = lock(&self.lane.0.known);
        if let Some(why) = &known.blocked {
            return Err(Failure::Local(why.clone()));
        }
        let Some(entry) = known.entries.get(&self.passage) else {
            return Err(Failure::Local("its way is not known yet".to_owned()));
        };
        match &entry.road {
            Ok(road) => Ok((entry.number, road.source)),
            Err(NoRoad::Ours(why)) => Err(Failure::Local(why.clone())),
            Err(NoRoad::Theirs(why)) => Err(self.no_way(why)),
        }
    }

    fn no_way(&self, why: &str) -> Failure {
        self.failed(Fault::NoWay(why.to_owned()))
    }

    fn failed(&self, fault: Fault) -> Failure {
        Failure::AtVip(Box::new(AtVip {
            vip: self.vip,
            by: self.passage.to_string(),
            is_tunnel: self.passage.forward.is_tunnel(),
            fault,
        }))
    }

    fn explain(&self, failure: Failure) -> Failure {
        let is_silence = matches!(
            failure,
            Failure::Timeout {
                phase: Phase::Connect | Phase::Datagram,
                ..
            }
        );
        match failure {
            own if own.is_local() => own,
            Failure::AtVip(_) => failure,
            // A rule or a filter of this host has them, and not the backend.
            Failure::Timeout { .. } | Failure::Unreachable if self.fate.is_none_seen() => {
                self.not_seen()
            }
            Failure::Timeout { limit, .. } if is_silence => match self.fate.trouble() {
                Some(why) => self.no_way(why),
                None => self.failed(Fault::Silent { limit }),
            },
            reason => self.failed(Fault::Bad(reason)),
        }
    }

    fn not_seen(&self) -> Failure {
        let device = self.lane.0.host.as_ref();
        let device = device.map_or("", |(_, names)| names.device.as_str());
        Failure::Local(format!(
            "its packets did not get to the interface {device}; see `ip rule`, `ip link` and \
             this host's packet filter"
        ))
    }
}
