use balancer_common::layout::{Member, Slot};

use super::*;
use std::time::Duration;

use crate::config::examine;
use crate::config::model::{Affinity, Backend};
use crate::health;
use crate::probe::scheduler::TargetId;
use proptest::prelude::*;

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
fn slots_settle_when_their_old_flows_are_silent_and_no_sooner() {
    let mut bench = Bench::new();
    bench.build();
    bench.backend("a").weight = 0;
    let during = bench.build();
    let in_block = |service: &ServiceState, block: usize| {
        let slots = slots(service);
        let slots = slots.chunks(16).nth(block).unwrap().iter();
        slots.filter(|slot| slot.is_unsettled()).count()
    };
    assert!(in_block(&during, 3) > 0 && in_block(&during, 4) > 0);
    bench.touched = BTreeSet::from([3]);
    for _ in 0..3 {
        bench.now += MINUTE;
        let after = bench.build();
        assert_eq!(in_block(&after, 3), in_block(&during, 3));
        assert_eq!(in_block(&after, 4), 0);
        let a = usize::from(bench.index("a"));
        assert!(after.members[a].is_alive());
        assert_eq!(bench.builder.next_settling(), Some(bench.now + MINUTE));
    }
    bench.touched.clear();
    bench.now += MINUTE;
    let after = bench.build();
    assert!(slots(&after).iter().all(|slot| !slot.is_unsettled()));
    assert_eq!(bench.builder.next_settling(), None);
}

#[test]
fn slots_that_change_during_a_round_wait_for_a_whole_one() {
    let mut bench = Bench::new();
    bench.build();
    bench.backend("a").weight = 0;
    bench.build();
    bench.now += MINUTE / 2;
    bench.backend("b").weight = 0;
    let changed = bench.build();
    let [b, c] = ["b", "c"].map(|name| bench.index(name));
    bench.now += MINUTE / 2;
    let after = bench.build();
    for (before, slot) in slots(&changed).iter().zip(slots(&after)) {
        let is_late = before.previous() == b && before.current() == c;
        assert!(!is_late || slot.is_unsettled(), "{before:?} {slot:?}");
    }
    bench.now += MINUTE;
    assert!(
        slots(&bench.build())
            .iter()
            .all(|slot| !slot.is_unsettled())
    );
}

#[test]
fn unknown_marks_count_as_touched() {
    let mut bench = Bench::new();
    bench.build();
    bench.backend("a").weight = 0;
    let during = bench.build();
    bench.now += MINUTE;
    bench.builder.end_round(1, &[], bench.now);
    let seed = Seed([7; 16]);
    let built = bench
        .builder
        .build(&bench.config, &seed, &bench.world, bench.now);
    assert_eq!(built.state.services[&1], during);
}

