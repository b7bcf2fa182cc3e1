//! Random frames through kernel and model: they must agree on everything.

use balancer_common::verdict::Reason;
use balancer_tests::frames::{Generator, hex, shrink, unhex};
use balancer_tests::lab::{Mac, Namespace, link};
use balancer_tests::model::Model;
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::{MIN_FRAME, Outcome, Trial};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::scenario::everything;

/// Frames of the large run; the environment may ask for more.
pub(crate) const FRAMES: u64 = 1_000_000;
/// Frames between two changes of the state.
const FRAMES_A_VERSION: u64 = 50_000;
/// The flow table holds 131,072 records and then evicts, which the model
/// does not: a run stays well below.
const MOST_RECORDS: usize = 90_000;
/// Likewise, of 16,384.
const MOST_FRAGMENTS: usize = 12_000;

/// Kernel and model with the same past.
struct Pair {
    trial: Trial,
    model: Model,
}

impl Pair {
    fn new(state: &State) -> Self {
        Self {
            trial: Trial::load_all(state).unwrap(),
            model: Model::new(state),
        }
    }

    fn change(&mut self, state: &State) {
        self.trial.change(state).unwrap();
        self.model.change(state);
    }

    /// The difference, if there is one.
    fn run(&mut self, frame: &[u8]) -> Result<Outcome, String> {
        let kernel = self.trial.run(frame).unwrap();
        let model = self.model.run(frame);
        if kernel == model {
            return Ok(kernel);
        }
        Err(format!(
            "kernel {:?} {:?} service {:?} member {:?} slot {:?} hash {:x?}\n    out {}\n\
             model  {:?} {:?} service {:?} member {:?} slot {:?} hash {:x?}\n    out {}",
            kernel.action,
            kernel.reason,
            kernel.service,
            kernel.member,
            kernel.slot,
            kernel.hash,
            hex(&kernel.frame),
            model.action,
            model.reason,
            model.service,
            model.member,
            model.slot,
            model.hash,
            hex(&model.frame),
        ))
    }

    fn assert_same_counters(&mut self, state: &State) {
        let all: Vec<u32> = state
            .services
            .values()
            .flat_map(|service| &service.members)
            .map(|member| member.counter)
            .collect();
        let mut kernel = self.trial.counters(&all).unwrap();
        kernel.members.retain(|_, counters| counters.packets > 0);
        // The model has no clock: it takes those that came too late for
        // finished, and those that failed before another came for displaced.
        for counters in kernel.handshakes.values_mut() {
            let timed = counters.histogram.iter().sum::<u64>();
            assert_eq!(timed, counters.finished, "each has its time");
            counters.displaced += std::mem::take(&mut counters.abandoned);
            counters.displaced += std::mem::take(&mut counters.finished);
            counters.histogram.fill(0);
        }
        let mut model = self.model.counters();
        for counters in model.handshakes.values_mut() {
            counters.displaced += std::mem::take(&mut counters.abandoned);
            counters.displaced += std::mem::take(&mut counters.finished);
        }
        let overdue: u64 = kernel
            .handshakes
            .iter_mut()
            .map(|(index, counters)| {
                let known = model.handshakes.entry(*index).or_default();
                let more = counters.displaced - known.displaced;
                counters.displaced = known.displaced;
                more
            })
            .sum();
        assert!(overdue as usize <= self.model.waiting_handshakes());
        assert_eq!(kernel, model);
    }
}

/// Shrinks a frame on which fresh copies differ; one on which they do not
/// differs because of what came before it, and is left as it is.
fn report(state: &State, frame: &[u8], difference: &str) -> String {
    let fails = |frame: &[u8]| Pair::new(state).run(frame).is_err();
    let (small, how) = if fails(frame) {
        (shrink(frame, MIN_FRAME, fails), "alone")
    } else {
        (frame.to_vec(), "only after the frames before it")
    };
    let small_difference = Pair::new(state).run(&small).err().unwrap_or_default();
    format!(
        "{difference}\nthis frame fails {how}:\n  frame {}\n  small {}\n{small_difference}",
        hex(frame),
        hex(&small)
    )
}

