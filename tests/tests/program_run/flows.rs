//! Many flows through real tables: who gets how many, and who moves.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use balancer_common::layout::{FLOW_KEYS, Member, Slot};
use balancer_tests::frames::{Packet, Rng};
use balancer_tests::model::build::{TCP, flow_keys, key, l2, service};
use balancer_tests::model::hash;
use balancer_user::dataplane::State;
use balancer_user::dataplane::trial::Trial;
use balancer_user::maglev::{self, Entry};

use crate::fixture::{SERVICE_V4, at};

const SLOTS: u32 = 65_537;
const FLOWS: usize = 100_000;

/// The table of backends with these weights; weight 0 has gone.
fn table(weights: &[u16]) -> Vec<u16> {
    let names: Vec<String> = (0..weights.len())
        .map(|index| format!("web-{index}"))
        .collect();
    let entries: Vec<Entry<'_>> = (0..)
        .zip(names.iter().zip(weights))
        .map(|(index, (identity, weight))| Entry {
            identity,
            index,
            weight: *weight,
        })
        .collect();
    maglev::build(&entries, SLOTS)
}

/// One service with a member for each weight and all slots settled.
fn state(weights: &[u16], table: &[u16]) -> State {
    let mut state = State::empty();
    state.flow_keys = flow_keys(42);
    let members: Vec<Member> = (0..weights.len() as u16).map(l2).collect();
    let slots = table.iter().map(|owner| Slot::settled(*owner)).collect();
    let keys = vec![key("192.0.2.1", 80, TCP)];
    state.services.insert(1, service(keys, members, slots));
    state
}

/// Distinct clients, each with the slot that the model's hash gives it.
struct Clients {
    rng: Rng,
    keys: [u64; FLOW_KEYS],
    seen: HashSet<SocketAddr>,
}

impl Clients {
    fn new(seed: u64, state: &State) -> Self {
        Self {
            rng: Rng::new(seed),
            keys: state.flow_keys,
            seen: HashSet::new(),
        }
    }

    fn random(&mut self) -> (SocketAddr, usize) {
        loop {
            let bits = self.rng.next();
            // 10.0.0.0/8, as in a company's network.
            let address = IpAddr::from((10 << 24 | bits as u32 & 0x00ff_ffff).to_be_bytes());
            let client = SocketAddr::new(address, 1024 + (bits >> 32) as u16 % 64_000);
            if self.seen.insert(client) {
                return (client, self.slot(client));
            }
        }
    }

    fn slot(&self, client: SocketAddr) -> usize {
        let service = at(SERVICE_V4);
        let ports = [client.port(), service.port()];
        let hash = hash::five_tuple(&self.keys, client.ip(), service.ip(), ports, TCP);
        hash::slot(hash, SLOTS as usize)
    }

    /// Random ones, of which every slot gets its even share of `count`: the
    /// whole part, and here and there one more.
    fn stratified(&mut self, count: usize) -> Vec<(SocketAddr, usize)> {
        let slots = SLOTS as usize;
        let mut wanted: Vec<usize> = (0..slots)
            .map(|slot| (slot + 1) * count / slots - slot * count / slots)
            .collect();
        let mut clients = Vec::with_capacity(count);
        while clients.len() < count {
            let (client, slot) = self.random();
            if wanted[slot] > 0 {
                wanted[slot] -= 1;
                clients.push((client, slot));
            }
        }
        clients
    }
}

/// Who gets each flow, by the kernel.
fn owners(trial: &mut Trial, clients: &[(SocketAddr, usize)]) -> Vec<u16> {
    let service = at(SERVICE_V4);
    let owner = |(client, slot): &(SocketAddr, usize)| {
        let outcome = trial.run(&Packet::tcp(*client, service).build()).unwrap();
        assert_eq!(outcome.slot, Some(*slot as u32), "{client}");
        outcome.member.unwrap()
    };
    clients.iter().map(owner).collect()
}

fn count(owners: &[u16], members: usize) -> Vec<f64> {
    let mut counts = vec![0.0; members];
    for owner in owners {
        counts[usize::from(*owner)] += 1.0;
    }
    counts
}

