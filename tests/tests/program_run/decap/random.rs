//! Random tunnel packets through program and model: they must agree.

use balancer_common::decap::{Count, Form, Refusal};
use balancer_tests::frames::mutate::mutate;
use balancer_tests::frames::{Checksum, Gue, Packet, Rng, Tunnel, hex, shrink};
use balancer_tests::model;
use balancer_user::dataplane::decap::{Counts, DecapTrial, Sources, Unwrapping};
use balancer_user::dataplane::trial::{MAX_FRAME, MIN_FRAME};
use ipnet::IpNet;

use super::{inner, ip, moved, tunnel};
use crate::fixture::{tcp_v4, tcp_v6, udp_v4};
use crate::random::number_from_env;

/// Frames of the run; the environment may ask for more.
const FRAMES: u64 = 200_000;
const GUE_PORT: u16 = 6080;

struct Pair {
    trial: DecapTrial,
    sources: Vec<IpNet>,
}

impl Pair {
    fn new() -> Self {
        let sources: Vec<IpNet> = ["10.9.0.0/16", "fd99::/32"]
            .map(|s| s.parse().unwrap())
            .into();
        let unwrapping = Unwrapping {
            sources: Sources::In(sources.clone()),
            gue_port: GUE_PORT,
        };
        Self {
            trial: DecapTrial::load(&unwrapping).unwrap(),
            sources,
        }
    }

    fn model(&self, frame: &[u8]) -> model::decap::Outcome {
        let is_trusted = |source| self.sources.iter().any(|net| net.contains(&source));
        model::decap::unwrap(frame, GUE_PORT, is_trusted)
    }

    /// The difference of bytes and action, if there is one.
    fn difference(&mut self, frame: &[u8]) -> Option<String> {
        let model = self.model(frame);
        let (action, out) = self.trial.run(frame).unwrap();
        if (action, &out) == (model.action, &model.frame) {
            return None;
        }
        Some(format!(
            "program {action:?} {}\n    model {:?} {}, {:?}",
            hex(&out),
            model.action,
            hex(&model.frame),
            model.counted
        ))
    }

    /// As `difference`, and what was counted.
    fn difference_of_one(&mut self, frame: &[u8]) -> Option<String> {
        let before = self.trial.counts().unwrap();
        let difference = self.difference(frame);
        let counted = moved(&before, &self.trial.counts().unwrap());
        let expected = self.model(frame).counted;
        difference.or_else(|| {
            (counted != expected).then(|| format!("program {counted:?}, model {expected:?}"))
        })
    }
}

fn add(counts: &mut Counts, counted: Option<Result<(Form, u64), Refusal>>) {
    match counted {
        Some(Ok((form, bytes))) => {
            let count = &mut counts.forms[form as usize].1;
            count.packets += 1;
            count.bytes += bytes;
        }
        Some(Err(refusal)) => counts.refusals[refusal as usize].1 += 1,
        None => {}
    }
}

/// A tunnel packet, mostly a good one, in one of every form and with one of
/// every fault.
fn frame(rng: &mut Rng) -> Vec<u8> {
    let outer_v4 = rng.chance(50);
    let packet = match rng.below(3) {
        0 => tcp_v4(),
        1 => tcp_v6(),
        _ => udp_v4(),
    };
    let packet = Packet {
        payload_len: if rng.chance(20) {
            rng.below(1400)
        } else {
            rng.below(40)
        },
        traffic_class: rng.byte(),
        ..packet
    };
    let mut tunnel = tunnel(outer_v4, inner(&packet));
    tunnel.traffic_class = rng.byte();
    tunnel.vlans = (0..rng.below(3))
        .map(|_| rng.next() as u16 & 0xfff)
        .collect();
    if rng.chance(20) {
        tunnel.padding = (0..rng.below(30)).map(|_| rng.byte()).collect();
    }
    if rng.chance(10) {
        tunnel.source = ip(if outer_v4 { "10.8.0.1" } else { "fd98::1" });
    }
    if rng.chance(20) {
        tunnel.options = (0..rng.below(10) * 4).map(|_| rng.byte()).collect();
        tunnel.destination_options = options(rng);
    }
    if rng.chance(5) {
        let word = rng.next() as u16;
        tunnel.fragment = Some(rng.pick(&[0x2000, 0x4000, 0x0001, 0x0008, word]));
    }
    if rng.chance(5) {
        tunnel.protocol = Some(rng.pick(&[4, 41, 47, 17]));
    }
    if rng.chance(60) {
        tunnel.gue = Some(gue(rng, &tunnel));
    }
    let mut frame = tunnel.build();
    if rng.chance(30) {
        mutate(rng, &mut frame, MIN_FRAME, MAX_FRAME);
    }
    frame
}

