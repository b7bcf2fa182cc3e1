//! Web requests through what a user would put in front of two servers.
//!
//! wrk asks nginx through the balancer, nftables DNAT, HAProxy, nginx's stream
//! proxy, and without anything in between. Client, middle and servers share
//! the machine's CPUs, so the rates are of all of them together; what tells
//! contenders apart is the CPU time of all of them for a request, less that of
//! a request with a mere wire in the middle.

mod contender;
mod cpu;
mod place;

use anyhow::{Context, Result, ensure};
use balancer_user::dataplane::bench::time_programs;
use serde::Serialize;

use super::spread::Spread;
use crate::lab::cleanup;
use crate::lab::client::{WrkReport, WrkRun};
use contender::{Contender, Kind};
use place::{PORT, Place, VIP, backend};

/// Share of HAProxy's CPU time a request that the project holds itself to.
const OF_HAPROXY: f64 = 0.1;
const CONTENDERS: &[(&str, Kind)] = &[
    ("nobody in the middle", Kind::Nobody),
    ("a wire in the middle", Kind::Wire),
    ("this balancer, l2", Kind::Balancer),
    ("nftables DNAT", Kind::Nftables),
    ("HAProxy, TCP mode", Kind::Haproxy),
    ("nginx, stream", Kind::Nginx),
];
const LOADS: &[Load] = &[
    Load {
        name: "requests",
        path: "/",
        connections: 32,
        reconnect: false,
    },
    Load {
        name: "new connections",
        path: "/",
        connections: 32,
        reconnect: true,
    },
    Load {
        name: "downloads of 1 MiB",
        path: "/download",
        connections: 4,
        reconnect: false,
    },
];

/// What is asked.
struct Load {
    name: &'static str,
    path: &'static str,
    connections: u32,
    reconnect: bool,
}

/// What one contender did under one load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    pub(super) load: &'static str,
    pub(super) who: &'static str,
    /// Answers a second.
    pub(super) per_second: Spread,
    /// Bytes of them, in megabits a second.
    pub(super) megabits_per_second: Spread,
    /// CPU time of everybody for one, in microseconds; see [`Account`].
    pub(super) cpu_micros: Spread,
    /// The same less that with a wire in the middle.
    pub(super) added_micros: f64,
    /// CPU time of the contender's own processes or programs for one, as far
    /// as there is an account of it.
    pub(super) own_micros: Option<f64>,
    /// `added_micros`, or the balancer's `own_micros` where they are more, as a
    /// share of what HAProxy adds.
    pub(super) of_haproxy: Option<f64>,
    /// The most the project allows itself of that.
    pub(super) at_most: Option<f64>,
}

impl Figure {
    /// Whether the limit holds, where there is one.
    pub(super) fn is_met(&self) -> Option<bool> {
        Some(self.of_haproxy? <= self.at_most?)
    }
}

/// Whose CPU time is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Account {
    /// The whole machine's, less what it was busy with before: nothing is
    /// left out.
    Machine,
    /// That of wrk, the servers and the contender's processes: on a machine
    /// that is busy with other things. Work that the kernel does for them in
    /// somebody else's time is left out.
    Processes,
}

/// CPUs busy with other things above which the machine's account says little.
const BUSY: f64 = 0.1;

/// What was measured, and how busy the machine was with other things.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Requests {
    /// CPUs that were busy before anything began.
    pub(super) background_cpus: f64,
    pub(super) account: Account,
    pub(super) figures: Vec<Figure>,
}

/// One turn.
struct Turn {
    report: WrkReport,
    elapsed_seconds: f64,
    /// Of CPU, by the account that counts.
    cpu_seconds: f64,
    /// Of CPU, by the whole machine.
    machine_seconds: f64,
    /// Of CPU, by the contender itself.
    own_seconds: Option<f64>,
}

impl Turn {
    fn cpu_micros(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.report.requests as f64
    }

    fn own_micros(&self) -> Option<f64> {
        Some(self.own_seconds? * 1e6 / self.report.requests as f64)
    }
}

/// Measures every load through every contender, in turns.
pub(super) fn measure(rounds: usize, seconds: u32) -> Result<Requests> {
    cleanup::on_signals()?;
    let background_cpus = cpu::background()?;
    let account = match background_cpus > BUSY {
        true => Account::Processes,
        false => Account::Machine,
    };
    let places = CONTENDERS
        .iter()
        .map(|(_, kind)| Place::build(kind.replies(), *kind == Kind::Wire));
    let places: Vec<Place> = places.collect::<Result<_>>()?;
    let mut running = CONTENDERS
        .iter()
        .zip(&places)
        .map(|((who, kind), place)| {
            let contender = kind.start(place).with_context(|| (*who).to_owned())?;
            Ok((*who, *kind, place, contender))
        })
        .collect::<Result<Vec<_>>>()?;
    // The kernel's account of BPF programs, for as long as it is open.
    let _account = time_programs()?;
    let mut figures = Vec::new();
    for load in LOADS {
        let mut turns: Vec<Vec<Turn>> = CONTENDERS.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for ((who, kind, place, contender), turns) in running.iter_mut().zip(&mut turns) {
                let mut turn = turn(load, *kind, place, contender, seconds)
                    .with_context(|| format!("{}, {who}", load.name))?;
                if account == Account::Machine {
                    let others = background_cpus * turn.elapsed_seconds;
                    turn.cpu_seconds = turn.machine_seconds - others;
                }
                turns.push(turn);
            }
        }
        figures.extend(compare(load, &turns));
    }
    Ok(Requests {
        background_cpus,
        account,
        figures,
    })
}

