//! A program that is loaded for a capture does what the others do, and tells
//! of each packet as it came and as it left.

use std::collections::BTreeMap;

use balancer_common::features::Features;
use balancer_common::layout::Member;
use balancer_common::verdict::{Disposition, Reason};
use balancer_tests::frames::{Generator, Packet};
use balancer_tests::model::build::{READY, l2};
use balancer_user::dataplane::State;
use balancer_user::dataplane::bench::{Footprint, Subject};
use balancer_user::dataplane::capture::{Figures, Frame, Tap, Told, Wanted, Wish};
use balancer_user::dataplane::trial::{Action, Trial};

use crate::fixture::{CLIENT_V4, at, four_services, only, tcp_v4, tcp_v6, udp_v4};
use crate::nat;
use crate::random::with_egress;
use crate::scenario::everything;

/// Frames through the scenario.
const FRAMES: u64 = 20_000;
/// More than any test runs.
const PLENTY: u64 = 1_000_000;

fn all() -> Wish {
    Wish {
        wanted: Wanted::All,
        actions: Vec::new(),
        reasons: Vec::new(),
        one_in: 1,
        snaplen: 4096,
        at_once: 0,
    }
}

/// A capturing program that may tell of plenty.
struct Bench {
    trial: Trial,
    tap: Tap,
}

impl Bench {
    fn new(state: &State, wish: &Wish) -> Self {
        let (trial, mut tap) = Trial::capturing(state, Features::ALL, wish).unwrap();
        tap.ring.grant(PLENTY);
        Self { trial, tap }
    }

    /// What the program does with a frame: the action and the bytes.
    fn run(&mut self, frame: &[u8]) -> (Action, Vec<u8>) {
        let mut out = Vec::new();
        let action = self.trial.split().unwrap().0.run(frame, &mut out).unwrap();
        (action, out)
    }

    /// What is told of a frame.
    fn told(&mut self, frame: &[u8]) -> Option<Told> {
        self.run(frame);
        let told = self.tap.ring.take().unwrap();
        assert_eq!(self.tap.ring.take().unwrap(), None, "it is told twice");
        told
    }

    fn figures(&self) -> Figures {
        self.tap.ring.figures()
    }
}

fn whole(bytes: &[u8]) -> Frame {
    Frame {
        bytes: bytes.to_vec(),
        len: bytes.len() as u32,
    }
}

#[test]
fn capturing_program_agrees_with_the_traced_one_and_tells_of_every_packet() {
    with_egress("capture", |egress| {
        let state = everything(1, egress);
        let mut traced = Trial::load_all(&state).unwrap();
        let mut bench = Bench::new(&state, &all());
        let mut generator = Generator::new(7, &state);
        let mut seen: BTreeMap<&str, (Disposition, u64)> = BTreeMap::new();
        for number in 0..FRAMES {
            let frame = generator.frame();
            let expected = traced.run(&frame).unwrap();
            let (action, out) = bench.run(&frame);
            let told = bench.tap.ring.take().unwrap();
            let told = told.unwrap_or_else(|| panic!("frame {number} is not told"));
            let kind = (told.reason.disposition(), 0);
            seen.entry(told.reason.name()).or_insert(kind).1 += 1;
            // How many are answered a second, each program counts for itself.
            let of_rate = [Reason::TooBigAnswered, Reason::ExceedsMtu];
            if told.reason != expected.reason && of_rate.contains(&told.reason) {
                assert!(of_rate.contains(&expected.reason), "{number}: {expected:?}");
                continue;
            }
            assert_eq!(
                (action, &out),
                (expected.action, &expected.frame),
                "{number}"
            );
            assert_eq!(told.before, whole(&frame), "{number}: {expected:?}");
            let leaves = matches!(action, Action::Tx | Action::Redirect);
            let after = leaves.then(|| whole(&out));
            assert_eq!(told.after, after, "{number}");
            assert_eq!(told.action, action, "{number}");
            assert_eq!(told.reason, expected.reason, "{number}");
            assert_eq!(told.service, expected.service, "{number}");
            assert_eq!(
                (told.slot, told.hash),
                (expected.slot, expected.hash),
                "{number}"
            );
            if let Some(index) = expected.member {
                let member =
                    &state.services[&expected.service.unwrap()].members[usize::from(index)];
                assert_eq!(told.member, Some((index, member.incarnation)), "{number}");
            } else if told.reason == Reason::ReplyForwarded {
                assert!(
                    told.member.is_some(),
                    "{number}: whose reply it is is not told"
                );
            }
        }
        println!("{seen:?}");
        for disposition in [
            Disposition::Pass,
            Disposition::Drop,
            Disposition::Forward,
            Disposition::Answer,
        ] {
            let reasons = seen.values().filter(|it| it.0 == disposition);
            assert!(reasons.count() > 1, "{disposition:?}: {seen:?}");
        }
        let figures = bench.figures();
        assert_eq!(figures.looked, FRAMES);
        assert_eq!(figures.taken, FRAMES);
        assert_eq!((figures.lost, figures.limited), (0, 0));
    });
}

