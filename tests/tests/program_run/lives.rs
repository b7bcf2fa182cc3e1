//! Flows that live long, under everything that happens to their service.
//!
//! A hundred thousand flows are opened; then backends come, go, drain, fail,
//! recover and change their weight, in random order, and the balancer is
//! killed and started again in between. A flow whose backend is alive has to
//! stay with it, whether it was busy during the changes or
//! silent for less than the horizon. A flow whose backend died is over: its
//! client opens another one. Clients also end flows and use their ports again:
//! such a flow is a new one, which goes to a backend that is wanted.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use balancer_tests::frames::packet::{ACK, SYN};
use balancer_tests::frames::{Packet, Rng};
use balancer_tests::model::hash;
use balancer_user::config::model::Backend;
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::{Action, Runner};
use balancer_user::health;

use crate::cluster::{Cluster, HORIZON, backend_of};
use crate::fixture::at;
use crate::random::{FRAMES, number_from_env};

const FLOWS: u32 = 100_000;
/// SYNs of a flood, each of a flow of its own.
const FLOOD: u32 = 10_000_000;
const BACKENDS: usize = 12;
/// Changes; every `STEPS_A_ROUND` all flows are heard, one in ten always.
const STEPS: usize = 48;
const STEPS_A_ROUND: usize = 6;
const BUSY: usize = 10;
/// One flow in so many ends after a change, and its port is used again.
const ENDED: usize = 25;
/// One change in so many meets a restart, and one in so many more at random.
const RESTARTS: usize = 6;

/// One flow, and the backend that its handshake reached.
#[derive(Debug, Clone, Copy)]
struct Flow {
    client: u32,
    port: u16,
    /// Of the SYN.
    sequence: u32,
    backend: u8,
}

/// Makes packets of flows out of one frame, and runs them.
struct Wire {
    frame: Vec<u8>,
    out: [u8; 64],
}

impl Wire {
    fn new() -> Self {
        let packet = Packet::tcp(at("10.0.0.1:1"), at("192.0.2.1:80"));
        Self {
            frame: packet.build(),
            out: [0; 64],
        }
    }

    /// Who gets the packet, if anybody does.
    fn send(&mut self, runner: Runner<'_>, flow: &Flow, flags: u8) -> Option<u8> {
        // Nobody looks at the checksums on the way.
        self.frame[26..30].copy_from_slice(&flow.client.to_be_bytes());
        self.frame[34..36].copy_from_slice(&flow.port.to_be_bytes());
        let sequence = flow.sequence.wrapping_add((flags != SYN).into());
        self.frame[38..42].copy_from_slice(&sequence.to_be_bytes());
        self.frame[47] = flags;
        match runner.run_into(&self.frame, &mut self.out).unwrap() {
            Action::Tx => Some(backend_of(&self.out)),
            Action::Drop => None,
            other => panic!("{flow:?}: {other:?}"),
        }
    }
}

/// What the test knows of a backend, apart from the balancer.
#[derive(Debug, Clone, Copy)]
struct Life {
    present: bool,
    up: bool,
    weight: u16,
    draining_since: Option<Instant>,
}

impl Life {
    fn is_alive(&self, now: Instant) -> bool {
        let drained = self
            .draining_since
            .is_some_and(|since| since + HORIZON <= now);
        self.present && self.up && !drained
    }

    fn is_wanted(&self) -> bool {
        self.present && self.up && self.weight > 0 && self.draining_since.is_none()
    }
}

