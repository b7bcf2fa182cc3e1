use super::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(name: &str) -> Link {
    Link {
        index: 3,
        name: name.to_owned(),
        mtu: 1500,
        mac: Some(OWN_MAC),
        up: true,
        carrier: true,
        loopback: false,
        xdp: None,
        vlan_of: None,
        bond: None,
    }
}

fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.kind = kind;
    message.attributes = attributes;
    message
}

fn unicast(mut attributes: Vec<RouteAttribute>) -> RouteMessage {
    attributes.push(RouteAttribute::Oif(3));
    answer(RouteType::Unicast, attributes)
}

#[test]
fn a_destination_on_the_link_is_its_own_neighbour() {
    let source = RouteAttribute::PrefSource(address("10.0.0.1").into());
    let route = decode(address("10.0.0.2"), &unicast(vec![source])).unwrap();
    let expected = NextHop {
        egress: 3,
        interface: "eth0".to_owned(),
        neighbour: address("10.0.0.2"),
        on_link: true,
        mac: Some(MAC),
        source_mac: OWN_MAC,
        source: Some(address("10.0.0.1")),
        mtu: 1500,
    };
    assert_eq!(route.next_hop(Some(&link("eth0")), Some(MAC)), Ok(expected));
}

#[test]
fn a_gateway_gets_the_frame_whatever_its_family() {
    let cases = [
        (
            "10.9.0.1",
            RouteAttribute::Gateway(address("10.0.0.254").into()),
            "10.0.0.254",
        ),
        (
            "2001:db8::1",
            RouteAttribute::Gateway(address("fe80::1").into()),
            "fe80::1",
        ),
        (
            "10.9.0.1",
            RouteAttribute::Via(address("fe80::1").into()),
            "fe80::1",
        ),
    ];
    for (destination, via, gateway) in cases {
        let route = decode(address(destination), &unicast(vec![via])).unwrap();
        let hop = route.next_hop(Some(&link("eth0")), None).unwrap();
        assert_eq!((hop.neighbour, hop.on_link), (address(gateway), false));
        assert_eq!(hop.mac, None);
    }
}

#[test]
fn the_routes_mtu_counts_where_it_is_the_smaller() {
    for (metric, mtu) in [
        (Some(1400), 1400),
        (Some(9000), 1500),
        (Some(0), 1500),
        (None, 1500),
    ] {
        let metrics = metric.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        let route = decode(address("10.0.0.2"), &unicast(metrics.into_iter().collect())).unwrap();
        assert_eq!(
            route.next_hop(Some(&link("eth0")), None).unwrap().mtu,
            mtu,
            "{metric:?}"
        );
    }
}

#[test]
fn each_kind_of_route_without_a_next_hop_is_told_apart() {
    let destination = address("10.0.0.2");
    let cases = [
        (RouteType::Local, Unresolved::Local { destination }),
        (RouteType::Anycast, Unresolved::Local { destination }),
        (RouteType::BlackHole, Unresolved::Blackhole { destination }),
        (
            RouteType::Unreachable,
            Unresolved::Unreachable { destination },
        ),
        (RouteType::Prohibit, Unresolved::Prohibited { destination }),
        (RouteType::Broadcast, Unresolved::NotUnicast { destination }),
        (RouteType::Multicast, Unresolved::NotUnicast { destination }),
        (RouteType::Throw, Unresolved::NoRoute { destination }),
    ];
    for (kind, expected) in cases {
        let message = answer(kind, vec![RouteAttribute::Oif(1)]);
        assert_eq!(decode(destination, &message), Err(expected));
    }
}

#[test]
fn each_error_number_of_a_lookup_has_its_meaning() {
    let destination = address("10.0.0.2");
    let refused = |errno| Error::Refused {
        asked: "look up a route",
        errno,
    };
    let cases = [
        (Errno::ENETUNREACH, Unresolved::NoRoute { destination }),
        (Errno::EHOSTUNREACH, Unresolved::Unreachable { destination }),
        (Errno::EACCES, Unresolved::Prohibited { destination }),
        (Errno::EINVAL, Unresolved::Blackhole { destination }),
        (
            Errno::EPERM,
            Unresolved::Netlink {
                destination,
                error: refused(Errno::EPERM),
            },
        ),
    ];
    for (errno, expected) in cases {
        assert_eq!(Unresolved::of(destination, refused(errno)), expected);
    }
}

#[test]
fn an_encapsulating_route_is_refused() {
    let destination = address("10.0.0.2");
    let encap = RouteAttribute::EncapType(RouteLwEnCapType::Mpls);
    let decoded = decode(destination, &unicast(vec![encap]));
    assert_eq!(decoded, Err(Unresolved::Encapsulated { destination }));
    let none = RouteAttribute::EncapType(RouteLwEnCapType::None);
    assert!(decode(destination, &unicast(vec![none])).is_ok());
}

#[test]
fn an_interface_that_cannot_carry_a_frame_is_named() {
    let destination = address("10.0.0.2");
    let route = decode(destination, &unicast(vec![])).unwrap();

    let tunnel = Link {
        mac: None,
        ..link("tun0")
    };
    assert_eq!(
        route.next_hop(Some(&tunnel), None),
        Err(Unresolved::NoEthernet {
            destination,
            interface: "tun0".to_owned()
        })
    );
    let loopback = Link {
        mac: None,
        loopback: true,
        ..link("lo")
    };
    assert_eq!(
        route.next_hop(Some(&loopback), None),
        Err(Unresolved::Local { destination })
    );
    let gone = Unresolved::NoInterface {
        destination,
        egress: 3,
    };
    assert_eq!(route.next_hop(None, None), Err(gone));
}

#[test]
fn messages_name_the_destination_and_a_way_out() {
    let destination = address("10.0.0.2");
    let error = Error::Late {
        asked: "look up a route",
    };
    let all = [
        Unresolved::NoRoute { destination },
        Unresolved::Local { destination },
        Unresolved::Blackhole { destination },
        Unresolved::Unreachable { destination },
        Unresolved::Prohibited { destination },
        Unresolved::NotUnicast { destination },
        Unresolved::Encapsulated { destination },
        Unresolved::NoEthernet {
            destination,
            interface: "tun0".to_owned(),
        },
        Unresolved::NoInterface {
            destination,
            egress: 3,
        },
        Unresolved::Netlink { destination, error },
    ];
    for message in all.map(|unresolved| unresolved.to_string()) {
        assert!(message.contains("10.0.0.2"), "{message}");
        assert!(
            message.contains("; ") && !message.ends_with('.'),
            "{message}"
        );
    }
}

#[test]
fn a_request_asks_for_one_host() {
    let message = request(address("2001:db8::1")).unwrap();
    assert_eq!(message.header.destination_prefix_length, 128);
    assert_eq!(
        message.attributes,
        vec![RouteAttribute::Destination(address("2001:db8::1").into())]
    );
}
