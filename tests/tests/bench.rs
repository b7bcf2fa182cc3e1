//! The benchmark's cases are what their names say. No time is looked at.
#![cfg(test)]

use std::collections::HashSet;

use balancer_tests::bench::forwarding;
use balancer_tests::bench::packets::{self, Effort};
use balancer_tests::bench::requests;
use balancer_tests::frames::hex;
use balancer_tests::model::build::{TCP, flow_keys, ipip_v4, key, service};
use balancer_tests::model::forward::checksum;
use balancer_user::dataplane::State;
use balancer_user::dataplane::bench::{Chosen, HotLoop, Stimulus, Subject};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Each case compares verdicts, lengths and counters before it is timed.
#[test]
fn every_case_meets_the_packets_and_the_verdicts_it_names() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
    let effort = Effort {
        rounds: 1,
        packets: 100,
    };
    let figures = packets::measure(effort, None, |_| ()).unwrap();
    let measured: Vec<&str> = figures.iter().map(|figure| figure.case.as_str()).collect();
    assert_eq!(measured, packets::names(None));
    let distinct: HashSet<&&str> = measured.iter().collect();
    assert_eq!(distinct.len(), measured.len(), "two cases with one name");
}

#[test]
fn frames_sent_over_interfaces_arrive_behind_the_real_daemon() {
    forwarding::try_balancer(5000).unwrap();
}

#[test]
fn web_requests_are_answered_through_every_middle_of_ours() {
    requests::try_balancer().unwrap();
}

fn stimulus(flows: u64) -> Stimulus {
    Stimulus {
        frame: (0..64).collect(),
        restored: 62,
        flows,
        is_v6: false,
        address_at: 26,
        ports_at: 34,
        is_second_port: false,
        service_at: 30,
        services: 1,
        identification_at: 0,
    }
}

fn subject() -> Subject {
    let slots = vec![balancer_common::layout::Slot::settled(0)];
    let mut state = State::empty();
    state.flow_keys = flow_keys(1);
    let service = service(vec![key("192.0.2.1", 80, TCP)], vec![ipip_v4(1)], slots);
    state.services.insert(1, service);
    Subject::balancer(&state).unwrap()
}

/// The frames of a loop's first turns, as the floor leaves them.
fn frames(hot: &mut HotLoop, count: u32) -> Vec<Vec<u8>> {
    (0..count)
        .map(|_| {
            let run = hot.run(Chosen::Floor, 1).unwrap();
            hot.frame_of(&run).to_vec()
        })
        .collect()
}

#[test]
fn loop_makes_exactly_as_many_flows_as_it_is_asked_for() {
    let mut subject = subject();
    for (flows, expected) in [(1, 1), (1024, 1024), (Stimulus::EVER_NEW, 4096)] {
        let mut hot = HotLoop::load(&mut subject, &stimulus(flows)).unwrap();
        let distinct: HashSet<Vec<u8>> = frames(&mut hot, 4096).into_iter().collect();
        assert_eq!(distinct.len(), expected);
    }
}

#[test]
fn loop_varies_the_flow_and_nothing_else() {
    let mut hot = HotLoop::load(&mut subject(), &stimulus(1 << 16)).unwrap();
    for frame in frames(&mut hot, 1000) {
        for (at, byte) in frame.iter().enumerate() {
            assert!(
                *byte == at as u8 || matches!(at, 27..=29 | 35),
                "byte {at} is {byte}"
            );
        }
    }
}

/// RFC 1071: the words of a header with its checksum add up to 0xffff.
#[test]
fn header_checksum_holds_for_every_flow_where_it_has_to() {
    let mut frame = vec![0; 64];
    frame[14..34].copy_from_slice(&[
        0x45, 0, 0, 50, 0xff, 0xff, 0, 0, 64, 17, 0, 0, 10, 0, 0, 0, 192, 0, 2, 1,
    ]);
    let sum = checksum(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    let stimulus = Stimulus {
        frame,
        identification_at: 18,
        ..stimulus(Stimulus::EVER_NEW)
    };
    let mut hot = HotLoop::load(&mut subject(), &stimulus).unwrap();
    let frames = frames(&mut hot, 5000);
    for frame in &frames {
        assert_eq!(checksum(&frame[14..34]), 0, "{}", hex(&frame[14..34]));
    }
    let distinct: HashSet<&[u8]> = frames.iter().map(|frame| &frame[27..30]).collect();
    assert!(distinct.len() > 4900);
}

#[test]
fn loop_spreads_flows_over_all_services() {
    let spread = Stimulus {
        services: 1000,
        ..stimulus(1 << 16)
    };
    let mut hot = HotLoop::load(&mut subject(), &spread).unwrap();
    let services: HashSet<u16> = frames(&mut hot, 20_000)
        .iter()
        .map(|frame| u16::from_be_bytes([frame[32], frame[33]]))
        .collect();
    assert_eq!(services.len(), 1000);
    assert!(services.iter().all(|service| *service < 1000));
}

#[test]
fn stimulus_that_the_loop_cannot_run_is_refused_with_its_limit() {
    for (wrong, expected) in [
        (stimulus(1000), "1000 flows: the loop wants a power of two"),
        (
            Stimulus {
                restored: 65,
                ..stimulus(1)
            },
            "restoring 65 bytes of a frame of 64",
        ),
    ] {
        let Err(error) = HotLoop::load(&mut subject(), &wrong) else {
            panic!("{wrong:?} was taken");
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
