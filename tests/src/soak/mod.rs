//! The soak: faults and changes, one after the other, in an order that a seed
//! gives, while clients come all the time.
//!
//! In the first half daemons come and go, too; the second half is one daemon's,
//! whose memory must not grow. A request may fail only while a fault lasts that
//! eats packets, and only of the services that it hits ([`Fault::eats`]); a
//! connection that stays may break only with its server. After each fault
//! everything is well again by itself, the daemon holds what it held, and no
//! counter went back.

mod changes;
mod fault;
mod report;
mod scene;
mod steady;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::frames::Rng;
use crate::lab::cleanup;
use crate::lab::client::LoadReport;
use changes::Changes;
pub use changes::Tally;
pub use fault::{Fault, Harm};
pub use report::write;
pub use scene::Service;
use scene::{LIMIT, Scene};
pub use steady::Held;
use steady::Watch;

/// Answers of each service before a fault.
const BEFORE: u64 = 50;

/// What a soak is to be.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long faults are brought about; the last one is seen to its end.
    pub length: Duration,
    /// What comes when.
    pub seed: u64,
}

/// A fault that was brought about, and how clients fared.
#[derive(Debug, Clone)]
pub struct Played {
    /// Which.
    pub fault: Fault,
    /// From the soak's begin.
    pub at: Duration,
    /// From its being brought about until all was well.
    pub took: Duration,
    /// Of each service, requests and those that failed.
    pub requests: BTreeMap<Service, (u64, u64)>,
    /// Why the first of those did.
    pub first_failure: Option<String>,
    /// Connections that stayed and broke with their server.
    pub broken: usize,
}

/// What came of a soak.
#[derive(Debug)]
pub struct Report {
    /// What was asked for.
    pub plan: Plan,
    /// How long it went on.
    pub took: Duration,
    /// Every fault.
    pub played: Vec<Played>,
    /// The changes meanwhile.
    pub changes: Tally,
    /// What was held at first, and by the last daemon once it had settled and
    /// at the end.
    pub held: [Held; 3],
    /// Looks at the last daemon.
    pub looks: usize,
    /// Counters compared with what they were before; none went back.
    pub counters: usize,
}

impl Report {
    /// Requests and those that failed.
    pub fn requests(&self) -> (u64, u64) {
        let all = self.played.iter().flat_map(|it| it.requests.values());
        all.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    }
}

/// Soaks, and says what happens.
///
/// # Errors
/// When a request failed that no fault ate, when something does not come back
/// by itself, or when something grew.
pub fn run(plan: Plan) -> Result<Report> {
    cleanup::on_signals()?;
    let Plan { length, seed } = plan;
    println!("== soak: {} s, seed {seed}", length.as_secs());
    let lab = scene::lab()?;
    let mut scene = Scene::start(&lab)?;
    let mut watch = Watch::default();
    watch.look(&mut scene)?;
    let changes = Changes::start(
        scene.balancer.socket(),
        lab.vip_v4().to_string(),
        lab.backend(0).v4().to_string(),
        seed ^ 0x50ac,
    )?;
    let mut rng = Rng::new(seed);
    let began = Instant::now();
    let mut played = Vec::new();
    let mut bag = Vec::new();
    while began.elapsed() < length {
        let is_first_half = began.elapsed() < length / 2;
        let fault = draw(&mut rng, &mut bag, is_first_half);
        let at = began.elapsed();
        let done = play(fault, at, &mut scene, &changes, &mut watch, &mut rng)
            .with_context(|| {
                format!(
                    "seed {seed}, after {} faults: {}",
                    played.len(),
                    fault.title()
                )
            })
            .with_context(|| format!("log of the balancer:\n{}", scene.balancer.log()))?;
        println!("{}", report::line(&done));
        played.push(done);
    }
    let changes = changes.stop()?;
    // Without clients it would say that traffic has stopped.
    let crowd = scene.clients()?;
    scene
        .balancer
        .wait_status("nothing that is wrong", LIMIT, |status| {
            // That somebody wrote to the kernel's tables is remembered for long.
            let mut problems = status.problems.iter();
            let is_well = problems.all(|it| it.starts_with("kernel-drift"));
            (status.incidents.is_empty() && is_well).then_some(())
        })?;
    crowd.leave()?;
    let log = scene.balancer.log();
    ensure!(!log.contains("panicked"), "a panic:\n{log}");
    watch.look(&mut scene)?;
    let (settled, last) = watch.judge()?;
    let report = Report {
        plan,
        took: began.elapsed(),
        played,
        changes,
        held: [watch.first.unwrap_or_default(), settled, last],
        looks: watch.looks.len(),
        counters: watch.compared,
    };
    println!("{}", report::summary(&report));
    Ok(report)
}