pub(crate) fn number_from_env(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().unwrap())
}

/// Keeps this thread on the first CPU: each has its part of a pool's ports.
pub(crate) fn on_first_cpu() {
    on_cpu(0);
}

/// Keeps this thread on that CPU, by its index.
pub(crate) fn on_cpu(index: usize) {
    let mut set = CpuSet::new();
    set.set(index).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// An interface to send packets out of, on a thread on the first CPU in a namespace of its own.
pub(crate) fn with_egress(name: &str, work: impl FnOnce(u32) + Send) {
    let namespace = Namespace::create(&format!("{name}-{}", std::process::id())).unwrap();
    link::bridge(&namespace, "egress", Mac([2, 0, 0, 0, 0, 2]), 1500).unwrap();
    let egress = link::index(&namespace, "egress").unwrap();
    assert!(
        egress > 1,
        "number {egress} is where test runs say frames come from"
    );
    let pinned = || {
        on_first_cpu();
        work(egress);
    };
    namespace.run(pinned).unwrap();
}

/// `BALANCER_TEST_SEED` and `BALANCER_TEST_FRAMES` choose other frames and
/// more of them. The state changes on the way, under live flow records.
#[test]
fn a_million_random_frames_agree_with_the_model() {
    let seed = number_from_env("BALANCER_TEST_SEED", 1);
    let frames = number_from_env("BALANCER_TEST_FRAMES", FRAMES);
    println!("BALANCER_TEST_SEED={seed} BALANCER_TEST_FRAMES={frames}");
    with_egress("random-frames", |egress| {
        let mut state = everything(seed, egress);
        let mut pair = Pair::new(&state);
        let mut generator = Generator::new(seed, &state);
        for number in 0..frames {
            if number > 0 && number % FRAMES_A_VERSION == 0 {
                state = everything(seed + number / FRAMES_A_VERSION, egress);
                pair.change(&state);
            }
            let frame = generator.frame();
            match pair.run(&frame) {
                Ok(outcome) if outcome.reason == Reason::Forwarded => {
                    generator.note_sent(&outcome.frame);
                }
                Ok(_) => {}
                Err(difference) => {
                    let report = report(&state, &frame, &difference);
                    panic!("seed {seed}, frame {number}: {report}");
                }
            }
            assert!(
                pair.model.record_count() < MOST_RECORDS
                    && pair.model.fragment_count() < MOST_FRAGMENTS,
                "frame {number}: as many flows or fragments as would be evicted"
            );
        }
        pair.assert_same_counters(&state);
        assert_every_reason_was_tested(&pair.model, frames);
    });
}

fn assert_every_reason_was_tested(model: &Model, frames: u64) {
    for (reason, count) in model.counters().reasons {
        println!("{:>16} {count}", reason.name());
        // Test runs always have room; `reasons` takes it away.
        if reason != Reason::NoHeadroom {
            assert!(
                count > frames / 2000,
                "{}: only {count} frames",
                reason.name()
            );
        }
    }
    println!("{:>16} {}", "flow records", model.record_count());
}

/// Frames that once failed, or that somebody sent us, one a line: a name,
/// a colon, the bytes.
#[test]
fn kept_frames_agree_with_the_model() {
    with_egress("kept-frames", |egress| {
        let state = everything(1, egress);
        let mut pair = Pair::new(&state);
        let mut count = 0;
        for line in include_str!("../../data/frames.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, bytes) = line.split_once(':').unwrap();
            pair.run(&unhex(bytes).unwrap())
                .unwrap_or_else(|difference| panic!("{name}: {difference}"));
            count += 1;
        }
        assert!(count > 0);
        pair.assert_same_counters(&state);
    });
}
