//! Relief: a backend whose clients' handshakes do not finish gets less.
//!
//! Its probes pass, so to them it is up, and each new flow that it gets is one
//! that waits in vain. Where the service asks for it (`unfinished_handshakes`)
//! it keeps a trickle of its share, by which it shows when it is well again,
//! or is out for a while and shows it after that. Its flows stay with it. The
//! others bear the rest: where they have not half of the weight, nobody is
//! relieved, as what most suffer from is no backend's fault. Pure: time and
//! counters are arguments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use balancer_common::layout::HandshakeCounters;

use super::{BackendState, Standing, World};
use crate::config::model::{Pool, Service, Unfinished};
use crate::probe::scheduler::TargetId;

/// Percent of its share that a backend keeps in a trickle.
pub const TRICKLE: u8 = 5;
/// Handshakes that were begun before the trickle are known to have failed by
/// then.
const AFTERMATH: Duration = Duration::from_secs(4);
/// A trickle is watched for at least that long.
const LEAST_TRICKLE: Duration = Duration::from_secs(10);
/// So many handshakes tell whether it is well.
const ENOUGH: u64 = 20;
/// A greater share of them that does not finish is none that is well.
const BAD_SHARE: f64 = 0.05;
/// How long it is out, or how long a trickle too thin to tell lasts, the first
/// time. Each time more doubles it.
const HOLD: Duration = Duration::from_secs(30);
const HOLD_MAX: Duration = Duration::from_secs(600);
/// Who was well for that long begins anew.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What is seen of a backend in one second.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What the watch says of its handshakes, if they are bad.
    pub ailment: Option<String>,
    /// Its timed handshakes so far; none where no flows came lately.
    pub counted: Option<HandshakeCounters>,
}

/// A backend that gets less than its share.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Instant,
    /// How many times in a row, this one included.
    pub times: u32,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// Gets a trickle, watched from the first figures after its aftermath.
    Trickle {
        since: Instant,
        base: Option<Box<HandshakeCounters>>,
    },
    Out {
        until: Instant,
    },
}

impl Case {
    fn hold(&self) -> Duration {
        let doubled = 1_u32.checked_shl(self.times - 1).unwrap_or(u32::MAX);
        HOLD.saturating_mul(doubled).min(HOLD_MAX)
    }

    fn begin(&mut self, how: Unfinished, now: Instant) {
        self.phase = match how {
            Unfinished::Out => Phase::Out {
                until: now + self.hold(),
            },
            Unfinished::Trickle | Unfinished::Named => Phase::Trickle {
                since: now,
                base: None,
            },
        };
    }

    /// Percent of its share that it keeps.
    pub fn percent(&self) -> u8 {
        match self.phase {
            Phase::Trickle { .. } => TRICKLE,
            Phase::Out { .. } => 0,
        }
    }

    /// One second more; false where it is over.
    fn follow(&mut self, how: Unfinished, seen: &Seen, now: Instant) -> bool {
        match &mut self.phase {
            Phase::Out { until } => {
                if now >= *until {
                    self.phase = Phase::Trickle {
                        since: now,
                        base: None,
                    };
                }
                true
            }
            Phase::Trickle { since, base } => {
                let lasted = now.saturating_duration_since(*since);
                if lasted < AFTERMATH {
                    return true;
                }
                let verdict = seen.counted.and_then(|counted| {
                    judge(&counted, base.get_or_insert_with(|| counted.into()))
                });
                match verdict {
                    _ if seen.ailment.is_some() => self.relapse(how, now),
                    Some(false) => self.relapse(how, now),
                    Some(true) => return lasted < LEAST_TRICKLE,
                    // Too few come to tell. With all of them it shows again.
                    None => return lasted < self.hold().max(LEAST_TRICKLE),
                }
                true
            }
        }
    }

    fn relapse(&mut self, how: Unfinished, now: Instant) {
        if how == Unfinished::Out {
            self.times = self.times.saturating_add(1);
        }
        self.begin(how, now);
    }
}

/// Whether handshakes since then finish; none where they are too few to tell.
fn judge(now: &HandshakeCounters, then: &HandshakeCounters) -> Option<bool> {
    // A count that goes back begins anew.
    let since = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
    let finished = since(now.finished, then.finished);
    let abandoned = since(now.abandoned, then.abandoned);
    let repeated = since(now.repeated, then.repeated);
    let bad = abandoned.max(repeated);
    let all = finished + bad;
    (all >= ENOUGH).then_some(bad as f64 <= BAD_SHARE * all as f64)
}

