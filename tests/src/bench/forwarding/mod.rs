//! Packets forwarded a second over real interfaces: the balancer as its
//! daemon runs it, and nftables DNAT.
//!
//! One core makes the frames, receives them, forwards them and counts them at
//! the other end, so nothing is in its way and nobody helps it. What making
//! and receiving costs is measured by a bed where frames end as they come in;
//! without it is what forwarding alone takes.

mod bed;

use anyhow::{Context, Result};
use serde::Serialize;

use super::spread::Spread;
use crate::lab::cleanup;
use bed::{Bed, Forwarder, Place};

/// Times as many packets as nftables DNAT that the project holds itself to.
const TIMES_NFTABLES: f64 = 4.0;
/// Who competes; the first is what is subtracted.
const FORWARDERS: &[(&str, Forwarder)] = &[
    ("frames made and received, not forwarded", Forwarder::Nobody),
    ("this balancer, l2", Forwarder::Balancer("l2")),
    ("this balancer, ipip", Forwarder::Balancer("ipip")),
    ("this balancer, gue", Forwarder::Balancer("gue")),
    ("this balancer, nat", Forwarder::Balancer("nat")),
    ("nftables DNAT", Forwarder::Nftables),
];

/// What one of them did on so many cores.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    pub(super) who: &'static str,
    pub(super) cores: usize,
    /// With the work of making and receiving the frames.
    pub(super) packets_per_second: Spread,
    /// Without it.
    pub(super) forwarded_per_second: Option<f64>,
    /// Multiple of nftables DNAT's, without it.
    pub(super) of_nftables: Option<f64>,
    /// The least the project allows itself of that.
    pub(super) at_least: Option<f64>,
}

impl Figure {
    /// Whether the limit holds, where there is one.
    pub(super) fn is_met(&self) -> Option<bool> {
        Some(self.of_nftables? >= self.at_least?)
    }
}

/// Measures on one core, and on two where there are two.
pub(super) fn measure(rounds: usize, frames: u32, cpus: usize) -> Result<Vec<Figure>> {
    cleanup::on_signals()?;
    let mut figures = Vec::new();
    for cores in 1..=cpus.min(2) {
        figures.extend(on(cores, rounds, frames, cpus)?);
    }
    Ok(figures)
}

/// Sends frames through the balancer in each mode once; nearly all have to
/// arrive.
pub fn try_balancer(frames: u32) -> Result<()> {
    for (who, forwarder) in FORWARDERS {
        if matches!(forwarder, Forwarder::Balancer(_)) {
            let place = Place::build(1)?;
            let mut bed = Bed::build(&place, *forwarder).with_context(|| (*who).to_owned())?;
            bed.turn(&[0], frames).with_context(|| (*who).to_owned())?;
        }
    }
    Ok(())
}

fn on(cores: usize, rounds: usize, frames: u32, cpus: usize) -> Result<Vec<Figure>> {
    let cpus: Vec<usize> = (0..cpus).rev().take(cores).collect();
    let places = FORWARDERS.iter().map(|_| Place::build(cores));
    let places: Vec<Place> = places.collect::<Result<_>>()?;
    let mut beds = Vec::new();
    for ((who, forwarder), place) in FORWARDERS.iter().zip(&places) {
        let mut bed = Bed::build(place, *forwarder).with_context(|| (*who).to_owned())?;
        // Every flow once: connection tracking has met them all.
        bed.turn(&cpus, frames.min(10_000))
            .with_context(|| (*who).to_owned())?;
        beds.push((*who, *forwarder, bed, Vec::new()));
    }
    for _ in 0..rounds {
        for (who, _, bed, rates) in &mut beds {
            let turn = bed.turn(&cpus, frames).with_context(|| (*who).to_owned())?;
            rates.push(turn.received as f64 / turn.took.as_secs_f64());
        }
    }
    let rates: Vec<_> = beds
        .into_iter()
        .map(|(who, forwarder, _, rates)| (who, forwarder, Spread::of(rates)))
        .collect();
    Ok(figures(cores, &rates))
}

/// A packet's time at a rate adds up of its parts' times.
fn figures(cores: usize, rates: &[(&'static str, Forwarder, Spread)]) -> Vec<Figure> {
    let rate_of = |wanted| {
        let found = rates.iter().find(|(_, forwarder, _)| *forwarder == wanted);
        found.map(|(_, _, rate)| rate.median)
    };
    let made = rate_of(Forwarder::Nobody);
    // None where other load on the machine took more than forwarding did.
    let alone = |rate: f64| {
        let seconds = 1.0 / rate - 1.0 / made?;
        (seconds > 0.0).then(|| 1.0 / seconds)
    };
    let nftables = rate_of(Forwarder::Nftables).and_then(alone);
    rates
        .iter()
        .map(|(who, forwarder, rate)| {
            let forwards = *forwarder != Forwarder::Nobody;
            let is_ours = matches!(forwarder, Forwarder::Balancer(_));
            let forwarded = alone(rate.median).filter(|_| forwards);
            Figure {
                who,
                cores,
                packets_per_second: *rate,
                forwarded_per_second: forwarded,
                of_nftables: forwarded
                    .zip(nftables)
                    .filter(|_| is_ours)
                    .map(|(ours, theirs)| ours / theirs),
                at_least: (is_ours && cores == 1).then_some(TIMES_NFTABLES),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_making_frames_is_taken_off_before_rates_are_compared() {
        let rate = |rate: f64| Spread::of(vec![rate]);
        let figures = figures(
            1,
            &[
                ("made", Forwarder::Nobody, rate(10.0)),
                ("ours", Forwarder::Balancer("l2"), rate(5.0)),
                ("theirs", Forwarder::Nftables, rate(2.0)),
            ],
        );
        // 0.1 s of 0.2 s, and 0.1 s of 0.5 s, are making.
        assert!((figures[1].forwarded_per_second.unwrap() - 10.0).abs() < 1e-9);
        assert!((figures[2].forwarded_per_second.unwrap() - 2.5).abs() < 1e-9);
        assert!((figures[1].of_nftables.unwrap() - 4.0).abs() < 1e-9);
        assert_eq!(figures[0].forwarded_per_second, None);
        let noise = super::figures(
            1,
            &[
                ("made", Forwarder::Nobody, rate(10.0)),
                ("ours", Forwarder::Balancer("l2"), rate(10.5)),
            ],
        );
        assert_eq!(noise[1].forwarded_per_second, None);
        assert_eq!(figures[2].is_met(), None);
    }
}