fn options(rng: &mut Rng) -> Vec<u8> {
    match rng.below(4) {
        0 => vec![0, 4, 1, 4, 1, 1, 0],
        1 => vec![0, 1, 4, 0, 0, 0, 0],
        2 => (0..7).map(|_| rng.pick(&[0, 0, 1, 2, 4])).collect(),
        _ => (0..7).map(|_| rng.byte()).collect(),
    }
}

fn gue(rng: &mut Rng, tunnel: &Tunnel) -> Gue {
    let mut gue = Gue::direct();
    if rng.chance(50) {
        let words = if rng.chance(30) {
            rng.below(32) as u8
        } else {
            0
        };
        let protocol = if tunnel.inner[0] >> 4 == 4 { 4 } else { 41 };
        gue.header = vec![words, protocol, 0, 0];
        gue.header.extend((0..words * 4).map(|_| rng.byte()));
        if rng.chance(10) {
            let at = rng.below(4);
            gue.header[at] ^= 1 << rng.below(8);
        }
    }
    let word = rng.next() as u16;
    gue.checksum = match rng.below(4) {
        0 | 1 => Checksum::Zero,
        2 => Checksum::Right,
        _ => Checksum::WrongBy(rng.pick(&[0, 1, 0xffff, word])),
    };
    if rng.chance(3) {
        gue.port = rng.next() as u16;
    }
    if rng.chance(3) {
        gue.udp_len = Some(rng.below(1500) as u16);
    }
    gue
}

#[test]
fn random_tunnels_agree_with_the_model() {
    let seed = number_from_env("BALANCER_TEST_SEED", 1);
    let frames = number_from_env("BALANCER_TEST_FRAMES", FRAMES);
    println!("BALANCER_TEST_SEED={seed} BALANCER_TEST_FRAMES={frames}");
    let mut pair = Pair::new();
    let mut rng = Rng::new(seed);
    let mut expected = Counts {
        forms: Form::ALL
            .iter()
            .map(|form| (*form, Count::default()))
            .collect(),
        refusals: Refusal::ALL.iter().map(|refusal| (*refusal, 0)).collect(),
    };
    for number in 0..frames {
        let frame = frame(&mut rng);
        if let Some(difference) = pair.difference(&frame) {
            let mut fresh = Pair::new();
            let small = shrink(&frame, MIN_FRAME, |frame| fresh.difference(frame).is_some());
            panic!(
                "seed {seed}, frame {number}: {difference}\n{}\nshrunk {}\n{:?}",
                hex(&frame),
                hex(&small),
                fresh.difference(&small)
            );
        }
        let counted = pair.model(&frame).counted;
        add(&mut expected, counted);
        // Reading all counters costs more than the frame.
        if number % 64 == 0 {
            assert_eq!(
                pair.trial.counts().unwrap(),
                expected,
                "until frame {number}"
            );
        }
    }
    assert_eq!(pair.trial.counts().unwrap(), expected);
    for (form, count) in &expected.forms {
        println!("{:>16} {}", form.name(), count.packets);
        assert!(count.packets > frames / 100, "{}", form.name());
    }
    for (refusal, count) in &expected.refusals {
        println!("{:>16} {count}", refusal.name());
        // The checks before it make it impossible.
        if *refusal != Refusal::LostLinkHeader {
            assert!(*count > frames / 2000, "{}", refusal.name());
        }
    }
}

/// Every frame of a run of bytes that begins as a tunnel does.
#[test]
fn every_bit_of_the_headers_counts_as_the_model_says() {
    let mut rng = Rng::new(7);
    let mut pair = Pair::new();
    for _ in 0..12 {
        let frame = frame(&mut rng);
        for bit in 0..frame.len().min(110) * 8 {
            let mut frame = frame.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            if let Some(difference) = pair.difference_of_one(&frame) {
                panic!("bit {bit}: {difference}\n{}", hex(&frame));
            }
        }
    }
}