#[test]
fn service_without_a_time_to_drain_and_udp_have_no_slot_in_change() {
    for edit in [
        (|service| service.drain_timeout = Duration::ZERO) as fn(&mut Service),
        |service| service.protocol = Protocol::Udp,
    ] {
        let mut bench = Bench::new();
        edit(bench.web());
        bench.build();
        bench.backend("a").drain = true;
        let after = bench.build();
        let a = bench.index("a");
        let settled = |slot: &Slot| !slot.is_unsettled() && slot.current() != a;
        assert!(slots(&after).iter().all(settled));
        assert!(
            bench
                .builder
                .rounds_over(bench.now + 10 * MINUTE)
                .is_empty()
        );
    }
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
fn slots_stay_while_nobody_is_wanted() {
    let mut bench = Bench::new();
    bench.web().fail_open_below = None;
    let before = bench.build();
    bench.backend("a").drain = true;
    bench.build();
    for name in ["b", "c"] {
        bench.set(name, health::State::Down);
    }
    let during = bench.build();
    let a = bench.index("a");
    for (old, slot) in slots(&before).iter().zip(slots(&during)) {
        let member = |index: u16| during.members[usize::from(index)];
        assert!(!member(slot.current()).is_alive());
        if old.current() == a {
            assert!(member(slot.previous()).is_alive());
        }
    }
    assert_eq!(
        bench.builder.seats("web")[0].as_ref().unwrap().slot_count,
        0
    );
}

#[test]
fn records_of_another_table_or_address_do_not_count() {
    let mut bench = Bench::new();
    let mut number = |edit: fn(&mut Config)| {
        edit(&mut bench.config);
        bench.build();
        bench.builder.services["web"].id
    };
    assert_eq!(number(|_| ()), 1);
    assert_eq!(number(|config| config.node.table_size = 257), 2);
    let service = |config: &mut Config| config.services[0].address = [192, 0, 2, 11].into();
    assert_eq!(number(service), 3);
    let service = |config: &mut Config| config.services[0].affinity = Affinity::Source;
    assert_eq!(number(service), 4);
    let service = |config: &mut Config| {
        config.services[0].protocol = Protocol::Udp;
        config.services[0].affinity = Affinity::Flow {
            idle_timeout: MINUTE,
        };
    };
    assert_eq!(number(service), 5);
    // Where every flow has a record, none rests on a slot.
    assert_eq!(number(|config| config.node.table_size = 251), 5);
}

#[test]
fn change_undone_before_it_settles_still_asks_the_records() {
    let mut bench = Bench::new();
    let before = bench.build();
    let a = bench.index("a");
    bench.set("a", health::State::Down);
    bench.build();
    bench.set("a", health::State::Up);
    let after = bench.build();
    for (old, new) in slots(&before).iter().zip(slots(&after)) {
        assert_eq!(old.current(), new.current());
        if old.current() == a {
            assert!(new.is_unsettled(), "flows went elsewhere meanwhile");
        }
    }
}

#[test]
fn too_few_healthy_fails_open() {
    let mut bench = Bench::new();
    bench.set("a", health::State::Down);
    bench.set("b", health::State::Down);
    let service = bench.build();
    assert!(
        slots(&service)
            .iter()
            .all(|slot| slot.current() == bench.index("c"))
    );
    bench.set("c", health::State::Down);
    let service = bench.build();
    let owners: BTreeSet<u16> = slots(&service).iter().map(|slot| slot.current()).collect();
    assert_eq!(owners.len(), 3);
    assert!(service.members.iter().all(Member::is_alive));
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

#[test]
fn no_backend_up_leaves_no_table() {
    let mut bench = Bench::new();
    bench.config.service_mut("web").unwrap().fail_open_below = None;
    for name in ["a", "b", "c"] {
        bench.set(name, health::State::Down);
    }
    assert_eq!(bench.build().table.slot_count(), 0);
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

fn owned(bench: &Bench, service: &ServiceState, backend: &str) -> usize {
    let index = bench.index(backend);
    let slots = slots(service);
    slots.iter().filter(|slot| slot.current() == index).count()
}

#[test]
fn slow_start_has_that_part_of_its_slots_and_touches_no_others() {
    let mut bench = Bench::new();
    bench.config.node.table_size = 4099;
    bench.set("c", health::State::Down);
    let without = bench.build();
    bench.set("c", health::State::Up);
    let mut whole = Bench::new();
    whole.config.node.table_size = 4099;
    let whole = whole.build();
    let all = owned(&bench, &whole, "c") as f64;
    let id = TargetId {
        service: "web".to_owned(),
        backend: "c".to_owned(),
    };
    let c = bench.index("c");
    let mut had = BTreeSet::new();
    for percent in [5, 35, 70, 100] {
        bench.world.ramps.insert(id.clone(), percent);
        let service = bench.build();
        let part = owned(&bench, &service, "c") as f64 / all;
        let wanted = f64::from(percent) / 100.0;
        assert!((part - wanted).abs() < 0.03, "{percent} %: {part}");
        let has = |(at, slot): (usize, &Slot)| (slot.current() == c).then_some(at);
        let now: BTreeSet<usize> = slots(&service).iter().enumerate().filter_map(has).collect();
        assert!(now.is_superset(&had), "a step only adds");
        // All others are where they were, or where they will be.
        for (at, slot) in slots(&service).iter().enumerate() {
            let (before, after) = (slots(&without)[at].current(), slots(&whole)[at].current());
            assert!([before, after].contains(&slot.current()));
        }
        had = now;
    }
    let counted: u32 = bench
        .builder
        .seats("web")
        .iter()
        .flatten()
        .map(|it| it.slot_count)
        .sum();
    assert_eq!(counted, 4099);
    bench.world.ramps.clear();
    let built = bench.builder.tables_built();
    let service = bench.build();
    let owners = |service: &ServiceState| -> Vec<u16> {
        slots(service).iter().map(|slot| slot.current()).collect()
    };
    assert_eq!(owners(&service), owners(&whole));
    assert_eq!(
        bench.builder.tables_built(),
        built,
        "each step asks for the same two tables"
    );
}

#[test]
fn slow_start_beside_nobody_has_all() {
    let mut bench = Bench::new();
    for name in ["a", "b"] {
        bench.set(name, health::State::Down);
    }
    let id = TargetId {
        service: "web".to_owned(),
        backend: "c".to_owned(),
    };
    bench.world.ramps.insert(id, 5);
    let service = bench.build();
    assert_eq!(owned(&bench, &service, "c"), 251);
}

fn owners(bench: &Bench, service: &ServiceState) -> Vec<&'static str> {
    let names = ["a", "b", "c"].into_iter();
    names
        .filter(|name| owned(bench, service, name) > 0)
        .collect()
}

#[test]
fn backup_stands_by_until_too_few_of_the_others_are_healthy() {
    use health::State::{Down, Held, Up};
    // States of a, b and the backup c; backup_below; who gets new flows.
    let cases = [
        ([Up, Up, Up], 0.0, vec!["a", "b"]),
        ([Up, Down, Up], 0.0, vec!["a"]),
        ([Up, Down, Up], 0.6, vec!["a", "c"]),
        ([Up, Down, Up], 0.5, vec!["a"]),
        ([Down, Down, Up], 0.0, vec!["c"]),
        // Half of the weight is above the threshold of 0.3.
        ([Down, Down, Held], 0.0, vec!["c"]),
        // Nobody is healthy: it fails open.
        ([Down, Down, Down], 0.0, vec!["a", "b", "c"]),
        ([Up, Up, Down], 1.0, vec!["a", "b"]),
    ];
    for (states, below, expected) in cases {
        let mut bench = Bench::new();
        bench.backend("c").pool = crate::config::model::Pool::Backup;
        bench.web().backup_below = below;
        for (name, state) in ["a", "b", "c"].into_iter().zip(states) {
            bench.set(name, state);
        }
        let service = bench.build();
        assert_eq!(
            owners(&bench, &service),
            expected,
            "{states:?} below {below}"
        );
        let standing = Standing::of(&bench.config.services[0], &bench.world);
        let is_used = expected.contains(&"c");
        assert_eq!(standing.uses_backups || standing.fails_open, is_used);
    }
}

#[test]
fn held_backend_keeps_its_flows_and_gets_new_ones_only_where_few_are_left() {
    use health::State::{Down, Held, Up};
    let cases = [
        ([Up, Up, Held], vec!["a", "b"]),
        // A third of the weight is too little to be choosy.
        ([Up, Down, Held], vec!["a", "c"]),
        ([Held, Held, Held], vec!["a", "b", "c"]),
    ];
    for (states, expected) in cases {
        let mut bench = Bench::new();
        for (name, state) in ["a", "b", "c"].into_iter().zip(states) {
            bench.set(name, state);
        }
        let service = bench.build();
        assert_eq!(owners(&bench, &service), expected, "{states:?}");
        let standing = Standing::of(&bench.config.services[0], &bench.world);
        assert!(!standing.fails_open, "{states:?}");
        assert!(service.members[usize::from(bench.index("c"))].is_alive());
    }
}
