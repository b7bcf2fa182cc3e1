//! Next hops as the kernel has them, in namespaces joined by a veth.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::net::IpAddr;
use std::time::Duration;

use balancer_tests::lab::cleanup::unique_name;
use balancer_tests::lab::link::{self, End, Route};
use balancer_tests::lab::pass::{self, Action};
use balancer_tests::lab::{Mac, Namespace};
use balancer_user::netlink::{AttachedMode, Changes, Netlink, NextHop, Unresolved};
use rtnetlink::packet_route::route::{RouteAttribute, RouteType, RouteVia};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);

const INTERFACE: &str = "eth0";
const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 3]);

/// A balancer and a peer on one link, both families:
/// 10.0.0.1/24 and fd00::1/64 against 10.0.0.2 and fd00::2.
struct Pair {
    balancer: Namespace,
    peer: Namespace,
}

impl Pair {
    fn new() -> Self {
        let name = unique_name();
        let balancer = Namespace::create(&format!("{name}-balancer")).unwrap();
        let peer = Namespace::create(&format!("{name}-peer")).unwrap();
        let end = |namespace, mac| End {
            namespace,
            name: INTERFACE,
            mac,
            mtu: 1500,
        };
        link::veth(&end(&balancer, OWN_MAC), &end(&peer, PEER_MAC)).unwrap();
        for (namespace, host) in [(&balancer, 1), (&peer, 2)] {
            link::up(namespace, link::LOOPBACK).unwrap();
            link::up(namespace, INTERFACE).unwrap();
            let v4 = [10, 0, 0, host].into();
            link::add_address(namespace, INTERFACE, v4, 24).unwrap();
            let v6 = [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)].into();
            link::add_address(namespace, INTERFACE, v6, 64).unwrap();
        }
        Self { balancer, peer }
    }

    /// Runs `work` with a connection in the balancer's namespace.
    fn run<T: Send>(&self, work: impl AsyncFnOnce(&Netlink, &mut Changes) -> T + Send) -> T {
        let run = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(async {
                let (netlink, mut changes) = Netlink::connect().unwrap();
                work(&netlink, &mut changes).await
            })
        };
        self.balancer.run(run).unwrap()
    }

    fn neighbour(&self, text: &str, mac: Mac) {
        link::add_neighbour(&self.balancer, INTERFACE, address(text), mac).unwrap();
    }

    fn route(&self, to: &str, via: &str, mtu: Option<u32>) {
        let to = address(to);
        let prefix_len = if to.is_ipv4() { 24 } else { 64 };
        let (via, interface) = (Some(address(via)), Some(INTERFACE));
        let route = Route {
            to,
            prefix_len,
            via,
            interface,
            mtu,
        };
        link::add_route(&self.balancer, &route).unwrap();
    }

    /// A request the lab has no function for.
    fn request(&self, work: impl AsyncFnOnce(Handle) -> Result<(), rtnetlink::Error> + Send) {
        link::netlink(&self.balancer, async |handle| Ok(work(handle).await?)).unwrap();
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Looks at each wake-up, and only then, until there is something to see.
async fn at_a_wake_up<T>(
    changes: &mut Changes,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let seen = timeout(LIMIT, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            changes.changed().await;
        }
    });
    seen.await
        .unwrap_or_else(|_| panic!("no wake-up showed {what}"))
}

fn has_mac(hop: &NextHop, mac: Mac) -> bool {
    hop.mac.is_some_and(|found| found.0 == mac.0)
}

#[test]
fn a_neighbour_on_the_link_is_resolved_when_solicited() {
    let pair = Pair::new();
    pair.run(async |netlink, changes| {
        for (destination, source) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
            let destination = address(destination);
            let hop = netlink.next_hop(destination).await.unwrap();
            assert_eq!(
                (hop.neighbour, hop.on_link, hop.mac),
                (destination, true, None)
            );
            assert_eq!((hop.interface.as_str(), hop.mtu), (INTERFACE, 1500));
            assert_eq!(hop.source_mac.0, OWN_MAC.0);
            assert_eq!(hop.source, Some(address(source)));

            netlink.solicit(&hop).await.unwrap();
            let resolved = at_a_wake_up(changes, "the neighbour", async || {
                netlink
                    .next_hop(destination)
                    .await
                    .ok()
                    .filter(|hop| hop.mac.is_some())
            });
            let resolved = resolved.await;
            assert!(has_mac(&resolved, PEER_MAC), "{resolved:?}");
            // It may be asked for again while it is known.
            netlink.solicit(&resolved).await.unwrap();
        }
    });
}

