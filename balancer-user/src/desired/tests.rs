use balancer_common::layout::{Member, Slot};

use super::*;
use std::time::Duration;

use crate::config::examine;
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

struct Bench {
    config: Config,
    world: World,
    builder: Builder,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let config = examine("test", FILE, None).config.unwrap();
        let mut bench = Self {
            config,
            world: World::default(),
            builder: Builder::default(),
            now: Instant::now(),
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
        let built = self
            .builder
            .build(&self.config, &seed, &self.world, self.now);
        built.state.services.into_values().next().unwrap()
    }

    fn index(&self, backend: &str) -> u16 {
        self.builder.services["web"].indexes()[backend]
    }
}

fn slots(service: &ServiceState) -> &[Slot] {
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
fn drained_backend_keeps_its_flows_until_the_change_settles() {
    let mut bench = Bench::new();
    let before = bench.build();
    let a = bench.index("a");
    bench
        .config
        .service_mut("web")
        .unwrap()
        .backend_mut("a")
        .unwrap()
        .drain = true;
    let during = bench.build();
    assert!(during.members[usize::from(a)].is_alive());
    for (old, new) in slots(&before).iter().zip(slots(&during)) {
        assert_ne!(new.current(), a);
        if old.current() == a {
            assert!(new.is_unsettled());
            assert_eq!(new.previous(), a);
        }
    }
    bench.now += Duration::from_secs(60);
    let after = bench.build();
    assert!(slots(&after).iter().all(|slot| !slot.is_unsettled()));
    assert_eq!(bench.builder.next_settling(), None);
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
    assert_ne!(
        usize::from(bench.index("a")),
        a,
        "old flows are not the new server's"
    );
    assert!(!after.members[a].is_alive());
    bench.now += Duration::from_secs(60);
    bench.build();
    let service = bench.config.service_mut("web").unwrap();
    service.backend_mut("b").unwrap().address = [10, 0, 0, 8].into();
    let later = bench.build();
    assert_eq!(
        usize::from(bench.index("b")),
        a,
        "settled: the index is free again"
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
        steps in prop::collection::vec((0usize..3, 0u8..6), 1..30)
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
                _ => {
                    if let Some(backend) = service.backend_mut(&name) {
                        backend.drain = !backend.drain;
                    }
                }
            }
            let service = bench.build();
            for slot in slots(&service) {
                let member = service.members[usize::from(slot.current())];
                prop_assert!(member.is_alive());
                prop_assert!(usize::from(slot.previous()) < service.members.len());
            }
        }
    }
}
