//! Who gets a flow while its slot changes hands, in the kernel.
//!
//! Each test walks a table of one slot through changes, as the controller
//! makes them, and asks after each who gets which packet.

use balancer_common::layout::{Member, Slot};
use balancer_common::verdict::Reason;
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::{ACK, FIN, RST, SYN};
use balancer_tests::model::build::{READY, l2};
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::{Action, Trial};

use crate::fixture::{Fixture, Moved, at, four_services, tcp_v4, tcp_v6, udp_v4};

/// Three members; the one slot is as given.
fn state(slot: Slot) -> State {
    four_services(&members(), &[slot])
}

fn members() -> [Member; 3] {
    [l2(0), l2(1), l2(2)]
}

fn with_member(slot: Slot, index: usize, change: impl FnOnce(&mut Member)) -> State {
    let mut members = members();
    change(&mut members[index]);
    four_services(&members, &[slot])
}

fn die(member: &mut Member) {
    member.flags = READY & !Member::ALIVE;
}

/// A trial that is asked in the tests' words.
struct Walk(Trial);

impl Walk {
    fn start(state: &State) -> Self {
        Self(Trial::load_all(state).unwrap())
    }

    fn change(&mut self, state: &State) {
        self.0.change(state).unwrap();
    }

    fn send(&mut self, packet: &Packet, flags: u8) -> u16 {
        let packet = Packet {
            flags,
            ..packet.clone()
        };
        let outcome = self.0.run(&packet.build()).unwrap();
        outcome.member.unwrap()
    }

    /// Who gets a SYN of this client's port.
    fn syn(&mut self, port: u16) -> u16 {
        self.send(&client(port), SYN)
    }

    /// Who gets any other packet of it; all kinds go the same way.
    fn later(&mut self, port: u16) -> u16 {
        let owner = self.send(&client(port), ACK);
        for flags in [SYN | ACK, FIN | ACK, RST, 0] {
            assert_eq!(self.send(&client(port), flags), owner, "flags {flags:02x}");
        }
        owner
    }
}

fn client(port: u16) -> Packet {
    let mut packet = tcp_v4();
    packet.source.set_port(port);
    packet
}

/// The slot as the controller changes it: settled at 0, then at these.
fn changed_to(owners: &[u16]) -> Slot {
    owners
        .iter()
        .fold(Slot::settled(0), |slot, owner| slot.change_to(*owner))
}

#[test]
fn settled_slot_keeps_no_flow_state() {
    let mut walk = Walk::start(&state(Slot::settled(0)));
    assert_eq!((walk.syn(1), walk.later(1)), (0, 0));
    // A record would name 0; without one an old flow is the previous owner's.
    walk.change(&state(Slot::unsettled(1, 2)));
    assert_eq!(walk.later(1), 2);
}

#[test]
fn new_flow_goes_to_the_new_owner_and_old_ones_stay_with_the_old() {
    let mut walk = Walk::start(&state(Slot::settled(0)));
    assert_eq!(walk.syn(1), 0);
    walk.change(&state(changed_to(&[1])));
    assert_eq!(walk.later(1), 0);
    assert_eq!((walk.syn(2), walk.later(2)), (1, 1));
}

#[test]
fn flows_stay_through_changes_of_a_slot_that_does_not_settle() {
    let mut walk = Walk::start(&state(Slot::settled(0)));
    walk.change(&state(changed_to(&[1])));
    assert_eq!((walk.later(1), walk.syn(2)), (0, 1));
    walk.change(&state(changed_to(&[1, 2])));
    assert_eq!((walk.later(1), walk.later(2), walk.syn(3)), (0, 1, 2));
    walk.change(&state(changed_to(&[1, 2, 0])));
    let owners = [1, 2, 3].map(|port| walk.later(port));
    assert_eq!(owners, [0, 1, 2]);
    assert_eq!(walk.syn(4), 0);
}

#[test]
fn repeated_syn_stays_with_the_owner_that_got_the_first() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!(walk.syn(1), 1);
    walk.change(&state(changed_to(&[1, 2])));
    assert_eq!((walk.syn(1), walk.syn(2)), (1, 2));
    // The same once the handshake is over.
    assert_eq!((walk.later(1), walk.syn(1)), (1, 1));
}

#[test]
fn syn_of_another_sequence_number_is_a_new_flow_whatever_is_on_record() {
    let again = |port| Packet {
        initial_sequence: 0x8000_0000,
        ..client(port)
    };
    let mut walk = Walk::start(&state(changed_to(&[1])));
    // One past its handshake, and one on probation.
    assert_eq!((walk.syn(1), walk.later(1), walk.syn(2)), (1, 1, 1));
    walk.change(&state(changed_to(&[1, 2])));
    for port in [1, 2] {
        assert_eq!(walk.send(&again(port), SYN), 2, "port {port}");
        assert_eq!(walk.send(&again(port), SYN), 2, "port {port}");
        walk.change(&state(changed_to(&[1, 2, 0])));
        assert_eq!(walk.send(&again(port), SYN), 2, "port {port}");
        assert_eq!(walk.send(&again(port), ACK), 2, "port {port}");
        walk.change(&state(changed_to(&[1, 2])));
    }
}

