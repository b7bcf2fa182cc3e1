//! What a configuration is made of beside a file: changes and drains made by
//! command. Pure but for the time of a drain.

use super::unix_now;
use crate::api::types::Change;
use crate::revision::{OperatorDrain, Origin};

/// Notes a change made by command. Drains are kept apart, as they outlive a
/// re-reading of the file.
pub(super) fn note(origin: &mut Origin, change: &Change, summary: &str) {
    let position = |origin: &Origin, service: &str, backend: &str| {
        let mut drains = origin.drains.iter();
        drains.position(|it| it.service == service && it.backend == backend)
    };
    match change {
        Change::BackendDrain { service, backend } => {
            origin.drains.push(OperatorDrain {
                service: service.clone(),
                backend: backend.clone(),
                since: unix_now(),
            });
            return;
        }
        Change::BackendUndrain { service, backend } => {
            if let Some(at) = position(origin, service, backend) {
                origin.drains.remove(at);
                return;
            }
        }
        Change::BackendRemove { service, backend } => {
            if let Some(at) = position(origin, service, backend) {
                origin.drains.remove(at);
            }
        }
        Change::ServiceRemove { service } => {
            origin.drains.retain(|drain| drain.service != *service);
        }
        Change::ServiceAdd { .. } | Change::BackendAdd { .. } | Change::BackendWeight { .. } => {}
    }
    origin.changes.push(summary.to_owned());
}

/// All that a command changed, a sentence each.
pub(super) fn sentences(origin: &Origin) -> Vec<String> {
    let drains = origin.drains.iter().map(|drain| {
        format!(
            "service {}: backend {} drains",
            drain.service, drain.backend
        )
    });
    origin.changes.iter().cloned().chain(drains).collect()
}