struct Run {
    cluster: Cluster,
    rng: Rng,
    wire: Wire,
    flows: Vec<Flow>,
    lives: BTreeMap<u8, Life>,
    backends: Vec<Backend>,
    /// What was done, for the report.
    steps: Vec<String>,
    /// How often a busy flow stayed where its slot had gone from.
    held: usize,
    flooded: u32,
    over: usize,
    /// How often a flow of the same ports as one before went elsewhere.
    moved: usize,
    restarts: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new(BACKENDS);
        let backends = cluster.service().backends.to_vec();
        let life = Life {
            present: true,
            up: true,
            weight: 100,
            draining_since: None,
        };
        let mut run = Self {
            cluster,
            rng: Rng::new(seed),
            wire: Wire::new(),
            flows: Vec::new(),
            lives: (0..BACKENDS as u8).map(|number| (number, life)).collect(),
            backends,
            steps: Vec::new(),
            held: 0,
            flooded: 0,
            over: 0,
            moved: 0,
            restarts: 0,
        };
        for number in 0..scaled(FLOWS).max(FLOWS / 10) {
            let client = 10 << 24 | number;
            let flow = Flow {
                client,
                port: 1024 + run.rng.below(30_000) as u16,
                sequence: number,
                backend: 0,
            };
            let flow = run.open(flow).unwrap();
            run.flows.push(flow);
        }
        run
    }

    /// A handshake; none if nobody is wanted.
    fn open(&mut self, flow: Flow) -> Option<Flow> {
        let (runner, _) = self.cluster.trial.split().unwrap();
        let Some(backend) = self.wire.send(runner, &flow, SYN) else {
            assert!(
                !self.lives.values().any(Life::is_wanted),
                "{flow:?}: dropped"
            );
            return None;
        };
        assert!(self.lives[&backend].is_wanted(), "{flow:?} to {backend}");
        for _ in 0..2 {
            let answered = self.wire.send(runner, &flow, ACK);
            assert_eq!(answered, Some(backend), "{flow:?} in its handshake");
        }
        Some(Flow { backend, ..flow })
    }

    fn step(&mut self) {
        let number = self.rng.below(BACKENDS) as u8;
        let name = format!("web-{number}");
        let mut life = self.lives[&number];
        let now = self.cluster.now;
        let present = self.lives.values().filter(|life| life.present).count();
        let kind = self.rng.below(8);
        let what = if !life.present && kind < 6 {
            let backend = self.backends[usize::from(number)].clone();
            life = Life {
                present: true,
                weight: 100,
                draining_since: None,
                ..life
            };
            self.cluster.service().backends.push(backend);
            "add"
        } else if life.present && !life.up && kind < 6 {
            life.up = true;
            self.cluster.set_health(&name, health::State::Up);
            "recover"
        } else if kind == 0 && present > 2 {
            life.present = false;
            let service = self.cluster.service();
            service.backends.retain(|backend| backend.name != name);
            "remove"
        } else if kind < 3 && life.present {
            let wanted = life.draining_since.is_none();
            life.draining_since = wanted.then_some(now);
            self.cluster.backend(&name).drain = wanted;
            if wanted { "drain" } else { "undrain" }
        } else if kind < 6 && life.present {
            life.weight = self.rng.pick(&[0, 50, 100, 200]);
            self.cluster.backend(&name).weight = life.weight;
            "weight"
        } else if kind == 6 {
            life.up = false;
            self.cluster.set_health(&name, health::State::Down);
            "fail"
        } else {
            "nothing"
        };
        self.lives.insert(number, life);
        let in_turn = self.steps.len() % RESTARTS == RESTARTS - 1;
        if in_turn || self.rng.below(RESTARTS) == 0 {
            self.steps.push(format!("{what} {number} and restart"));
            self.restarts += 1;
            self.cluster.restart();
        } else {
            self.steps.push(format!("{what} {number}"));
            self.cluster.reconcile();
        }
    }

    /// The next SYNs of a flood, from two CPUs.
    fn flood(&mut self, count: u32) {
        let (runner, _) = self.cluster.trial.split().unwrap();
        let from = self.flooded;
        thread::scope(|scope| {
            for half in 0..2 {
                scope.spawn(move || {
                    let mut wire = Wire::new();
                    for number in (from + half..from + count).step_by(2) {
                        let flow = Flow {
                            client: 11 << 24 | number,
                            port: 1024,
                            sequence: number,
                            backend: 0,
                        };
                        wire.send(runner, &flow, SYN);
                    }
                });
            }
        });
        self.flooded += count;
    }

    /// Ends the flows whose backend is not alive, and opens others.
    fn bury(&mut self) {
        let now = self.cluster.now;
        for at in 0..self.flows.len() {
            let flow = self.flows[at];
            if self.lives[&flow.backend].is_alive(now) {
                continue;
            }
            let another = Flow {
                port: flow.port.wrapping_add(1),
                ..flow
            };
            if let Some(opened) = self.open(another) {
                self.flows[at] = opened;
                self.over += 1;
            }
        }
    }

    /// Clients end every `step`th flow and open another one from the same port:
    /// it has to go to a backend that is wanted, and stay there.
    fn replace(&mut self, step: usize) {
        let first = self.rng.below(step);
        for at in (first..self.flows.len()).step_by(step) {
            let flow = self.flows[at];
            let another = Flow {
                sequence: flow.sequence.wrapping_add(1 << 20),
                ..flow
            };
            if let Some(opened) = self.open(another) {
                self.flows[at] = opened;
                self.moved += usize::from(opened.backend != flow.backend);
            }
        }
    }

    /// Every `step`th flow sends; all that live have to be where they were.
    fn hear(&mut self, step: usize) {
        let now = self.cluster.now;
        let state = self.cluster.state.clone();
        let (runner, _) = self.cluster.trial.split().unwrap();
        for flow in self.flows.iter().step_by(step) {
            if !self.lives[&flow.backend].is_alive(now) {
                continue;
            }
            let to = self.wire.send(runner, flow, ACK);
            assert_eq!(to, Some(flow.backend), "{flow:?} after {:?}", self.steps);
            if step > 1 && current(&state, flow) != flow.backend {
                self.held += 1;
            }
        }
    }
}

