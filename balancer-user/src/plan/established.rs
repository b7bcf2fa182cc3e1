//! What becomes of flows that exist (`docs/flow-affinity.md`).
//!
//! A TCP flow of a slot that moves stays where it is: the slot keeps its
//! `previous` owner until the flows of it have been silent for the service's
//! `drain_timeout`. What is not covered by that breaks, and is named here.

use std::collections::HashMap;

use super::service::Step;
use super::tables::{Comparison, Owner, part};
use super::types::{Break, Established};
use crate::config::model::{Affinity, Backend, Protocol, Service};

/// What becomes of the flows of a service.
pub(super) fn of(step: &Step<'_>, comparison: &Comparison<'_>) -> Established {
    let mut found = Established::default();
    let Some(before) = step.before else {
        return found;
    };
    let Some(after) = step.after else {
        found.breaks.push(of_all("the service is removed"));
        found.share_breaking = 1.0;
        return found;
    };
    if let Some(why) = cut_off(before, after) {
        found.breaks.push(of_all(&why));
        found.share_breaking = 1.0;
        return found;
    }
    found.breaks.extend(shut_out(before, after));
    let known: HashMap<&str, &Backend> = before
        .backends
        .iter()
        .map(|backend| (backend.name.as_str(), backend))
        .collect();
    let owners = comparison.owners.iter();
    let lost: Vec<Option<&str>> = owners
        .map(|owner| {
            owner.seat?;
            lost(owner, known.get(owner.name)?, after)
        })
        .collect();
    for (owner, why) in comparison.owners.iter().zip(&lost) {
        if let Some(why) = why {
            found.breaks.push(Break {
                backend: Some(owner.name.to_owned()),
                share: Some(part(owner.slots_now, comparison.len_now)),
                why: (*why).to_owned(),
            });
        }
    }
    let stays = |owner: usize| comparison.owners[owner].position.is_some() && lost[owner].is_none();
    moved(step, after, comparison, stays, &mut found);
    let newly_drained = |backend: &&Backend| {
        let was = known.get(backend.name.as_str());
        backend.drain && was.is_some_and(|was| !was.drain && was.address == backend.address)
    };
    if !after.drain_timeout.is_zero() {
        let drained = after.backends.iter().filter(newly_drained);
        found.drained = drained.map(|backend| backend.name.clone()).collect();
    }
    if found.share_kept > 0.0 || !found.drained.is_empty() {
        found.kept_seconds = Some(after.drain_timeout.as_secs());
    }
    let shares = found.breaks.iter().filter_map(|it| it.share);
    found.share_breaking = shares.sum::<f64>().min(1.0);
    found
}

fn of_all(why: &str) -> Break {
    Break {
        backend: None,
        share: Some(1.0),
        why: why.to_owned(),
    }
}

/// Why nothing of a service's flows can go on, if so.
fn cut_off(before: &Service, after: &Service) -> Option<String> {
    if before.address != after.address {
        return Some(format!("the service leaves {}", before.address));
    }
    if before.protocol != after.protocol {
        return Some(format!("the service no longer takes {}", before.protocol));
    }
    let translates = before.forward.is_translation() || after.forward.is_translation();
    (before.forward != after.forward && translates).then(|| {
        format!(
            "packets reach the servers by {} and no longer by {}",
            after.forward, before.forward
        )
    })
}

/// Clients that are let in no more; how many flows that is nobody knows.
fn shut_out(before: &Service, after: &Service) -> Option<Break> {
    let closes = before.ports != after.ports && !covers(after, before);
    let filters = before.allow_sources != after.allow_sources
        || after
            .deny_sources
            .iter()
            .any(|denied| !before.deny_sources.contains(denied));
    let why = match (closes, filters) {
        (true, _) => "the service leaves some of its ports",
        (false, true) => "other clients are let in",
        (false, false) => return None,
    };
    Some(Break {
        backend: None,
        share: None,
        why: why.to_owned(),
    })
}

/// Whether `wide` serves all ports that `narrow` does.
pub(super) fn covers(wide: &Service, narrow: &Service) -> bool {
    use crate::config::model::Ports;
    match (&wide.ports, &narrow.ports) {
        (Ports::Any, _) => true,
        (_, Ports::Any) => false,
        (wide, narrow) => {
            let served: std::collections::HashSet<u16> = wide.iter().collect();
            narrow.iter().all(|port| served.contains(&port))
        }
    }
}

/// Why an owner's flows break, if they do.
fn lost(owner: &Owner<'_>, was: &Backend, after: &Service) -> Option<&'static str> {
    let Some(backend) = owner.position.map(|position| &after.backends[position]) else {
        let replaced = after.backend(owner.name).is_some();
        return Some(match replaced {
            true => "another server gets its name",
            false => "it is removed",
        });
    };
    if after.forward.is_translation() && was.port != backend.port {
        return Some("its port changes");
    }
    if backend.drain && !was.drain && after.drain_timeout.is_zero() {
        return Some("it is drained, and drain_timeout is 0");
    }
    None
}

/// Flows of slots that move away from backends that stay.
fn moved(
    step: &Step<'_>,
    after: &Service,
    comparison: &Comparison<'_>,
    stays: impl Fn(usize) -> bool,
    found: &mut Established,
) {
    let pairs = comparison.pairs.iter();
    let leaving = pairs.filter(|pair| pair.from.is_some_and(&stays));
    let share = match step.is_rehashed() {
        true => step.share_moved(comparison),
        false => comparison.share(leaving.map(|pair| pair.count).sum()),
    };
    if share == 0.0 {
        return;
    }
    let records_all = matches!(after.affinity, Affinity::Flow { .. });
    let why = if step.is_rehashed() {
        "another hash says whose they are"
    } else if records_all {
        // Each flow has a record of its own, whatever its slot.
        found.share_kept = share;
        return;
    } else if step.resized {
        "table_size changes"
    } else if after.protocol == Protocol::Udp {
        "UDP by hash follows its slot at once"
    } else if after.drain_timeout.is_zero() {
        "drain_timeout is 0"
    } else {
        found.share_kept = share;
        return;
    };
    found.breaks.push(Break {
        backend: None,
        share: Some(share),
        why: format!("flows of slots that move: {why}"),
    });
}
