//! The machine the figures are of, and staying on one of its CPUs.

use std::fs;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::utsname::uname;
use nix::unistd::Pid;
use serde::Serialize;

/// What a reader of figures wants to know.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// The CPU's name.
    pub(crate) cpu_model: String,
    /// CPUs this process may use.
    pub(crate) cpus: usize,
    /// MHz, where the kernel says.
    pub(crate) megahertz: Option<f64>,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Architecture.
    pub(crate) architecture: String,
}

impl Machine {
    /// Looks at this one.
    pub(crate) fn look() -> Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let field = |name: &str| {
            info.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
        };
        let kernel = uname().context("uname")?;
        Ok(Self {
            cpu_model: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism()?.get(),
            megahertz: field("cpu MHz").and_then(|value| value.parse().ok()),
            kernel: kernel.release().to_string_lossy().into_owned(),
            architecture: kernel.machine().to_string_lossy().into_owned(),
        })
    }
}

/// Does the work on one CPU, in a thread that ends with it.
pub(crate) fn pinned<T: Send>(cpu: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            stay_on(cpu)?;
            work()
        });
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Keeps this thread on one CPU.
pub(crate) fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("staying on CPU {cpu}"))
}