#[test]
fn syn_of_an_old_flow_opens_a_new_one() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!(walk.later(1), 0);
    assert_eq!((walk.syn(1), walk.later(1)), (1, 1));
}

#[test]
fn settled_slot_asks_no_record() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!((walk.syn(1), walk.later(1)), (1, 1));
    walk.change(&state(Slot::settled(2)));
    assert_eq!(walk.later(1), 2);
}

#[test]
fn record_of_an_earlier_change_is_not_followed() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!((walk.syn(1), walk.later(1)), (1, 1));
    // Settled at 2, where the flow began anew, unseen by any table.
    let settled = changed_to(&[1, 2]).settle();
    walk.change(&state(settled));
    assert_eq!((walk.syn(1), walk.later(1)), (2, 2));
    walk.change(&state(settled.change_to(0)));
    assert_eq!(walk.later(1), 2);
}

#[test]
fn slot_back_at_its_first_owner_still_follows_records() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!(walk.syn(1), 1);
    walk.change(&state(changed_to(&[1, 0])));
    assert_eq!((walk.later(1), walk.later(2), walk.syn(3)), (1, 0, 0));
}

#[test]
fn dead_previous_owner_gets_nothing() {
    let mut walk = Walk::start(&with_member(changed_to(&[1]), 0, die));
    assert_eq!((walk.later(1), walk.syn(2)), (1, 1));
    // What was decided stays so when the dead come back.
    walk.change(&state(changed_to(&[1])));
    assert_eq!((walk.later(1), walk.later(2)), (1, 1));
    assert_eq!(walk.later(3), 0);
}

#[test]
fn dead_current_owner_gets_nothing() {
    for slot in [Slot::settled(1), changed_to(&[1])] {
        let mut fixture = Fixture::new(&with_member(slot, 1, die));
        let (outcome, moved) = fixture.run(&client(1).build());
        assert_eq!(outcome.action, Action::Drop);
        assert_eq!(moved, Moved::only(Reason::NoBackend));
    }
}

#[test]
fn flow_whose_member_died_does_not_go_back_when_that_recovers() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    // One past its handshake, one before.
    assert_eq!((walk.syn(1), walk.later(1), walk.syn(2)), (1, 1, 1));
    walk.change(&with_member(changed_to(&[1, 2]), 1, die));
    assert_eq!((walk.syn(1), walk.later(2)), (2, 0));
    walk.change(&state(changed_to(&[1, 2, 1])));
    assert_eq!((walk.later(1), walk.later(2)), (2, 0));
}

#[test]
fn record_of_an_index_that_nobody_owns_any_more_is_not_followed() {
    let mut walk = Walk::start(&state(changed_to(&[2])));
    assert_eq!((walk.syn(1), walk.later(1)), (2, 2));
    let two = four_services(&members()[..2], &[changed_to(&[2, 1])]);
    walk.change(&two);
    assert_eq!(walk.later(1), 0);
    let gap = with_member(changed_to(&[2, 1]), 2, |member| {
        member.kind = Member::NONE;
    });
    walk.change(&gap);
    assert_eq!(walk.later(1), 0);
}

#[test]
fn record_of_an_earlier_incarnation_is_not_followed() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!((walk.syn(1), walk.later(1)), (1, 1));
    walk.change(&with_member(changed_to(&[1, 2]), 1, |member| {
        member.incarnation = 1;
    }));
    assert_eq!(walk.later(1), 0);
}

#[test]
fn member_without_traffic_of_its_own_keeps_recorded_flows() {
    // Drained: no slot names it, yet it is alive.
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!(walk.syn(1), 1);
    walk.change(&state(changed_to(&[1, 2])));
    assert_eq!((walk.later(1), walk.later(2)), (1, 0));
}

#[test]
fn udp_goes_by_the_hash_and_is_not_recorded() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!(walk.send(&udp_v4(), 0), 1);
    walk.change(&state(changed_to(&[1, 2])));
    assert_eq!(walk.send(&udp_v4(), 0), 2);
}

#[test]
fn flows_that_differ_in_one_thing_have_records_of_their_own() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!(walk.syn(1), 1);
    walk.change(&state(changed_to(&[1, 2])));
    let mut other_address = client(1);
    other_address.source = at("203.0.113.2:1");
    assert_eq!(walk.send(&other_address, ACK), 0);
    assert_eq!(walk.later(2), 0);
    assert_eq!(walk.later(1), 1);
    // The same words in an IPv6 address, to the service's other family.
    let mut other_family = tcp_v6();
    other_family.source = at("[cb00:7101::]:1");
    assert_eq!(walk.send(&other_family, ACK), 0);
}

#[test]
fn change_of_the_hash_keys_leaves_recorded_flows_where_they_are() {
    let mut walk = Walk::start(&state(changed_to(&[1])));
    assert_eq!((walk.syn(1), walk.later(2)), (1, 0));
    let mut other_keys = state(changed_to(&[1, 2]));
    other_keys.flow_keys = [9; 10];
    walk.change(&other_keys);
    assert_eq!((walk.later(1), walk.later(2)), (1, 0));
}
