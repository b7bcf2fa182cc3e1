//! A copy of the program over the tables of another one: it answers what that
//! one will do, and leaves nothing behind in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use aya::maps::{HashMap, Map, MapData};
use balancer_common::layout::{
    FlowKey, FlowRecord, LimitKey, Member, NatKey, NatRecord, Slot, Target,
};
use balancer_common::verdict::Reason;
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::{ACK, SYN};
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::model::build::{
    TCP, UDP, flow_keys, full, key, l2, limit, nat_v4, pool, service,
};
use balancer_user::dataplane::State;
use balancer_user::dataplane::capacity::Capacity;
use balancer_user::dataplane::features;
use balancer_user::dataplane::shadow::{Blueprint, Question, Recorded, Shadow};
use balancer_user::dataplane::trial::{Action, Outcome, Trial};

use crate::fixture::at;

const IN_CHANGE: u32 = 1;
const POOL: u32 = 2;
const LIMITED: u32 = 3;
const RECORDED: u32 = 4;

/// The running balancer, as far as it matters here.
struct Scene {
    trial: Trial,
    state: State,
    shadow: Shadow,
    pins: Scratch,
}

impl Scene {
    fn new() -> Self {
        let mut state = State::empty();
        state.flow_keys = flow_keys(7);
        state.settings.nat = pool([1, 1], 64);
        state.settings.nat.idle_ns = 1 << 40;
        let members = || vec![l2(0), l2(1), l2(2)];
        // New flows are of 1, those that began before of 2.
        let slots = vec![Slot::unsettled(1, 2).in_era(3); 31];
        let in_change = service(vec![key("192.0.2.1", 80, TCP)], members(), slots);
        state.services.insert(IN_CHANGE, in_change);
        let translated = (0..3).map(|number| full(nat_v4(number, 0))).collect();
        let slots = vec![Slot::settled(0), Slot::settled(1), Slot::settled(2)];
        let mut of_pool = service(vec![key("192.0.2.2", 80, TCP)], translated, slots.clone());
        of_pool.flags |= Target::FULLNAT;
        state.services.insert(POOL, of_pool);
        let of_prefix = service(vec![key("192.0.2.3", 80, TCP)], members(), slots.clone());
        let mask = u128::MAX.to_be_bytes();
        state.services.insert(LIMITED, limit(of_prefix, 2, mask));
        let mut recorded = service(vec![key("192.0.2.4", 80, UDP)], members(), slots);
        recorded.flags |= Target::AFFINITY_FLOW;
        recorded.options.flow_idle_ns = 1 << 40;
        state.services.insert(RECORDED, recorded);

        let pins = Scratch::for_pins("shadow");
        let (capacity, needed) = (Capacity::for_state(&state), features::needed(&state));
        let trial = Trial::pinned(pins.path(), capacity, needed, &state).unwrap();
        let blueprint = Blueprint::find(pins.path(), needed).unwrap();
        Self {
            shadow: blueprint.load().unwrap(),
            trial,
            state,
            pins,
        }
    }

    fn ask(&mut self, packet: &Packet) -> (Outcome, Recorded) {
        let frame = packet.build();
        let question = Question {
            frame: &frame,
            interface: 1,
            packet: five_tuple(packet),
        };
        let services = &self.state.services;
        let options = |id| Some(services.get(&id)?.options);
        self.shadow.ask(&question, options).unwrap()
    }

    fn run(&mut self, packet: &Packet) -> Outcome {
        self.trial.run(&packet.build()).unwrap()
    }

