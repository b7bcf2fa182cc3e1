//! Slots in change settle when the kernel's marks say that their old flows
//! have been silent for long enough.

use std::time::Instant;

use super::controller::Controller;
use crate::dataplane::Dataplane;
use crate::desired::Builder;

/// Ends the rounds that are over: the next state built has the slots of
/// which nothing was heard settled.
pub(super) fn end_rounds(builder: &mut Builder, dataplane: &mut dyn Dataplane, now: Instant) {
    for service in builder.rounds_over(now) {
        let marks = tokio::task::block_in_place(|| dataplane.take_marks(service));
        let marks = marks.unwrap_or_else(|error| {
            tracing::error!(%error, "silence cannot be told; slots stay in change");
            Vec::new()
        });
        builder.end_round(service, &marks, now);
    }
}

impl Controller {
    /// It is time to look whether slots settle.
    pub(super) fn on_settled(&mut self) {
        let _ = self.reconcile(
            "flows of earlier owners are silent or out of time",
            Instant::now(),
        );
    }
}
