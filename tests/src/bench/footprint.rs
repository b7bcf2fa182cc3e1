//! What a loaded balancer takes of the kernel: memory of its maps,
//! instructions verified, machine code, time to load.

use std::time::Duration;

use anyhow::Result;
use balancer_common::features::Features;
use balancer_user::dataplane::bench::{Footprint, Subject};
use serde::Serialize;

use super::packets::many_services;
use super::reference::{self, Bound};
use super::spread::Spread;

/// Backends of each service.
const BACKENDS: u16 = 16;
const MEGABYTE: f64 = 1e6;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Amount {
    pub(super) what: String,
    pub(super) unit: &'static str,
    /// The median, where it was measured more than once.
    pub(super) amount: f64,
    /// Of what differs from round to round.
    pub(super) spread: Option<Spread>,
    pub(super) reference: Option<f64>,
    /// Most the project allows itself.
    pub(super) limit: Option<f64>,
}

impl Amount {
    fn new(what: impl Into<String>, unit: &'static str, amount: f64) -> Self {
        Self {
            what: what.into(),
            unit,
            amount,
            spread: None,
            reference: None,
            limit: None,
        }
    }

    fn of_rounds(what: impl Into<String>, unit: &'static str, spread: Spread) -> Self {
        Self {
            spread: Some(spread),
            ..Self::new(what, unit, spread.median)
        }
    }

    fn held_to(self, bound: Bound) -> Self {
        Self {
            reference: Some(bound.reference),
            limit: bound.limit(),
            ..self
        }
    }

    /// Whether the limit holds, where there is one.
    pub(super) fn is_met(&self) -> Option<bool> {
        self.limit.map(|limit| self.amount <= limit)
    }
}

/// Loads the balancer for few and many services and looks at what that takes.
pub(super) fn measure(rounds: usize) -> Result<Vec<Amount>> {
    let mut amounts = Vec::new();
    for (services, at_most) in [(16, 0.03), (512, 0.15)] {
        let footprint = loaded(services, None)?;
        let what = format!("maps, {services} services of {BACKENDS} backends");
        let bound = Bound::new(reference::MAP_MEGABYTES, at_most);
        let megabytes = footprint.map_bytes() as f64 / MEGABYTE;
        amounts.push(Amount::new(what, "MB", megabytes).held_to(bound));
    }
    for (name, features, at_most) in [
        ("what 16 services of ipip over IPv4 need", None, None),
        ("all features on", Some(Features::ALL), Some(1.0)),
    ] {
        let footprint = loaded(16, features)?;
        let bound = Bound {
            reference: reference::VERIFIED_INSTRUCTIONS,
            at_most,
        };
        let verified = f64::from(footprint.verified_instructions);
        amounts.push(
            Amount::new(format!("instructions verified, {name}"), "", verified).held_to(bound),
        );
        let machine_code = f64::from(footprint.machine_code_len) / 1e3;
        amounts.push(Amount::new(
            format!("machine code, {name}"),
            "kB",
            machine_code,
        ));
        let times = (0..rounds).map(|_| Ok(millis(loaded(16, features)?.load_time)));
        let load = Spread::of(times.collect::<Result<_>>()?);
        amounts.push(Amount::of_rounds(format!("load time, {name}"), "ms", load));
    }
    Ok(amounts)
}

fn loaded(services: u32, features: Option<Features>) -> Result<Footprint> {
    let state = many_services(services, BACKENDS);
    let mut subject = match features {
        None => Subject::balancer(&state)?,
        Some(features) => Subject::balancer_with(&state, features)?,
    };
    Ok(subject.footprint()?)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
