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

fn identity() -> impl Strategy<Value = Identity> {
    prop_oneof![
        (
            "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}",
            "[!-~]([ -~]{0,20}[!-~])?"
        )
            .prop_map(|(name, value)| Identity::Header { name, value }),
        "(?s).{1,40}".prop_map(Identity::Body),
        r"[a-z]{1,9}(\.\*|\[0-9\]\+|\\d)?".prop_map(Identity::Pattern),
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

fn without_certificate(identity: Option<Identity>) -> Option<Identity> {
    identity.filter(|it| !matches!(it, Identity::Certificate(_)))
}

fn tls() -> impl Strategy<Value = TlsProbe> {
    (option::of(dns()), option::of(absolute())).prop_map(|(server_name, ca_file)| TlsProbe {
        server_name,
        ca_file,
    })
}

/// As the parser: the certificate's name is the default.
fn named(tls: TlsProbe, identity: Option<&Identity>) -> TlsProbe {
    let name = match identity {
        Some(Identity::Certificate(name)) => Some(name.clone()),
        _ => None,
    };
    TlsProbe {
        server_name: tls.server_name.or(name),
        ..tls
    }
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        "(?s).{1,40}".prop_map(Payload::Text),
        vec(any::<u8>(), 1..40).prop_map(Payload::Hex),
    ]
}

fn dns_probe() -> impl Strategy<Value = DnsProbe> {
    let name = || prop_oneof![Just(".".to_owned()), dns()];
    let address = host_v4().prop_map(|address| (DnsRecord::A, address.to_string()));
    let other = (0..DnsRecord::ALL.len(), "[ -~]{1,20}")
        .prop_map(|(at, text)| (DnsRecord::ALL[at].1, text))
        .prop_filter("addresses are addresses", |(record, _)| {
            !matches!(record, DnsRecord::A | DnsRecord::Aaaa)
        });
    (name(), prop_oneof![address, other], any::<bool>()).prop_map(
        |(name, (record, answer), expects)| DnsProbe {
            name,
            record,
            expect: expects.then_some(answer).into_iter().collect(),
        },
    )
}

fn probe() -> impl Strategy<Value = ProbeKind> {
    let plain = (http(), any::<bool>()).prop_map(|(mut http, is_h2)| {
        http.identity = without_certificate(http.identity);
        match is_h2 {
            true => ProbeKind::H2c(http),
            false => ProbeKind::Http(http),
        }
    });
    let secure = (http(), tls(), any::<bool>()).prop_map(|(http, tls, is_h2)| {
        let tls = named(tls, http.identity.as_ref());
        match is_h2 {
            true => ProbeKind::H2(http, tls),
            false => ProbeKind::Https(http, tls),
        }
    });
    let grpc = ("[!-~]{0,20}", option::of("[!-~]{1,20}"), option::of(dns())).prop_map(
        |(service, host, name)| GrpcProbe {
            service,
            host,
            identity: name.map(Identity::Certificate),
        },
    );
    let grpc = (grpc, tls(), any::<bool>()).prop_map(|(mut grpc, tls, is_secure)| {
        if is_secure {
            let tls = named(tls, grpc.identity.as_ref());
            return ProbeKind::Grpcs(grpc, tls);
        }
        grpc.identity = without_certificate(grpc.identity);
        ProbeKind::Grpc(grpc)
    });
    let udp = (payload(), option::of(payload()))
        .prop_map(|(send, expect)| ProbeKind::Udp(UdpProbe { send, expect }));
    let command = ("/[!-~]{1,20}", vec("[ -~]{1,20}", 0..4), "[a-z]{1,9}").prop_map(
        |(program, arguments, user)| {
            let mut command = vec![program];
            command.extend(arguments);
            ProbeKind::Command(CommandProbe { command, user })
        },
    );
    prop_oneof![
        Just(ProbeKind::Tcp),
        plain,
        secure,
        grpc,
        udp,
        dns_probe().prop_map(ProbeKind::Dns),
        command
    ]
}

fn flap() -> impl Strategy<Value = Flap> {
    let of = |limit: u32, (window, hold, hold_max)| Flap {
        limit,
        window,
        hold,
        hold_max,
    };
    let seconds = || (1_u64..=3_600).prop_map(Duration::from_secs);
    let on = (1_u32..=100, (seconds(), seconds(), seconds()));
    let off = Flap {
        limit: 0,
        ..super::defaults::FLAP
    };
    prop_oneof![
        on.prop_map(move |(limit, times)| of(limit, times)),
        Just(off)
    ]
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
        vec("/[!-~]{0,20}", 0..=4),
        option::of(millis(10..=3_600_000)),
        (
            flap(),
            (0_u64..=365).prop_map(|days| Duration::from_secs(days * 86_400)),
            any::<bool>(),
        ),
    )
        .prop_map(
            |(kind, port, interval, jitter, timeout, rise, fall, compare, fast_interval, more)| {
                let (flap, certificate_warning, by_vip) = more;
                Health {
                    // As the parser: a command goes where it likes.
                    via: match kind {
                        ProbeKind::Command(_) => super::defaults::VIA,
                        _ if by_vip => Via::Vip,
                        _ => Via::Backend,
                    },
                    // As the parser: nobody can be asked for it.
                    compare: match kind {
                        ProbeKind::Http(_) | ProbeKind::Https(..) => compare,
                        _ => super::defaults::compare(),
                    },
                    // As the parser: no other has a certificate.
                    certificate_warning: match kind.tls() {
                        Some(_) => certificate_warning,
                        None => super::defaults::CERTIFICATE_WARNING,
                    },
                    kind,
                    port: Some(port),
                    interval,
                    jitter,
                    timeout,
                    rise,
                    fall,
                    fast_interval,
                    flap,
                }
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

fn tunnel_sources() -> impl Strategy<
    Value = (
        Option<TunnelSource<Ipv4Addr>>,
        Option<TunnelSource<Ipv6Addr>>,
    ),
> {
    let v4 = (host_v4(), 8..=32_u8).prop_map(|(address, length)| {
        TunnelSource::from(Ipv4Net::new(address, length).unwrap().trunc())
    });
    let v6 = (host_v6(), 16..=128_u8).prop_map(|(address, length)| {
        TunnelSource::from(Ipv6Net::new(address, length).unwrap().trunc())
    });
    (option::of(v4), option::of(v6))
}

type Translation = (Vec<Ipv4Addr>, Vec<Ipv6Addr>, (u16, u16), [Duration; 2]);

fn translation() -> impl Strategy<Value = Translation> {
    let ports = (1..=64_512_u16)
        .prop_flat_map(|first| (Just(first), first + 1023..))
        .prop_filter("u16", |(first, last)| first <= last);
    (
        btree_set(host_v4(), 0..4),
        btree_set(host_v6(), 0..4),
        ports,
        millis(10_000..=86_400_000),
        millis(1000..=600_000),
    )
        .prop_map(|(v4, v6, ports, idle, closed)| {
            let (v4, v6) = (v4.into_iter().collect(), v6.into_iter().collect());
            (v4, v6, ports, [idle, closed])
        })
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
        (tunnel_sources(), translation()),
        (absolute(), absolute(), absolute()),
        any::<[bool; 4]>(),
        millis(1000..=3_600_000),
        (1_u16.., 0.0..=1.0, 1024..=16_777_216_u32),
        (
            option::of(endpoint()),
            btree_set(endpoint(), 0..3),
            webhooks(),
            (option::of("[a-z]{1,9}"), option::of("[a-z]{1,9}")),
        ),
    )
        .prop_map(
            |(
                interfaces,
                xdp_mode,
                seed,
                table_size,
                (sources, translation),
                paths,
                switches,
                resync,
                (gue_port, handshake_sample, flow_table_size),
                (listen, peers, webhooks, groups),
            )| Node {
                interfaces: interfaces.into_iter().collect(),
                xdp_mode,
                // A group has to name its seed.
                seed: seed.or((!peers.is_empty()).then_some([7; 16])).map(Seed),
                listen,
                page: switches[3],
                peers: peers.into_iter().collect(),
                table_size,
                tunnel_source_v4: sources.0,
                tunnel_source_v6: sources.1,
                gue_port,
                fullnat_sources_v4: translation.0,
                fullnat_sources_v6: translation.1,
                fullnat_ports: translation.2,
                nat_idle_timeout: translation.3[0],
                nat_closed_timeout: translation.3[1],
                handshake_sample,
                flow_table_size,
                socket: paths.0,
                read_group: groups.0,
                change_group: groups.1,
                state_dir: paths.1,
                pin_dir: paths.2,
                answer_echo: switches[0],
                keep_forwarding: switches[1],
                resync_interval: resync,
                repair_drift: switches[2],
                webhooks,
            },
        )
}

fn webhooks() -> impl Strategy<Value = Vec<Webhook>> {
    let one = (
        any::<bool>(),
        "https?://[a-z]{1,9}(:80)?(/[a-z]{1,9})?",
        millis(100..=60_000),
        option::of(absolute()),
    );
    proptest::collection::vec(one, 0..3).prop_map(|all| {
        let all = all.into_iter().enumerate();
        all.map(|(at, (is_json, url, timeout, ca_file))| Webhook {
            name: format!("hook-{at}"),
            url,
            kind: match is_json {
                true => WebhookKind::Json,
                false => WebhookKind::Alertmanager,
            },
            timeout,
            ca_file,
        })
        .collect()
    })
}

fn endpoint() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), 1_u16..).prop_map(|(address, port)| SocketAddr::new(address, port))
}

fn apply() -> impl Strategy<Value = Apply> {
    let (hold, age) = (millis(0..=3_600_000), millis(3_600_000..=315_360_000_000));
    (btree_set(1_u8..100, 0..4), hold, 2_u32..=100_000, age).prop_map(
        |(stages, hold, revisions, age)| Apply {
            stages: stages.into_iter().chain([100]).collect(),
            hold,
            keep: Keep { revisions, age },
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
