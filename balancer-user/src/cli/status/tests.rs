//! Whole screens, letter by letter.

use std::collections::BTreeMap;

use super::*;
use crate::api::types::{Apply, InterfaceStatus, Reload};

pub(in crate::cli) fn backend(name: &str, state: &str) -> BackendStatus {
    BackendStatus {
        name: name.to_owned(),
        address: "10.0.0.11".parse().unwrap(),
        port: None,
        weight: 100,
        state: state.to_owned(),
        since_seconds: Some(3_661),
        last_failure: None,
        next_hop: "resolved".to_owned(),
        slot_count: 100,
        share_expected: 0.5,
        share_seen: Some(0.498),
        flows: 1_234,
        packets: 56_789,
        bytes: 3_400_000,
        resets: 7,
        handshakes: None,
        flows_per_second: 12.0,
        packets_per_second: 340.5,
        bits_per_second: 1_250_000.0,
    }
}

fn down(name: &str) -> BackendStatus {
    BackendStatus {
        since_seconds: Some(12),
        last_failure: Some("connection refused".to_owned()),
        share_expected: 0.0,
        share_seen: None,
        ..backend(name, "down")
    }
}

pub(in crate::cli) fn service(
    name: &str,
    state: &str,
    backends: Vec<BackendStatus>,
) -> ServiceStatus {
    ServiceStatus {
        name: name.to_owned(),
        address: "192.0.2.10".parse().unwrap(),
        ports: "443".to_owned(),
        protocol: "tcp".to_owned(),
        forward: "ipip".to_owned(),
        state: state.to_owned(),
        slot_count: 65_537,
        counted_since_change: 1_234,
        probe: Some("http via vip".to_owned()),
        settling_seconds: None,
        backends,
    }
}

pub(in crate::cli) fn status(services: Vec<ServiceStatus>) -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 42,
        uptime_seconds: 18_120,
        config_file: "/etc/balancer.toml".to_owned(),
        runtime_changes: Vec::new(),
        revision: Some(41),
        change_under_way: None,
        last_reload: None,
        last_apply: None,
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            mode: "native".to_owned(),
            state: "up".to_owned(),
        }],
        features: Vec::new(),
        services,
        reasons: BTreeMap::new(),
        problems: Vec::new(),
        incidents: Vec::new(),
        capture: None,
    }
}

fn line(status: &Status) -> String {
    headline::headline(status).1
}

#[test]
fn first_line_says_that_all_is_well() {
    let up = |name: &str| service(name, "up", vec![backend("a", "up"), backend("b", "up")]);
    let mut all = status(vec![up("web"), up("dns")]);
    assert_eq!(
        line(&all),
        "all 2 services up, 4 of 4 backends, no packet dropped since the start"
    );
    all.services[0].backends[0].state = "draining".to_owned();
    all.reasons.insert("no_backend".to_owned(), 1);
    all.reasons.insert("no_service".to_owned(), 5_000);
    assert_eq!(
        line(&all),
        "all 2 services up, 3 of 3 backends, 1 draining, 1 packet dropped since the start"
    );
    assert!(headline::headline(&all).0);
    all.services.pop();
    assert_eq!(
        line(&all),
        "service web up, 1 of 1 backends, 1 draining, 1 packet dropped since the start"
    );
}

#[test]
fn first_line_names_what_is_wrong_and_why() {
    let degraded = service(
        "web",
        "degraded",
        vec![backend("web-1", "up"), down("web-3")],
    );
    let mut unwell = status(vec![degraded]);
    assert_eq!(
        line(&unwell),
        "service web degraded: web-3 down since 12s: connection refused"
    );
    unwell.services.push(service("dns", "down", Vec::new()));
    assert_eq!(
        line(&unwell),
        "service web degraded: web-3 down since 12s: connection refused; also dns down"
    );
    unwell.services.remove(0);
    assert_eq!(
        line(&unwell),
        "service dns down: no backend takes new flows"
    );
    unwell.services[0].backends = (0..5).map(|n| down(&format!("d{n}"))).collect();
    assert!(line(&unwell).ends_with("; 2 more"), "{}", line(&unwell));
}

