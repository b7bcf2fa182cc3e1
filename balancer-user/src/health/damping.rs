//! Keeps out, for a growing time, a backend that goes up and down.
//!
//! Each change of state moves slots and costs flows; one who comes up only to
//! fall again costs more than he carries. A fall soon after the backend came
//! up adds to a row, a longer time up begins a new one. Beyond the limit each
//! fall keeps it out for twice as long as the one before, within a bound. Pure.

use std::time::{Duration, Instant};

use crate::config::model::Flap;

/// What is remembered of the falls of one backend.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Damping {
    falls: u32,
    held_until: Option<Instant>,
}

impl Damping {
    /// Notes a fall after so much time up.
    pub(super) fn fall(&mut self, flap: &Flap, was_up: Duration, now: Instant) {
        if was_up >= flap.window {
            self.falls = 0;
        }
        self.falls = self.falls.saturating_add(1);
        let beyond = self.falls.saturating_sub(flap.limit);
        self.held_until = (beyond > 0).then(|| {
            let doubled = 1_u32.checked_shl(beyond - 1).unwrap_or(u32::MAX);
            now + flap.hold.saturating_mul(doubled).min(flap.hold_max)
        });
    }

    /// Whether the backend is to be kept out.
    pub(super) fn holds(&self, flap: &Flap, now: Instant) -> bool {
        flap.limit > 0 && self.held_until.is_some_and(|until| now < until)
    }

    /// When the last hold ends or has ended.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Falls in a row, each soon after the backend came up.
    pub(super) fn falls(&self) -> u32 {
        self.falls
    }
}