/// One turn of requests with nobody, with a wire and with the balancer in the
/// middle; nearly all have to be answered.
pub fn try_balancer() -> Result<()> {
    for (who, kind) in CONTENDERS {
        if matches!(kind, Kind::Nobody | Kind::Wire | Kind::Balancer) {
            let place = Place::build(kind.replies(), *kind == Kind::Wire)?;
            let mut contender = kind.start(&place).with_context(|| (*who).to_owned())?;
            let turn = turn(&LOADS[0], *kind, &place, &mut contender, 1);
            turn.with_context(|| (*who).to_owned())?;
        }
    }
    Ok(())
}

fn turn(
    load: &Load,
    kind: Kind,
    place: &Place,
    contender: &mut Contender<'_>,
    seconds: u32,
) -> Result<Turn> {
    let server = match kind {
        Kind::Nobody => backend(0),
        _ => (VIP, PORT).into(),
    };
    let run = WrkRun {
        connections: load.connections,
        reconnect: load.reconnect,
        seconds,
        ..WrkRun::new(server, load.path)
    };
    let own_before = own_time(contender)?;
    let lab_before = lab_time(place)?;
    let before = cpu::Reading::take()?;
    let report = run.run(&place.client)?;
    let spent = cpu::Reading::take()?.since(&before);
    let lab = lab_time(place)? - lab_before;
    let own_seconds = own_time(contender)?
        .zip(own_before)
        .map(|(after, before)| after - before);
    ensure!(report.requests > 0, "no request was answered");
    ensure!(
        report.errors() * 1000 <= report.requests,
        "{} of {} requests failed: {report:?}",
        report.errors(),
        report.requests
    );
    Ok(Turn {
        report,
        elapsed_seconds: spent.elapsed.as_secs_f64(),
        cpu_seconds: lab + own_seconds.unwrap_or(0.0),
        machine_seconds: spent.busy.as_secs_f64(),
        own_seconds,
    })
}

/// Seconds of CPU of wrk and the servers.
fn lab_time(place: &Place) -> Result<f64> {
    let mut time = cpu::of_ended()?;
    for server in &place.servers {
        time += cpu::of_process(server.server.pid())?;
    }
    Ok(time.as_secs_f64())
}

/// Seconds of CPU of the contender itself.
fn own_time(contender: &mut Contender<'_>) -> Result<Option<f64>> {
    let Some(pid) = contender.pid() else {
        return Ok(None);
    };
    let mut time = cpu::of_process(pid)?;
    if matches!(contender, Contender::Balancer { .. }) {
        time += cpu::of_programs(pid)?;
    }
    Ok(Some(time.as_secs_f64()))
}

fn compare(load: &Load, turns: &[Vec<Turn>]) -> Vec<Figure> {
    let spread = |turns: &[Turn], of: fn(&Turn) -> f64| Spread::of(turns.iter().map(of).collect());
    let cpu_of = |wanted: Kind| {
        let found = CONTENDERS
            .iter()
            .zip(turns)
            .find(|((_, kind), _)| *kind == wanted);
        found.map_or(f64::NAN, |(_, turns)| {
            spread(turns, Turn::cpu_micros).median
        })
    };
    let alone = cpu_of(Kind::Wire);
    let haproxy = cpu_of(Kind::Haproxy) - alone;
    let figure = |((who, kind), turns): (&(&'static str, Kind), &Vec<Turn>)| {
        let cpu_micros = spread(turns, Turn::cpu_micros);
        let added_micros = cpu_micros.median - alone;
        let own: Vec<f64> = turns.iter().filter_map(Turn::own_micros).collect();
        let own_micros = (!own.is_empty()).then(|| Spread::of(own).median);
        // What is added may be lost in the noise; it is not less than this.
        let least = own_micros
            .filter(|_| *kind == Kind::Balancer)
            .unwrap_or(0.0);
        let is_ours = *kind == Kind::Balancer;
        Figure {
            load: load.name,
            who,
            per_second: spread(turns, |turn| turn.report.requests_per_second()),
            megabits_per_second: spread(turns, |turn| {
                turn.report.bytes as f64 * 8.0 / turn.report.elapsed_micros as f64
            }),
            cpu_micros,
            added_micros,
            own_micros,
            of_haproxy: (!matches!(kind, Kind::Nobody | Kind::Wire))
                .then_some(added_micros.max(least) / haproxy),
            at_most: is_ours.then_some(OF_HAPROXY),
        }
    };
    CONTENDERS.iter().zip(turns).map(figure).collect()
}
