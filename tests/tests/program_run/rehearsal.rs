//! A rehearsal of a change: what is as the file says passes, in every mode
//! and with everything a service can ask for, and what is not is found.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use balancer_common::layout::{Member, Slot};
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::{ACK, SYN};
use balancer_user::config::examine;
use balancer_user::config::model::{Config, Mac, Seed};
use balancer_user::dataplane::{ServiceState, State, Table};
use balancer_user::desired::{Builder, World};
use balancer_user::member::Hop;
use balancer_user::rehearsal::{
    Candidate, FLOWS_CHANGED, FLOWS_CHANGED_IN_ALL, FLOWS_UNCHANGED, NamedState, Names, Rehearsal,
    moves, rehearse,
};

use crate::fixture::at;

const NODE: &str = r#"
[node]
interfaces = ["lo"]
table_size = 1009
tunnel_source_v4 = "172.16.0.0/16"
tunnel_source_v6 = "fd99::9"
fullnat_sources_v4 = ["10.200.0.1", "10.200.0.2"]
fullnat_sources_v6 = ["fd20::1"]
fullnat_ports = "30000-31999"
handshake_sample = 0.01
"#;

const SEED: Seed = Seed(*b"a seed of a test");

/// A service of these settings with three backends.
fn service(name: &str, address: &str, settings: &str, backends: [(&str, u16, &str); 3]) -> String {
    let mut text = format!("[[service]]\nname = \"{name}\"\naddress = \"{address}\"\n{settings}\n");
    for (number, (address, weight, more)) in (1..).zip(backends) {
        text.push_str(&format!(
            "[[service.backend]]\nname = \"{name}-{number}\"\naddress = \"{address}\"\n\
             weight = {weight}\n{more}\n"
        ));
    }
    text
}

const V4: [(&str, u16, &str); 3] = [
    ("10.0.0.1", 100, ""),
    ("10.0.0.2", 100, ""),
    ("10.0.0.3", 50, ""),
];
const V6: [(&str, u16, &str); 3] = [
    ("fd00::1", 100, ""),
    ("fd00::2", 100, ""),
    ("fd00::3", 50, ""),
];

/// A backend's way, from its address alone.
fn hop(address: IpAddr) -> Hop {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    Hop {
        egress: 0,
        mtu: 1500,
        destination: Some(Mac([2, 0, 0, 0, 1, last])),
        // Both ways of a source address are in every table.
        source: last.is_multiple_of(2).then_some(Mac([2, 0, 0, 0, 2, last])),
        address: None,
        on_link: true,
    }
}

/// What a daemon knows of a file, and how it goes on from one to the next.
struct Scene {
    builder: Builder,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self {
            builder: Builder::default(),
            now: Instant::now(),
        }
    }

    fn candidate(&mut self, services: &[String]) -> Candidate {
        let text = NODE.to_owned() + &services.concat();
        let examined = examine("test", &text, None);
        let findings = examined.report.findings().to_vec();
        let config = examined.config.unwrap_or_else(|| panic!("{findings:?}"));
        let world = World {
            health: BTreeMap::new(),
            hops: hops(&config),
            ..World::default()
        };
        let state = self.builder.build(&config, &SEED, &world, self.now).state;
        let names = Names::of(&self.builder, &state);
        Candidate {
            config,
            seed: SEED,
            world,
            tables: NamedState { state, names },
        }
    }
}

fn hops(config: &Config) -> BTreeMap<IpAddr, Hop> {
    let backends = config.services.iter().flat_map(|it| &it.backends);
    let addresses = backends.map(|backend| backend.address);
    addresses.map(|address| (address, hop(address))).collect()
}

fn alone(services: &[String]) -> Candidate {
    Scene::new().candidate(services)
}

fn rehearsed(in_force: Option<&NamedState>, candidate: &Candidate) -> Rehearsal {
    rehearse(in_force, candidate).unwrap()
}

fn assert_as_planned(rehearsal: &Rehearsal) {
    assert!(rehearsal.is_as_planned(), "{:#?}", rehearsal.differences);
}

/// The only service's part of the state.
fn only(candidate: &mut Candidate) -> &mut ServiceState {
    candidate.tables.state.services.values_mut().next().unwrap()
}