/// That random flows come within 1 % of a share cannot be promised: the
/// number a backend with a tenth of the slots gets out of 100,000 varies by
/// 0.95 % (one standard deviation of the binomial distribution). So the
/// flows here are drawn at random but accepted only until their slot has had
/// its turn: each slot gets one or two of them. What is left to vary is what
/// is tested: that the kernel takes each flow to its slot and each slot to
/// its owner, and that owners have the slots their weights say.
#[test]
fn a_hundred_thousand_flows_follow_the_slots() {
    let weights = [1, 2, 3, 4];
    let table = table(&weights);
    let state = state(&weights, &table);
    let clients = Clients::new(1, &state).stratified(FLOWS);
    let mut trial = Trial::load_all(&state).unwrap();
    let owners = owners(&mut trial, &clients);
    for ((client, slot), owner) in clients.iter().zip(&owners) {
        assert_eq!(table[*slot], *owner, "{client} in slot {slot}");
    }
    let counters = trial.counters(&[0, 1, 2, 3]).unwrap();
    let flows = count(&owners, 4);
    let slots = count(&table, 4);
    for (index, weight) in weights.iter().enumerate() {
        let slot_share = slots[index] / f64::from(SLOTS);
        let flow_share = flows[index] / FLOWS as f64;
        let weight_share = f64::from(*weight) / 10.0;
        println!(
            "web-{index}: weight {weight_share}, slots {slot_share:.5}, flows {flow_share:.5}"
        );
        assert!((slot_share / weight_share - 1.0).abs() < 0.01);
        assert!((flow_share / slot_share - 1.0).abs() < 0.01);
        assert_eq!(counters.members[&(index as u32)].flows as f64, flows[index]);
    }
}

/// The same with flows as they come. How far their counts are from the
/// slots' shares is judged by the chi-square test at a significance of one
/// in a million: 30.66 for three degrees of freedom.
#[test]
fn random_flows_differ_from_the_slots_by_chance_only() {
    const LIMIT: f64 = 30.66;
    let weights = [1, 2, 3, 4];
    let table = table(&weights);
    let state = state(&weights, &table);
    let mut trial = Trial::load_all(&state).unwrap();
    for seed in 0..3 {
        let mut clients = Clients::new(seed, &state);
        let clients: Vec<_> = (0..FLOWS).map(|_| clients.random()).collect();
        let flows = count(&owners(&mut trial, &clients), 4);
        let chi_square: f64 = flows
            .iter()
            .zip(count(&table, 4))
            .map(|(flows, slots)| {
                let expected = slots / f64::from(SLOTS) * FLOWS as f64;
                (flows - expected).powi(2) / expected
            })
            .sum();
        println!("seed {seed}: {flows:?}, chi-square {chi_square:.2}");
        assert!(chi_square < LIMIT, "seed {seed}: {chi_square}");
    }
}

/// One flow for every slot, so that what moves is what the tables say; the
/// slots are settled at once, so nothing but the tables holds a flow.
#[test]
fn removing_one_of_100_backends_moves_under_1_5_percent_of_the_others_flows() {
    let weights = [100; 100];
    let before = state(&weights, &table(&weights));
    let clients = Clients::new(1, &before).stratified(SLOTS as usize);
    let mut trial = Trial::load_all(&before).unwrap();
    let old = owners(&mut trial, &clients);
    for gone in [0, 42, 99] {
        let mut rest = weights;
        rest[usize::from(gone)] = 0;
        trial.change(&state(&rest, &table(&rest))).unwrap();
        let new = owners(&mut trial, &clients);
        assert!(!new.contains(&gone));
        let others = old.iter().filter(|owner| **owner != gone).count();
        let moved = old
            .iter()
            .zip(&new)
            .filter(|(old, new)| **old != gone && old != new)
            .count();
        let share = moved as f64 / others as f64;
        println!(
            "without web-{gone}: {moved} of {others} flows moved, {:.2} %",
            share * 100.0
        );
        assert!(share < 0.015, "without web-{gone}: {share}");
    }
}
