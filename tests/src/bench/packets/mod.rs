//! Nanoseconds a packet, by test run.
//!
//! Each case loads the real program with real tables and has a hot loop run
//! it over the case's packets; see `balancer_user::dataplane::bench`. Before
//! any timing, [`verify`] makes sure that what is timed is what the case is
//! named for. A figure is net of the floor: the same loop, over the same
//! packets, around a program that does nothing but return. Floor and case
//! take turns.

mod case;
mod cases;
mod frames;
mod picky;
mod scene;
mod verify;

use anyhow::{Context, Result};
use balancer_user::dataplane::State;
use balancer_user::dataplane::bench::{Chosen, HotLoop, Stimulus, Subject};
use serde::Serialize;

use super::reference::Bound;
use super::spread::Spread;
use crate::model::build::TCP;
use case::{Case, Under};
use scene::Scene;

/// Turns of each kind in a round.
const TURNS: usize = 6;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds; medians and deciles are over these.
    pub rounds: usize,
    /// Packets of one round.
    pub packets: u32,
}

/// The figure of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The case.
    pub case: String,
    /// Nanoseconds a packet, net of the floor.
    pub net_nanos: Spread,
    /// The floor under this case.
    pub floor_nanos: Spread,
    /// Net figure of the reference, in nanoseconds.
    pub reference_nanos: Option<f64>,
    /// Multiple of the reference.
    pub of_reference: Option<f64>,
    /// Most nanoseconds the project allows itself.
    pub limit_nanos: Option<f64>,
}

impl Figure {
    /// Whether the limit holds, where there is one.
    pub fn is_met(&self) -> Option<bool> {
        self.limit_nanos.map(|limit| self.net_nanos.median <= limit)
    }
}

/// What the loop itself costs.
#[derive(Debug, Clone, Serialize)]
pub struct Floors {
    /// An empty program: subtracted from every case.
    pub empty_nanos: Spread,
    /// A program that moves the head by 20 bytes, net of the empty one: what
    /// the helper costs a program that encapsulates. Subtracted from nothing.
    pub move_nanos: Spread,
}

/// What chooses all cases and nothing else.
const ALL: &str = "packets";

/// Names of the cases that `only` chooses: those that contain it, or all.
pub fn names(only: Option<&str>) -> Vec<String> {
    let all = cases::all().into_iter().map(|case| case.name);
    all.filter(|name| is_chosen(name, only)).collect()
}

fn is_chosen(name: &str, only: Option<&str>) -> bool {
    only.is_none_or(|part| part == ALL || name.contains(part))
}

/// Measures the floors.
pub fn floors(effort: Effort) -> Result<Floors> {
    let case = cases::all().remove(0);
    let (_subject, mut hot) = prepare(&case)?;
    let mut empty = Vec::new();
    let mut moves = Vec::new();
    for _ in 0..effort.rounds {
        let Round { floor, whole } = round(&mut hot, Chosen::FloorMove, effort)?;
        empty.push(floor);
        moves.push(whole - floor);
    }
    Ok(Floors {
        empty_nanos: Spread::of(empty),
        move_nanos: Spread::of(moves),
    })
}

/// Measures the chosen cases in turn and hands each figure on as it is known.
/// The thread has to stay on its CPU, which has its own part of a pool's ports.
pub fn measure(
    effort: Effort,
    only: Option<&str>,
    mut known: impl FnMut(&Figure),
) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = Vec::new();
    for case in cases::all() {
        if !is_chosen(&case.name, only) {
            continue;
        }
        let mut figure =
            measure_one(&case, effort).with_context(|| format!("case {}", case.name))?;
        if let Some((other, factor)) = case.against
            && let Some(other) = figures.iter().find(|figure| figure.case == other)
        {
            figure.limit_nanos = Some(other.net_nanos.median * factor);
        }
        known(&figure);
        figures.push(figure);
    }
    Ok(figures)
}

