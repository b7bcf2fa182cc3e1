use super::*;
use crate::config::examine;
use crate::health::State;

/// Four backends of one weight.
fn services(how: &str) -> Vec<Service> {
    let mut text = format!(
        "[node]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\n\
         address = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\nforward = \"l2\"\n\
         unfinished_handshakes = \"{how}\"\nfail_open_below = 0\n[service.health]\nkind = \"tcp\"\n"
    );
    for at in 0..4 {
        text += &format!("[[service.backend]]\nname = \"web-{at}\"\naddress = \"10.0.0.1{at}\"\n");
    }
    examine("test", &text, None).config.unwrap().services
}

fn id(backend: &str) -> TargetId {
    TargetId {
        service: "web".to_owned(),
        backend: backend.to_owned(),
    }
}

struct Bench {
    services: Vec<Service>,
    relief: Relief,
    world: World,
    now: Instant,
    counted: BTreeMap<String, HandshakeCounters>,
    is_changing: bool,
    /// Whether a change of health makes new tables anyway.
    is_told: bool,
}

impl Bench {
    fn new(how: &str) -> Self {
        let mut world = World::default();
        for at in 0..4 {
            world.health.insert(id(&format!("web-{at}")), State::Up);
        }
        Self {
            services: services(how),
            relief: Relief::default(),
            world,
            now: Instant::now(),
            counted: BTreeMap::new(),
            is_changing: false,
            is_told: false,
        }
    }

    /// A second in which so many handshakes with a backend finish and fail;
    /// the watch names those of `named`. Gives what each has of its share.
    fn second(&mut self, named: &[&str], handshakes: &[(&str, u64, u64)]) -> Vec<(String, u8)> {
        self.now += Duration::from_secs(1);
        for (backend, finished, abandoned) in handshakes {
            let counted = self.counted.entry((*backend).to_owned()).or_default();
            counted.started += finished + abandoned;
            counted.finished += finished;
            counted.abandoned += abandoned;
        }
        let seen = |_: &Service, backend: &str| Seen {
            ailment: named.contains(&backend).then(|| "all fail".to_owned()),
            counted: self.counted.get(backend).copied(),
        };
        let before = self.world.relieved.clone();
        let others = self.relief.look(
            &self.services,
            &self.world,
            self.is_changing,
            seen,
            self.now,
        );
        self.relief.limit(&self.services, &mut self.world);
        let is_other = |id: &TargetId| before.get(id) != self.world.relieved.get(id);
        for id in before.keys().chain(self.world.relieved.keys()) {
            assert!(
                !is_other(id) || others.contains(id) || self.is_told,
                "nobody is told of {id:?}"
            );
        }
        let relieved = self.world.relieved.iter();
        relieved
            .map(|(id, percent)| (id.backend.clone(), *percent))
            .collect()
    }

    /// Seconds, at most `limit`, until the backends have so much.
    fn until(
        &mut self,
        limit: u32,
        named: &[&str],
        handshakes: &[(&str, u64, u64)],
        wanted: &[(&str, u8)],
    ) -> u32 {
        let wanted: Vec<(String, u8)> = wanted
            .iter()
            .map(|(backend, percent)| ((*backend).to_owned(), *percent))
            .collect();
        (1..=limit)
            .find(|_| self.second(named, handshakes) == wanted)
            .expect("that many seconds are enough")
    }
}

const ILL: [(&str, u64, u64); 1] = [("web-2", 0, 5)];
const WELL: [(&str, u64, u64); 1] = [("web-2", 5, 0)];

#[test]
fn trickle_lasts_as_long_as_handshakes_fail_and_ends_once_they_finish() {
    let mut bench = Bench::new("trickle");
    assert_eq!(bench.second(&[], &ILL), []);
    assert_eq!(
        bench.second(&["web-2"], &ILL),
        [("web-2".to_owned(), TRICKLE)]
    );
    for _ in 0..3600 {
        assert_eq!(bench.second(&[], &ILL), [("web-2".to_owned(), TRICKLE)]);
    }
    // What failed before is known to have by then.
    let after = bench.until(30, &[], &WELL, &[]);
    assert!((10..=20).contains(&after), "{after}");
    for _ in 0..3600 {
        assert_eq!(bench.second(&[], &WELL), []);
    }
}

