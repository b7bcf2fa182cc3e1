//! Who is wanted: slow start, backups, held ones, and what is done where too few
//! are well.

use super::*;

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
fn no_backend_up_leaves_no_table() {
    let mut bench = Bench::new();
    bench.config.service_mut("web").unwrap().fail_open_below = None;
    for name in ["a", "b", "c"] {
        bench.set(name, health::State::Down);
    }
    assert_eq!(bench.build().table.slot_count(), 0);
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
        let (before, after) = (slots(&without), slots(&whole));
        for ((slot, before), after) in slots(&service).iter().zip(before).zip(after) {
            assert!([before.current(), after.current()].contains(&slot.current()));
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
