use proptest::prelude::*;

use super::*;
use crate::config::examine;
use crate::health::State;

const SECOND: Duration = Duration::from_secs(1);

/// Four backends of the same weight, the last one a backup; 20 s.
fn services() -> Vec<Service> {
    let mut text = "[node]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\n\
        address = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\nforward = \"l2\"\n\
        slow_start = \"20s\"\nfail_open_below = 0\n[service.health]\nkind = \"tcp\"\n"
        .to_owned();
    for (name, more) in [
        ("a", ""),
        ("b", ""),
        ("c", ""),
        ("d", "pool = \"backup\"\n"),
    ] {
        let last = name.as_bytes()[0];
        text +=
            &format!("[[service.backend]]\nname = \"{name}\"\naddress = \"10.0.0.{last}\"\n{more}");
    }
    examine("test", &text, None).config.unwrap().services
}

struct Bench {
    services: Vec<Service>,
    ramps: Ramps,
    world: World,
    now: Instant,
}

impl Bench {
    /// All have been up for long.
    fn new() -> Self {
        let mut bench = Self {
            services: services(),
            ramps: Ramps::default(),
            world: World::default(),
            now: Instant::now(),
        };
        for name in ["a", "b", "c", "d"] {
            bench.set(name, State::Up);
        }
        bench.follow(false);
        bench
    }

    fn set(&mut self, backend: &str, state: State) {
        self.world.health.insert(id(backend), state);
    }

    fn follow(&mut self, is_changing: bool) -> Vec<(String, u8)> {
        let (services, world) = (&self.services, &mut self.world);
        self.ramps.follow(services, world, is_changing, self.now);
        let ramps = self.world.ramps.iter();
        ramps
            .map(|(id, part)| (id.backend.clone(), *part))
            .collect()
    }

    /// Down and up again.
    fn bounce(&mut self, backend: &str) {
        self.set(backend, State::Down);
        self.follow(false);
        self.set(backend, State::Up);
    }

    fn is_due(&self) -> bool {
        self.ramps.is_due(&self.services, &self.world, self.now)
    }
}

fn id(backend: &str) -> TargetId {
    TargetId {
        service: "web".to_owned(),
        backend: backend.to_owned(),
    }
}

fn part(backend: &str, percent: u8) -> Vec<(String, u8)> {
    vec![(backend.to_owned(), percent)]
}

#[test]
fn share_grows_by_a_twentieth_with_each_twentieth_of_the_time() {
    let mut bench = Bench::new();
    bench.bounce("c");
    assert_eq!(bench.follow(false), part("c", 5));
    assert!(!bench.is_due());
    bench.now += SECOND;
    assert!(bench.is_due());
    assert_eq!(bench.follow(false), part("c", 10));
    bench.now += 9 * SECOND + SECOND / 2;
    assert_eq!(bench.follow(false), part("c", 55));
    bench.now += 9 * SECOND + SECOND / 2;
    assert!(bench.is_due());
    assert_eq!(bench.follow(false), []);
    assert!(!bench.is_due());
}

#[test]
fn who_is_found_up_or_comes_by_a_change_has_all_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.follow(false), [], "found up");
    bench.set("c", State::Down);
    bench.follow(false);
    bench.set("c", State::Up);
    assert_eq!(bench.follow(true), [], "a change has its own stages");
    assert_eq!(bench.follow(false), []);
}

#[test]
fn drain_that_ends_is_a_beginning_too() {
    let mut bench = Bench::new();
    bench.services[0].backends[1].drain = true;
    assert_eq!(bench.follow(false), []);
    bench.services[0].backends[1].drain = false;
    assert_eq!(bench.follow(false), part("b", 5));
    bench.services[0].slow_start = Duration::ZERO;
    assert_eq!(bench.follow(false), []);
}

#[test]
fn nobody_is_spared_where_the_others_have_not_half_of_the_weight() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c", "d"] {
        bench.set(name, State::Down);
    }
    bench.follow(false);
    for (name, expected) in [("a", vec![]), ("b", vec![]), ("c", part("c", 5))] {
        bench.set(name, State::Up);
        assert_eq!(bench.follow(false), expected, "{name}");
    }
    // Nor for longer than they have it.
    bench.set("a", State::Down);
    assert_eq!(bench.follow(false), []);
}

#[test]
fn backup_that_is_needed_bears_its_share_at_once() {
    let mut bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.set(name, State::Down);
    }
    assert_eq!(bench.follow(false), []);
    let standing = Standing::of(&bench.services[0], &bench.world);
    assert!(standing.uses_backups);
    // It carries who comes back, if its weight is enough for that.
    bench.services[0].backends[3].weight = 200;
    bench.services[0].backup_below = 0.5;
    bench.set("a", State::Up);
    assert_eq!(bench.follow(false), part("a", 5));
}

proptest! {
    /// Whatever happens: a share in a slow start never shrinks, and is over
    /// in time.
    #[test]
    fn share_only_grows_and_in_time(
        steps in prop::collection::vec((0..4_usize, any::<bool>(), 0..8_000_u64), 1..60),
    ) {
        let mut bench = Bench::new();
        let mut last: BTreeMap<TargetId, u8> = BTreeMap::new();
        let mut began: BTreeMap<TargetId, Instant> = BTreeMap::new();
        for (who, up, millis) in steps {
            bench.now += Duration::from_millis(millis);
            let state = if up { State::Up } else { State::Down };
            bench.set(["a", "b", "c", "d"][who], state);
            bench.follow(false);
            began.retain(|id, _| bench.world.ramps.contains_key(id));
            for (id, percent) in &bench.world.ramps {
                prop_assert!((5..=100).contains(percent) && percent % 5 == 0);
                let since = *began.entry(id.clone()).or_insert(bench.now);
                prop_assert!(bench.now - since <= 20 * SECOND);
                if bench.now > since {
                    prop_assert!(last.get(id).is_none_or(|before| before <= percent));
                }
            }
            last = bench.world.ramps.clone();
        }
    }
}
