//! What a plan found, for the change that mostly follows it.
//!
//! `balancer apply` shows the plan, and then asks for the change. A large file
//! is read, checked and planned in a second: where all that this goes by is as
//! it was a moment ago, the change begins with what was found then, and with
//! what a person has seen. How busy backends are may have changed meanwhile.

use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::planning::{Judged, Terms};
use crate::plan::Base;
use crate::revision::digest;

/// How long it is kept.
const KEPT: Duration = Duration::from_secs(30);

/// The last one.
static LAST: Mutex<Option<(Ground, Instant, Judged)>> = Mutex::new(None);

/// All that a plan goes by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ground {
    /// Digest of the text.
    text: String,
    name: String,
    allow: Vec<String>,
    revision: Option<u64>,
    /// Of who is up, of drains made by command, and of the tables in force
    /// with their members.
    running: u128,
}

impl Ground {
    pub(super) fn of(base: &Base, name: &str, text: &str, terms: &Terms) -> Self {
        let mut running = SipHasher13::new();
        base.health.hash(&mut running);
        running.write_usize(base.drains.len());
        for drain in &base.drains {
            drain.id.hash(&mut running);
        }
        let services = base.config.iter().flat_map(|config| &config.services);
        for service in services {
            let held = base.held.get(&service.name);
            service.name.hash(&mut running);
            held.map(|held| &held.table).hash(&mut running);
            for seat in held.iter().flat_map(|held| &held.seats) {
                let seat = seat.as_ref().map(|seat| (&seat.backend, seat.address));
                seat.hash(&mut running);
            }
        }
        Self {
            text: digest(text),
            name: name.to_owned(),
            allow: terms.allow.clone(),
            revision: base.revision,
            running: running.finish128().as_u128(),
        }
    }
}

/// Keeps what a plan found, but for what nobody asks for any more.
pub(super) fn keep(ground: Ground, judged: &mut Judged, now: Instant) {
    let kept = Judged {
        plan: judged.plan.as_mut().map(crate::plan::Plan::for_record),
        config: judged.config.clone(),
        report: judged.report.without_text(),
    };
    *last() = Some((ground, now + KEPT, kept));
}

/// Takes it where it goes by the same.
pub(super) fn take(ground: &Ground, now: Instant) -> Option<Judged> {
    let (known, until, judged) = last().take()?;
    (known == *ground && now < until).then_some(judged)
}

/// Forgets what was kept for long enough.
pub(super) fn forget_old(now: Instant) {
    last().take_if(|(_, until, _)| *until <= now);
}

fn last() -> std::sync::MutexGuard<'static, Option<(Ground, Instant, Judged)>> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::health::State;
    use crate::plan::{self, OperatorDrain};
    use crate::probe::scheduler::TargetId;

    fn ground(base: &Base, text: &str, allow: &[&str]) -> Ground {
        let terms = Terms {
            allow: allow.iter().map(ToString::to_string).collect(),
            reason: None,
        };
        Ground::of(base, "file", text, &terms)
    }

    #[test]
    fn what_a_plan_found_is_taken_once_and_only_where_all_is_as_it_was() {
        let text = config::testing::SAMPLE;
        let examined = config::examine("file", text.to_owned(), None);
        let config = examined.config.unwrap();
        let base = Base::default();
        let tables = crate::change::TableMemo::default();
        let mut judged = Judged {
            plan: Some(plan::make(&base, &config, &plan::Proofs::new(), &tables)),
            config: Some(config),
            report: examined.report,
        };
        let now = Instant::now();
        let mut keep = |base: &Base| keep(ground(base, text, &[]), &mut judged, now);

        keep(&base);
        let found = take(&ground(&base, text, &[]), now).unwrap();
        assert!(found.plan.is_some() && found.config.is_some());
        assert_eq!(found.report.text(), "");
        assert!(take(&ground(&base, text, &[]), now).is_none(), "it is gone");

        let id = TargetId {
            service: "web".to_owned(),
            backend: "a".to_owned(),
        };
        let mut ill = base.clone();
        ill.health.insert(id.clone(), State::Down);
        let mut drained = base.clone();
        drained.drains.push(OperatorDrain { id, age: None });
        let mut later = base.clone();
        later.revision = Some(2);
        for other in [
            ground(&ill, text, &[]),
            ground(&drained, text, &[]),
            ground(&later, text, &[]),
            ground(&base, "another text", &[]),
            ground(&base, text, &["blast-radius"]),
        ] {
            keep(&base);
            assert!(take(&other, now).is_none(), "{other:?}");
        }

        keep(&base);
        assert!(take(&ground(&base, text, &[]), now + KEPT).is_none());
        keep(&base);
        forget_old(now);
        assert!(last().is_some());
        forget_old(now + KEPT);
        assert!(last().is_none());
    }
}