#[test]
fn out_is_nothing_for_a_while_that_doubles_with_each_trickle_in_vain() {
    let mut bench = Bench::new("out");
    assert_eq!(bench.second(&["web-2"], &ILL), [("web-2".to_owned(), 0)]);
    for held in [30, 60, 120, 240, 480, 600, 600] {
        let trickle = bench.until(700, &[], &[], &[("web-2", TRICKLE)]);
        assert_eq!(trickle, held);
        let out = bench.until(20, &[], &ILL, &[("web-2", 0)]);
        assert!((5..=10).contains(&out), "{out}");
    }
    bench.until(700, &[], &[], &[("web-2", TRICKLE)]);
    bench.until(20, &[], &WELL, &[]);
    // Soon again: as long as last time. After a good while: as if new.
    bench.until(1, &["web-2"], &ILL, &[("web-2", 0)]);
    assert_eq!(bench.until(700, &[], &[], &[("web-2", TRICKLE)]), 600);
    bench.until(20, &[], &WELL, &[]);
    for _ in 0..601 {
        assert_eq!(bench.second(&[], &WELL), []);
    }
    bench.until(1, &["web-2"], &ILL, &[("web-2", 0)]);
    assert_eq!(bench.until(700, &[], &[], &[("web-2", TRICKLE)]), 30);
}

#[test]
fn trickle_too_thin_to_tell_is_tried_with_all_after_a_time_that_doubles() {
    let mut bench = Bench::new("trickle");
    for held in [30, 60, 120, 240] {
        bench.until(1, &["web-2"], &ILL, &[("web-2", TRICKLE)]);
        assert_eq!(bench.until(700, &[], &[], &[]), held);
    }
}

#[test]
fn counters_first_read_in_a_trickle_are_no_evidence_of_it() {
    let mut bench = Bench::new("trickle");
    bench.until(1, &["web-2"], &[], &[("web-2", TRICKLE)]);
    for _ in 0..6 {
        bench.second(&[], &[]);
    }
    // A thousand that failed long ago.
    bench.counted.insert(
        "web-2".to_owned(),
        HandshakeCounters {
            finished: 5,
            abandoned: 1000,
            ..HandshakeCounters::default()
        },
    );
    let after = bench.until(20, &[], &WELL, &[]);
    assert!(after <= 10, "{after}");
}

#[test]
fn service_that_does_not_ask_is_only_named() {
    let mut bench = Bench::new("named");
    for _ in 0..60 {
        assert_eq!(bench.second(&["web-2"], &ILL), []);
    }
}

#[test]
fn nobody_is_relieved_where_the_others_cannot_bear_it() {
    let mut bench = Bench::new("out");
    // Two of four are, the third is not.
    let all = ["web-0", "web-1", "web-2", "web-3"];
    let relieved = bench.second(&all, &[]);
    assert_eq!(relieved.len(), 2, "{relieved:?}");
    // One of the others dies: all have to bear it.
    bench.is_told = true;
    bench.world.health.insert(id("web-3"), State::Down);
    assert_eq!(bench.second(&[], &[]), []);
    bench.world.health.insert(id("web-3"), State::Up);
    assert_eq!(bench.second(&[], &[]), relieved);
}

#[test]
fn change_under_way_is_left_to_its_stages() {
    let mut bench = Bench::new("trickle");
    bench.is_changing = true;
    assert_eq!(bench.second(&["web-2"], &ILL), []);
    bench.is_changing = false;
    assert_eq!(bench.second(&["web-2"], &ILL).len(), 1);
    // Who is relieved already stays so.
    bench.is_changing = true;
    assert_eq!(bench.second(&["web-2"], &ILL).len(), 1);
}

#[test]
fn who_is_down_drained_or_gone_is_no_case_any_more() {
    for change in [0, 1, 2, 3] {
        let mut bench = Bench::new("out");
        bench.second(&["web-2"], &ILL);
        assert_eq!(bench.relief.cases().count(), 1);
        match change {
            0 => {
                bench.world.health.insert(id("web-2"), State::Down);
            }
            1 => bench.services = services("named"),
            2 => bench.services.clear(),
            _ => {
                let service = &mut bench.services[0];
                let mut backends: Vec<_> = service.backends.iter().cloned().collect();
                backends[2].drain = true;
                service.backends = backends.into();
            }
        }
        assert_eq!(bench.second(&["web-2"], &ILL), []);
        assert_eq!(bench.relief.cases().count(), 0, "{change}");
    }
}
