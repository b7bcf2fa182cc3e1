//! What a configuration is made of beside a file: changes and drains made by
//! command. Pure but for the time of a drain.

use super::unix_now;
use crate::change::Edit;
use crate::probe::scheduler::TargetId;
use crate::revision::{OperatorDrain, Origin};

/// Notes a change made by command. Drains are kept apart, as they outlive a
/// re-reading of the file.
pub(super) fn note(origin: &mut Origin, edit: Edit) {
    let is_of =
        |it: &OperatorDrain, id: &TargetId| it.service == id.service && it.backend == id.backend;
    match &edit {
        Edit::Drained(id) => {
            origin.drains.push(OperatorDrain {
                service: id.service.clone(),
                backend: id.backend.clone(),
                since: unix_now(),
            });
            return;
        }
        Edit::Undrained(id) => {
            let drains = origin.drains.len();
            origin.drains.retain(|it| !is_of(it, id));
            if origin.drains.len() < drains {
                return;
            }
        }
        Edit::BackendRemoved(id) => origin.drains.retain(|it| !is_of(it, id)),
        Edit::ServiceRemoved(service) => origin.drains.retain(|it| it.service != *service),
        Edit::ServicesAdded(_) | Edit::BackendAdded(_) | Edit::Weight { .. } | Edit::Whole(_) => {}
    }
    edit.join(&mut origin.changes);
}

/// All that a command changed, a sentence each.
pub(super) fn sentences(origin: &Origin) -> Vec<String> {
    let drains = origin.drains.iter().map(|drain| {
        format!(
            "service {}: backend {} drains",
            drain.service, drain.backend
        )
    });
    origin
        .changes
        .iter()
        .map(Edit::to_string)
        .chain(drains)
        .collect()
}