#[test]
fn a_neighbour_that_does_not_answer_has_no_mac() {
    let pair = Pair::new();
    pair.run(async |netlink, changes| {
        let hop = netlink.next_hop(address("10.0.0.77")).await.unwrap();
        netlink.solicit(&hop).await.unwrap();
        // The entry comes in as incomplete.
        timeout(LIMIT, changes.changed()).await.unwrap();
        assert_eq!(netlink.next_hop(hop.neighbour).await.unwrap().mac, None);
        assert_eq!(
            netlink.next_hops(&[hop.neighbour]).await[0]
                .as_ref()
                .unwrap()
                .mac,
            None
        );
    });
}

#[test]
fn a_gateway_stands_for_what_is_behind_it() {
    let pair = Pair::new();
    pair.neighbour("10.0.0.254", GATEWAY_MAC);
    pair.neighbour("fd00::fe", GATEWAY_MAC);
    pair.route("10.9.0.0", "10.0.0.254", Some(1400));
    pair.route("fd09::", "fd00::fe", None);
    pair.run(async |netlink, _| {
        for (destination, gateway, mtu) in [
            ("10.9.0.7", "10.0.0.254", 1400),
            ("fd09::7", "fd00::fe", 1500),
        ] {
            let hop = netlink.next_hop(address(destination)).await.unwrap();
            assert_eq!((hop.neighbour, hop.on_link), (address(gateway), false));
            assert!(has_mac(&hop, GATEWAY_MAC), "{hop:?}");
            assert_eq!(hop.mtu, mtu);
        }
    });
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_gateway() {
    let pair = Pair::new();
    pair.neighbour("fd00::fe", GATEWAY_MAC);
    let index = link::index(&pair.balancer, INTERFACE).unwrap();
    pair.request(async |handle| {
        let mut message = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix([10, 9, 0, 0].into(), 24)
            .output_interface(index)
            .build();
        let via = RouteVia::Inet6("fd00::fe".parse().unwrap());
        message.attributes.push(RouteAttribute::Via(via));
        handle.route().add(message).execute().await
    });
    pair.run(async |netlink, _| {
        let hop = netlink.next_hop(address("10.9.0.7")).await.unwrap();
        assert_eq!((hop.neighbour, hop.on_link), (address("fd00::fe"), false));
        assert!(has_mac(&hop, GATEWAY_MAC), "{hop:?}");
    });
}

#[test]
fn a_new_mac_of_the_peer_wakes_and_is_seen() {
    let pair = Pair::new();
    // Then the peer announces its new address, as a takeover does.
    pair.peer
        .set_sysctl("net.ipv4.conf.all.arp_notify", "1")
        .unwrap();
    pair.run(async |netlink, changes| {
        let hop = netlink.next_hop(address("10.0.0.2")).await.unwrap();
        netlink.solicit(&hop).await.unwrap();
        at_a_wake_up(changes, "the first address", async || {
            netlink
                .next_hop(hop.neighbour)
                .await
                .ok()
                .filter(|hop| has_mac(hop, PEER_MAC))
        })
        .await;

        let index = link::index(&pair.peer, INTERFACE).unwrap();
        let message = LinkUnspec::new_with_index(index)
            .address(GATEWAY_MAC.0.to_vec())
            .build();
        link::netlink(&pair.peer, async |handle| {
            Ok(handle.link().set(message).execute().await?)
        })
        .unwrap();
        at_a_wake_up(changes, "the second address", async || {
            netlink
                .next_hop(hop.neighbour)
                .await
                .ok()
                .filter(|hop| has_mac(hop, GATEWAY_MAC))
        })
        .await;
    });
}

#[test]
fn a_changed_route_wakes_and_is_seen() {
    let pair = Pair::new();
    let destination = address("10.9.0.7");
    pair.run(async |netlink, changes| {
        for gateway in ["10.0.0.254", "10.0.0.253"] {
            pair.route("10.9.0.0", gateway, None);
            at_a_wake_up(changes, gateway, async || {
                let hop = netlink.next_hop(destination).await.ok()?;
                (hop.neighbour == address(gateway)).then_some(())
            })
            .await;
        }
        link::down(&pair.balancer, INTERFACE).unwrap();
        at_a_wake_up(changes, "the interface down", async || {
            let link = netlink.link(INTERFACE).await.unwrap().unwrap();
            (!link.up).then_some(())
        })
        .await;
        let gone = netlink.next_hop(destination).await;
        assert_eq!(gone, Err(Unresolved::NoRoute { destination }));
    });
}

#[test]
fn lost_events_are_a_change_and_the_next_ones_are_seen() {
    let pair = Pair::new();
    pair.run(async |netlink, changes| {
        // More than the socket's buffer holds.
        for host in 0..2000_u16 {
            let [high, low] = host.to_be_bytes();
            let to = IpAddr::from([10, 100 + high, low, 0]);
            let (via, interface) = (None, Some(INTERFACE));
            let route = Route {
                to,
                prefix_len: 24,
                via,
                interface,
                mtu: None,
            };
            link::add_route(&pair.balancer, &route).unwrap();
        }
        timeout(LIMIT, changes.changed()).await.unwrap();
        pair.route("10.9.0.0", "10.0.0.254", None);
        timeout(LIMIT, changes.changed()).await.unwrap();
        assert!(netlink.next_hop(address("10.9.0.7")).await.is_ok());
    });
}

#[test]
fn a_dropped_wait_loses_no_change() {
    let pair = Pair::new();
    pair.run(async |_, changes| {
        pair.route("10.9.0.0", "10.0.0.254", None);
        // Each wait is shorter than the time in which changes are gathered.
        let patient = async {
            while timeout(Duration::from_millis(2), changes.changed())
                .await
                .is_err()
            {}
        };
        timeout(LIMIT, patient).await.unwrap();
    });
}

#[test]
fn a_destination_without_next_hop_says_why() {
    let pair = Pair::new();
    pair.request(async |handle| {
        for (third, kind) in [
            (1, RouteType::BlackHole),
            (2, RouteType::Unreachable),
            (3, RouteType::Prohibit),
        ] {
            let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix([10, 9, third, 0].into(), 24)
                .kind(kind)
                .build();
            handle.route().add(v4).execute().await?;
            let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix([0xfd09, 0, 0, u16::from(third), 0, 0, 0, 0].into(), 64)
                .kind(kind)
                .build();
            handle.route().add(v6).execute().await?;
        }
        Ok(())
    });
    type Reason = fn(IpAddr) -> Unresolved;
    let cases: [(&str, Reason); 16] = [
        ("192.0.2.1", |destination| Unresolved::NoRoute {
            destination,
        }),
        ("2001:db8::1", |destination| Unresolved::NoRoute {
            destination,
        }),
        ("10.0.0.1", |destination| Unresolved::Local { destination }),
        ("fd00::1", |destination| Unresolved::Local { destination }),
        ("127.0.0.1", |destination| Unresolved::Local { destination }),
        ("::1", |destination| Unresolved::Local { destination }),
        ("10.9.1.1", |destination| Unresolved::Blackhole {
            destination,
        }),
        ("fd09:0:0:1::1", |destination| Unresolved::Blackhole {
            destination,
        }),
        ("10.9.2.1", |destination| Unresolved::Unreachable {
            destination,
        }),
        ("fd09:0:0:2::1", |destination| Unresolved::Unreachable {
            destination,
        }),
        ("10.9.3.1", |destination| Unresolved::Prohibited {
            destination,
        }),
        ("fd09:0:0:3::1", |destination| Unresolved::Prohibited {
            destination,
        }),
        ("10.0.0.255", |destination| Unresolved::NotUnicast {
            destination,
        }),
        ("255.255.255.255", |destination| Unresolved::NotUnicast {
            destination,
        }),
        ("224.0.0.1", |destination| Unresolved::NotUnicast {
            destination,
        }),
        ("ff02::1", |destination| Unresolved::NotUnicast {
            destination,
        }),
    ];
    pair.run(async |netlink, changes| {
        // The kernel makes the route of an address of IPv6 a moment later.
        at_a_wake_up(changes, "the own address", async || {
            let own = netlink.next_hop(address("fd00::1")).await;
            matches!(own, Err(Unresolved::Local { .. })).then_some(())
        })
        .await;
        let destinations = cases.map(|(text, _)| address(text));
        let together = netlink.next_hops(&destinations).await;
        for ((destination, (_, reason)), many) in destinations.into_iter().zip(cases).zip(together)
        {
            let one = netlink.next_hop(destination).await;
            assert_eq!(one, Err(reason(destination)));
            assert_eq!(many, Err(reason(destination)));
        }
    });
}

#[test]
fn a_route_that_no_frame_can_take_is_named() {
    let pair = Pair::new();
    let mut tun = pair.balancer.command("ip");
    let made = tun.args(["tuntap", "add", "tun0", "mode", "tun"]).status();
    assert!(made.unwrap().success(), "no tun interface");
    link::up(&pair.balancer, "tun0").unwrap();
    for (to, interface) in [("10.9.1.0", "tun0"), ("10.9.2.0", link::LOOPBACK)] {
        let route = Route {
            to: address(to),
            prefix_len: 24,
            via: None,
            interface: Some(interface),
            mtu: None,
        };
        link::add_route(&pair.balancer, &route).unwrap();
    }
    pair.run(async |netlink, _| {
        let destination = address("10.9.1.7");
        let interface = "tun0".to_owned();
        let expected = Unresolved::NoEthernet {
            destination,
            interface,
        };
        assert_eq!(netlink.next_hop(destination).await, Err(expected));
        let destination = address("10.9.2.7");
        let expected = Unresolved::Local { destination };
        assert_eq!(netlink.next_hop(destination).await, Err(expected));
    });
}

#[test]
fn many_destinations_are_answered_in_their_order() {
    let pair = Pair::new();
    pair.neighbour("10.0.0.254", GATEWAY_MAC);
    pair.neighbour("10.0.0.9", PEER_MAC);
    pair.route("10.9.0.0", "10.0.0.254", None);
    let destinations = [
        "10.9.0.7",
        "192.0.2.1",
        "10.0.0.9",
        "fd00::2",
        "10.9.0.7",
        "10.0.0.1",
    ]
    .map(address);
    pair.run(async |netlink, _| {
        let together = netlink.next_hops(&destinations).await;
        assert_eq!(together.len(), destinations.len());
        for (destination, many) in destinations.into_iter().zip(together) {
            assert_eq!(many, netlink.next_hop(destination).await);
        }
        assert!(netlink.next_hops(&[]).await.is_empty());
    });
}

#[test]
fn several_readers_share_a_connection() {
    let pair = Pair::new();
    pair.neighbour("10.0.0.9", PEER_MAC);
    pair.run(async |netlink, _| {
        let destinations = [address("10.0.0.9")];
        let readers = (0..8).map(|_| netlink.next_hops(&destinations));
        for answers in futures_util::future::join_all(readers).await {
            assert!(has_mac(answers[0].as_ref().unwrap(), PEER_MAC));
        }
    });
}

#[test]
fn an_interface_is_read_with_the_program_on_it() {
    let pair = Pair::new();
    pair.run(async |netlink, changes| {
        let link = netlink.link(INTERFACE).await.unwrap().unwrap();
        assert_eq!((link.name.as_str(), link.mtu), (INTERFACE, 1500));
        assert_eq!(link.mac.map(|mac| mac.0), Some(OWN_MAC.0));
        assert!(
            link.up && link.carrier && !link.loopback && link.xdp.is_none(),
            "{link:?}"
        );
        assert_eq!(netlink.link_by_index(link.index).await.unwrap(), Some(link));
        assert!(
            netlink
                .link(link::LOOPBACK)
                .await
                .unwrap()
                .unwrap()
                .loopback
        );
        for absent in ["eth9", "", "a-name-longer-than-any"] {
            assert_eq!(netlink.link(absent).await, Ok(None));
        }
        for absent in [0, 999] {
            assert_eq!(netlink.link_by_index(absent).await, Ok(None));
        }

        let attached = pass::attach(&pair.balancer, INTERFACE, Action::Pass).unwrap();
        let read = async || netlink.link(INTERFACE).await.unwrap().unwrap().xdp;
        let xdp = at_a_wake_up(changes, "the program", read).await;
        assert_eq!(xdp.mode, AttachedMode::Native);
        assert_ne!(xdp.program_id, 0);
        drop(attached);
        at_a_wake_up(changes, "the program's end", async || {
            read().await.is_none().then_some(())
        })
        .await;
    });
}
