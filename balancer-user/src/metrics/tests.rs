use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use balancer_common::layout::{HandshakeCounters, MemberCounters};

use super::ledger::{Count, Ledger};
use super::text::{Format, whole};
use super::*;
use crate::api::connections::Entrances;
use crate::dataplane::Counters;
use crate::health::Counts;
use crate::probe::scheduler::TargetId;
use crate::watch::Kind;
use crate::watch::incident::Since;

/// Services with so many backends each; backend `n` of all counts at `n`.
fn observed(services: usize, backends: usize) -> Observed {
    let service = |at: usize| {
        let shape = Shape {
            service: format!("service-{at:04}").into(),
            backends: (0..backends)
                .map(|it| (format!("backend-{it:03}").into(), 100))
                .collect(),
            counters: (0..backends)
                .map(|it| ((at * backends + it) as u32, it as u32))
                .collect(),
        };
        let backend = |it: usize| BackendObserved {
            state: BackendState::Up,
            is_ramping: false,
            share: 1.0 / backends as f64,
            recent: it as f64,
            rate: RateObserved::default(),
            probe_micros: None,
            handshake_micros: None,
            failure: None,
        };
        ServiceObserved {
            shape: Arc::new(shape),
            state: "up",
            slot_count: 65_537,
            is_even: true,
            backends: (0..backends).map(backend).collect(),
        }
    };
    Observed {
        at: 1_790_000_000.5,
        services: (0..services).map(service).collect(),
        handshake_sample: 0.01,
        certificates: vec![CertificateObserved {
            service: "service-0000".to_owned(),
            backend: "backend-000".to_owned(),
            ends: 1_800_000_000.0,
        }],
        ..Observed::default()
    }
}

fn counters(members: impl IntoIterator<Item = u64>) -> Counters {
    let members: Vec<u64> = members.into_iter().collect();
    let of = |packets: &u64| MemberCounters {
        packets: *packets,
        bytes: packets * 100,
        flows: packets / 10,
        resets: 0,
    };
    let handshakes = |finished: &u64| {
        let mut counted = HandshakeCounters {
            finished: *finished,
            ..HandshakeCounters::default()
        };
        counted.histogram[9] = *finished;
        counted
    };
    Counters {
        handshakes: (0..).zip(members.iter().map(handshakes)).collect(),
        members: (0..).zip(members.iter().map(of)).collect(),
        reasons: Reason::ALL.iter().map(|it| (*it, 7)).collect(),
    }
}

fn probes(observed: &Observed, passed: u64) -> Vec<(TargetId, Counts)> {
    let mut durations = Durations::default();
    durations.steps[2] = passed;
    durations.sum_micros = passed * 2000;
    let counts = Counts {
        passed,
        durations,
        ..Counts::default()
    };
    let targets = observed.services.iter().flat_map(|service| {
        let shape = &service.shape;
        shape.backends.iter().map(|(name, _)| TargetId {
            service: shape.service.to_string(),
            backend: name.to_string(),
        })
    });
    targets.map(|id| (id, counts)).collect()
}

fn snapshot(mut observed: Observed, counters: &Counters, detail: Detail) -> Arc<Snapshot> {
    observed.revision = Some(RevisionObserved {
        number: 41,
        author: "alice as root".to_owned(),
        cause: "apply",
        outcome: "committed",
        at: 1_789_999_000.0,
        ..RevisionObserved::default()
    });
    observed.last_change = observed.revision.clone();
    let probes = probes(&observed, 3);
    let services = Ledger::default().take(&observed, counters, &probes, detail);
    Arc::new(Snapshot {
        observed: Arc::new(observed),
        services,
        reasons: counters.reasons.clone(),
        delayed_probes: 0,
        lateness: Durations::default(),
        connections: Entrances::default().seen(),
        refused_scrapes: 0,
        process: Process::look(),
        detail,
    })
}

fn incident() -> Incident {
    Incident {
        number: 1,
        kind: Kind::Skew,
        service: "a \"b\"\\".to_owned(),
        backend: Some("web-1".to_owned()),
        what: "got 70 %".to_owned(),
        cause: "the table".to_owned(),
        command: "balancer verify".to_owned(),
        opened_at: 1_789_999_100,
        closed_at: None,
        since: Some(Since {
            revision: 41,
            author: "alice".to_owned(),
            summary: "weights".to_owned(),
            seconds_before: 100,
        }),
    }
}