/// Some difference is in this, and the figures of one say so.
fn assert_found(rehearsal: &Rehearsal, what: &str) {
    let differences = &rehearsal.differences;
    assert!(rehearsal.difference_count > 0);
    assert!(
        differences.iter().any(|it| it.what == what),
        "no difference in {what}: {differences:#?}"
    );
}

const TCP: &str = "port = 80\nprotocol = \"tcp\"\n";
const UDP: &str = "port = 53\nprotocol = \"udp\"\n";

fn tcp(mode: &str) -> String {
    format!("{TCP}forward = \"{mode}\"")
}

fn all_modes() -> Vec<String> {
    let mut services = Vec::new();
    for (number, mode) in (1..).zip(["l2", "ipip", "gue", "nat", "fullnat"]) {
        for (family, backends) in [("v4", V4), ("v6", V6)] {
            let name = format!("{mode}-{family}");
            let address = match family {
                "v4" => format!("192.0.2.{number}"),
                _ => format!("2001:db8::{number}"),
            };
            services.push(service(&name, &address, &tcp(mode), backends));
        }
    }
    services.push(service("4in6", "192.0.2.20", &tcp("ipip"), V6));
    services.push(service("6in4", "2001:db8::20", &tcp("gue"), V4));
    services
}

#[test]
fn every_mode_in_both_families_is_as_planned() {
    let candidate = alone(&all_modes());
    let rehearsal = rehearsed(None, &candidate);
    assert_as_planned(&rehearsal);
    assert_eq!(rehearsal.services.len(), 12);
    for figures in &rehearsal.services {
        assert!(figures.is_changed);
        assert_eq!(figures.flows, FLOWS_CHANGED as u64, "{figures:?}");
        assert!(figures.packets > figures.flows, "{figures:?}");
        assert_eq!(figures.backends.len(), 3);
        let seen: f64 = figures.backends.iter().map(|it| it.share_seen).sum();
        assert!((seen - 1.0).abs() < 1e-9, "{figures:?}");
        assert!((figures.backends[2].share_seen - 0.2).abs() < 0.03);
    }
    let summary = rehearsal.summary();
    println!("{summary}");
    assert!(summary.contains("240000 flows"), "{summary}");
    assert!(summary.ends_with("all as planned"), "{summary}");
}

#[test]
fn what_a_service_may_ask_for_gives_no_false_alarm() {
    let quic = [
        ("10.0.0.1", 100, "server_id = \"0a01\""),
        ("10.0.0.2", 100, "server_id = \"0a02\""),
        ("10.0.0.3", 50, "server_id = \"0a03\""),
    ];
    let quic_id = "quic = { server_id_offset = 1, server_id_length = 2 }\n";
    let limit = "source_limit = { flows_per_second = 5, burst = 2, prefix_length = 8 }\n";
    let lists = "allow_sources = [\"198.51.100.0/24\", \"10.0.0.0/8\"]\n\
                 deny_sources = [\"10.1.0.0/16\"]\n";
    let settings = [
        (
            "lists",
            format!("{TCP}forward = \"ipip\"\nmss_clamp = 1300\n{lists}"),
            V4,
        ),
        ("limited", format!("{TCP}forward = \"gue\"\n{limit}"), V4),
        (
            "by-source",
            format!("{TCP}forward = \"l2\"\naffinity = \"source\"\n"),
            V4,
        ),
        (
            "recorded",
            format!("{UDP}forward = \"nat\"\naffinity = \"flow\"\n{limit}"),
            V4,
        ),
        ("quic", format!("{UDP}forward = \"ipip\"\n{quic_id}"), quic),
        (
            "quic-pool",
            format!("{UDP}forward = \"fullnat\"\n{quic_id}"),
            quic,
        ),
        (
            "range",
            "port = \"any\"\nprotocol = \"tcp\"\nforward = \"l2\"\n".to_owned(),
            V4,
        ),
        (
            "other-port",
            format!("{TCP}forward = \"nat\"\n"),
            [
                ("10.0.0.1", 100, "port = 8080"),
                ("10.0.0.2", 0, "port = 8081"),
                ("10.0.0.3", 50, "port = 8082\ndrain = true"),
            ],
        ),
    ];
    let services: Vec<String> = (1..)
        .zip(&settings)
        .map(|(number, (name, settings, backends))| {
            service(name, &format!("192.0.2.{number}"), settings, *backends)
        })
        .collect();
    let rehearsal = rehearsed(None, &alone(&services));
    assert_as_planned(&rehearsal);
    let of = |name: &str| rehearsal.services.iter().find(|it| it.service == name);
    assert!(of("lists").unwrap().refused > 500);
    assert!(of("limited").unwrap().limited > 1000);
    assert!(of("recorded").unwrap().limited > 1000);
    let other = of("other-port").unwrap();
    assert_eq!(other.backends[0].share_expected, 1.0);
}

