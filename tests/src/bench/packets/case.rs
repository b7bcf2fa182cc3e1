//! What a case is: tables, packets, what has to become of them, and what the
//! figure is held to.

use std::net::IpAddr;
use std::ops::Range;

use balancer_common::decap::{Form, gue};
use balancer_common::verdict::{Disposition, Reason};
use balancer_user::dataplane::bench::Stimulus;
use balancer_user::dataplane::decap::{Sources, Unwrapping};
use balancer_user::dataplane::trial::Action;

use super::scene::Scene;
use crate::bench::reference::Bound;

/// One line of the table.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) subject: Under,
    pub(super) stimulus: Stimulus,
    /// Tables and packets that come before; the case's tables follow as a
    /// change.
    pub(super) before: Option<(Scene, Stimulus)>,
    pub(super) expected: Expected,
    pub(super) bound: Option<Bound>,
    /// Another case whose figure this one may exceed by a factor.
    pub(super) against: Option<(&'static str, f64)>,
}

/// The program under test.
pub(super) enum Under {
    Balancer(Scene),
    /// The backend's side.
    Decap(Unwrapping),
}

/// What has to become of every packet of a case.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) action: Action,
    pub(super) why: Why,
    /// Bytes the frame grows by.
    pub(super) growth: i64,
    /// Counters of the members that may get packets: each gets some if there
    /// are flows enough.
    pub(super) members: Range<u32>,
}

/// Under which name every packet of a case is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// By the load balancer.
    Reason(Reason),
    /// By the backend's side.
    Form(Form),
}

impl Case {
    /// A case whose packets are forwarded to any member, without growing.
    pub(super) fn new(name: impl Into<String>, scene: Scene, stimulus: Stimulus) -> Self {
        Self {
            name: name.into(),
            stimulus,
            before: None,
            expected: Expected {
                action: Action::Tx,
                why: Why::Reason(Reason::Forwarded),
                growth: 0,
                members: 0..scene.counters(),
            },
            subject: Under::Balancer(scene),
            bound: None,
            against: None,
        }
    }

    /// A case of the backend's side, which trusts one outer source.
    pub(super) fn decap(
        name: impl Into<String>,
        source: IpAddr,
        stimulus: Stimulus,
        form: Form,
    ) -> Self {
        let unwrapping = Unwrapping {
            sources: Sources::In(vec![source.into()]),
            gue_port: gue::PORT,
        };
        Self {
            name: name.into(),
            subject: Under::Decap(unwrapping),
            stimulus,
            before: None,
            expected: Expected {
                action: Action::Pass,
                why: Why::Form(form),
                growth: 0,
                members: 0..0,
            },
            bound: None,
            against: None,
        }
    }

    pub(super) fn flows(mut self, flows: u64) -> Self {
        self.stimulus.flows = flows;
        self
    }

    pub(super) fn ever_new(self) -> Self {
        self.flows(Stimulus::EVER_NEW)
    }

    /// Spreads the flows over all services of the scene.
    pub(super) fn over(mut self, services: u32) -> Self {
        self.stimulus.services = services;
        self
    }

    pub(super) fn grows(mut self, growth: i64) -> Self {
        self.expected.growth = growth;
        self
    }

    /// Nobody gets the packets, for this reason.
    pub(super) fn ends(mut self, reason: Reason) -> Self {
        self.expected.why = Why::Reason(reason);
        self.expected.members = 0..0;
        self.expected.action = match reason.disposition() {
            Disposition::Pass => Action::Pass,
            Disposition::Drop => Action::Drop,
            Disposition::Forward | Disposition::Answer => Action::Tx,
        };
        self
    }

    /// Only these members get packets.
    pub(super) fn to(mut self, members: Range<u32>) -> Self {
        self.expected.members = members;
        self
    }

    /// Runs these packets through these tables first.
    pub(super) fn after(mut self, scene: Scene, stimulus: Stimulus) -> Self {
        self.before = Some((scene, stimulus));
        self
    }

    pub(super) fn at_most(mut self, at_most: f64, reference: f64) -> Self {
        self.bound = Some(Bound::new(reference, at_most));
        self
    }

    pub(super) fn beside(mut self, reference: f64) -> Self {
        self.bound = Some(Bound {
            reference,
            at_most: None,
        });
        self
    }

    /// The figure of `case` times `factor` is the most this one may be.
    pub(super) fn within(mut self, factor: f64, case: &'static str) -> Self {
        self.against = Some((case, factor));
        self
    }
}
