use balancer_common::layout::{Member, Slot};

use super::*;
use std::time::Duration;

use crate::config::examine;
use crate::config::model::{Affinity, Backend};
use crate::health;
use crate::probe::scheduler::TargetId;
use proptest::prelude::*;

mod settling;
mod wanted;

const FILE: &str = r#"
[node]
interfaces = ["eth0"]
table_size = 251

[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "l2"
drain_timeout = "60s"
fail_open_below = 0.3

[service.health]
kind = "tcp"

[[service.backend]]
name = "a"
address = "10.0.0.1"
[[service.backend]]
name = "b"
address = "10.0.0.2"
[[service.backend]]
name = "c"
address = "10.0.0.3"
"#;

/// Of the file's tables.
const BLOCKS: usize = 16;
const MINUTE: Duration = Duration::from_secs(60);

struct Bench {
    config: Config,
    world: World,
    builder: Builder,
    now: Instant,
    /// Blocks that the packet path has marked; all others are quiet.
    touched: BTreeSet<usize>,
}

impl Bench {
    fn new() -> Self {
        let config = examine("test", FILE, None).config.unwrap();
        let mut bench = Self {
            config,
            world: World::default(),
            builder: Builder::default(),
            now: Instant::now(),
            touched: BTreeSet::new(),
        };
        for name in ["a", "b", "c"] {
            bench.set(name, health::State::Up);
        }
        bench
    }

    fn set(&mut self, backend: &str, state: health::State) {
        let id = TargetId {
            service: "web".to_owned(),
            backend: backend.to_owned(),
        };
        self.world.health.insert(id, state);
    }

    fn build(&mut self) -> ServiceState {
        let seed = Seed([7; 16]);
        for service in self.builder.rounds_over(self.now) {
            let marks: Vec<bool> = (0..BLOCKS).map(|at| self.touched.contains(&at)).collect();
            self.builder.end_round(service, &marks, self.now);
        }
        let built = self
            .builder
            .build(&self.config, &seed, &self.world, self.now);
        built.state.services.into_values().next().unwrap()
    }

    fn web(&mut self) -> &mut Service {
        self.config.service_mut("web").unwrap()
    }

    fn backend(&mut self, name: &str) -> &mut Backend {
        self.web().backend_mut(name).unwrap()
    }

    fn index(&self, backend: &str) -> u16 {
        self.builder.services["web"].indexes()[backend]
    }
}

fn slots(service: &ServiceState) -> Vec<Slot> {
    service.table.slots().unwrap()
}

#[test]
fn unproven_backend_gets_no_slot() {
    let mut bench = Bench::new();
    bench.set("c", health::State::Unproven);
    let service = bench.build();
    let c = bench.index("c");
    assert!(slots(&service).iter().all(|slot| slot.current() != c));
    assert!(!service.members[usize::from(c)].is_alive());
}

#[test]
fn drained_backend_keeps_its_flows_until_its_time_is_over() {
    let mut bench = Bench::new();
    let before = bench.build();
    let a = bench.index("a");
    bench.backend("a").drain = true;
    let during = bench.build();
    assert!(during.members[usize::from(a)].is_alive());
    for (old, new) in slots(&before).iter().zip(slots(&during)) {
        assert_ne!(new.current(), a);
        if old.current() == a {
            assert!(new.is_unsettled());
            assert_eq!(new.previous(), a);
        }
    }
    // Its flows are not silent at all, and end nevertheless.
    bench.touched = (0..BLOCKS).collect();
    bench.now += MINUTE - Duration::from_secs(1);
    assert!(bench.build().members[usize::from(a)].is_alive());
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.builder.next_settling(), Some(bench.now));
    assert!(!bench.build().members[usize::from(a)].is_alive());
    bench.touched.clear();
    bench.now += MINUTE;
    let after = bench.build();
    assert!(slots(&after).iter().all(|slot| !slot.is_unsettled()));
    assert_eq!(bench.builder.next_settling(), None);
    // Wanted again, it lives again.
    bench.backend("a").drain = false;
    assert!(bench.build().members[usize::from(a)].is_alive());
}

#[test]
fn removed_backend_leaves_no_trace_in_the_slots() {
    let mut bench = Bench::new();
    let before = bench.build();
    let a = bench.index("a");
    bench.backend("b").weight = 0;
    let during = bench.build();
    bench.web().backends.retain(|backend| backend.name != "a");
    let after = bench.build();
    for ((first, second), third) in slots(&before).iter().zip(slots(&during)).zip(slots(&after)) {
        assert_ne!(third.current(), a);
        assert_ne!(third.previous(), a);
        // What nobody else ever had is settled; the others wait on.
        assert_eq!(third.is_unsettled(), second.is_unsettled(), "{first:?}");
    }
}

