use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::model::{Forward, Mac, Protocol, Seed};
use super::super::parse::parse;
use super::super::testing::SAMPLE;
use super::*;

#[test]
fn defaults_are_left_out() {
    let text = "\
[node]
interfaces = [\"eth0\"]

[[service]]
name = \"web\"
address = \"192.0.2.10\"
port = [80, \"8000-8010\"]
protocol = \"tcp\"
forward = \"l2\"
fail_open_below = 1.0

[service.health]
kind = \"https\"
identity = { certificate = \"web.example\" }

[[service.backend]]
address = \"10.0.0.1\"

[[service.backend]]
name = \"b\"
address = \"10.0.0.2\"
weight = 1
";
    assert_eq!(render(&parse(text).config.unwrap()), text);
}

#[test]
fn the_sample_reads_back_as_the_same() {
    let config = parse(SAMPLE).config.unwrap();
    assert_eq!(parse(&render(&config)).config, Some(config));
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.:@-]{1,64}"
}

fn millis(limits: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    limits.prop_map(Duration::from_millis)
}

fn dns() -> impl Strategy<Value = String> {
    "[a-z0-9_]{1,9}(\\.[a-z]{1,9}){0,3}"
}

fn absolute() -> impl Strategy<Value = PathBuf> {
    "/[^\\x00]{0,20}".prop_map(PathBuf::from)
}

fn host_v4() -> impl Strategy<Value = Ipv4Addr> {
    any::<[u8; 3]>().prop_map(|[a, b, c]| Ipv4Addr::new(10, a, b, c))
}

fn host_v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u16; 7]>().prop_map(|[a, b, c, d, e, f, g]| Ipv6Addr::new(0x2001, a, b, c, d, e, f, g))
}

fn ports() -> impl Strategy<Value = Ports> {
    // Bounds in order, each pair a range; those that touch are not made.
    let ranges = btree_set(1_u16.., 2..12).prop_map(|bounds| {
        let bounds: Vec<u16> = bounds.into_iter().collect();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for pair in bounds.chunks_exact(2) {
            match ranges.last_mut() {
                Some(before) if before.1 + 1 == pair[0] => before.1 = pair[1],
                _ => ranges.push((pair[0], pair[1])),
            }
        }
        Ports::Ranges(ranges)
    });
    prop_oneof![Just(Ports::Any), (1_u16..).prop_map(Ports::one), ranges]
}

fn network() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, len)| { IpNet::new(IpAddr::V4(bits.into()), len).unwrap().trunc() }),
        (any::<u128>(), 0..=128_u8)
            .prop_map(|(bits, len)| { IpNet::new(IpAddr::V6(bits.into()), len).unwrap().trunc() }),
    ]
}

fn identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        (
            "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}",
            "[!-~]([ -~]{0,20}[!-~])?"
        )
            .prop_map(|(name, value)| Identity::Header { name, value }),
        "(?s).{1,40}".prop_map(Identity::Body),
        dns().prop_map(Identity::Certificate),
    ]
}

fn http() -> impl Strategy<Value = HttpProbe> {
    (
        "/[!-~]{0,20}",
        option::of("[!-~]{1,20}"),
        vec(100_u16..=599, 0..4),
        option::of(identity()),
    )
        .prop_map(|(path, host, expect_status, identity)| HttpProbe {
            path,
            host,
            expect_status,
            identity,
        })
}

fn probe() -> impl Strategy<Value = ProbeKind> {
    let plain = http().prop_filter_map("a certificate needs TLS", |http| {
        let certificate = matches!(http.identity, Some(Identity::Certificate(_)));
        (!certificate).then_some(ProbeKind::Http(http))
    });
    let tls = (http(), option::of(dns()), option::of(absolute())).prop_map(
        |(http, server_name, ca_file)| {
            // As the parser: the certificate's name is the default.
            let server_name = server_name.or(match &http.identity {
                Some(Identity::Certificate(name)) => Some(name.clone()),
                _ => None,
            });
            ProbeKind::Https(
                http,
                TlsProbe {
                    server_name,
                    ca_file,
                },
            )
        },
    );
    prop_oneof![Just(ProbeKind::Tcp), plain, tls]
}

