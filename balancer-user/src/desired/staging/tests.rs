use std::time::{Duration, Instant};

use balancer_common::layout::Slot;
use proptest::prelude::*;

use super::*;
use crate::config::examine;
use crate::config::model::Seed;
use crate::dataplane::ServiceState;
use crate::desired::{Builder, World};

const SEED: Seed = Seed([7; 16]);

/// A web service of these backends, with what follows its address.
fn config(backends: &[(&str, &str)]) -> Config {
    let mut text = "[node]\ninterfaces = [\"eth0\"]\ntable_size = 1009\n\n[[service]]\n\
         name = \"web\"\naddress = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n\
         forward = \"l2\"\ndrain_timeout = \"60s\"\n"
        .to_owned();
    for (name, rest) in backends {
        let last = name.bytes().last().unwrap();
        text += &format!(
            "[[service.backend]]\nname = \"{name}\"\naddress = \"10.0.0.{last}\"\n{rest}\n"
        );
    }
    examine("test", text, None).config.unwrap()
}

struct Bench {
    builder: Builder,
    now: Instant,
}

impl Bench {
    fn at(config: &Config) -> (Self, ServiceState) {
        let mut bench = Self {
            builder: Builder::default(),
            now: Instant::now(),
        };
        let first = bench.whole(config);
        (bench, first)
    }

    fn whole(&mut self, config: &Config) -> ServiceState {
        let built = self
            .builder
            .build(config, &SEED, &World::default(), self.now);
        built.state.services.into_values().next().unwrap()
    }

    fn staged(&mut self, staging: &Staging) -> ServiceState {
        let world = World::default();
        let built = self.builder.build_staged(staging, &SEED, &world, self.now);
        built.state.services.into_values().next().unwrap()
    }

    fn owners(&self, service: &ServiceState) -> Vec<String> {
        let seats = self.builder.seats("web");
        let name = |slot: &Slot| {
            let seat = seats[usize::from(slot.current())].as_ref();
            seat.unwrap().backend.to_string()
        };
        service.table.slots().unwrap().iter().map(name).collect()
    }
}

fn moved(from: &[String], to: &[String]) -> Vec<bool> {
    from.iter().zip(to).map(|(from, to)| from != to).collect()
}

fn count(slots: &[bool]) -> usize {
    slots.iter().filter(|slot| **slot).count()
}

#[test]
fn each_stage_moves_its_part_and_keeps_what_moved() {
    let before = config(&[("a", ""), ("b", ""), ("c", "")]);
    let after = config(&[("a", ""), ("b", "weight = 300"), ("d", "")]);
    let (mut bench, first) = Bench::at(&before);
    let first = bench.owners(&first);
    let mut staging = Staging::new(before, after.clone(), 0);
    let proving = bench.staged(&staging);
    assert_eq!(bench.owners(&proving), first);
    assert_eq!(proving.members.iter().filter(|it| it.is_alive()).count(), 4);

    let whole = Bench::at(&after);
    let last = whole.0.owners(&whole.1);
    let all = moved(&first, &last);
    let mut earlier = vec![false; all.len()];
    for percent in [1, 10, 50, 100] {
        staging.set_percent(percent);
        let service = bench.staged(&staging);
        let now = moved(&first, &bench.owners(&service));
        assert!(now.iter().zip(&all).all(|(now, all)| !now || *all));
        assert!(
            earlier
                .iter()
                .zip(&now)
                .all(|(earlier, now)| !earlier || *now)
        );
        let wanted = count(&all) * usize::from(percent) / 100;
        let slack = 2 + count(&all) / 20;
        assert!(
            count(&now).abs_diff(wanted) <= slack,
            "{percent}: {}",
            count(&now)
        );
        earlier = now;
    }
    assert_eq!(earlier, all);
    // Who goes has a seat until the change is over.
    assert!(
        bench
            .builder
            .seats("web")
            .iter()
            .flatten()
            .any(|seat| *seat.backend == *"c")
    );
    let service = bench.whole(&after);
    assert_eq!(bench.owners(&service), last);
    assert!(
        !bench
            .builder
            .seats("web")
            .iter()
            .flatten()
            .any(|seat| *seat.backend == *"c")
    );
}

#[test]
fn undoing_gives_every_slot_back_and_old_flows_were_never_elsewhere() {
    let before = config(&[("a", ""), ("b", "")]);
    let after = config(&[("a", ""), ("c", "")]);
    let (mut bench, first) = Bench::at(&before);
    let owners = bench.owners(&first);
    let staging = Staging::new(before.clone(), after, 100);
    let during = bench.staged(&staging);
    let settled = first.table.slots().unwrap();
    for (slot, was) in during.table.slots().unwrap().iter().zip(settled) {
        assert_eq!(slot.previous(), was.current());
    }
    let undone = bench.whole(&before);
    assert_eq!(bench.owners(&undone), owners);
    let members = |service: &ServiceState| {
        let seats = bench.builder.seats("web");
        let incarnations = service.members.iter().map(|member| member.incarnation);
        seats
            .into_iter()
            .flatten()
            .zip(incarnations)
            .take(2)
            .collect::<Vec<_>>()
    };
    assert_eq!(members(&undone), members(&first));
}