#[test]
fn another_server_under_the_same_name_is_another_incarnation() {
    let mut bench = Bench::new();
    let before = bench.build();
    let a = usize::from(bench.index("a"));
    let service = bench.config.service_mut("web").unwrap();
    service.backend_mut("a").unwrap().address = [10, 0, 0, 9].into();
    let after = bench.build();
    let next = usize::from(bench.index("a"));
    assert_ne!(next, a, "slots named it until now");
    assert!(!after.members[a].is_alive());
    let service = bench.config.service_mut("web").unwrap();
    service.backend_mut("b").unwrap().address = [10, 0, 0, 8].into();
    let later = bench.build();
    assert_eq!(
        usize::from(bench.index("b")),
        a,
        "no slot names it any more"
    );
    assert_ne!(before.members[a].incarnation, later.members[a].incarnation);
}

proptest! {
    #[test]
    fn no_slot_ever_names_an_empty_seat(
        steps in prop::collection::vec((0usize..3, 0u8..7), 1..30)
    ) {
        let mut bench = Bench::new();
        let all = bench.config.services[0].backends.clone();
        for (backend, step) in steps {
            let name = all[backend].name.clone();
            let service = &mut bench.config.services[0];
            match step {
                0 => bench.set(&name, health::State::Down),
                1 => bench.set(&name, health::State::Up),
                2 => service.backends.retain(|backend| backend.name != name),
                3 if service.backend(&name).is_none() => service.backends.push(all[backend].clone()),
                4 => bench.now += Duration::from_secs(100),
                5 => bench.touched = (backend * 5..backend * 5 + 5).collect(),
                _ => {
                    if let Some(backend) = service.backend_mut(&name) {
                        backend.drain = !backend.drain;
                    }
                }
            }
            let service = bench.build();
            let is_wanted = bench.builder.seats("web").iter().flatten().any(|seat| seat.slot_count > 0);
            for slot in slots(&service).iter().filter(|_| is_wanted) {
                let member = service.members[usize::from(slot.current())];
                prop_assert!(member.is_alive());
                let previous = service.members[usize::from(slot.previous())];
                prop_assert_ne!(previous.kind, Member::NONE);
            }
        }
    }

    #[test]
    fn successor_goes_on_where_its_predecessor_was(
        steps in prop::collection::vec((0usize..3, 0u8..7, any::<bool>()), 1..30)
    ) {
        let mut bench = Bench::new();
        let all = bench.config.services[0].backends.clone();
        let seed = Seed([7; 16]);
        let mut applied = State::empty();
        for (backend, step, is_restart) in steps {
            let name = all[backend].name.clone();
            let service = &mut bench.config.services[0];
            match step {
                0 => bench.set(&name, health::State::Down),
                1 => bench.set(&name, health::State::Up),
                2 => service.backends.retain(|backend| backend.name != name),
                3 if service.backend(&name).is_none() => service.backends.push(all[backend].clone()),
                4 => bench.now += Duration::from_secs(40),
                5 => service.address = [192, 0, 2, 20 + backend as u8].into(),
                _ => {
                    if let Some(backend) = service.backend_mut(&name) {
                        backend.drain = !backend.drain;
                    }
                }
            }
            // What is stored allows for both: the change in force, or not.
            let before = bench.builder.seating();
            let next = bench.builder.build(&bench.config, &seed, &bench.world, bench.now).state;
            let stored = before.with(&bench.builder.seating());
            let old = Builder::adopt(&stored, &applied);
            prop_assert!(old.is_ok(), "{old:?}");
            let text = serde_json::to_string(&stored).unwrap();
            let stored: Seating = serde_json::from_str(&text).unwrap();
            let mut new = Builder::adopt(&stored, &next).unwrap();
            prop_assert_eq!(new.counters(), bench.builder.counters());
            let again = new.build(&bench.config, &seed, &bench.world, bench.now);
            prop_assert_eq!(&again.state, &next);
            prop_assert_eq!(again.fresh_counters, Vec::<u32>::new());
            if is_restart {
                bench.builder = new;
            }
            applied = next;
        }
    }
}

#[test]
fn tables_whose_numbers_mean_nothing_are_not_adopted() {
    let mut bench = Bench::new();
    let seed = Seed([7; 16]);
    let build = |bench: &mut Bench| {
        let built = bench
            .builder
            .build(&bench.config, &seed, &bench.world, bench.now);
        built.state
    };
    let mut state = build(&mut bench);
    let seating = bench.builder.seating();
    assert!(Builder::adopt(&seating, &state).is_ok());
    assert!(Builder::adopt(&Seating::default(), &state).is_err());
    let service = state.services.values_mut().next().unwrap();
    service.members[0].incarnation += 1;
    assert!(Builder::adopt(&seating, &state).is_err());
}