#[test]
fn backend_without_a_way_is_counted_and_no_difference() {
    let mut scene = Scene::new();
    let services = [service("web", "192.0.2.1", &tcp("l2"), V4)];
    let mut candidate = scene.candidate(&services);
    let lost: IpAddr = "10.0.0.3".parse().unwrap();
    candidate.world.hops.remove(&lost);
    let (config, world) = (&candidate.config, &candidate.world);
    candidate.tables.state = scene.builder.build(config, &SEED, world, scene.now).state;
    let rehearsal = rehearsed(None, &candidate);
    assert_as_planned(&rehearsal);
    assert!(rehearsal.services[0].no_next_hop > 3000);
}

#[test]
fn service_that_does_not_change_is_sampled_and_the_moved_flows_are_counted() {
    let mut scene = Scene::new();
    let more = V4.map(|(address, weight, more)| {
        let weight = if address == "10.0.0.3" { 100 } else { weight };
        (address, weight, more)
    });
    let mail = service("mail", "192.0.2.2", &tcp("l2"), V4);
    let before = [service("web", "192.0.2.1", &tcp("l2"), V4), mail.clone()];
    let after = [service("web", "192.0.2.1", &tcp("l2"), more), mail];
    let in_force = scene.candidate(&before).tables;
    let candidate = scene.candidate(&after);
    let rehearsal = rehearsed(Some(&in_force), &candidate);
    assert_as_planned(&rehearsal);
    let [web, mail] = rehearsal.services.as_slice() else {
        panic!("{rehearsal:?}");
    };
    assert!(web.is_changed && !mail.is_changed);
    assert_eq!(mail.flows, FLOWS_UNCHANGED as u64);
    // A fifth of the slots becomes a third: at least 2/15 of new flows move.
    let moved = web.moved as f64 / (web.flows as f64 * 0.75);
    assert!((0.10..0.30).contains(&moved), "{moved}");
    // The same tables under other numbers are no change.
    let again = Scene::new().candidate(&before);
    let rehearsal = rehearsed(Some(&in_force), &again);
    assert_as_planned(&rehearsal);
    assert!(rehearsal.services.iter().all(|it| !it.is_changed));
}

/// More than a copy of the program holds the tables of.
#[test]
fn services_that_take_turns_are_all_run_and_a_fault_in_the_last_is_found() {
    const COUNT: usize = 300;
    let services: Vec<String> = (0..COUNT)
        .map(|at| {
            let address = format!("198.18.{}.{}", at / 200, at % 200 + 1);
            service(&format!("web-{at}"), &address, &tcp("l2"), V4)
        })
        .collect();
    let mut candidate = alone(&services);
    let rehearsal = rehearsed(None, &candidate);
    assert_as_planned(&rehearsal);
    let names = rehearsal.services.iter().map(|it| it.service.as_str());
    let expected = candidate.config.services.iter().map(|it| it.name.as_str());
    assert!(names.eq(expected), "each once, in the file's order");
    let shared = (FLOWS_CHANGED_IN_ALL / COUNT) as u64;
    for figures in &rehearsal.services {
        assert!(figures.is_changed);
        assert_eq!(figures.flows, shared, "{figures:?}");
    }
    let last = format!("web-{}", COUNT - 1);
    let id = candidate.tables.names.id(&last).unwrap();
    let tables = &mut candidate.tables.state.services;
    tables.get_mut(&id).unwrap().members.swap(0, 1);
    let rehearsal = rehearsed(None, &candidate);
    assert_found(&rehearsal, "Ethernet destination");
    assert!(rehearsal.differences.iter().all(|it| it.service == last));
    assert_eq!(rehearsal.services.len(), COUNT);
}