#[test]
fn drain_begins_with_the_last_stage_and_ends_with_the_first() {
    let plain = config(&[("a", ""), ("b", ""), ("c", "")]);
    let drained = config(&[("a", ""), ("b", ""), ("c", "drain = true")]);
    let drains = |staging: &Staging| {
        let service = staging.config().service("web").unwrap();
        service.backend("c").unwrap().drain
    };
    let mut staging = Staging::new(plain.clone(), drained.clone(), 0);
    for (percent, expected) in [(0, false), (50, false), (100, true)] {
        staging.set_percent(percent);
        assert_eq!(drains(&staging), expected, "{percent}");
    }
    let mut staging = Staging::new(drained, plain, 0);
    for (percent, expected) in [(0, true), (1, false), (100, false)] {
        staging.set_percent(percent);
        assert_eq!(drains(&staging), expected, "{percent}");
    }
}

#[test]
fn what_has_no_parts_comes_with_the_first_stage_and_goes_with_the_last() {
    let before = config(&[("a", ""), ("b", "")]);
    let mut after = before.clone();
    let mut new = after.services[0].clone();
    new.name = "new".to_owned();
    new.address = "192.0.2.11".parse().unwrap();
    after.services = vec![new];
    let names = |staging: &Staging| {
        let services = staging.config().services.iter();
        let seen = services.filter(|service| !staging.hides(&service.name));
        seen.map(|service| service.name.clone()).collect::<Vec<_>>()
    };
    let mut staging = Staging::new(before, after, 0);
    for (percent, expected) in [(0, &["web"][..]), (1, &["new", "web"]), (100, &["new"])] {
        staging.set_percent(percent);
        assert_eq!(names(&staging), expected, "{percent}");
    }
}

#[test]
fn name_that_means_another_server_moves_all_at_once() {
    let before = config(&[("a", ""), ("b", "")]);
    let mut after = before.clone();
    after.services[0].backends[1].address = "10.0.0.99".parse().unwrap();
    let staging = Staging::new(before.clone(), after.clone(), 0);
    assert_eq!(staging.config().services, before.services);
    let staging = Staging::new(before, after.clone(), 1);
    assert_eq!(staging.config().services, after.services);
}

proptest! {
    #[test]
    fn any_change_can_be_undone_at_any_stage(
        weights in proptest::collection::vec((0u16..4, 0u16..4), 2..6),
        percents in proptest::collection::vec(0u8..=100, 0..5),
        silent in 0u64..100,
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let of = |side: fn(&(u16, u16)) -> u16| {
            let lines: Vec<(&str, String)> = names.iter().zip(&weights)
                .map(|(name, weights)| (*name, format!("weight = {}", side(weights) * 50)))
                .filter(|(_, line)| line != "weight = 50")
                .collect();
            let backends: Vec<_> = lines.iter().map(|(name, line)| (*name, line.as_str())).collect();
            config(&backends)
        };
        let (before, after) = (of(|it| it.0), of(|it| it.1));
        let (mut bench, first) = Bench::at(&before);
        if first.table.slots().unwrap().is_empty() {
            return Ok(());
        }
        let owners = bench.owners(&first);
        let mut staging = Staging::new(before.clone(), after, 0);
        for percent in percents {
            staging.set_percent(percent);
            bench.now += Duration::from_secs(silent);
            let service = bench.staged(&staging);
            for slot in service.table.slots().unwrap() {
                prop_assert!(service.members[usize::from(slot.current())].is_alive());
            }
        }
        let undone = bench.whole(&before);
        prop_assert_eq!(bench.owners(&undone), owners);
    }
}

/// So many services of two backends each.
fn services(count: u8) -> Config {
    let mut config = config(&[("a", ""), ("b", "")]);
    let web = config.services.remove(0);
    config.services = (0..count)
        .map(|at| Service {
            name: format!("web-{at}"),
            address: [192, 0, 2, at].into(),
            ..web.clone()
        })
        .collect();
    config
}

#[test]
fn only_tables_of_what_differs_are_built_and_those_once() {
    let (mut builder, now, world) = (Builder::default(), Instant::now(), World::default());
    let before = services(50);
    builder.build(&before, &SEED, &world, now);
    assert_eq!(builder.tables_built(), 50);
    builder.build(&before, &SEED, &world, now);
    assert_eq!(builder.tables_built(), 50);

    // As a rehearsal does it.
    let mut after = before.clone();
    after.services[17].backends[0].weight = 250;
    let mut beside = builder.beside();
    beside.build(&after, &SEED, &world, now);
    assert_eq!(beside.tables_built(), 1);

    // As the change does it: at first with the table that there is.
    let mut staging = Staging::new(before.clone(), after.clone(), 0);
    for percent in [0, 1, 10, 50, 100] {
        staging.set_percent(percent);
        builder.build_staged(&staging, &SEED, &world, now);
        assert_eq!(builder.tables_built(), 51, "{percent} %");
    }
    let staged = builder.build(&after, &SEED, &world, now).state;
    assert_eq!(builder.tables_built(), 51);
    let fresh = Builder::default().build(&after, &SEED, &world, now).state;
    let owners = |state: &crate::dataplane::State| -> Vec<Vec<u16>> {
        let tables = state.services.values().map(|it| it.table.slots().unwrap());
        tables
            .map(|slots| slots.iter().map(|slot| slot.current()).collect())
            .collect()
    };
    assert_eq!(owners(&staged), owners(&fresh));

    // Back: the table before is no longer at hand, and built once more.
    let mut staging = Staging::new(after, before.clone(), 0);
    for percent in [0, 1, 10, 50, 100] {
        staging.set_percent(percent);
        builder.build_staged(&staging, &SEED, &world, now);
    }
    builder.build(&before, &SEED, &world, now);
    assert_eq!(builder.tables_built(), 52);
}