#[test]
fn program_that_only_forwards_is_smaller_by_all_of_it() {
    let state = only(l2(7));
    let mut plain = Subject::balancer_with(&state, Features::ALL).unwrap();
    let mut capturing = Subject::capturing(&state, Features::ALL, &all()).unwrap();
    let (plain, capturing) = (plain.footprint().unwrap(), capturing.footprint().unwrap());
    for (what, footprint) in [("plain", &plain), ("capturing", &capturing)] {
        println!(
            "{what}: {} instructions verified, {} bytes of machine code, loaded in {:?}",
            footprint.verified_instructions, footprint.machine_code_len, footprint.load_time
        );
    }
    assert!(plain.machine_code_len < capturing.machine_code_len);
    assert!(plain.verified_instructions < capturing.verified_instructions);
    // A map is at least a page; nothing is held ready for a capture.
    let bytes = |footprint: &Footprint| -> u64 {
        let of_capture = |name: &str| name.starts_with("CAPTURE");
        let maps = footprint.maps.iter().filter(|(name, _)| of_capture(name));
        maps.map(|(_, bytes)| bytes).sum()
    };
    println!("maps: {} and {} bytes", bytes(&plain), bytes(&capturing));
    assert!(bytes(&plain) < 64 << 10, "{}", bytes(&plain));
    assert!(bytes(&capturing) > 4 << 20, "{}", bytes(&capturing));
}

#[test]
fn filter_by_service_leaves_out_all_others_and_packets_of_none() {
    let wish = Wish {
        wanted: Wanted::Services([1].into()),
        ..all()
    };
    let mut bench = Bench::new(&only(l2(7)), &wish);
    let told = bench.told(&tcp_v4().build()).unwrap();
    assert_eq!(
        (told.service, told.member),
        (Some(1), Some((0, l2(7).incarnation)))
    );
    assert_eq!(bench.told(&tcp_v6().build()), None);
    assert_eq!(bench.told(&udp_v4().build()), None);
    let mut nobodys = tcp_v4();
    nobodys.destination = at("192.0.2.9:80");
    assert_eq!(bench.told(&nobodys.build()), None);
    // Added while it is on.
    bench
        .tap
        .filter
        .extend(&Wanted::Services([2].into()))
        .unwrap();
    assert_eq!(bench.told(&tcp_v6().build()).unwrap().service, Some(2));
}

#[test]
fn filter_by_member_is_of_this_owner_of_the_index_alone() {
    let member = |incarnation| Member {
        incarnation,
        ..l2(7)
    };
    for (present, is_told) in [(4, false), (5, true)] {
        let wish = Wish {
            wanted: Wanted::Members([(1, 0, 5)].into()),
            ..all()
        };
        let mut bench = Bench::new(&only(member(present)), &wish);
        assert_eq!(bench.told(&tcp_v4().build()).is_some(), is_told);
        // The same index of another service.
        assert_eq!(bench.told(&tcp_v6().build()), None);
    }
}

#[test]
fn reply_of_a_backend_is_told_as_its_own() {
    let state = nat::state();
    let incarnation = state.services[&1].members[0].incarnation;
    let wish = Wish {
        wanted: Wanted::Members([(1, 0, incarnation)].into()),
        ..all()
    };
    let mut bench = Bench::new(&state, &wish);
    let request = bench.told(&tcp_v4().build()).unwrap();
    assert_eq!(request.reason, Reason::Forwarded);
    let reply = Packet::tcp(at(nat::BACKEND_V4), at(CLIENT_V4)).build();
    let told = bench.told(&reply).unwrap();
    assert_eq!(told.reason, Reason::ReplyForwarded);
    assert_eq!(told.before, whole(&reply));
    assert_eq!(
        (told.service, told.member),
        (Some(1), Some((0, incarnation)))
    );
    assert_eq!((told.slot, told.hash), (None, None));
}