/// Each fault once, in any order, before one comes again.
fn draw(rng: &mut Rng, bag: &mut Vec<Fault>, with_ending: bool) -> Fault {
    if !with_ending {
        bag.retain(|it| !Fault::ENDING.contains(it));
    }
    if bag.is_empty() {
        bag.extend(Fault::LIVED_THROUGH);
        if with_ending {
            bag.extend(Fault::ENDING);
        }
    }
    bag.swap_remove(rng.below(bag.len()))
}

fn play(
    fault: Fault,
    at: Duration,
    scene: &mut Scene<'_>,
    changes: &Changes,
    watch: &mut Watch,
    rng: &mut Rng,
) -> Result<Played> {
    let crowd = scene.clients()?;
    crowd.wait_answers(BEFORE)?;
    let before = crowd.failed();
    let began = Instant::now();
    let harm = fault.play(scene, &crowd, changes, rng)?;
    scene.wait_all_up()?;
    crowd.wait_unharmed()?;
    let took = began.elapsed();
    let until_well = crowd.failed();
    let loads = crowd.leave()?;
    judge(&harm, &before, &until_well, &loads)?;
    let broken = scene.insist_on_held(&harm.servers)?;
    {
        let _alone = changes.pause();
        watch.look(scene)?;
    }
    let first = loads.values().find_map(|load| load.failures.first());
    Ok(Played {
        fault,
        at,
        took,
        requests: loads
            .iter()
            .map(|(service, load)| (*service, (load.requests(), load.failed)))
            .collect(),
        first_failure: first.map(|it| it.error.clone()),
        broken,
    })
}

/// Insists that no request failed before the fault or after it, and meanwhile
/// only of services that it hits.
fn judge(
    harm: &Harm,
    before: &BTreeMap<Service, u64>,
    until_well: &BTreeMap<Service, u64>,
    loads: &BTreeMap<Service, LoadReport>,
) -> Result<()> {
    for (service, load) in loads {
        let name = service.name();
        let why = || load.failures.first();
        let (before, until_well) = (before[service], until_well[service]);
        ensure!(
            before == 0,
            "{name}: {before} failed before it: {:?}",
            why()
        );
        let meanwhile = until_well - before;
        ensure!(
            meanwhile == 0 || harm.services.contains(service),
            "{name}: {meanwhile} failed, which it is no reason for: {:?}",
            why()
        );
        let after = load.failed - until_well;
        ensure!(
            after == 0,
            "{name}: {after} failed when all was well: {:?}",
            load.failures.last()
        );
        let errors = load.by_status.iter().filter(|(status, _)| **status != 200);
        let errors: u64 = errors.map(|(_, count)| count).sum();
        ensure!(errors == 0, "{name}: {:?}", load.by_status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_before_one_comes_again() {
        let (mut rng, mut bag) = (Rng::new(1), Vec::new());
        let all = Fault::ENDING.len() + Fault::LIVED_THROUGH.len();
        let mut drawn: Vec<Fault> = (0..all).map(|_| draw(&mut rng, &mut bag, true)).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), all);
        for _ in 0..100 {
            assert!(Fault::LIVED_THROUGH.contains(&draw(&mut rng, &mut bag, false)));
        }
    }

    #[test]
    fn failure_has_to_have_a_reason() {
        let count = |web| BTreeMap::from([(Service::Web, web)]);
        let load = |failed| {
            let mut report = LoadReport::default();
            report.failed = failed;
            BTreeMap::from([(Service::Web, report)])
        };
        let eaten = Harm {
            services: [Service::Web].into(),
            ..Harm::default()
        };
        let nothing = Harm::default();
        assert!(judge(&nothing, &count(0), &count(0), &load(0)).is_ok());
        assert!(judge(&eaten, &count(0), &count(7), &load(7)).is_ok());
        assert!(judge(&nothing, &count(0), &count(7), &load(7)).is_err());
        assert!(judge(&eaten, &count(1), &count(7), &load(7)).is_err());
        assert!(judge(&eaten, &count(0), &count(7), &load(8)).is_err());
    }
}