/// An observation with all that is told only sometimes.
fn full() -> Observed {
    Observed {
        last_reload: Some((1_789_999_500.0, false)),
        last_write: Some(WriteObserved {
            at: 1_789_999_500.0,
            seconds: 0.004,
            succeeded: true,
        }),
        incidents: vec![incident()],
        open_incidents: BTreeMap::from([("skew", 1)]),
        opened: BTreeMap::from([("skew", 3)]),
        maps: vec![MapObserved {
            name: "flows",
            used: Some(5),
            capacity: 1024,
        }],
        webhooks: vec![WebhookObserved {
            name: "on-call".to_owned(),
            counts: Default::default(),
            waiting: 0,
        }],
        interfaces: vec![("eth0".to_owned(), "native".to_owned())],
        ..observed(2, 3)
    }
}

#[test]
fn document_has_every_metric_as_it_is_told() {
    let document = include_str!("../../../docs/metrics.md");
    let table = families::table();
    assert!(
        document.contains(&table),
        "docs/metrics.md has another table than this:\n{table}"
    );
}

#[test]
fn names_and_labels_follow_the_conventions_and_are_there_once() {
    let mut seen = std::collections::BTreeSet::new();
    for family in families::all() {
        let name = family.name;
        assert!(seen.insert(name), "{name} twice");
        assert!(name.starts_with("balancer_") || name.starts_with("process_"));
        let is_counter = family.kind == families::Kind::Counter;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        assert!(family.help.ends_with('.') && !family.help.contains(['\n', '\\', '|']));
        for label in family.labels {
            assert!(!matches!(*label, "le" | "job" | "instance"), "{name}");
        }
    }
}

#[test]
fn every_family_has_samples_where_all_is_there() {
    let snapshot = snapshot(full(), &counters([100; 6]), Detail::Histogram);
    for family in families::all() {
        let text = text::family(family, &snapshot, Format::Prometheus);
        let sample = format!("\n{}", family.name);
        assert!(text.contains(&sample), "{}: {text}", family.name);
    }
}

#[test]
fn promtool_finds_nothing_to_say() {
    let text = whole(
        &snapshot(full(), &counters([100; 6]), Detail::Histogram),
        Format::Prometheus,
    );
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        // The lab's tests insist on it, and ask it about a real daemon.
        println!("skipped: no promtool; `cargo xtask setup` installs it");
        return;
    };
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn samples_are_written_in_both_formats() {
    let counted = counters([100, 200, 300, 0, 0, 0]);
    let snapshot = snapshot(full(), &counted, Detail::Histogram);
    let older = whole(&snapshot, Format::Prometheus);
    let newer = whole(&snapshot, Format::OpenMetrics);
    let both = [
        "balancer_backend_packets_total{service=\"service-0000\",backend=\"backend-001\"} 200",
        "balancer_service_flows_total{service=\"service-0000\"} 60",
        "balancer_service_skew_ratio{service=\"service-0000\"} 0.33",
        "balancer_backend_observed_share_ratio{service=\"service-0000\",backend=\"backend-002\"} 0.6",
        "balancer_service_probe_duration_seconds_bucket{le=\"0.0025\",service=\"service-0000\"} 9",
        "balancer_service_probe_duration_seconds_sum{service=\"service-0000\"} 0.018",
        "balancer_service_handshake_duration_seconds_bucket{le=\"0.000512\",service=\"service-0000\"} 0",
        "balancer_service_handshake_duration_seconds_bucket{le=\"0.001024\",service=\"service-0000\"} 600",
        "balancer_service_handshake_duration_seconds_bucket{le=\"+Inf\",service=\"service-0000\"} 600",
        "balancer_revision 41",
        "balancer_config_last_reload_successful 0",
        "balancer_packets_total{verdict=\"drop\",reason=\"no_backend\"} 7",
        "kind=\"skew\",service=\"a \\\"b\\\"\\\\\",backend=\"web-1\",revision=\"41\",author=\"alice\"",
    ];
    for sample in both {
        assert!(older.contains(sample), "no {sample} in\n{older}");
        assert!(newer.contains(sample), "no {sample} in\n{newer}");
    }
    assert!(older.contains("# TYPE balancer_packets_total counter\n"));
    assert!(newer.contains("# TYPE balancer_packets counter\n"));
    assert!(newer.ends_with("# EOF\n") && !older.contains("# EOF"));
}

