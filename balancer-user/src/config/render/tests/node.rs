//! Any `[node]` and `[apply]`.

use super::*;

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

pub(super) fn node() -> impl Strategy<Value = Node> {
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

pub(super) fn apply() -> impl Strategy<Value = Apply> {
    let (hold, age) = (millis(0..=3_600_000), millis(3_600_000..=315_360_000_000));
    (btree_set(1_u8..100, 0..4), hold, 2_u32..=100_000, age).prop_map(
        |(stages, hold, revisions, age)| Apply {
            stages: stages.into_iter().chain([100]).collect(),
            hold,
            keep: Keep { revisions, age },
        },
    )
}
