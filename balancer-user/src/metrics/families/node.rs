//! What concerns the whole balancer.

use balancer_common::verdict::{Disposition, Reason};

use super::{Family, counter, durations, gauge, histogram};
use crate::metrics::{RevisionObserved, Snapshot};

pub(super) const ALL: &[Family] = &[
    gauge(
        "balancer_build_info",
        "Version of the daemon, value 1.",
        &["version"],
        |_, samples| samples.level(&[env!("CARGO_PKG_VERSION")], 1.0),
    ),
    gauge(
        "balancer_observed_timestamp_seconds",
        "When the daemon last looked at itself, which it does every second.",
        &[],
        |it, samples| samples.level(&[], it.observed.at),
    ),
    gauge(
        "balancer_metrics_info",
        "How much is told of single backends: service, backend or histogram, value 1.",
        &["detail"],
        |it, samples| samples.level(&[it.detail.name()], 1.0),
    ),
    counter(
        "balancer_packets_total",
        "Packets by verdict (forward, answer, drop, pass) and reason.",
        &["verdict", "reason"],
        |it, samples| {
            it.reasons.iter().try_for_each(|(reason, count)| {
                samples.count(&[verdict(*reason), reason.name()], *count)
            })
        },
    ),
    gauge(
        "balancer_interface_info",
        "How the program is on each interface: native, generic, offloaded or detached, value 1.",
        &["interface", "mode"],
        |it, samples| {
            let mut interfaces = it.observed.interfaces.iter();
            interfaces.try_for_each(|(name, mode)| samples.level(&[name, mode], 1.0))
        },
    ),
    gauge(
        "balancer_revision",
        "Number of the revision in force.",
        &[],
        |it, samples| {
            let revision = it.observed.revision.as_ref();
            revision.map_or(Ok(()), |it| samples.level(&[], it.number as f64))
        },
    ),
    gauge(
        "balancer_revision_info",
        "The revision in force, who made it and how it came, value 1.",
        &["revision", "author", "cause"],
        |it, samples| {
            let Some(it) = &it.observed.revision else {
                return Ok(());
            };
            samples.level(&[&it.number.to_string(), &it.author, it.cause], 1.0)
        },
    ),
    gauge(
        "balancer_revision_timestamp_seconds",
        "When the revision in force came into force.",
        &[],
        |it, samples| {
            let revision = it.observed.revision.as_ref();
            revision.map_or(Ok(()), |it| samples.level(&[], it.at))
        },
    ),
    gauge(
        "balancer_last_change_info",
        "The newest change that is over and what became of it: committed, undone or interrupted, value 1.",
        &["revision", "author", "cause", "outcome"],
        |it, samples| {
            let Some(it) = &it.observed.last_change else {
                return Ok(());
            };
            let number = it.number.to_string();
            samples.level(&[&number, &it.author, it.cause, it.outcome], 1.0)
        },
    ),
    gauge(
        "balancer_last_change_successful",
        "Whether the newest change that is over is in force and was not undone.",
        &[],
        |it, samples| {
            let is_good = |it: &RevisionObserved| f64::from(it.outcome == "committed");
            let change = it.observed.last_change.as_ref();
            change.map_or(Ok(()), |it| samples.level(&[], is_good(it)))
        },
    ),
    gauge(
        "balancer_last_change_timestamp_seconds",
        "When the newest change that is over was committed or undone.",
        &[],
        |it, samples| {
            let change = it.observed.last_change.as_ref();
            change.map_or(Ok(()), |it| samples.level(&[], it.at))
        },
    ),
    gauge(
        "balancer_change_under_way",
        "Whether a change is under way or still watched.",
        &[],
        |it, samples| samples.level(&[], f64::from(it.observed.is_change_under_way)),
    ),
    gauge(
        "balancer_config_last_reload_successful",
        "Whether the file, when it was last read again, came into force.",
        &[],
        |it, samples| {
            let reload = it.observed.last_reload;
            reload.map_or(Ok(()), |(_, good)| samples.level(&[], f64::from(good)))
        },
    ),
    gauge(
        "balancer_config_last_reload_timestamp_seconds",
        "When the file was last read again.",
        &[],
        |it, samples| {
            let reload = it.observed.last_reload;
            reload.map_or(Ok(()), |(at, _)| samples.level(&[], at))
        },
    ),
    gauge(
        "balancer_tables_last_write_successful",
        "Whether the last change of the kernel's tables is in force.",
        &[],
        |it, samples| {
            let write = it.observed.last_write;
            write.map_or(Ok(()), |it| samples.level(&[], f64::from(it.succeeded)))
        },
    ),
    gauge(
        "balancer_tables_last_write_timestamp_seconds",
        "When the kernel's tables were last changed.",
        &[],
        |it, samples| {
            let write = it.observed.last_write;
            write.map_or(Ok(()), |it| samples.level(&[], it.at))
        },
    ),
    gauge(
        "balancer_tables_last_write_duration_seconds",
        "From the cause of the last change of the kernel's tables to its being in force.",
        &[],
        |it, samples| {
            let write = it.observed.last_write;
            write.map_or(Ok(()), |it| samples.level(&[], it.seconds))
        },
    ),
    gauge(
        "balancer_kernel_drifts",
        "Differences between what the kernel holds and the running revision.",
        &[],
        |it, samples| samples.level(&[], it.observed.drifts as f64),
    ),
    gauge(
        "balancer_map_entries",
        "Entries of a kernel map that are in use.",
        &["map"],
        |it, samples| {
            let mut maps = it.observed.maps.iter();
            maps.try_for_each(|it| match it.used {
                Some(used) => samples.level(&[it.name], used as f64),
                None => Ok(()),
            })
        },
    ),
    gauge(
        "balancer_map_max_entries",
        "Entries that a kernel map has room for.",
        &["map"],
        |it, samples| {
            let mut maps = it.observed.maps.iter();
            maps.try_for_each(|it| samples.level(&[it.name], it.capacity as f64))
        },
    ),
    gauge(
        "balancer_incidents",
        "Open incidents by kind.",
        &["kind"],
        |it, samples| {
            let mut kinds = it.observed.open_incidents.iter();
            kinds.try_for_each(|(kind, count)| samples.level(&[kind], *count as f64))
        },
    ),
    counter(
        "balancer_incidents_opened_total",
        "Incidents opened since the daemon started, by kind.",
        &["kind"],
        |it, samples| {
            let mut kinds = it.observed.opened.iter();
            kinds.try_for_each(|(kind, count)| samples.count(&[kind], *count))
        },
    ),
    gauge(
        "balancer_incident_opened_timestamp_seconds",
        "An open incident and when it opened; revision and author are those in force then. A hundred at most.",
        &[
            "kind", "service", "backend", "revision", "author", "command",
        ],
        incidents,
    ),
    counter(
        "balancer_webhook_messages_total",
        "Messages to a receiver of incidents by result: sent, or lost as too many waited or it refused them.",
        &["webhook", "result"],
        |it, samples| {
            it.observed.webhooks.iter().try_for_each(|it| {
                samples.count(&[&it.name, "sent"], it.counts.sent)?;
                samples.count(&[&it.name, "lost"], it.counts.lost)
            })
        },
    ),
    counter(
        "balancer_webhook_failed_tries_total",
        "Requests to a receiver of incidents that failed.",
        &["webhook"],
        |it, samples| {
            let mut webhooks = it.observed.webhooks.iter();
            webhooks.try_for_each(|it| samples.count(&[&it.name], it.counts.failed_tries))
        },
    ),
    gauge(
        "balancer_webhook_messages_waiting",
        "Messages that wait for a receiver of incidents; a thousand at most.",
        &["webhook"],
        |it, samples| {
            let mut webhooks = it.observed.webhooks.iter();
            webhooks.try_for_each(|it| samples.level(&[&it.name], it.waiting as f64))
        },
    ),
    gauge(
        "balancer_peers",
        "Other balancers of the group, by node.peers.",
        &[],
        |it, samples| samples.level(&[], it.observed.peers.0 as f64),
    ),
    gauge(
        "balancer_peers_differing",
        "Those of them that hold something else, or do not answer.",
        &[],
        |it, samples| samples.level(&[], it.observed.peers.1 as f64),
    ),
    gauge(
        "balancer_handshake_sample_ratio",
        "Share of TCP flows whose handshake is timed.",
        &[],
        |it, samples| samples.level(&[], it.observed.handshake_sample),
    ),
    gauge(
        "balancer_captures_active",
        "Captures of live packets that are on: 1 or 0. The program that serves one forwards more slowly.",
        &[],
        |it, samples| samples.level(&[], f64::from(it.observed.is_capturing)),
    ),
    counter(
        "balancer_probes_delayed_total",
        "Probes that began late as too many were under way.",
        &[],
        |it, samples| samples.count(&[], it.delayed_probes),
    ),
    histogram(
        "balancer_probe_lateness_seconds",
        "How long after its time a probe began.",
        &[],
        |it, samples| {
            let late = &it.lateness;
            durations(samples, &[], &late.steps, late.sum_micros)
        },
    ),
];

fn verdict(reason: Reason) -> &'static str {
    match reason.disposition() {
        Disposition::Pass => "pass",
        Disposition::Drop => "drop",
        Disposition::Forward => "forward",
        Disposition::Answer => "answer",
    }
}

fn incidents(
    snapshot: &Snapshot,
    samples: &mut crate::metrics::text::Samples<'_>,
) -> std::fmt::Result {
    snapshot.observed.incidents.iter().try_for_each(|it| {
        let since = it.since.as_ref();
        let revision = since.map_or_else(String::new, |it| it.revision.to_string());
        let labels = [
            it.kind.name(),
            it.service.as_str(),
            it.backend.as_deref().unwrap_or_default(),
            revision.as_str(),
            since.map_or("", |it| it.author.as_str()),
            it.command.as_str(),
        ];
        samples.level(&labels, it.opened_at as f64)
    })
}