#[test]
fn two_members_in_each_others_place_are_found() {
    for mode in ["l2", "ipip", "gue", "nat", "fullnat"] {
        let mut candidate = alone(&[service("web", "192.0.2.1", &tcp(mode), V4)]);
        only(&mut candidate).members.swap(0, 1);
        let rehearsal = rehearsed(None, &candidate);
        assert_found(&rehearsal, "Ethernet destination");
        let difference = &rehearsal.differences[0];
        assert_eq!(difference.service, "web");
        let seen = (difference.expected.as_str(), difference.seen.as_str());
        assert!(
            [
                ("020000000101", "020000000102"),
                ("020000000102", "020000000101")
            ]
            .contains(&seen),
            "{mode}: {difference}"
        );
        // Two backends with 40 % each: of all packets of four in five flows.
        assert!(rehearsal.difference_count > FLOWS_CHANGED as u64);
    }
}

#[test]
fn each_field_of_a_member_that_is_wrong_is_found_by_name() {
    type Break = fn(&mut Member);
    let cases: [(&str, Break, &str); 9] = [
        ("l2", |it| it.ethernet[11] ^= 1, "Ethernet source"),
        ("l2", |it| it.flags = 0, "verdict"),
        ("l2", |it| it.kind = Member::IPIP_V4, "length"),
        (
            "ipip",
            |it| it.outer_destination[3] ^= 4,
            "outer destination",
        ),
        ("ipip", |it| it.outer_sum ^= 1, "outer header checksum"),
        ("ipip", |it| it.spread_bits = 0, "outer header checksum"),
        ("gue", |it| it.port = [1, 2], "GUE destination port"),
        ("nat", |it| it.outer_destination[2] ^= 9, "header checksum"),
        ("nat", |it| it.port = [0, 99], "destination port"),
    ];
    for (mode, change, what) in cases {
        let mut candidate = alone(&[service("web", "192.0.2.1", &tcp(mode), V4)]);
        // The second backend's source is its own, not the frame's.
        change(&mut only(&mut candidate).members[1]);
        let rehearsal = rehearsed(None, &candidate);
        assert_found(&rehearsal, what);
    }
}

#[test]
fn table_of_other_weights_is_found_slot_by_slot_and_by_its_shares() {
    let mut candidate = alone(&[service("web", "192.0.2.1", &tcp("ipip"), V4)]);
    let equal = V4.map(|(address, _, more)| (address, 100, more));
    let other = alone(&[service("web", "192.0.2.1", &tcp("ipip"), equal)]);
    let table = other.tables.state.services.values().next().unwrap();
    only(&mut candidate).table = table.table.clone();
    let rehearsal = rehearsed(None, &candidate);
    assert_found(&rehearsal, "backend");
    assert!(rehearsal.difference_count > 1000);
    let all_at_one = vec![Slot::settled(0); 1009];
    only(&mut candidate).table = Table::new(all_at_one.into());
    let rehearsal = rehearsed(None, &candidate);
    assert_found(&rehearsal, "backend");
    let summary = rehearsal.summary();
    assert!(
        summary.contains("differences, the first: service web"),
        "{summary}"
    );
}

#[test]
fn other_seed_ports_and_lists_than_the_files_are_found() {
    let lists = format!("{}\nallow_sources = [\"10.0.0.0/8\"]", tcp("l2"));
    type Break = fn(&mut State);
    let cases: [(Break, &str); 3] = [
        (|state| state.flow_keys[0] ^= 1, "slot"),
        (
            |state| {
                let service = state.services.values_mut().next().unwrap();
                service.keys[0].port = 81;
            },
            "verdict",
        ),
        (
            |state| {
                let service = state.services.values_mut().next().unwrap();
                let denied = [("10.0.0.0/8".parse().unwrap(), false)];
                service.sources = Arc::new(BTreeMap::from(denied));
            },
            "verdict",
        ),
    ];
    for (change, what) in cases {
        let mut candidate = alone(&[service("web", "192.0.2.1", &lists, V4)]);
        change(&mut candidate.tables.state);
        let rehearsal = rehearsed(None, &candidate);
        assert_eq!(rehearsal.services.len(), 1);
        let found = rehearsal.differences.iter().any(|it| it.what == what)
            || what == "slot" && rehearsal.differences.iter().any(|it| it.what == "backend");
        assert!(found, "{what}: {:#?}", rehearsal.differences);
    }
}