/// Who is relieved, and who was lately.
#[derive(Debug, Default)]
pub struct Relief {
    cases: BTreeMap<TargetId, Case>,
    /// How many times in a row, and when the last one was over.
    past: BTreeMap<TargetId, (u32, Instant)>,
}

impl Relief {
    /// Follows the services that ask for it through one second; what is seen
    /// of a backend is `seen`. With `is_changing` nobody is relieved anew: a
    /// change is judged by its own stages. Gives who got into another phase,
    /// or out of the last one.
    pub fn look(
        &mut self,
        services: &[Service],
        world: &World,
        is_changing: bool,
        seen: impl Fn(&Service, &str) -> Seen,
        now: Instant,
    ) -> Vec<TargetId> {
        self.past
            .retain(|_, (_, over)| now.saturating_duration_since(*over) < FORGOTTEN);
        let before = std::mem::take(&mut self.cases);
        let asking = || {
            let asks = |it: &&Service| it.unfinished_handshakes != Unfinished::Named;
            services.iter().filter(asks)
        };
        for service in asking() {
            let standing = Standing::of(service, world);
            for backend in &service.backends {
                let id = target(service, &backend.name);
                if standing.state(service, backend, world) != BackendState::Up {
                    continue;
                }
                let how = service.unfinished_handshakes;
                let seen = seen(service, &backend.name);
                if let Some(mut case) = before.get(&id).cloned() {
                    if case.follow(how, &seen, now) {
                        self.cases.insert(id, case);
                    } else {
                        self.past.insert(id, (case.times, now));
                    }
                } else if let (Some(why), false) = (seen.ailment, is_changing) {
                    let times = self.past.get(&id).map_or(0, |(times, _)| *times);
                    let mut case = Case {
                        why,
                        since: now,
                        times: times.saturating_add(1),
                        phase: Phase::Out { until: now },
                    };
                    case.begin(how, now);
                    self.cases.insert(id.clone(), case);
                    if !self.is_borne(service, world) {
                        self.cases.remove(&id);
                    }
                }
            }
        }
        let percent = |cases: &BTreeMap<TargetId, Case>, id| cases.get(id).map(Case::percent);
        let all = before.keys().chain(self.cases.keys());
        let mut others: Vec<TargetId> = all
            .filter(|id| percent(&before, id) != percent(&self.cases, id))
            .cloned()
            .collect();
        others.dedup();
        others
    }

    /// Notes in the world who gets how much less.
    pub fn limit(&self, services: &[Service], world: &mut World) {
        world.relieved.clear();
        if self.cases.is_empty() {
            return;
        }
        let of_cases = services
            .iter()
            .filter(|it| it.unfinished_handshakes != Unfinished::Named)
            .filter(|it| self.cases.keys().any(|id| id.service == it.name));
        for service in of_cases {
            if !self.is_borne(service, world) {
                continue;
            }
            for backend in &service.backends {
                let id = target(service, &backend.name);
                if let Some(case) = self.cases.get(&id) {
                    world.relieved.insert(id, case.percent());
                }
            }
        }
    }

    /// Who is relieved.
    pub fn cases(&self) -> impl Iterator<Item = (&TargetId, &Case)> {
        self.cases.iter()
    }

    /// Whether those that are not relieved have half of the weight.
    fn is_borne(&self, service: &Service, world: &World) -> bool {
        let standing = Standing::of(service, world);
        let (mut others, mut wanted) = (0, 0);
        for backend in &service.backends {
            let weight = u32::from(backend.weight);
            wanted += weight * u32::from(backend.pool == Pool::Primary && !backend.drain);
            let is_up = standing.state(service, backend, world) == BackendState::Up;
            let is_case = self.cases.contains_key(&target(service, &backend.name));
            others += weight * u32::from(is_up && !is_case);
        }
        others > 0 && others * 2 >= wanted
    }
}

fn target(service: &Service, backend: &str) -> TargetId {
    TargetId {
        service: service.name.clone(),
        backend: backend.to_owned(),
    }
}

#[cfg(test)]
mod tests;
