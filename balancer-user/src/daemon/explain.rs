//! Answers which backend a flow gets now.

use super::controller::Controller;
use super::hops;
use super::report::last_failure;
use crate::api::types::{ExplainRequest, ExplainedBackend, Explanation, Problem};
use crate::config::model::Service;
use crate::dataplane::shadow::{Question, Shadow};
use crate::desired::{self, Seat};
use crate::explain::{Known, explain};
use crate::probe::scheduler::TargetId;
use crate::rehearsal::{NamedState, Names};

/// The loopback's number: packets of a test run come in there where no
/// interface of the file is.
const LOOPBACK: u32 = 1;

impl Controller {
    /// Asks the copy; nothing if its tables are no longer in force.
    pub(super) fn explain(
        &mut self,
        request: &ExplainRequest,
        shadow: &mut Shadow,
    ) -> Option<Result<Explanation, Problem>> {
        let blueprint = self.dataplane.blueprint()?;
        if !blueprint.is_of_same_tables(shadow.blueprint()) {
            return None;
        }
        let named = self.in_force();
        let first = self.config.node.interfaces.first();
        let interface = first.and_then(|name| nix::net::if_::if_nametoindex(name.as_str()).ok());
        let options = |id| Some(named.state.services.get(&id)?.options);
        let result = explain(request, "running", &named, &*self, |frame, packet| {
            let question = Question {
                frame,
                interface: interface.unwrap_or(LOOPBACK),
                packet,
            };
            shadow.ask(&question, options)
        });
        Some(result.map_err(|error| Problem {
            title: "not explained".to_owned(),
            status: 500,
            detail: format!("the kernel program could not be asked: {error}"),
        }))
    }

    /// What is in force, with slots and names.
    pub(super) fn in_force(&self) -> NamedState {
        let state = self.dataplane.written().clone();
        NamedState {
            names: Names::of(&self.builder, &state),
            state,
        }
    }
}

impl Known for Controller {
    fn service(&self, name: &str) -> Option<&Service> {
        self.config.service(name)
    }

    fn backend(&self, service: &Service, name: &str) -> Option<ExplainedBackend> {
        let backend = service.backend(name)?;
        let id = TargetId {
            service: service.name.clone(),
            backend: name.to_owned(),
        };
        let target = self.scheduler.states().one(&id);
        let monitor = target.as_ref().map(|target| &target.monitor);
        let seats = self.builder.seats(&service.name);
        let is_its = |seat: &&Seat| *seat.backend == *name;
        let slot_count = seats
            .iter()
            .flatten()
            .find(is_its)
            .map_or(0, |it| it.slot_count);
        let all = self.builder.slot_count(&service.name).max(1);
        Some(ExplainedBackend {
            backend: name.to_owned(),
            address: backend.address,
            state: desired::backend_state(service, backend, &self.world)
                .name()
                .to_owned(),
            last_failure: monitor.and_then(last_failure),
            next_hop: hops::describe(&self.config.node, service, backend, &self.found),
            weight: backend.weight,
            slot_count,
            share_expected: f64::from(slot_count) / f64::from(all),
        })
    }
}