#[test]
fn server_ids_and_the_pool_of_other_tables_are_found() {
    let quic = format!(
        "{UDP}forward = \"fullnat\"\nquic = {{ server_id_offset = 0, server_id_length = 1 }}"
    );
    let backends = [
        ("10.0.0.1", 100, "server_id = \"01\""),
        ("10.0.0.2", 100, "server_id = \"02\""),
        ("10.0.0.3", 50, "server_id = \"03\""),
    ];
    let service = service("quic", "192.0.2.1", &quic, backends);
    let mut candidate = alone(std::slice::from_ref(&service));
    for index in only(&mut candidate).server_ids.values_mut() {
        *index = (*index + 1) % 3;
    }
    assert_found(&rehearsed(None, &candidate), "backend");
    let mut candidate = alone(&[service]);
    candidate.tables.state.settings.nat.sources[0][0][3] = 77;
    assert_found(&rehearsed(None, &candidate), "source of fullnat");
}

#[test]
fn flows_that_began_before_stay_where_they_were_or_it_is_found() {
    let mut scene = Scene::new();
    let web = |backends| [service("web", "192.0.2.1", &tcp("ipip"), backends)];
    let in_force = scene.candidate(&web(V4)).tables;
    let drained = [V4[0], V4[1], ("10.0.0.3", 50, "drain = true")];
    let mut candidate = scene.candidate(&web(drained));
    let in_change = |service: &ServiceState| {
        let slots = service.table.slots().unwrap();
        slots.iter().filter(|slot| slot.is_unsettled()).count()
    };
    assert!(in_change(only(&mut candidate)) > 150);
    assert_as_planned(&rehearsed(Some(&in_force), &candidate));
    // Forgotten: flows of the drained backend would break.
    let service = only(&mut candidate);
    let slots = service.table.slots().unwrap();
    let wrong: Vec<Slot> = slots
        .iter()
        .map(|slot| Slot::unsettled(slot.current(), slot.current()))
        .collect();
    service.table = Table::new(wrong.into());
    let rehearsal = rehearsed(Some(&in_force), &candidate);
    assert_found(&rehearsal, "backend");
    let difference = &rehearsal.differences[0];
    assert!(difference.flow.ends_with(" segment"), "{difference}");
    assert_eq!(difference.expected, "web-3", "{difference}");
}

#[test]
fn service_whose_last_backend_is_drained_keeps_its_table() {
    let mut scene = Scene::new();
    let web = |backends| [service("web", "192.0.2.1", &tcp("l2"), backends)];
    let in_force = scene.candidate(&web(V4)).tables;
    let drained = V4.map(|(address, weight, _)| (address, weight, "drain = true"));
    let candidate = scene.candidate(&web(drained));
    assert_as_planned(&rehearsed(Some(&in_force), &candidate));
}

#[test]
fn existing_flows_that_would_move_are_told_with_where_from_and_to() {
    let web = |weight| {
        let backends = [V4[0], V4[1], ("10.0.0.3", weight, "")];
        [
            service("web", "192.0.2.1", &tcp("l2"), backends),
            service("mail", "192.0.2.2", &tcp("l2"), V4),
        ]
    };
    let (before, after) = (alone(&web(50)), alone(&web(0)));
    let mut frames = Vec::new();
    for port in 1024..2024_u16 {
        for vip in ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"] {
            let client = at(&format!("203.0.113.1:{port}"));
            for flags in [SYN, ACK] {
                let packet = Packet::tcp(client, at(vip));
                frames.push(Packet { flags, ..packet }.build());
            }
        }
    }
    frames.push(vec![0; 5]);
    let frames = frames.iter().map(Vec::as_slice);
    let moves = moves(&before.tables, &after.tables, frames).unwrap();
    assert_eq!((moves.flows, moves.others), (2000, 1001), "{moves:?}");
    // The third had a fifth; little else may move with it.
    assert!((150..350).contains(&moves.moved), "{moves:?}");
    assert!(moves.by_backend.iter().all(|it| it.service == "web"));
    let of_third = moves.by_backend.iter().filter(|it| it.from == "web-3");
    let of_third: u64 = of_third.map(|it| it.flows).sum();
    assert!(of_third >= 150, "{moves:?}");
    assert!(moves.by_backend.iter().all(|it| it.to != "web-3"));
    assert!(
        moves.examples[0].contains(" -> 192.0.2.1:80 from "),
        "{moves:?}"
    );
}
