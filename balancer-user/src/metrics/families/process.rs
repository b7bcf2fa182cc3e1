//! What every process tells, under the names that all exporters have; and who
//! is connected to it.

use super::{Family, counter, gauge};
use crate::api::connections::Cut;

pub(super) const ALL: &[Family] = &[
    gauge(
        "balancer_api_connections",
        "Connections that are open: to the control socket, and to node.listen (http).",
        &["entrance"],
        |it, samples| {
            let mut entrances = it.connections.iter();
            entrances.try_for_each(|it| samples.level(&[it.name], it.open as f64))
        },
    ),
    gauge(
        "balancer_api_connections_limit",
        "Connections that may be open at a time.",
        &["entrance"],
        |it, samples| {
            let mut entrances = it.connections.iter();
            entrances.try_for_each(|it| samples.level(&[it.name], it.places as f64))
        },
    ),
    counter(
        "balancer_api_connections_admitted_total",
        "Connections that got a place.",
        &["entrance"],
        |it, samples| {
            let mut entrances = it.connections.iter();
            entrances.try_for_each(|it| samples.count(&[it.name], it.admitted))
        },
    ),
    counter(
        "balancer_api_connections_cut_total",
        "Connections that the daemon ended: refused as all places were taken, displaced as they asked nothing while another one came, slow-head or slow-body as the request did not come in time, untaken as the answer was not read.",
        &["entrance", "reason"],
        |it, samples| {
            it.connections.iter().try_for_each(|seen| {
                let mut cut = Cut::ALL.iter().zip(seen.cut);
                cut.try_for_each(|(cut, count)| samples.count(&[seen.name, cut.name()], count))
            })
        },
    ),
    counter(
        "balancer_scrapes_refused_total",
        "Requests for metrics that were refused as too many were under way.",
        &[],
        |it, samples| samples.count(&[], it.refused_scrapes),
    ),
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