fn health() -> impl Strategy<Value = Health> {
    (
        probe(),
        1_u16..,
        millis(10..=3_600_000),
        0.0..=0.5,
        millis(1..=3_600_000),
        1_u32..=100,
        1_u32..=100,
    )
        .prop_map(
            |(kind, port, interval, jitter, timeout, rise, fall)| Health {
                kind,
                port: Some(port),
                interval,
                jitter,
                timeout,
                rise,
                fall,
            },
        )
}

fn backend() -> impl Strategy<Value = Backend> {
    let address = prop_oneof![
        host_v4().prop_map(IpAddr::V4),
        host_v6().prop_map(IpAddr::V6)
    ];
    (
        address,
        option::of(1_u16..),
        any::<u16>(),
        option::of(name()),
        option::of(1_u64..=1_000_000_000_000),
        option::of(any::<[u8; 5]>()),
        any::<bool>(),
    )
        .prop_map(
            |(address, port, weight, zone, capacity, mac, drain)| Backend {
                name: String::new(),
                address,
                port,
                weight,
                zone,
                capacity_flows_per_second: capacity,
                mac: mac.map(|[a, b, c, d, e]| Mac([2, a, b, c, d, e])),
                drain,
            },
        )
}

fn service() -> impl Strategy<Value = Service> {
    let allow = option::of((
        vec(prop_oneof![Just("churn"), Just("capacity")], 1..3),
        "[ -~]{0,20}[!-~]",
    ));
    let head = (
        any::<bool>(),
        ports(),
        any::<bool>(),
        any::<bool>(),
        vec(network(), 0..3),
        option::of(0.0..=1.0),
        millis(0..=86_400_000),
        option::of(1_u64..=1_000_000_000_000),
        allow,
    );
    (
        head,
        option::of(health()),
        btree_map(name(), backend(), 0..4),
    )
        .prop_map(
            |(
                (v4, ports, tcp, l2, allowed_backends, fail_open, drain, peak, allow),
                health,
                backends,
            )| {
                let (allow, allow_reason) = allow.unzip();
                Service {
                    name: String::new(),
                    address: if v4 {
                        IpAddr::from([192, 0, 2, 1])
                    } else {
                        IpAddr::V6(Ipv6Addr::LOCALHOST)
                    },
                    ports,
                    protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                    forward: if l2 { Forward::L2 } else { Forward::Ipip },
                    allowed_backends,
                    fail_open_below: fail_open,
                    drain_timeout: drain,
                    peak_flows_per_second: peak,
                    allow: allow
                        .unwrap_or_default()
                        .into_iter()
                        .map(str::to_owned)
                        .collect(),
                    allow_reason,
                    health,
                    backends: backends
                        .into_iter()
                        .map(|(name, backend)| Backend { name, ..backend })
                        .collect(),
                }
            },
        )
}

fn node() -> impl Strategy<Value = Node> {
    (
        btree_set("[a-z0-9._-]{0,13}[a-z0-9]", 1..4),
        prop_oneof![
            Just(XdpMode::Auto),
            Just(XdpMode::Native),
            Just(XdpMode::Generic)
        ],
        option::of(any::<[u8; 16]>()),
        prop_oneof![Just(65_537_u32), Just(2), Just(1_000_003)],
        (option::of(host_v4()), option::of(host_v6())),
        (absolute(), absolute(), absolute()),
        any::<[bool; 2]>(),
        millis(1000..=3_600_000),
    )
        .prop_map(
            |(interfaces, xdp_mode, seed, table_size, sources, paths, switches, resync)| Node {
                interfaces: interfaces.into_iter().collect(),
                xdp_mode,
                seed: seed.map(Seed),
                table_size,
                tunnel_source_v4: sources.0,
                tunnel_source_v6: sources.1,
                socket: paths.0,
                state_dir: paths.1,
                pin_dir: paths.2,
                answer_echo: switches[0],
                keep_forwarding: switches[1],
                resync_interval: resync,
            },
        )
}

fn config() -> impl Strategy<Value = Config> {
    (node(), btree_map(name(), service(), 0..4)).prop_map(|(node, services)| Config {
        node,
        services: services
            .into_iter()
            .map(|(name, service)| Service { name, ..service })
            .collect(),
    })
}

proptest! {
    #[test]
    fn a_rendered_config_reads_back_as_the_same(config in config()) {
        let text = render(&config);
        let parsed = parse(&text);
        prop_assert_eq!(parsed.config, Some(config), "{}\n{:#?}", text, parsed.findings);
    }
}