    /// Everything that the program writes.
    fn written(&mut self) -> Written {
        let all: Vec<u32> = (0..16).collect();
        let counters = self.trial.counters(&all).unwrap();
        let set = std::fs::read_dir(self.pins.path()).unwrap();
        let sets: Vec<_> = set
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir() && path.join("FLOWS").exists())
            .collect();
        let [set] = sets.as_slice() else {
            panic!("{sets:?}");
        };
        Written {
            counters: format!("{counters:?}"),
            flows: read::<{ size_of::<FlowKey>() }, { size_of::<FlowRecord>() }>(set, "FLOWS"),
            probation: read::<{ size_of::<FlowKey>() }, { size_of::<FlowRecord>() }>(
                set,
                "PROBATION",
            ),
            translations: read::<{ size_of::<NatKey>() }, { size_of::<NatRecord>() }>(set, "NAT"),
            limits: read::<{ size_of::<LimitKey>() }, 8>(set, "LIMITS"),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Written {
    counters: String,
    flows: BTreeMap<Vec<u8>, Vec<u8>>,
    probation: BTreeMap<Vec<u8>, Vec<u8>>,
    translations: BTreeMap<Vec<u8>, Vec<u8>>,
    limits: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn read<const K: usize, const V: usize>(set: &Path, name: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let map = Map::from_map_data(MapData::from_pin(set.join(name)).unwrap()).unwrap();
    let map = HashMap::<_, [u8; K], [u8; V]>::try_from(map).unwrap();
    let entries = map.iter().map(Result::unwrap);
    entries
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

fn five_tuple(packet: &Packet) -> NatKey {
    let padded = |address: SocketAddr| {
        let mut padded = [0; 16];
        if let IpAddr::V4(address) = address.ip() {
            padded[..4].copy_from_slice(&address.octets());
        }
        padded
    };
    let [a, b] = packet.source.port().to_be_bytes();
    let [c, d] = packet.destination.port().to_be_bytes();
    NatKey {
        source: padded(packet.source),
        destination: padded(packet.destination),
        ports: [a, b, c, d],
        protocol: u32::from(if packet.destination.ip() == at("192.0.2.4:80").ip() {
            UDP
        } else {
            TCP
        }),
    }
}

fn tcp(port: u16, service: u32, flags: u8) -> Packet {
    let packet = Packet::tcp(
        at(&format!("203.0.113.1:{port}")),
        at(&format!("192.0.2.{service}:80")),
    );
    Packet { flags, ..packet }.with_checksum()
}

fn udp(port: u16) -> Packet {
    Packet::udp(at(&format!("203.0.113.1:{port}")), at("192.0.2.4:80")).with_checksum()
}

#[test]
fn shadow_says_what_the_program_will_do_and_nothing_notes_it() {
    let mut scene = Scene::new();
    let mut packets = Vec::new();
    for port in 40_000..40_040 {
        for service in [IN_CHANGE, POOL, LIMITED, 9] {
            packets.push(tcp(port, service, SYN));
            packets.push(tcp(port, service, ACK));
        }
        packets.push(udp(port));
    }
    // Every other flow is known to the running program before it is asked.
    for packet in packets.iter().filter(|it| it.source.port() % 2 == 0) {
        scene.run(packet);
    }
    for packet in &packets {
        let before = scene.written();
        let (first, _) = scene.ask(packet);
        let (again, _) = scene.ask(packet);
        assert_eq!(scene.written(), before, "{packet:?} left something behind");
        assert_eq!(first.reason, again.reason);
        let ran = scene.run(packet);
        let told = |outcome: &Outcome| {
            (
                outcome.action,
                outcome.reason,
                outcome.service,
                outcome.member,
                outcome.slot,
                outcome.hash,
            )
        };
        assert_eq!(told(&first), told(&ran), "{packet:?}");
    }
    // The marks of blocks whose old flows are about: none for what was asked.
    scene.trial.take_marks(IN_CHANGE).unwrap();
    scene.ask(&tcp(50_000, IN_CHANGE, ACK));
    let marks = scene.trial.take_marks(IN_CHANGE).unwrap();
    assert!(marks.iter().all(|mark| !mark), "{marks:?}");
}

#[test]
fn records_of_the_one_flow_are_found_and_gone_by() {
    let mut scene = Scene::new();
    // An old flow has none, and goes to the owner before.
    let (outcome, recorded) = scene.ask(&tcp(41_000, IN_CHANGE, ACK));
    assert_eq!((outcome.member, recorded), (Some(2), Recorded::default()));
    scene.run(&tcp(41_000, IN_CHANGE, SYN));
    let (outcome, recorded) = scene.ask(&tcp(41_000, IN_CHANGE, ACK));
    assert_eq!(outcome.member, Some(1));
    let record = recorded.probation.unwrap();
    assert_eq!((record.member, record.era, recorded.flow), (1, 3, None));
    scene.run(&tcp(41_000, IN_CHANGE, ACK));
    let (_, recorded) = scene.ask(&tcp(41_000, IN_CHANGE, ACK));
    assert_eq!(recorded.flow.unwrap().member, 1);

    let leaves = |outcome: &Outcome| outcome.frame[26..38].to_vec();
    let ran = scene.run(&tcp(41_000, POOL, SYN));
    let (outcome, recorded) = scene.ask(&tcp(41_000, POOL, ACK));
    assert_eq!(leaves(&outcome)[..10], leaves(&ran)[..10], "the same lease");
    let (request, reply) = (recorded.request.unwrap(), recorded.reply.unwrap());
    assert_eq!((request.service, reply.service), (POOL, POOL));

    // The last token is the running program's to give.
    scene.run(&tcp(42_000, LIMITED, SYN));
    let (outcome, _) = scene.ask(&tcp(42_001, LIMITED, SYN));
    assert_eq!(outcome.action, Action::Tx);
    scene.run(&tcp(42_001, LIMITED, SYN));
    let (outcome, _) = scene.ask(&tcp(42_002, LIMITED, SYN));
    assert_eq!(outcome.reason, Reason::SourceLimited);
}

#[test]
fn shadow_sees_a_change_at_once_and_a_set_that_has_gone_is_refused() {
    let mut scene = Scene::new();
    let mut state = scene.state.clone();
    let members = vec![l2(0), Member { flags: 0, ..l2(1) }, l2(2)];
    state.services.get_mut(&IN_CHANGE).unwrap().members = members;
    let (outcome, _) = scene.ask(&tcp(43_000, IN_CHANGE, SYN));
    assert_eq!(outcome.member, Some(1));
    scene.trial.change(&state).unwrap();
    let (outcome, _) = scene.ask(&tcp(43_000, IN_CHANGE, SYN));
    assert_eq!(outcome.reason, Reason::NoBackend);

    let blueprint = scene.shadow.blueprint().clone();
    let pins = scene.pins.path().to_owned();
    let set = std::fs::read_dir(&pins).unwrap().next().unwrap().unwrap();
    std::fs::remove_dir_all(set.path()).unwrap();
    let error = blueprint.load().unwrap_err().to_string();
    assert!(error.contains("creating the maps"), "{error}");
}
