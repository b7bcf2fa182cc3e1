//! That a case is what its name says, looked at before it is timed.

use anyhow::{Context, Result, ensure};
use balancer_common::decap::Form;
use balancer_common::verdict::Reason;
use balancer_user::dataplane::bench::{Chosen, HotLoop, Subject};

use super::case::{Case, Why};
use super::frames::ip_len;
use crate::frames::hex;

/// Packets whose verdicts are looked at one by one.
const ONE_BY_ONE: u32 = 16;
/// Packets whose counters are looked at.
const MANY: u32 = 4096;

/// Runs packets of the case and compares what became of them with what the
/// case expects: every verdict, every length, and the exact counters.
pub(super) fn check(case: &Case, subject: &mut Subject, hot: &mut HotLoop) -> Result<()> {
    hot.seek(0);
    for number in 0..ONE_BY_ONE {
        one(case, hot).with_context(|| format!("packet {number}"))?;
    }
    restored(hot)?;
    match case.expected.why {
        Why::Reason(reason) => balanced(case, reason, subject, hot),
        Why::Form(form) => unwrapped(case, form, subject, hot),
    }
}

/// Runs many packets, of which the last tells its verdict.
fn many(case: &Case, hot: &mut HotLoop) -> Result<()> {
    let run = hot.run(Chosen::Subject, MANY)?;
    ensure!(
        run.action == case.expected.action,
        "the last of {MANY} packets met {}, expected {}",
        run.action.name(),
        case.expected.action.name()
    );
    Ok(())
}

fn unwrapped(case: &Case, form: Form, subject: &Subject, hot: &mut HotLoop) -> Result<()> {
    let before = subject.unwrapped()?;
    many(case, hot)?;
    let mut expected = before;
    // The frame shrank by the outer headers, which are the packet's too.
    let inner_len = (ip_len(&case.stimulus.frame) as i64 + case.expected.growth) as u64;
    for (counted, count) in &mut expected.forms {
        if *counted == form {
            count.packets += u64::from(MANY);
            count.bytes += u64::from(MANY) * inner_len;
        }
    }
    let after = subject.unwrapped()?;
    ensure!(
        after == expected,
        "of {MANY} packets to be unwrapped as {}, the counters say {after:?}",
        form.name()
    );
    Ok(())
}

fn one(case: &Case, hot: &mut HotLoop) -> Result<()> {
    let run = hot.run(Chosen::Subject, 1)?;
    ensure!(
        run.action == case.expected.action,
        "met {}, expected {}",
        run.action.name(),
        case.expected.action.name()
    );
    let growth = run.frame_len as i64 - case.stimulus.frame.len() as i64;
    ensure!(
        growth == case.expected.growth,
        "the frame grew by {growth} bytes, expected {}",
        case.expected.growth
    );
    Ok(())
}

/// A packet must come out the same whether it is the first of a run, from the
/// stimulus itself, or the second, from what the first left of the frame:
/// else the loop would measure damaged packets.
fn restored(hot: &mut HotLoop) -> Result<()> {
    hot.seek(0);
    let run = hot.run(Chosen::Subject, 2)?;
    let second = hot.frame_of(&run).to_vec();
    hot.seek(1);
    let run = hot.run(Chosen::Subject, 1)?;
    let first = hot.frame_of(&run);
    ensure!(
        first == second,
        "the second packet of a run came out as {}, on its own as {}",
        hex(&second),
        hex(first)
    );
    Ok(())
}

/// All packets have the reason, and the right members got them.
fn balanced(case: &Case, reason: Reason, subject: &mut Subject, hot: &mut HotLoop) -> Result<()> {
    let members: Vec<u32> = case.expected.members.clone().collect();
    let before = subject.counters(&members)?;
    many(case, hot)?;
    let after = subject.counters(&members)?;
    let moved: Vec<(Reason, u64)> = before
        .reasons
        .iter()
        .zip(&after.reasons)
        .map(|((reason, old), (_, new))| (*reason, new - old))
        .filter(|(_, by)| *by > 0)
        .collect();
    ensure!(
        moved == [(reason, u64::from(MANY))],
        "of {MANY} packets to end as {}, these did: {moved:?}",
        reason.name()
    );
    if reason != Reason::Forwarded {
        return Ok(());
    }
    let packets: Vec<u64> = after
        .members
        .iter()
        .map(|(member, new)| new.packets - before.members[member].packets)
        .collect();
    let sum: u64 = packets.iter().sum();
    ensure!(
        sum == u64::from(MANY),
        "the expected members got {sum} of {MANY} packets"
    );
    let reached = packets.iter().filter(|packets| **packets > 0).count() as u64;
    // With so many flows a member without any would be a wonder: 4096 flows
    // leave one of 16 out once in 10^115 times.
    let enough = case.stimulus.flows >= 1 << 10 && packets.len() <= 16;
    let expected = if enough { packets.len() as u64 } else { 1 };
    ensure!(
        reached >= expected && reached <= case.stimulus.flows,
        "{reached} members got packets of {} flows",
        case.stimulus.flows
    );
    Ok(())
}
