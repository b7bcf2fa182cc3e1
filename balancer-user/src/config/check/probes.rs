//! Rules about the probes of a service.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::diagnostic::Level;
use super::super::model::{Health, Ports, ProbeKind, Protocol, Service, Via};
use super::super::spans::Place;
use super::super::wording::{counted, quoted};
use super::{Context, rules};

/// Ports on which a service is taken to speak HTTP.
const HTTP_PORTS: [u16; 4] = [80, 443, 8080, 8443];
/// Between these, a dead backend is noticed soon but not rashly.
const DETECTION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

pub(super) fn check(context: &mut Context<'_>, index: usize, service: &Service) {
    let name = &service.name;
    let Some(health) = &service.health else {
        let message = format!("service {name}: no health check, so a dead backend keeps its share");
        let place = Place::Service(index, "");
        context.report(&rules::NO_HEALTH_CHECK, place, message, |finding| {
            finding.help("add a `[service.health]`")
        });
        return;
    };
    if service.fail_open_below.is_none() {
        let message = format!("service {name}: `fail_open_below` is unset, which acts as 0");
        let place = Place::Service(index, "");
        context.report(&rules::FAIL_OPEN_UNSET, place, message, |finding| {
            finding.help("add `fail_open_below = 0.3`, or 0 for never")
        });
    }
    let http_port = HTTP_PORTS
        .iter()
        .find(|port| has_port(&service.ports, **port));
    if let (ProbeKind::Tcp, Protocol::Tcp, Some(port)) = (&health.kind, service.protocol, http_port)
    {
        let message = format!("service {name}: a TCP probe on port {port} says nothing about HTTP");
        let place = Place::Health(index, "kind");
        context.report(&rules::NO_HEALTH_CHECK, place, message, |finding| {
            finding.help("probe with kind http or https")
        });
    }
    if passes_any_server(&health.kind) {
        let message = format!("service {name}: any server would pass this probe");
        let place = Place::Health(index, "kind");
        context.report(&rules::PROBE_WITHOUT_PROOF, place, message, |finding| {
            finding.help(proofs_of(&health.kind))
        });
    }
    way(context, index, service, health);
    probe_timing(context, index, name, health);
}

/// What goes by the service's address has to be what clients send there.
fn way(context: &mut Context<'_>, index: usize, service: &Service, health: &Health) {
    if health.via != Via::Vip {
        return;
    }
    let object = format!("service {}: probes go by the VIP", service.name);
    let forward = service.forward;
    if forward.is_translation() {
        let message = format!(
            "{object}, and {forward} sends a backend packets to its own address, which answers \
             to nobody else"
        );
        let related = context.spans.find(Place::Service(index, "forward"));
        let place = Place::Health(index, "via");
        context.report(&rules::PROBE_WAY, place, message, |finding| {
            finding
                .help("leave `via` out: an ordinary probe goes where clients' packets go")
                .related(related, format!("{forward} is set here"))
        });
    }
    if let Some(spoken) = health.kind.protocol()
        && spoken != service.protocol
    {
        let kind = health.kind.name();
        let message = format!(
            "{object}, and kind {kind} speaks {spoken}, of which nothing is forwarded: the \
             service is {}",
            service.protocol
        );
        let related = context.spans.find(Place::Health(index, "kind"));
        let place = Place::Health(index, "via");
        context.report(&rules::PROBE_WAY, place, message, |finding| {
            let help = match service.protocol {
                Protocol::Tcp => "probe with kind tcp or one above it, or leave `via` out",
                Protocol::Udp => "probe with kind udp or dns, or leave `via` out",
            };
            finding.help(help).related(related, "the kind is set here")
        });
    }
    if let (Some(port), Ports::Ranges(_)) = (health.port, &service.ports)
        && !has_port(&service.ports, port)
    {
        let message = format!(
            "{object}, and of port {port} nothing is forwarded: the service has {}",
            service.ports
        );
        let related = context.spans.find(Place::Service(index, "port"));
        let place = Place::Health(index, "port");
        context.report(&rules::PROBE_WAY, place, message, |finding| {
            finding
                .help("probe a port of the service, or leave `via` out")
                .related(related, "its ports are set here")
        });
    }
}

fn has_port(ports: &Ports, port: u16) -> bool {
    match ports {
        Ports::Any => false,
        Ports::Ranges(ranges) => ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port)),
    }
}

fn passes_any_server(kind: &ProbeKind) -> bool {
    if kind.identity().is_some() || kind.tls().is_some_and(|tls| tls.server_name.is_some()) {
        return false;
    }
    match kind {
        ProbeKind::Udp(udp) => udp.expect.is_none(),
        _ if kind.grpc().is_some_and(|grpc| grpc.service.is_empty()) => true,
        _ => kind
            .http()
            .is_some_and(|http| http.expect_status.is_empty()),
    }
}

/// What would let it tell servers apart.
fn proofs_of(kind: &ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Udp(_) => "add `expect` or `expect_hex`",
        ProbeKind::Grpc(_) | ProbeKind::Grpcs(..) => "add `grpc_service`, or an `identity`",
        _ => "add `expect_status = [200]` and an `identity`",
    }
}

fn probe_timing(context: &mut Context<'_>, index: usize, name: &str, health: &Health) {
    let show = |duration| quoted(&humantime::format_duration(duration).to_string());
    let object = format!("service {name}, health");
    if health.timeout >= health.interval {
        let message = format!(
            "{object}: timeout {} is not below interval {}",
            show(health.timeout),
            show(health.interval)
        );
        let place = Place::Health(index, "timeout");
        context.report(&rules::PROBE_TIMING, place, message, |finding| {
            finding.help(format!("try timeout = {}", show(health.interval / 2)))
        });
    }
    if let Some(fast) = health.fast_interval.filter(|fast| *fast > health.interval) {
        let message = format!(
            "{object}: fast_interval {} is above interval {}",
            show(fast),
            show(health.interval)
        );
        let place = Place::Health(index, "fast_interval");
        context.report(&rules::PROBE_TIMING, place, message, |finding| {
            finding.help(format!("try fast_interval = {}", show(health.interval / 4)))
        });
    }
    let flap = &health.flap;
    if flap.limit > 0 && flap.hold > flap.hold_max {
        let message = format!(
            "{object}: flap_hold {} is above flap_hold_max {}",
            show(flap.hold),
            show(flap.hold_max)
        );
        let place = Place::Health(index, "flap_hold");
        context.report(&rules::PROBE_TIMING, place, message, |finding| {
            finding.help("lengthen flap_hold_max, or leave it out")
        });
    }
    for (key, count) in [("rise", health.rise), ("fall", health.fall)] {
        if count >= 2 {
            continue;
        }
        let message = format!("{object}: {key} {count} lets one stray probe decide, limit 2");
        let place = Place::Health(index, key);
        context.report(&rules::PROBE_TIMING, place, message, |finding| {
            finding
                .level(Level::Warning)
                .help(format!("set {key} = 2 or more"))
        });
    }
    let detection = health.interval * health.fall;
    if DETECTION.contains(&detection) {
        return;
    }
    let help = if detection > *DETECTION.end() {
        "shorten the interval or lower fall"
    } else {
        "lengthen the interval or raise fall"
    };
    let message = format!(
        "{object}: {} {} apart take {} to find a dead backend, limit 1s to 30s",
        counted(health.fall as usize, "probe"),
        show(health.interval),
        show(detection)
    );
    let place = Place::Health(index, "interval");
    context.report(&rules::PROBE_TIMING, place, message, |finding| {
        finding.level(Level::Warning).help(help)
    });
}