#[test]
fn first_line_is_the_problem_where_the_services_are_up() {
    let mut unwell = status(vec![service("web", "up", vec![backend("a", "up")])]);
    unwell.problems = vec!["interface eth0: the program is detached".to_owned()];
    assert_eq!(line(&unwell), "interface eth0: the program is detached");
    assert!(!render(&unwell, false).contains("needs attention"));
    unwell.problems.push("another".to_owned());
    assert_eq!(
        line(&unwell),
        "interface eth0: the program is detached (and 1 more)"
    );
    assert!(render(&unwell, false).contains("needs attention:\n  interface eth0"));
}

#[test]
fn no_service_is_not_well() {
    assert_eq!(
        headline::headline(&status(Vec::new())),
        (
            false,
            "no service is configured: every packet passes by untouched".to_owned()
        )
    );
}

#[test]
fn screen_of_a_busy_balancer() {
    let mut busy = status(vec![service(
        "web",
        "degraded",
        vec![backend("web-1", "up"), down("web-3")],
    )]);
    busy.services[0].settling_seconds = Some(250);
    busy.reasons = BTreeMap::from([
        ("forwarded".to_owned(), 1_200_000),
        ("no_service".to_owned(), 40),
        ("bad_length".to_owned(), 3),
        ("exceeds_mtu".to_owned(), 1_500),
    ]);
    busy.runtime_changes = vec!["service web: backend web-2 drains".to_owned()];
    busy.last_reload = Some(Reload {
        ago_seconds: 90,
        succeeded: true,
        summary: "nothing changed".to_owned(),
    });
    busy.last_apply = Some(Apply {
        ago_seconds: 12,
        cause: "service web: backend web-3 is down: connection refused".to_owned(),
        duration_micros: 1_500,
        succeeded: true,
    });
    let expected = "\
service web degraded: web-3 down since 12s: connection refused

service web: degraded, 192.0.2.10:443/tcp, ipip, probed by http via vip, seen are 1.2k new flows, flows of earlier owners are kept for 4m10s more at least
  backend  address    weight  state  since  expected    seen  flows  packets   bytes  flows/s  packets/s  bit/s
  web-1    10.0.0.11     100  up     1h01m    50.0 %  49.8 %   1.2k      57k  3.4 MB       12        340   1.2M
  web-3    10.0.0.11     100  down     12s     0.0 %       -   1.2k      57k  3.4 MB       12        340   1.2M

1.2M packets forwarded, 40 passed up the host's stack, 1.5k dropped
  dropped because  packets
  exceeds_mtu         1.5k
  bad_length             3

changed by command since the file was read, and not in the file:
  service web: backend web-2 drains

last reload 1m30s ago: nothing changed
last change of the tables 12s ago, in force after 1.5 ms: service web: backend web-3 is down: connection refused
balancer 0.1.0, revision 41, process 42, up 5h02m, file /etc/balancer.toml, interfaces eth0 (native)
";
    assert_eq!(render(&busy, false), expected);
}

#[test]
fn udp_has_no_flows_and_ipv6_stands_in_brackets() {
    let mut udp = service("dns", "up", vec![backend("d", "up")]);
    udp.protocol = "udp".to_owned();
    udp.address = "2001:db8::53".parse().unwrap();
    let text = service_text(&udp, false);
    assert!(text.contains("[2001:db8::53]:443/udp"), "{text}");
    let row = text.lines().last().unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(
        cells.iter().filter(|cell| **cell == "-").count(),
        2,
        "{row}"
    );
}

#[test]
fn backends_that_differ_in_their_port_alone_show_it() {
    let at = |name: &str, port| BackendStatus {
        port: Some(port),
        ..backend(name, "up")
    };
    let mut v6 = at("web-3", 8443);
    v6.address = "2001:db8::11".parse().unwrap();
    let backends = vec![at("web-1", 8443), at("web-2", 8444), v6];
    let screen = render(&status(vec![service("web", "up", backends)]), false);
    for endpoint in ["10.0.0.11:8443 ", "10.0.0.11:8444 ", "[2001:db8::11]:8443 "] {
        assert!(screen.contains(endpoint), "{endpoint} in\n{screen}");
    }
}

#[test]
fn colour_adds_nothing_but_colour() {
    let all = status(vec![service("web", "up", vec![backend("a", "up")])]);
    assert!(render(&all, true).contains("\u{1b}[32m"));
    assert!(!render(&all, false).contains('\u{1b}'));
}