#[test]
fn totals_never_go_back_whatever_becomes_of_members_and_probes() {
    let mut ledger = Ledger::default();
    let mut all = observed(1, 3);
    let mut take = |observed: &Observed, members: [u64; 4], passed| {
        let counted = counters(members);
        let probes = probes(observed, passed);
        let taken = ledger.take(observed, &counted, &probes, Detail::Histogram);
        taken.into_iter().next().unwrap()
    };
    let packets = |it: &ServiceTotals| {
        let each = it.backends.iter().map(|it| it.of(Count::Packets));
        (it.totals.of(Count::Packets), each.collect::<Vec<_>>())
    };
    let first = take(&all, [100, 200, 300, 0], 5);
    assert_eq!(packets(&first), (600, vec![100, 200, 300]));
    // The second gets another address: it counts anew at another index, and
    // its probes begin anew.
    let shape = Arc::make_mut(&mut all.services[0].shape);
    shape.counters[1] = (3, 1);
    let second = take(&all, [110, 0, 310, 20], 1);
    assert_eq!(packets(&second), (600, vec![110, 200, 310]));
    assert_eq!(second.totals.of(Count::Passed), 15);
    let third = take(&all, [110, 0, 310, 30], 2);
    assert_eq!(packets(&third), (610, vec![110, 210, 310]));
    assert_eq!(third.totals.of(Count::Passed), 18);
    // The first one goes: what it got stays with the service.
    let shape = Arc::make_mut(&mut all.services[0].shape);
    shape.backends.remove(0);
    shape.counters = vec![(2, 1), (3, 0)];
    all.services[0].backends.remove(0);
    let fourth = take(&all, [0, 0, 310, 30], 2);
    assert_eq!(packets(&fourth), (610, vec![210, 310]));
    assert!(fourth.steps.handshakes()[9] >= third.steps.handshakes()[9]);
    let fifth = take(&all, [0, 0, 311, 30], 2);
    assert_eq!(packets(&fifth), (611, vec![210, 311]));
}

#[test]
fn many_backends_are_not_told_one_by_one_unless_asked_for() {
    let counted = counters([100; 6]);
    let of = |detail| whole(&snapshot(full(), &counted, detail), Format::Prometheus);
    let (service, backend) = (of(Detail::Service), of(Detail::Backend));
    assert!(!service.contains("balancer_backend_"), "{service}");
    assert!(service.contains("balancer_service_packets_total{service=\"service-0000\"} 300"));
    assert!(service.contains("balancer_metrics_info{detail=\"service\"} 1"));
    assert!(backend.contains("balancer_backend_packets_total{"));
    assert!(!backend.contains("balancer_backend_probe_duration_seconds"));
    assert_eq!(Detail::for_backends(1000), Detail::Histogram);
    assert_eq!(Detail::for_backends(1001), Detail::Backend);
    assert_eq!(Detail::for_backends(20_001), Detail::Service);
}

#[test]
fn large_balancer_is_told_of_in_moments() {
    let counted = counters((0..100_000).map(|it| it * 1000));
    for (detail, most) in [(Detail::Service, 20), (Detail::Backend, 300)] {
        let began = Instant::now();
        let snapshot = snapshot(observed(1000, 100), &counted, detail);
        let read = began.elapsed();
        let mut len = 0;
        for family in families::all() {
            len += text::family(family, &snapshot, Format::OpenMetrics).len();
        }
        let took = began.elapsed();
        println!(
            "{}: {len} bytes, read in {read:?}, all in {took:?}",
            detail.name()
        );
        assert!(len < most << 20, "{len} bytes");
        // A server that Prometheus gives up on after 10 s.
        assert!(took < Duration::from_secs(60), "{took:?}");
    }
}
