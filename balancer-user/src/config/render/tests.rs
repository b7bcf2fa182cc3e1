use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::super::model::{
    Apply, CommandProbe, DnsProbe, DnsRecord, Flap, Forward, GrpcProbe, Health, HttpProbe,
    Identity, Keep, Mac, Payload, ProbeKind, Protocol, Quic, Seed, ServerId, SourceLimit, TlsProbe,
    TunnelSource, UdpProbe, Unfinished, Via, Webhook, WebhookKind,
};
use super::super::parse::parse;
use super::super::testing::{PATH_SAMPLE, SAMPLE};
use super::*;

mod health;
mod node;

use health::health;
use node::{apply, node};

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
fn the_samples_read_back_as_the_same() {
    for sample in [SAMPLE, PATH_SAMPLE] {
        let config = parse(sample).config.unwrap();
        assert_eq!(parse(&render(&config)).config, Some(config));
    }
}

#[test]
fn what_the_packet_path_reads_is_written_as_it_was() {
    let written = render(&parse(PATH_SAMPLE).config.unwrap());
    for line in PATH_SAMPLE.lines().filter(|line| !line.is_empty()) {
        // A default is left out, and so is what follows from another key.
        if line != "flow_idle_timeout = \"2m\"" {
            assert!(written.contains(line), "{line} in\n{written}");
        }
    }
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
        option::of(vec(any::<u8>(), 1..=8)),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(address, port, weight, zone, capacity, mac, server_id, drain, backup)| Backend {
                name: String::new(),
                address,
                port,
                weight,
                zone,
                capacity_flows_per_second: capacity,
                mac: mac.map(|[a, b, c, d, e]| Mac([2, a, b, c, d, e])),
                server_id: server_id.and_then(|id| ServerId::new(&id)),
                pool: if backup { Pool::Backup } else { Pool::Primary },
                drain,
            },
        )
}

/// What a service says to the packet path, beside protocol and family.
#[derive(Debug)]
struct PacketPath {
    forward: Forward,
    affinity: Affinity,
    mss_clamp: Option<u16>,
    allow_sources: Vec<IpNet>,
    deny_sources: Vec<IpNet>,
    source_limit: Option<SourceLimit>,
    quic: Option<Quic>,
}

fn affinity(tcp: bool) -> BoxedStrategy<Affinity> {
    let stateless = prop_oneof![Just(Affinity::Hash), Just(Affinity::Source)];
    if tcp {
        return stateless.boxed();
    }
    let flow = millis(1000..=86_400_000).prop_map(|idle_timeout| Affinity::Flow { idle_timeout });
    prop_oneof![stateless, flow].boxed()
}

fn packet_path(v4: bool, tcp: bool) -> impl Strategy<Value = PacketPath> {
    let forward = prop_oneof![
        Just(Forward::L2),
        Just(Forward::Ipip),
        Just(Forward::Gue),
        Just(Forward::Nat),
        Just(Forward::Fullnat)
    ];
    let sources = btree_set(
        network().prop_filter("the family", move |net| net.addr().is_ipv4() == v4),
        0..6,
    );
    let longest: u8 = if v4 { 32 } else { 128 };
    let limit = (1..=1_000_000_000_u32, 1..=1_000_000_000_u32, 1..=longest);
    let quic = (1..=8_u8).prop_flat_map(|length| (Just(length), 0..=(20 - length).min(19)));
    (
        forward,
        affinity(tcp),
        option::of(88..=65_495_u16),
        (sources, 0..6_usize),
        option::of(limit),
        option::of(quic),
    )
        .prop_map(move |(forward, affinity, mss, sources, limit, quic)| {
            let tells_new_flows = tcp || matches!(affinity, Affinity::Flow { .. });
            let mut allow_sources: Vec<IpNet> = sources.0.into_iter().collect();
            let deny_sources = allow_sources.split_off(sources.1.min(allow_sources.len()));
            PacketPath {
                forward,
                affinity,
                mss_clamp: mss.filter(|_| tcp),
                allow_sources,
                deny_sources,
                source_limit: limit.filter(|_| tells_new_flows).map(
                    |(flows_per_second, burst, prefix_length)| SourceLimit {
                        flows_per_second,
                        burst,
                        prefix_length,
                    },
                ),
                quic: quic
                    .filter(|_| !tcp)
                    .map(|(server_id_length, server_id_offset)| Quic {
                        server_id_offset,
                        server_id_length,
                    }),
            }
        })
}

fn service() -> impl Strategy<Value = Service> {
    let allow = option::of((
        vec(prop_oneof![Just("churn"), Just("capacity")], 1..3),
        "[ -~]{0,20}[!-~]",
    ));
    let path = any::<(bool, bool)>()
        .prop_flat_map(|(v4, tcp)| (Just(v4), Just(tcp), packet_path(v4, tcp)));
    let head = (
        path,
        ports(),
        vec(network(), 0..3),
        option::of(0.0..=1.0),
        (millis(0..=86_400_000), 0.0..=1.0, millis(0..=3_600_000)),
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
                ((v4, tcp, path), ports, allowed_backends, fail_open, times, peak, allow),
                health,
                backends,
            )| {
                let (allow, allow_reason) = allow.unzip();
                let (drain, backup_below, slow_start) = times;
                let has_backup = backends
                    .values()
                    .any(|it: &Backend| it.pool == Pool::Backup);
                // Nobody is asked over TCP for a UDP service.
                let health = health.map(|health: Health| match tcp {
                    true => health,
                    false => Health {
                        compare: super::defaults::compare(),
                        ..health
                    },
                });
                Service {
                    name: String::new(),
                    address: if v4 {
                        IpAddr::from([192, 0, 2, 1])
                    } else {
                        IpAddr::V6(Ipv6Addr::LOCALHOST)
                    },
                    ports,
                    protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                    forward: path.forward,
                    allowed_backends,
                    fail_open_below: fail_open,
                    // As the parser: it is about backups.
                    backup_below: if has_backup { backup_below } else { 0.0 },
                    slow_start,
                    unfinished_handshakes: match (tcp, drain.as_secs() % 3) {
                        (false, _) | (true, 0) => Unfinished::Named,
                        (true, 1) => Unfinished::Trickle,
                        (true, _) => Unfinished::Out,
                    },
                    drain_timeout: drain,
                    peak_flows_per_second: peak,
                    affinity: path.affinity,
                    mss_clamp: path.mss_clamp,
                    allow_sources: path.allow_sources,
                    deny_sources: path.deny_sources,
                    source_limit: path.source_limit,
                    quic: path.quic,
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

fn config() -> impl Strategy<Value = Config> {
    let based_on = option::of(1..=i64::MAX as u64);
    let services = btree_map(name(), service(), 0..4);
    (based_on, node(), apply(), services).prop_map(|(based_on, node, apply, services)| Config {
        based_on,
        node,
        apply,
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