/// Whose the flow would be, were it new.
fn current(state: &State, flow: &Flow) -> u8 {
    let service = &state.services[&1];
    let ports = [flow.port, 80];
    let client = flow.client.to_be_bytes();
    let hash = hash::five_tuple(
        &state.flow_keys,
        client.into(),
        [192, 0, 2, 1].into(),
        ports,
        6,
    );
    let at = hash::slot(hash, service.table.slot_count() as usize);
    let owner = service.table.slot(at as u32).unwrap().current();
    service.members[usize::from(owner)].ethernet[5]
}

/// So many of `all` as the environment's `BALANCER_TEST_FRAMES` is of its
/// default, for a quick run.
fn scaled(all: u32) -> u32 {
    let frames = number_from_env("BALANCER_TEST_FRAMES", FRAMES).min(FRAMES);
    (u64::from(all) * frames / FRAMES) as u32
}

/// A random sequence, with so many SYNs of a flood after each change.
fn live_through(seed: u64, steps: usize, flood: u32) {
    println!("BALANCER_TEST_SEED={seed}");
    let mut run = Run::new(seed);
    for number in 1..=steps {
        run.step();
        run.flood(flood);
        // Nobody who is heard every round is silent for a horizon.
        run.cluster.now += HORIZON / (STEPS_A_ROUND as u32 + 2);
        run.bury();
        run.replace(ENDED);
        if number % STEPS_A_ROUND == 0 {
            run.hear(1);
        } else {
            run.hear(BUSY);
        }
    }
    println!(
        "held {} times, {} flows over, {} moved with their next SYN, {} restarts, {:?}",
        run.held, run.over, run.moved, run.restarts, run.steps
    );
    assert!(run.moved > run.flows.len() / 100, "{} moved", run.moved);
    assert!(
        run.held > run.flows.len() / 20,
        "nothing moved: {}",
        run.held
    );
    run.bury();
    run.hear(1);
}

#[test]
fn no_flow_leaves_a_backend_that_lives() {
    live_through(number_from_env("BALANCER_TEST_SEED", 1), STEPS, 0);
}

#[test]
fn no_flow_leaves_a_backend_that_lives_during_a_flood() {
    const STEPS: u32 = 10;
    let seed = number_from_env("BALANCER_TEST_SEED", 5);
    live_through(seed, STEPS as usize, scaled(FLOOD) / STEPS);
}

/// Two balancers of a group with different pasts: what is in the file at last
/// decides, and a flow may move from one to the other at any time.
#[test]
fn two_balancers_with_one_file_agree_on_every_flow() {
    let mut first = Cluster::new(BACKENDS);
    let mut second = Cluster::new(BACKENDS);
    let edits: [fn(&mut Cluster); 4] = [
        |cluster| cluster.backend("web-1").weight = 50,
        |cluster| cluster.set_health("web-2", health::State::Down),
        |cluster| cluster.backend("web-3").drain = true,
        |cluster| cluster.service().backends.retain(|it| it.name != "web-4"),
    ];
    // The same changes in another order, and one that is undone.
    for edit in edits {
        edit(&mut first);
        first.reconcile();
    }
    second.set_health("web-9", health::State::Down);
    second.reconcile();
    for edit in edits.iter().rev() {
        edit(&mut second);
        second.reconcile();
    }
    second.set_health("web-9", health::State::Up);
    second.reconcile();
    first.settle();
    second.settle();
    let mut wire = Wire::new();
    let mut shares = BTreeMap::new();
    for number in 0..FLOWS {
        let flow = Flow {
            client: 10 << 24 | number,
            sequence: number,
            port: 1024 + (number % 60_000) as u16,
            backend: 0,
        };
        let mut there_and_back = [&mut first, &mut second];
        if number % 2 == 1 {
            there_and_back.reverse();
        }
        let [home, away] = there_and_back;
        let opened = wire.send(home.trial.split().unwrap().0, &flow, SYN);
        for turn in 0..3 {
            let cluster = if turn == 1 { &mut *away } else { &mut *home };
            let runner = cluster.trial.split().unwrap().0;
            assert_eq!(wire.send(runner, &flow, ACK), opened, "{flow:?}");
        }
        *shares.entry(opened.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(shares.len(), BACKENDS - 3, "{shares:?}");
}
