//! Random configurations, and random changes between them.
//!
//! Each step draws a change of what runs and how it ends: committed, rolled
//! back in a stage, not confirmed, found to do harm, made by command, or cut
//! off by SIGKILL. After it the kernel's slots, read from the pinned maps, are
//! compared one by one with the plan, with the configuration and, after an
//! undo, with what was there before. Flows go through the attached program
//! itself: whoever's backend lives keeps it, unless the plan said otherwise.
//!
//! `BALANCER_TEST_SEED` and `BALANCER_TEST_CHANGES` choose the stream and its
//! length. A failure says both, and every step up to it.

mod bed;
mod model;
mod planned;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use balancer_tests::balancer::{Balancer, service_of};
use balancer_tests::frames::Rng;
use balancer_tests::kernel::{Held, HeldService, configuration, held, wanted};
use balancer_tests::lab::{Lab, wait_for};
use balancer_tests::live::{LiveProgram, Segment, segment};
use balancer_user::api::progress::Progress;
use balancer_user::api::types::{ApplyRequest, Change, How, PlanRequest, RollbackRequest};
use balancer_user::plan::{Fate, Plan, ServicePlan};
use balancer_user::revision::{Outcome, Revision};

use crate::LIMIT;
use crate::fixture::{Api, balancer, l2};

use bed::{Bed, Flow};
use model::{Member, Model, Service};
use planned::{as_planned, breaks, cuts_off};

/// Steps of a run, and the backends of the lab.
const STEPS: u64 = 30;
const NODES: u8 = 6;
/// Flows that each service of TCP is followed by.
const FLOWS: u16 = 24;
/// SYNs by which the daemon sees who gets them.
const FLOOD: u16 = 600;
/// The service that only a harmful change touches: its backends share alike.
const STEADY: &str = "steady";
/// What these changes are not judged by.
const ALLOWED: [&str; 7] = [
    "blast-radius",
    "churn",
    "dominant-backend",
    "no-health-check",
    "single-backend",
    "table-share",
    "undrains",
];

/// How a change ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Committed,
    Command,
    RolledBack,
    Unconfirmed,
    Harmful,
    Killed,
}

/// How the steps of a run end, again and again.
const ENDS: [End; 10] = [
    End::Committed,
    End::RolledBack,
    End::Committed,
    End::Command,
    End::Unconfirmed,
    End::Committed,
    End::Harmful,
    End::Committed,
    End::Killed,
    End::Committed,
];

/// A change for such an end.
fn draw(rng: &mut Rng, lab: &Lab, end: End, running: &Model) -> (Model, Vec<String>) {
    let mut next = running.clone();
    match end {
        End::Command => {
            let at = 1 + rng.below(next.0.len() - 1);
            let service = &mut next.0[at];
            let member = &mut service.members[0];
            member.weight = if member.weight == 100 { 30 } else { 100 };
            let Member { node, weight, .. } = *member;
            let said = format!("{}: backend{node} weighs {weight}", service.name);
            (next, vec![said])
        }
        End::Harmful => {
            let heavy = rng.below(4);
            for (at, member) in next.0[0].members.iter_mut().enumerate() {
                member.weight = if at == heavy { 1000 } else { 1 };
            }
            (next, vec![format!("{STEADY}: backend{heavy} gets all")])
        }
        _ => loop {
            // Some draws come back to where they began.
            let (next, said) = running.next(rng, lab);
            if next != *running {
                break (next, said);
            }
        },
    }
}

#[test]
fn after_any_change_the_kernel_is_as_planned_and_after_any_undo_as_before() -> Result<()> {
    let seed = number("BALANCER_TEST_SEED", 1)?;
    let steps = number("BALANCER_TEST_CHANGES", STEPS)?;
    let lab = l2(NODES)?;
    let mut rng = Rng::new(seed);
    let mut bed = Bed::start(&lab, &mut rng)?;
    let mut story = format!("seed {seed}, begins with\n{}\n", bed.text(&bed.running));
    let began = Instant::now();
    for (step, end) in (1..=steps).zip(ENDS.into_iter().cycle()) {
        let (next, said) = draw(&mut rng, &lab, end, &bed.running);
        let line = format!("step {step}, {end:?}: {}", said.join("; "));
        let _ = writeln!(story, "{line}");
        bed.step(&mut rng, end, next)
            .with_context(|| format!("{story}log:\n{}", bed.balancer.log()))?;
        println!("{line} ({:.1?})", began.elapsed());
    }
    println!(
        "seed {seed}: {steps} changes, {} times a flow was where it belongs",
        bed.kept.get()
    );
    ensure!(bed.kept.get() > 0, "no flow was followed");
    Ok(())
}

pub(crate) fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}
