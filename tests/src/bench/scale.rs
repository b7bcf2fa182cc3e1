//! A configuration of 1,000 services of 100 backends: what a plan of a change
//! and the change itself take, and what the daemon takes of the machine.
//!
//! The daemon is the real one in a namespace of the lab. Nobody is behind the
//! backends' addresses: their Ethernet addresses stand in the file, and no
//! packet is sent. Each change is of one weight, there and back in turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_user::dataplane::bench::pinned_maps;
use serde::Serialize;

use super::spread::Spread;
use crate::balancer::Balancer;
use crate::lab::cleanup::{self, Scratch};
use crate::lab::process::status_kib;
use crate::lab::{Lab, LabConfig, wait_for};

/// Services of the configuration.
pub const SERVICES: usize = 1000;
/// Backends of each.
pub const BACKENDS: usize = 100;
/// How long the daemon's time on the CPU is added up while nothing happens.
const IDLE: Duration = Duration::from_secs(10);
/// Ticks a second of `/proc/PID/stat`, the same on every Linux.
const TICKS: f64 = 100.0;
pub(super) const MEGABYTE: f64 = 1e6;

/// One figure.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    pub(super) what: String,
    pub(super) unit: &'static str,
    pub(super) amount: Spread,
    /// Most the project allows itself.
    pub(super) limit: Option<f64>,
}

impl Figure {
    pub(super) fn new(
        what: &str,
        unit: &'static str,
        amounts: Vec<f64>,
        limit: Option<f64>,
    ) -> Self {
        Self {
            what: what.to_owned(),
            unit,
            amount: Spread::of(amounts),
            limit,
        }
    }

    /// Whether the limit holds, where there is one.
    pub(super) fn is_met(&self) -> Option<bool> {
        self.limit.map(|limit| self.amount.median <= limit)
    }
}

/// Starts the daemon, asks it and changes it.
pub(super) fn measure(rounds: usize) -> Result<Vec<Figure>> {
    cleanup::on_signals()?;
    let lab = Lab::l2(LabConfig::backends(1))?;
    let began = Instant::now();
    let mut balancer = Balancer::start(lab.balancer().namespace(), &["eth0"], &services(&[]))
        .context("starting the balancer")?;
    let start = began.elapsed().as_secs_f64();
    let pid = balancer.process().pid();
    let before = cpu_seconds(pid)?;
    let asked = Instant::now();
    wait_for("the end of the measurement", IDLE * 2, || {
        (asked.elapsed() >= IDLE).then_some(())
    })?;
    let idle = (cpu_seconds(pid)? - before) / asked.elapsed().as_secs_f64() * 100.0;
    let mut figures = vec![
        Figure::new("start, until it forwards", "s", vec![start], None),
        Figure::new(
            "time on the CPU while nothing happens",
            "%",
            vec![idle],
            None,
        ),
    ];
    figures.extend(memory(&balancer, pid, "at rest")?);
    let files = Files::new(&balancer)?;
    let one = [SERVICES / 2];
    let all: Vec<usize> = (0..SERVICES).collect();
    for (what, which) in [
        ("plan, a weight of one service", &one[..]),
        ("plan, a weight of each service", &all[..]),
    ] {
        let file = files.write(which)?;
        let times = (0..rounds).map(|_| plan(&balancer, &file));
        let times = times.collect::<Result<Vec<f64>>>()?;
        figures.push(Figure::new(what, "s", times, Some(2.0)));
    }
    let mut times = Vec::new();
    for round in 0..rounds {
        let which = if round % 2 == 0 { &one[..] } else { &[] };
        times.push(apply(&balancer, &files.write(which)?)?);
    }
    let what = "apply in four stages without holds, a weight of one service";
    figures.push(Figure::new(what, "s", times, Some(3.0)));
    figures.extend(memory(&balancer, pid, "after these changes")?);
    Ok(figures)
}

/// Candidates beside the file that runs.
struct Files {
    directory: Scratch,
    node: String,
}

impl Files {
    fn new(balancer: &Balancer<'_>) -> Result<Self> {
        let text = fs::read_to_string(balancer.config())?;
        let (node, _) = text.split_once("[[service]]").context("no service")?;
        Ok(Self {
            directory: Scratch::create("scale")?,
            node: node.to_owned(),
        })
    }

    /// A file in which one backend of each of these services has more weight.
    fn write(&self, heavier: &[usize]) -> Result<PathBuf> {
        let path = self.directory.path().join("scale.toml");
        fs::write(&path, format!("{}{}", self.node, services(heavier)))?;
        Ok(path)
    }
}

fn plan(balancer: &Balancer<'_>, file: &Path) -> Result<f64> {
    let file = file.to_string_lossy();
    let began = Instant::now();
    let output = balancer.command(&["plan", "--allow", "blast-radius", &file])?;
    let took = began.elapsed().as_secs_f64();
    ensure!(
        output.status.code() == Some(3),
        "plan ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}

fn apply(balancer: &Balancer<'_>, file: &Path) -> Result<f64> {
    let file = file.to_string_lossy();
    let began = Instant::now();
    balancer.succeed(&["apply", "--yes", "--hold", "0s", &file])?;
    Ok(began.elapsed().as_secs_f64())
}

/// What the daemon has for itself, and what the kernel's maps have. Mapped,
/// some of these count as resident memory of the daemon as well: once is
/// enough.
pub fn memory_megabytes(balancer: &Balancer<'_>, pid: u32) -> Result<Memory> {
    let maps = pinned_maps(balancer.pin_dir())?;
    let maps: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    Ok(Memory {
        private: status_kib(pid, "RssAnon")? as f64 * 1024.0 / MEGABYTE,
        resident: status_kib(pid, "VmRSS")? as f64 * 1024.0 / MEGABYTE,
        maps: maps as f64 / MEGABYTE,
    })
}

/// In megabytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// The daemon's own.
    pub private: f64,
    /// That, its code, and the tables that it has mapped.
    pub resident: f64,
    /// All maps of the kernel program, by the kernel's own account.
    pub maps: f64,
}

fn memory(balancer: &Balancer<'_>, pid: u32, when: &str) -> Result<Vec<Figure>> {
    let memory = memory_megabytes(balancer, pid)?;
    let figure = |what: &str, amount, limit| {
        Figure::new(&format!("{what}, {when}"), "MB", vec![amount], limit)
    };
    Ok(vec![
        figure("memory of the daemon's own", memory.private, None),
        figure("maps in the kernel", memory.maps, None),
        figure(
            "resident (own, code, mapped tables)",
            memory.resident,
            Some(500.0),
        ),
    ])
}

/// User and system time of a process.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| -> Result<f64> {
        let field = fields.get(at).context("stat is short")?;
        Ok(field.parse()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// The services of the file; one backend of those in `heavier` has a weight
/// of its own.
pub fn services(heavier: &[usize]) -> String {
    let heavier: std::collections::BTreeSet<usize> = heavier.iter().copied().collect();
    let mut text = String::new();
    for service in 0..SERVICES {
        let (high, low) = (service / 250, service % 250);
        text.push_str(&format!(
            "[[service]]\nname = \"service-{service}\"\naddress = \"198.18.{high}.{}\"\n\
             port = 80\nprotocol = \"tcp\"\nforward = \"l2\"\n",
            low + 1
        ));
        for backend in 0..BACKENDS {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.{}.{low}.{}\"\n\
                 mac = \"02:00:00:{high:02x}:{low:02x}:{backend:02x}\"\n",
                high + 20,
                backend + 1
            ));
            if backend == 7 && heavier.contains(&service) {
                text.push_str("weight = 103\n");
            }
        }
    }
    text
}
