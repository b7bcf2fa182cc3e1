//! CPU time: of the whole machine, of a process with its children, of the
//! BPF programs that a process holds.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{SysconfVar, sysconf};

use crate::lab::process;

/// A reading of what the machine has done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    busy: Duration,
    at: Instant,
}

/// Time of all CPUs spent on anything since another reading.
pub(super) struct Spent {
    pub(super) busy: Duration,
    pub(super) elapsed: Duration,
}

impl Reading {
    pub(super) fn take() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let first = text.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = first
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        // user, nice, system, (idle, iowait), irq, softirq; what the
        // hypervisor took for others is nobody's here.
        let busy = [0, 1, 2, 5, 6].map(|field| ticks.get(field).copied().unwrap_or(0));
        Ok(Self {
            busy: from_ticks(busy.iter().sum())?,
            at: Instant::now(),
        })
    }

    pub(super) fn since(&self, before: &Self) -> Spent {
        Spent {
            busy: self.busy.saturating_sub(before.busy),
            elapsed: self.at - before.at,
        }
    }
}

/// User and system time of all programs that this one has started and that
/// have ended.
pub(super) fn of_ended() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}

/// CPUs that are busy while nothing of ours runs, over a second.
pub(super) fn background() -> Result<f64> {
    let before = Reading::take()?;
    let mut second = std::process::Command::new("sleep");
    second.arg("1");
    process::run(second, Duration::from_secs(10))?;
    let spent = Reading::take()?.since(&before);
    Ok(spent.busy.as_secs_f64() / spent.elapsed.as_secs_f64())
}

/// User and system time of a process and its children, those in its system
/// calls included; work the kernel does in interrupts is nobody's.
pub(super) fn of_process(pid: u32) -> Result<Duration> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Some(stat) = fs::read_to_string(entry.path().join("stat"))
            .ok()
            .filter(|_| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        else {
            continue;
        };
        // The name may hold anything, the last parenthesis ends it.
        let Some((head, rest)) = stat.rsplit_once(')') else {
            continue;
        };
        let field =
            |index: usize| -> Option<u64> { rest.split_whitespace().nth(index - 3)?.parse().ok() };
        let own = head
            .split_whitespace()
            .next()
            .and_then(|it| it.parse().ok());
        if own == Some(pid) || field(4) == Some(u64::from(pid)) {
            ticks += field(14).unwrap_or(0) + field(15).unwrap_or(0);
        }
    }
    from_ticks(ticks)
}

/// Time spent in the BPF programs that a process holds, as far as the kernel
/// keeps account; a program held twice counts once.
pub(super) fn of_programs(pid: u32) -> Result<Duration> {
    let mut programs = std::collections::BTreeMap::new();
    let directory = format!("/proc/{pid}/fdinfo");
    for entry in fs::read_dir(&directory).context(directory)?.flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        if let (Some(id), Some(nanos)) = (field("prog_id:"), field("run_time_ns:")) {
            programs.insert(id, nanos);
        }
    }
    Ok(Duration::from_nanos(programs.values().sum()))
}

fn from_ticks(ticks: u64) -> Result<Duration> {
    let hertz = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / hertz as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_seen_in_both_accounts() {
        let pid = std::process::id();
        let (machine, own) = (Reading::take().unwrap(), of_process(pid).unwrap());
        let began = Instant::now();
        let mut sum = 0u64;
        while began.elapsed() < Duration::from_millis(300) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let spent = Reading::take().unwrap().since(&machine);
        assert!(spent.elapsed >= Duration::from_millis(300));
        // A loaded machine gives this thread less than all of a CPU.
        assert!(spent.busy >= Duration::from_millis(20));
        assert!(of_process(pid).unwrap() > own);
    }
}
