//! What every process tells, under the names that all exporters have.

use super::{Family, counter, gauge};

pub(super) const ALL: &[Family] = &[
    counter(
        "process_cpu_seconds_total",
        "Time of the daemon on a CPU.",
        &[],
        |it, samples| samples.sum(&[], it.process.cpu_seconds),
    ),
    gauge(
        "process_resident_memory_bytes",
        "Memory of the daemon in RAM, without the kernel's maps.",
        &[],
        |it, samples| samples.level(&[], it.process.resident_bytes as f64),
    ),
    gauge(
        "process_virtual_memory_bytes",
        "Memory that the daemon asked for.",
        &[],
        |it, samples| samples.level(&[], it.process.virtual_bytes as f64),
    ),
    gauge(
        "process_open_fds",
        "Files that the daemon has open.",
        &[],
        |it, samples| samples.level(&[], it.process.open_files as f64),
    ),
    gauge(
        "process_max_fds",
        "Files that the daemon may have open.",
        &[],
        |it, samples| samples.level(&[], it.process.max_files as f64),
    ),
    gauge(
        "process_start_time_seconds",
        "When the daemon started.",
        &[],
        |it, samples| samples.level(&[], it.observed.started_at),
    ),
];
