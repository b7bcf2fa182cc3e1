//! The marks by which the controller tells that old flows are silent.

use balancer_common::layout::{Member, Slot};
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::ACK;
use balancer_tests::model::build::{flow_keys, l2};
use balancer_tests::model::hash;
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::Trial;

use crate::fixture::{at, four_services, tcp_v4, udp_v4};

/// Two blocks, the second of one slot.
const SLOTS: usize = 17;
const SERVICE: u32 = 1;
const QUIET: [bool; 2] = [false, false];

fn state(slot: Slot) -> State {
    let members: Vec<Member> = (0..3).map(l2).collect();
    let mut state = four_services(&members, &[slot; SLOTS]);
    state.flow_keys = flow_keys(3);
    state
}

/// A client whose flow falls into a slot of that block.
fn client(block: usize, flags: u8) -> Vec<u8> {
    let mut packet = Packet { flags, ..tcp_v4() };
    let keys = state(Slot::settled(0)).flow_keys;
    loop {
        let (source, service) = (packet.source, packet.destination);
        let ports = [source.port(), service.port()];
        let hash = hash::five_tuple(&keys, source.ip(), service.ip(), ports, 6);
        if hash::slot(hash, SLOTS) / 16 == block {
            return packet.build();
        }
        packet.source.set_port(source.port() + 1);
    }
}

fn marks(trial: &mut Trial) -> [bool; 2] {
    trial.take_marks(SERVICE).unwrap().try_into().unwrap()
}

#[test]
fn packet_to_an_earlier_owner_marks_its_block_until_somebody_looks() {
    let mut trial = Trial::load(&state(Slot::unsettled(1, 0))).unwrap();
    for (block, expected) in [(0, [true, false]), (1, [false, true])] {
        assert_eq!(trial.run(&client(block, ACK)).unwrap().member, Some(0));
        assert_eq!(marks(&mut trial), expected);
        assert_eq!(marks(&mut trial), QUIET);
    }
}

#[test]
fn packet_to_a_recorded_owner_marks_and_one_to_the_current_owner_does_not() {
    let changed = Slot::settled(0).change_to(1);
    let mut trial = Trial::load(&state(changed)).unwrap();
    for flags in [2, ACK, ACK] {
        assert_eq!(trial.run(&client(0, flags)).unwrap().member, Some(1));
    }
    assert_eq!(marks(&mut trial), QUIET);
    trial.change(&state(changed.change_to(2))).unwrap();
    assert_eq!(trial.run(&client(0, ACK)).unwrap().member, Some(1));
    assert_eq!(marks(&mut trial), [true, false]);
}

#[test]
fn settled_slots_and_datagrams_mark_nothing() {
    let mut trial = Trial::load(&state(Slot::settled(0))).unwrap();
    trial.run(&client(0, ACK)).unwrap();
    assert_eq!(marks(&mut trial), QUIET);
    trial.change(&state(Slot::unsettled(1, 0))).unwrap();
    let mut udp = udp_v4();
    udp.source = at("203.0.113.9:9");
    trial.run(&udp.build()).unwrap();
    assert_eq!(trial.take_marks(3).unwrap(), QUIET);
    assert_eq!(marks(&mut trial), QUIET);
}

/// A changed table lies elsewhere in `SLOTS`.
#[test]
fn table_takes_its_marks_along_and_leaves_none_behind() {
    let first = Slot::settled(0).change_to(1);
    let mut trial = Trial::load(&state(first)).unwrap();
    trial.run(&client(1, ACK)).unwrap();
    let second = first.change_to(2);
    trial.change(&state(second)).unwrap();
    assert_eq!(marks(&mut trial), [false, true]);
    // The region of the first table is used again.
    trial.run(&client(0, ACK)).unwrap();
    assert_eq!(marks(&mut trial), [true, false]);
    for owner in [1, 2, 1] {
        trial.change(&state(second.change_to(owner))).unwrap();
        assert_eq!(marks(&mut trial), QUIET);
    }
}