fn measure_one(case: &Case, effort: Effort) -> Result<Figure> {
    let (mut subject, mut hot) = prepare(case)?;
    verify::check(case, &mut subject, &mut hot)?;
    warm(&mut hot, case.stimulus.flows, effort)?;
    let rounds = (0..effort.rounds).map(|_| round(&mut hot, Chosen::Subject, effort));
    let rounds: Vec<Round> = rounds.collect::<Result<_>>()?;
    let nets = rounds.iter().map(|round| round.whole - round.floor);
    let nets = nets.collect();
    let floors = rounds.iter().map(|round| round.floor).collect();
    let net_nanos = Spread::of(nets);
    Ok(Figure {
        case: case.name.clone(),
        floor_nanos: Spread::of(floors),
        reference_nanos: case.bound.map(|bound| bound.reference),
        of_reference: case.bound.map(|bound| net_nanos.median / bound.reference),
        limit_nanos: case.bound.and_then(Bound::limit),
        net_nanos,
    })
}

/// One round: what a packet takes in the loop around a program that does
/// nothing, and in one of those around this program.
#[derive(Debug, Clone, Copy)]
struct Round {
    floor: f64,
    whole: f64,
}

/// Measures in [`TURNS`] short turns each, that alternate. What else happens,
/// on this machine or in another guest of its host, comes and goes within
/// milliseconds and only ever adds: of each kind the first quartile is taken.
fn round(hot: &mut HotLoop, chosen: Chosen, effort: Effort) -> Result<Round> {
    let packets = (effort.packets / TURNS as u32).max(1);
    let mut floors = Vec::with_capacity(TURNS);
    let mut wholes = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        floors.push(hot.run(Chosen::Floor, packets)?.nanos);
        wholes.push(hot.run(chosen, packets)?.nanos);
    }
    Ok(Round {
        floor: first_quartile(floors),
        whole: first_quartile(wholes),
    })
}

fn first_quartile(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 4]
}

/// What the kernel holds for so many TCP services behind IPv4 tunnels.
pub(super) fn many_services(services: u32, backends: u16) -> State {
    Scene::new([192, 0, 0, 0], 80, TCP)
        .many(services, backends)
        .state()
}

/// Datagrams to a service that a host's stack takes for whole: the IPv4
/// header's checksum holds, and there is none for UDP.
pub(super) fn datagrams_to(service: &str, flows: u64, to: [u8; 6]) -> Stimulus {
    frames::checked(frames::datagram(frames::CLIENT_V4, service), to).with_flows(flows)
}

/// Loads the program and lets what comes before the case happen.
fn prepare(case: &Case) -> Result<(Subject, HotLoop)> {
    let mut subject = match &case.subject {
        Under::Balancer(scene) => {
            let first = case.before.as_ref().map_or(scene, |(before, _)| before);
            Subject::balancer(&first.state())?
        }
        Under::Decap(unwrapping) => Subject::decap(unwrapping)?,
    };
    if let Some((_, stimulus)) = &case.before {
        let mut hot = HotLoop::load(&mut subject, stimulus)?;
        run_all(&mut hot, stimulus.flows)?;
        if let Under::Balancer(scene) = &case.subject {
            subject.change(&scene.state())?;
        }
    }
    let hot = HotLoop::load(&mut subject, &case.stimulus)?;
    Ok((subject, hot))
}

/// Every flow once, so that no round is the first to meet one.
fn warm(hot: &mut HotLoop, flows: u64, effort: Effort) -> Result<()> {
    if flows < Stimulus::EVER_NEW && u64::from(effort.packets) < flows {
        run_all(hot, flows)?;
    }
    hot.run(Chosen::Subject, effort.packets)?;
    Ok(())
}

fn run_all(hot: &mut HotLoop, flows: u64) -> Result<()> {
    const AT_A_TIME: u64 = 1 << 20;
    let mut left = flows;
    while left > 0 {
        let count = left.min(AT_A_TIME);
        hot.run(Chosen::Subject, count as u32)?;
        left -= count;
    }
    Ok(())
}