#[test]
fn filters_by_verdict_and_reason_look_at_what_was_done() {
    let lost = Member {
        flags: READY & !Member::RESOLVED,
        ..l2(7)
    };
    let frame = tcp_v4().build();
    let told = |actions: &[Action], reasons: &[Reason]| {
        let wish = Wish {
            actions: actions.to_vec(),
            reasons: reasons.to_vec(),
            ..all()
        };
        Bench::new(&only(lost), &wish).told(&frame)
    };
    let dropped = told(&[Action::Drop], &[]).unwrap();
    assert_eq!(
        (dropped.action, dropped.reason),
        (Action::Drop, Reason::NoNextHop)
    );
    assert_eq!((dropped.before, dropped.after), (whole(&frame), None));
    assert_eq!(
        told(&[Action::Pass, Action::Tx, Action::Redirect], &[]),
        None
    );
    assert!(told(&[], &[Reason::NoBackend, Reason::NoNextHop]).is_some());
    assert_eq!(told(&[], &[Reason::NoBackend]), None);
    assert_eq!(told(&[Action::Tx], &[Reason::NoNextHop]), None);
}

#[test]
fn snaplen_cuts_both_frames_and_keeps_their_lengths() {
    for snaplen in [1, 14, 20] {
        let wish = Wish { snaplen, ..all() };
        let mut bench = Bench::new(&only(l2(7)), &wish);
        let mut packet = tcp_v4();
        packet.payload_len = 100;
        let frame = packet.build();
        let (_, out) = bench.run(&frame);
        let told = bench.tap.ring.take().unwrap().unwrap();
        let after = told.after.unwrap();
        assert_eq!(told.before.bytes, frame[..snaplen as usize]);
        assert_eq!(after.bytes, out[..snaplen as usize]);
        assert_eq!(
            (told.before.len, after.len),
            (frame.len() as u32, out.len() as u32)
        );
    }
}

#[test]
fn no_more_is_told_than_was_granted_and_the_rest_is_counted() {
    let (mut trial, mut tap) = Trial::capturing(&only(l2(7)), Features::ALL, &all()).unwrap();
    let frame = tcp_v4().build();
    let run = |trial: &mut Trial| {
        let action = trial.split().unwrap().0.run(&frame, &mut Vec::new());
        assert_eq!(action.unwrap(), Action::Tx);
    };
    let told = |tap: &mut Tap| std::iter::from_fn(|| tap.ring.take().unwrap()).count();
    run(&mut trial);
    assert_eq!(told(&mut tap), 0, "nothing was granted");
    tap.ring.grant(3);
    for _ in 0..10 {
        run(&mut trial);
    }
    assert_eq!(told(&mut tap), 3);
    tap.ring.grant(2);
    for _ in 0..10 {
        run(&mut trial);
    }
    assert_eq!(told(&mut tap), 2);
    let figures = tap.ring.figures();
    assert_eq!((figures.taken, figures.limited, figures.lost), (5, 16, 0));
}

#[test]
fn ring_that_is_full_loses_what_is_counted_and_no_packet() {
    let mut bench = Bench::new(&only(l2(7)), &all());
    let mut packet = tcp_v4();
    packet.payload_len = 1400;
    let frame = packet.build();
    // Two times 1,454 bytes each, into 4 MiB.
    let (runs, mut told) = (3000, 0);
    for _ in 0..runs {
        assert_eq!(bench.run(&frame).0, Action::Tx);
    }
    while let Some(packet) = bench.tap.ring.take().unwrap() {
        assert_eq!(packet.before, whole(&frame));
        told += 1;
    }
    let figures = bench.figures();
    assert!((1000..2000).contains(&told), "{told}");
    assert_eq!(figures.taken, runs);
    assert_eq!(figures.lost, runs - told);
    // There is room again.
    assert!(bench.told(&frame).is_some());
}

#[test]
fn sample_takes_about_one_in_so_many() {
    let wish = Wish {
        one_in: 10,
        ..all()
    };
    let mut bench = Bench::new(&four_services(&[], &[]), &wish);
    let frame = tcp_v4().build();
    let runs = 20_000;
    for _ in 0..runs {
        assert_eq!(bench.run(&frame).0, Action::Drop);
        while let Some(told) = bench.tap.ring.take().unwrap() {
            assert_eq!(told.reason, Reason::NoBackend);
        }
    }
    // 2,000 expected with a standard deviation of 42: ten of them.
    let figures = bench.figures();
    assert!(figures.looked.abs_diff(2000) < 420, "{figures:?}");
    assert_eq!(figures.taken, figures.looked);
}
