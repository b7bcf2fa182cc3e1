//! Any `[service.health]`.

use super::*;

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

pub(super) fn health() -> impl Strategy<Value = Health> {
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
