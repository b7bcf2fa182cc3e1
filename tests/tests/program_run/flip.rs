//! A change is one step: no packet meets half of it, and nobody who asks
//! later meets what was before it.
//!
//! Thousands of states follow each other, while another thread runs packets
//! of two services through the program. A state writes its number into all
//! that a packet picks up on its way: the hash keys (they show in the label
//! of the outer header), and in each service the Ethernet address and both
//! outer addresses of the only member in the table. Where services, tables
//! and members lie differs from state to state, so that an old index into a
//! new array leads to a member whose number is wrong.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use balancer_common::features::Features;
use balancer_common::layout::{Member, Slot};
use balancer_tests::frames::Packet;
use balancer_tests::model::Model;
use balancer_tests::model::build::{self, TCP, UDP, flow_keys, ipip_v6, key};
use balancer_user::dataplane::State;
use balancer_user::dataplane::capacity::Capacity;
use balancer_user::dataplane::trial::{Action, Changer, Runner, Trial};

use crate::fixture::{at, tcp_v4};

/// Changes, and how long they may take. Each waits for a grace period of the
/// kernel, about ten milliseconds.
const CHANGES: u32 = 2000;
const LIMIT: Duration = Duration::from_secs(60);

/// Number of a member that no table names.
const NOBODY: u32 = 0xdead_beef;

/// State `number`: two services, whose packets go to members that bear it.
fn state(number: u32) -> State {
    let mut state = State::empty();
    state.flow_keys = flow_keys(u64::from(number));
    let ways_in = [key("192.0.2.1", 80, TCP), key("2001:db8::1", 53, UDP)];
    for (place, way_in) in (0..).zip(ways_in) {
        // Sizes of 1 to 5 and 1 to 7: where the next service's members begin
        // changes with every step, as does the table's length.
        let member_count = 1 + (number + place) % 5;
        let owner = (number * 3 + place) % member_count;
        let members = (0..member_count)
            .map(|index| member(if index == owner { number } else { NOBODY }))
            .collect();
        let slot_count = 16 * (1 + number % 7) as usize + 1;
        let slots = vec![Slot::settled(owner as u16); slot_count];
        // Service numbers change too: 1 and 2, then 3 and 4.
        let id = 1 + place + 2 * (number % 2);
        state
            .services
            .insert(id, build::service(vec![way_in], members, slots));
    }
    state
}

fn member(number: u32) -> Member {
    let mut member = ipip_v6(0);
    let bytes = number.to_be_bytes();
    member.ethernet[2..6].copy_from_slice(&bytes);
    member.outer_source[12..].copy_from_slice(&bytes);
    member.outer_destination[12..].copy_from_slice(&bytes);
    member
}

fn packets() -> [Vec<u8>; 2] {
    let udp = Packet::udp(at("[2001:db8:c::1]:40000"), at("[2001:db8::1]:53"));
    [tcp_v4().build(), udp.build()]
}

/// The numbers in a frame that left, which are one and the same.
fn number_in(frame: &[u8]) -> u32 {
    // Ethernet destination; outer source and destination.
    let places = [2, 14 + 8 + 12, 14 + 24 + 12];
    let [number, source, destination] =
        places.map(|at| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()));
    assert_eq!((source, destination), (number, number));
    number
}

/// How far the changer has come.
#[derive(Default)]
struct Progress {
    /// State whose change may be under way.
    begun: AtomicU32,
    /// State whose change is done.
    done: AtomicU32,
    stop: AtomicBool,
}

/// Sets the flag when dropped, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Changes on and on; gives the number of the last state.
fn change(changer: &mut Changer<'_>, progress: &Progress) -> u32 {
    let _stop = Stop(&progress.stop);
    let started = Instant::now();
    for number in 2..=CHANGES + 1 {
        if progress.stop.load(Ordering::SeqCst) {
            return number - 1;
        }
        assert!(
            started.elapsed() < LIMIT,
            "only {number} changes in {LIMIT:?}"
        );
        progress.begun.store(number, Ordering::SeqCst);
        changer.change(&state(number)).unwrap();
        progress.done.store(number, Ordering::SeqCst);
    }
    CHANGES + 1
}

/// What the packets of one thread met.
#[derive(Debug, Default)]
struct Seen {
    packets: u64,
    /// Packets of another state than the one before.
    steps: u64,
}

/// Runs packets of both services in turn until told to stop.
fn run(runner: Runner<'_>, progress: &Progress) -> Seen {
    let _stop = Stop(&progress.stop);
    let mut seen = Seen::default();
    let mut out = Vec::new();
    let mut last = 1;
    // What the model says of the state, made once for each.
    let mut expected = expected(1);
    while !progress.stop.load(Ordering::SeqCst) {
        for (place, packet) in packets().iter().enumerate() {
            let least = progress.done.load(Ordering::SeqCst).max(last);
            assert_eq!(runner.run(packet, &mut out).unwrap(), Action::Tx);
            let most = progress.begun.load(Ordering::SeqCst);
            let number = number_in(&out);
            assert!(
                (least..=most).contains(&number),
                "state {number} seen, {least} to {most} were in force"
            );
            if number != last {
                expected = self::expected(number);
                seen.steps += 1;
            }
            assert_eq!(out, expected[place], "state {number}");
            seen.packets += 1;
            last = number;
        }
    }
    seen
}

/// What leaves for both packets, by the model.
fn expected(number: u32) -> [Vec<u8>; 2] {
    let mut model = Model::new(&state(number));
    packets().map(|packet| model.run(&packet).frame)
}

#[test]
fn every_packet_meets_one_state_while_states_follow_each_other() {
    let first = state(1);
    // Room for the old and the new tables of any two states.
    let capacity = Capacity {
        blocks: 256,
        ..Capacity::for_state(&first)
    };
    let mut trial = Trial::with(capacity, Features::ALL, &first).unwrap();
    let progress = Progress::default();
    progress.begun.store(1, Ordering::SeqCst);
    let (runner, mut changer) = trial.split().unwrap();
    let (last, seen) = thread::scope(|scope| {
        let running = scope.spawn(|| run(runner, &progress));
        let last = change(&mut changer, &progress);
        (last, running.join().unwrap())
    });
    println!("{} changes, {seen:?}", last - 1);
    assert_eq!(last, CHANGES + 1);
    // Otherwise the two threads took turns and nothing was tested.
    assert!(seen.steps > u64::from(CHANGES) / 10, "{seen:?}");
}

#[test]
fn change_that_does_not_fit_leaves_every_packet_where_it_was() {
    let before = state(1);
    let mut trial = Trial::load_all(&before).unwrap();
    let mut large = state(2);
    for service in large.services.values_mut() {
        let slots = vec![Slot::settled(0); 65_537];
        *service = build::service(service.keys.clone(), service.members.clone(), slots);
    }
    assert!(trial.change(&large).is_err());
    let mut model = Model::new(&before);
    for packet in packets() {
        assert_eq!(trial.run(&packet).unwrap(), model.run(&packet));
    }
    assert_eq!(trial.read_state(), before);
}
