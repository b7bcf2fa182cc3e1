//! Who is asked for answers while a change is under way.
//!
//! Subjects are backends that the change itself gives traffic: new ones, those
//! at another address, those whose weight goes up. One that gets more because
//! a sibling drains or goes is none: it answers as it did, and a drain in an
//! emergency must not be held up by a second sick server. Siblings are up, and
//! the change leaves them as they are. Pure.

use std::net::SocketAddr;

use super::answers::Role;
use crate::config::capacity::weight_in_use;
use crate::config::model::{Backend, Config, Health, ProbeKind, Protocol, Service};
use crate::probe::scheduler::TargetId;
use crate::probe::vip::Passage;

/// Subjects that are asked; of more, those whose share rises most. With their
/// siblings that is a thousand requests a second at most.
pub const MAX_SUBJECTS: usize = 64;
/// Siblings that the subjects of a service are compared with.
pub const MAX_SIBLINGS: usize = 3;

/// The backends of a service that are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// The service's name.
    pub service: String,
    /// How they are asked.
    pub health: Health,
    /// Who, where and why.
    pub seats: Vec<Seat>,
}

/// A backend that is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Seat {
    /// Its name.
    pub backend: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// The way there, where it is asked by the VIP as its probes are.
    pub via: Option<Passage>,
    /// What it is to the change.
    pub role: Role,
}

/// Who is asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Panels {
    /// A panel for each service with a subject and a sibling.
    pub panels: Vec<Panel>,
    /// Subjects for which there is no room.
    pub left_out: usize,
}

/// Chooses who is asked about a change; `is_up` is what probes say of the
/// backends that run.
pub fn choose(before: &Config, after: &Config, is_up: impl Fn(&TargetId) -> bool) -> Panels {
    let mut panels: Vec<Panel> = Vec::new();
    let mut found: Vec<(f64, usize, Seat)> = Vec::new();
    for service in &after.services {
        let Some(was) = before.service(&service.name).filter(|was| *was != service) else {
            continue;
        };
        let Some(health) = asked_by(service) else {
            continue;
        };
        let subjects: Vec<(f64, Seat)> = subjects(was, service).collect();
        let siblings = siblings(was, service, &subjects, &is_up);
        if siblings.is_empty() || subjects.is_empty() {
            continue;
        }
        found.extend(
            subjects
                .into_iter()
                .map(|(rise, seat)| (rise, panels.len(), seat)),
        );
        panels.push(Panel {
            service: service.name.clone(),
            health: health.clone(),
            seats: siblings,
        });
    }
    // Stable: what rises alike stays in the file's order.
    found.sort_by(|(one, ..), (other, ..)| other.total_cmp(one));
    let left_out = found.len().saturating_sub(MAX_SUBJECTS);
    found.truncate(MAX_SUBJECTS);
    for (_, panel, seat) in found {
        panels[panel].seats.push(seat);
    }
    let has_subject = |panel: &Panel| panel.seats.iter().any(|it| it.role != Role::Sibling);
    panels.retain(has_subject);
    Panels { panels, left_out }
}

/// How a service's backends can be asked, if they can.
fn asked_by(service: &Service) -> Option<&Health> {
    let health = service.health.as_ref()?;
    let is_http = matches!(health.kind, ProbeKind::Http(_) | ProbeKind::Https(..));
    let is_asked = is_http && service.protocol == Protocol::Tcp && !health.compare.is_empty();
    is_asked.then_some(health)
}

/// Where a backend serves clients.
fn serves_at(service: &Service, backend: &Backend) -> Option<SocketAddr> {
    let port = backend.port.or_else(|| service.ports.first());
    let port = port.or_else(|| service.health.as_ref()?.port)?;
    Some(SocketAddr::new(backend.address, port))
}

/// The same server in the service as it was.
fn earlier<'a>(was: &'a Service, service: &Service, backend: &Backend) -> Option<&'a Backend> {
    let earlier = was.backend(&backend.name)?;
    (serves_at(was, earlier) == serves_at(service, backend)).then_some(earlier)
}

/// The share of a service's weight that a backend has.
fn share(service: &Service, backend: &Backend) -> f64 {
    let all: f64 = service.backends.iter().map(weight).sum();
    weight(backend) / all.max(1.0)
}

fn weight(backend: &Backend) -> f64 {
    weight_in_use(backend) as f64
}

/// Those that the change gives traffic, with what their share rises by.
fn subjects(was: &Service, service: &Service) -> impl Iterator<Item = (f64, Seat)> {
    let in_use = service.backends.iter().filter(|it| weight(it) > 0.0);
    in_use.filter_map(move |backend| {
        let after = share(service, backend);
        let earlier = earlier(was, service, backend).filter(|it| weight(it) > 0.0);
        let (role, before) = match earlier {
            None => (Role::New, 0.0),
            Some(earlier) => {
                let before = share(was, earlier);
                let is_raised = weight(backend) > weight(earlier) && after > before;
                is_raised.then_some((Role::Raised, before))?
            }
        };
        let seat = Seat {
            backend: backend.name.clone(),
            address: serves_at(service, backend)?,
            via: Passage::of(service, backend),
            role,
        };
        Some((after - before, seat))
    })
}

/// Up to three that run and gain nothing; where there is none, of those that
/// the change takes out of the service.
fn siblings(
    was: &Service,
    service: &Service,
    subjects: &[(f64, Seat)],
    is_up: impl Fn(&TargetId) -> bool,
) -> Vec<Seat> {
    let is_running = |backend: &Backend| {
        let id = TargetId {
            service: service.name.clone(),
            backend: backend.name.clone(),
        };
        weight(backend) > 0.0 && is_up(&id)
    };
    let sibling = |service: &Service, backend: &Backend| {
        Some(Seat {
            backend: backend.name.clone(),
            address: serves_at(service, backend)?,
            via: Passage::of(service, backend),
            role: Role::Sibling,
        })
    };
    let is_subject = |name: &str| subjects.iter().any(|(_, seat)| seat.backend == name);
    let staying = service.backends.iter().filter(|backend| {
        let is_same = earlier(was, service, backend).is_some();
        is_same && !is_subject(&backend.name) && is_running(backend)
    });
    let mut seats: Vec<Seat> = staying.filter_map(|it| sibling(service, it)).collect();
    if seats.is_empty() {
        let going = was.backends.iter();
        let going = going.filter(|it| service.backend(&it.name).is_none() && is_running(it));
        seats = going.filter_map(|it| sibling(was, it)).collect();
    }
    spread(seats)
}

/// A few of them from all over the list: neighbours in it often share a rack.
fn spread(seats: Vec<Seat>) -> Vec<Seat> {
    let (all, few) = (seats.len(), seats.len().min(MAX_SIBLINGS));
    let places: Vec<usize> = (0..few).map(|at| at * all / few).collect();
    let chosen = seats.into_iter().enumerate();
    let chosen = chosen.filter(|(at, _)| places.contains(at));
    chosen.map(|(_, seat)| seat).collect()
}

#[cfg(test)]
mod tests;
