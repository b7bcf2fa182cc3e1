//! Services that go by the client's address (`affinity = "source"`), in the
//! kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use balancer_common::layout::{Member, Slot, Target};
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::ACK;
use balancer_tests::model::build::{TCP, UDP, flow_keys, key, l2, service};
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::Trial;

use crate::fixture::at;

const SLOTS: u16 = 251;

/// Three services of one address, with the same backends in the same slots.
fn state(slot: impl Fn(u16) -> Slot) -> State {
    let mut state = State::empty();
    state.flow_keys = flow_keys(7);
    let members: Vec<Member> = (0..8).map(l2).collect();
    for (number, (port, protocol)) in (1..).zip([(80, TCP), (0, TCP), (53, UDP)]) {
        let keys = vec![key("192.0.2.1", port, protocol)];
        let slots = (0..SLOTS).map(&slot).collect();
        let mut service = service(keys, members.clone(), slots);
        service.flags = Target::AFFINITY_SOURCE;
        state.services.insert(number, service);
    }
    state
}

fn owner(trial: &mut Trial, packet: &Packet) -> u16 {
    trial.run(&packet.build()).unwrap().member.unwrap()
}

fn client(number: u16, port: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::new(IpAddr::from([203, 0, high, low]), port)
}

#[test]
fn all_flows_of_a_client_to_all_services_of_the_address_go_to_one_member() {
    let mut trial = Trial::load(&state(|slot| Slot::settled(slot % 8))).unwrap();
    let mut owners = BTreeSet::new();
    for number in 0..200 {
        let mut owners_of_client = BTreeSet::new();
        for port in [1, 2, 40_000, 65_535] {
            let source = client(number, port);
            for packet in [
                Packet::tcp(source, at("192.0.2.1:80")),
                Packet::tcp(source, at("192.0.2.1:8443")),
                Packet::udp(source, at("192.0.2.1:53")),
            ] {
                owners_of_client.insert(owner(&mut trial, &packet));
            }
        }
        assert_eq!(owners_of_client.len(), 1, "client {number}");
        owners.extend(owners_of_client);
    }
    assert_eq!(owners.len(), 8, "clients spread over all members");
}

#[test]
fn hash_of_the_whole_flow_is_still_told() {
    let mut trial = Trial::load(&state(|slot| Slot::settled(slot % 8))).unwrap();
    let mut ask = |port| {
        let packet = Packet::tcp(client(1, port), at("192.0.2.1:80"));
        let outcome = trial.run(&packet.build()).unwrap();
        (outcome.slot.unwrap(), outcome.hash.unwrap())
    };
    let (one, other) = (ask(1), ask(2));
    assert_eq!(one.0, other.0);
    assert_ne!(one.1, other.1);
}

#[test]
fn old_flows_of_a_client_stay_and_its_new_ones_move() {
    let mut trial = Trial::load(&state(|slot| Slot::settled(slot % 8))).unwrap();
    let flow = |port, flags| Packet {
        flags,
        ..Packet::tcp(client(9, port), at("192.0.2.1:80"))
    };
    let before = owner(&mut trial, &flow(1, ACK));
    let moved = state(|slot| Slot::settled(slot % 8).change_to((slot + 1) % 8));
    trial.change(&moved).unwrap();
    let next = (before + 1) % 8;
    assert_eq!(owner(&mut trial, &flow(1, ACK)), before);
    let syn = Packet::tcp(client(9, 2), at("192.0.2.1:80"));
    assert_eq!(owner(&mut trial, &syn), next);
    assert_eq!(owner(&mut trial, &flow(2, ACK)), next);
    assert_eq!(owner(&mut trial, &flow(1, ACK)), before);
}
