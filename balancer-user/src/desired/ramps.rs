//! Slow starts: a backend that comes up gets its share in steps.
//!
//! A server that begins with cold caches and empty pools fails under the share
//! that it bears an hour later. So one that begins to take new flows beside
//! others gets a twentieth of its slots at first, and another one after each
//! twentieth of the service's `slow_start`. The others bear the rest: where they
//! have not half of the weight, nobody is spared. Pure: time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{BackendState, Standing, World};
use crate::config::model::{Pool, Service};
use crate::probe::scheduler::TargetId;

/// Percent of the share that a step adds.
const STEP: u32 = 5;

/// Who could take new flows so far, and who is in its slow start since when.
#[derive(Debug, Default)]
pub struct Ramps {
    seen: BTreeMap<TargetId, Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Cannot take new flows.
    Out,
    /// Takes its share.
    In,
    /// Takes a part of its share.
    Since(Instant),
}

impl Ramps {
    /// Notes in the world how much of its share each backend of these services
    /// is to have. With `is_changing` nobody begins a slow start: a change of
    /// the configuration has its own stages. Nor does one that is seen for the
    /// first time: what an earlier controller left took its share already.
    pub fn follow(
        &mut self,
        services: &[Service],
        world: &mut World,
        is_changing: bool,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.seen);
        world.ramps.clear();
        let slow = services.iter().filter(|it| !it.slow_start.is_zero());
        for service in slow {
            let standing = Standing::of(service, world);
            let mut settled = 0;
            let mut wanted = 0;
            let mut found = Vec::with_capacity(service.backends.len());
            for backend in &service.backends {
                let id = TargetId {
                    service: service.name.clone(),
                    backend: backend.name.clone(),
                };
                let state = standing.state(service, backend, world);
                let seen = next(
                    before.remove(&id),
                    state,
                    is_changing,
                    service.slow_start,
                    now,
                );
                let weight = u32::from(backend.weight);
                wanted += weight * u32::from(backend.pool == Pool::Primary && !backend.drain);
                settled += weight * u32::from((state, seen) == (BackendState::Up, Seen::In));
                found.push((id, seen));
            }
            let is_borne = settled * 2 >= wanted;
            for (id, seen) in found {
                let seen = match seen {
                    Seen::Since(_) if !is_borne => Seen::In,
                    Seen::Since(began) => {
                        let part =
                            percent(now.saturating_duration_since(began), service.slow_start);
                        world.ramps.insert(id.clone(), part);
                        seen
                    }
                    Seen::In | Seen::Out => seen,
                };
                self.seen.insert(id, seen);
            }
        }
    }

    /// Whether somebody is to have another part of its share than the world
    /// says.
    pub fn is_due(&self, services: &[Service], world: &World, now: Instant) -> bool {
        world.ramps.iter().any(|(id, has)| {
            let service = services.iter().find(|it| it.name == id.service);
            let (Some(service), Some(Seen::Since(began))) = (service, self.seen.get(id)) else {
                return true;
            };
            let elapsed = now.saturating_duration_since(*began);
            percent(elapsed, service.slow_start) != *has
        })
    }
}

/// How a backend is seen that was seen `before`.
fn next(
    before: Option<Seen>,
    state: BackendState,
    is_changing: bool,
    slow_start: Duration,
    now: Instant,
) -> Seen {
    let is_ready = matches!(state, BackendState::Up | BackendState::Standby);
    match before {
        _ if !is_ready => Seen::Out,
        Some(Seen::Out) if !is_changing => Seen::Since(now),
        Some(Seen::Since(began)) if now.saturating_duration_since(began) < slow_start => {
            Seen::Since(began)
        }
        _ => Seen::In,
    }
}

/// The part of its share that a backend has so long after it came up.
fn percent(elapsed: Duration, slow_start: Duration) -> u8 {
    let steps = elapsed.as_nanos() * u128::from(100 / STEP) / slow_start.as_nanos().max(1);
    let part = (steps + 1) * u128::from(STEP);
    part.min(100) as u8
}

#[cfg(test)]
mod tests;
