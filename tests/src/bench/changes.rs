//! What a change costs, from command to kernel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use balancer_common::layout::{Member, Slot};
use balancer_user::api::types::Changed;
use balancer_user::dataplane::trial::Trial;
use balancer_user::dataplane::{ServiceKey, ServiceState, State, Table};
use balancer_user::maglev;
use bytemuck::Zeroable;
use serde::Serialize;

use super::spread::Spread;
use crate::balancer::Balancer;
use crate::lab::{Lab, LabConfig, cleanup};

const TABLE_SIZE: u32 = 65_537;
const SERVICES: usize = 200;
const BACKENDS: usize = 50;

/// One measurement.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    pub(super) what: String,
    pub(super) micros: Spread,
}

/// Building a table, filling it in the kernel, and a change by command.
pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    cleanup::on_signals()?;
    let mut figures = vec![
        table_build(rounds, 50),
        table_build(rounds, 100),
        table_fill(rounds)?,
    ];
    figures.extend(change(rounds)?);
    Ok(figures)
}

fn figure(what: impl Into<String>, times: Vec<Duration>) -> Figure {
    let micros = times.iter().map(|time| time.as_secs_f64() * 1e6);
    Figure {
        what: what.into(),
        micros: Spread::of(micros.collect()),
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}

fn table_build(rounds: usize, backends: usize) -> Figure {
    let names: Vec<String> = (0..backends).map(|n| format!("backend-{n}")).collect();
    let entries: Vec<maglev::Entry<'_>> = names
        .iter()
        .enumerate()
        .map(|(index, identity)| maglev::Entry {
            identity,
            index: index as u16,
            weight: 100 + index as u16,
        })
        .collect();
    let times = (0..rounds)
        .map(|_| timed(|| std::hint::black_box(maglev::build(&entries, TABLE_SIZE))).1)
        .collect();
    figure(
        format!("build a table: {TABLE_SIZE} slots, {backends} backends"),
        times,
    )
}

/// A change of the only service: slots, members, buckets and the flip.
fn table_fill(rounds: usize) -> Result<Figure> {
    let state = |member: u16| {
        let mut state = State::empty();
        let key = ServiceKey {
            address: [192, 0, 2, 1].into(),
            port: 80,
            protocol: 6,
        };
        let table = Table::new(Arc::from(vec![Slot::settled(member); TABLE_SIZE as usize]));
        let service = ServiceState::new(vec![key], vec![Member::zeroed(); 2], table);
        state.services.insert(1, service);
        state
    };
    let states = [state(0), state(1)];
    let mut trial = Trial::load(&states[0])?;
    let mut times = Vec::new();
    for round in 0..rounds {
        // The second change in a row waits for the readers of the first; a
        // change that comes alone does not, so that is not measured here.
        trial.settle()?;
        let (result, time) = timed(|| trial.change(&states[(round + 1) % 2]));
        result?;
        times.push(time);
    }
    Ok(figure(
        format!("fill {TABLE_SIZE} slots in the kernel and flip"),
        times,
    ))
}

fn change(rounds: usize) -> Result<Vec<Figure>> {
    let lab = Lab::l2(LabConfig::backends(1))?;
    let balancer = Balancer::start(lab.balancer().namespace(), &["eth0"], &services())
        .context("starting the balancer")?;
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let weight = (101 + round % 2).to_string();
        let arguments = ["backend", "weight", "service-100", "b7", &weight, "--json"];
        let (output, time) = timed(|| balancer.succeed(&arguments));
        let changed: Changed = serde_json::from_str(&output?)?;
        let micros = changed.duration_micros.context("no duration")?;
        inside.push(Duration::from_micros(micros));
        outside.push(time);
    }
    let of = format!("{SERVICES} services of {BACKENDS} backends");
    Ok(vec![
        figure(format!("change a weight, {of}: request to flip"), inside),
        figure(format!("change a weight, {of}: whole command"), outside),
    ])
}

fn services() -> String {
    let mut text = String::new();
    for service in 0..SERVICES {
        text.push_str(&format!(
            "[[service]]\nname = \"service-{service}\"\naddress = \"198.51.100.{service}\"\n\
             port = 80\nprotocol = \"tcp\"\nforward = \"l2\"\n"
        ));
        for backend in 0..BACKENDS {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.9.{service}.{}\"\n\
                 mac = \"02:00:00:00:{service:02x}:{backend:02x}\"\n",
                backend + 1
            ));
        }
    }
    text
}
