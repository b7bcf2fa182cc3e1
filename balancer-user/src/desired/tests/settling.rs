//! How long slots keep two owners.

use super::*;

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
