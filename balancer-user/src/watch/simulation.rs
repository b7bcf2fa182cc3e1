//! Hours of traffic in a moment, by a seeded generator.

use std::time::Duration;

use super::*;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Above 0, up to 1.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// A Poisson count: exactly for few, by a normal for many.
    fn poisson(&mut self, mean: f64) -> u64 {
        if mean < 50.0 {
            let limit = (-mean).exp();
            let (mut count, mut product) = (0, self.unit());
            while product > limit {
                (count, product) = (count + 1, product * self.unit());
            }
            return count;
        }
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        (mean + mean.sqrt() * normal).round().max(0.0) as u64
    }
}

/// A service whose flows go by `real` while its slots say `told`.
struct World {
    random: Random,
    told: Vec<f64>,
    real: Vec<f64>,
    flows: Vec<u64>,
    /// How often slots have moved.
    moves: u32,
    second: u64,
    watch: Watch,
}

impl World {
    fn new(weights: &[f64], seed: u64) -> Self {
        let sum: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        Self {
            random: Random(seed),
            flows: vec![0; weights.len()],
            told: shares.clone(),
            real: shares,
            moves: 0,
            second: 0,
            watch: Watch::default(),
        }
    }

    /// Flows of a part of a second.
    fn come(&mut self, mean: f64) {
        for (flows, share) in self.flows.iter_mut().zip(&self.real) {
            *flows += self.random.poisson(mean * share);
        }
    }

    fn look(&mut self) -> Vec<Sign> {
        let backend = |(at, (flows, share)): (usize, (&u64, &f64))| BackendLook {
            name: format!("web-{at}").into(),
            share: *share,
            state: BackendState::Up,
            last_failure: None,
            probes: [None; PROBES],
            flows: *flows,
            bytes: 0,
            resets: 0,
            handshakes: None,
        };
        let cells = self.flows.iter().zip(&self.told);
        let look = Look {
            at: Duration::from_secs(self.second),
            services: vec![ServiceLook {
                name: "web".to_owned(),
                backends: cells.enumerate().map(backend).collect(),
                is_even: true,
                fails_open: false,
                uses_backups: false,
                uses_held: false,
                moves: self.moves,
                clients: Clients::default(),
            }],
        };
        self.second += 1;
        self.watch.look(&look)
    }

    fn second(&mut self, mean: f64) -> Vec<Sign> {
        self.come(mean);
        self.look()
    }

    /// Shares by weights, as a rebuilt table has them, in the middle of a
    /// second.
    fn change(&mut self, weights: &[f64], mean: f64) -> Vec<Sign> {
        self.come(mean / 2.0);
        let sum: f64 = weights.iter().sum();
        self.told = weights.iter().map(|weight| weight / sum).collect();
        self.moves += 1;
        self.real = self.told.clone();
        self.come(mean / 2.0);
        self.look()
    }
}

const HOUR: u64 = 3600;
const RATES: [f64; 5] = [10.0, 100.0, 1000.0, 10_000.0, 100_000.0];

fn assert_calm(signs: &[Sign], what: &str, second: u64) {
    assert!(signs.is_empty(), "{what}, second {second}: {signs:?}");
}

#[test]
fn poisson_traffic_of_any_rate_opens_nothing_in_an_hour() {
    let weights: [&[f64]; 4] = [
        &[1.0; 4],
        &[1.0, 100.0],
        &[1.0; 100],
        &[1.0, 2.0, 3.0, 100.0],
    ];
    for (seed, weights) in (1..).zip(weights) {
        for rate in RATES {
            let mut world = World::new(weights, seed);
            for second in 0..HOUR {
                assert_calm(&world.second(rate), &format!("{rate}, {weights:?}"), second);
            }
        }
    }
}

#[test]
fn course_of_a_day_and_bursts_of_single_sources_open_nothing() {
    for rate in RATES {
        let mut world = World::new(&[1.0, 1.0, 2.0], 7);
        let mut bursts = World::new(&[3.0, 1.0, 1.0, 1.0], 8);
        for second in 0..HOUR {
            // A day in an hour: from a tenth to all of it and back.
            let angle = std::f64::consts::TAU * second as f64 / HOUR as f64;
            let mean = rate * (0.55 - 0.45 * angle.cos());
            assert_calm(&world.second(mean), "a day", second);
            // Pareto with a tail index of 1.5, as the sizes of users are; each
            // of a source's flows has a port and so a hash of its own.
            let tail = bursts.random.unit().powf(-1.0 / 1.5).min(4.0);
            assert_calm(&bursts.second(rate * tail), "bursts", second);
        }
    }
}

#[test]
fn rolling_restarts_and_slow_starts_open_no_skew() {
    for rate in RATES {
        let mut world = World::new(&[1.0; 5], 9);
        let mut weights = [1.0; 5];
        for second in 0..HOUR {
            let (victim, phase) = ((second / 60 % 5) as usize, second % 60);
            // Drained for twenty seconds, then back within another twenty.
            let weight = match phase {
                0..20 => 0.0,
                20..40 => (phase - 19) as f64 / 20.0,
                _ => 1.0,
            };
            let signs = if weights[victim] == weight {
                world.second(rate)
            } else {
                weights[victim] = weight;
                world.change(&weights, rate)
            };
            assert_calm(&signs, &format!("{rate}"), second);
        }
    }
}

/// Seconds from the fault to its first sign.
fn seconds_to_skew(world: &mut World, rate: f64, limit: u64) -> Option<u64> {
    (1..=limit).find(|_| {
        let signs = world.second(rate);
        let mut skews = signs.iter().filter(|sign| sign.kind == Kind::Skew);
        skews.any(|sign| sign.backend.as_deref() == Some("web-0"))
    })
}

#[test]
fn a_quarter_too_much_is_found_within_half_a_minute() {
    for rate in &RATES[1..] {
        let (mut found, worlds) = (0, 200);
        for seed in 0..worlds {
            let mut world = World::new(&[1.0; 4], 1000 + seed);
            for second in 0..120 {
                assert_calm(&world.second(*rate), "before the fault", second);
            }
            let other = (1.0 - 0.25 * 1.25) / 3.0;
            world.real = vec![0.25 * 1.25, other, other, other];
            found += u64::from(seconds_to_skew(&mut world, *rate, 30).is_some());
            // What chance held back is found soon after.
            assert!(seconds_to_skew(&mut world, *rate, 60).is_some());
        }
        let least = if *rate > 100.0 {
            worlds
        } else {
            worlds * 99 / 100
        };
        println!("{rate} flows a second: {found} of {worlds} within 30 s");
        assert!(found >= least, "{rate}: {found} of {worlds}");
    }
}

#[test]
fn most_of_the_traffic_to_one_of_four_is_found_within_two_seconds() {
    for rate in &RATES[1..] {
        for seed in 0..50 {
            let mut world = World::new(&[1.0; 4], seed);
            for _ in 0..60 {
                world.second(*rate);
            }
            world.real = vec![0.7, 0.1, 0.1, 0.1];
            let found = seconds_to_skew(&mut world, *rate, 2);
            assert!(found.is_some(), "{rate}, seed {seed}");
        }
    }
}

#[test]
fn what_came_right_is_soon_no_sign_any_more() {
    for rate in [1000.0, 10_000.0] {
        let mut world = World::new(&[1.0; 4], 5);
        let good = world.real.clone();
        for _ in 0..60 {
            world.second(rate);
        }
        world.real = vec![0.4, 0.2, 0.2, 0.2];
        assert!(seconds_to_skew(&mut world, rate, 10).is_some());
        for _ in 0..60 {
            world.second(rate);
        }
        world.real = good;
        let is_over = (1..=10).any(|_| world.second(rate).is_empty());
        assert!(is_over, "{rate}");
    }
}

#[test]
fn traffic_that_stops_is_found_within_five_seconds_and_its_return_too() {
    for rate in &RATES[1..] {
        let mut world = World::new(&[1.0; 4], 3);
        for second in 0..120 {
            assert_calm(&world.second(*rate), "before", second);
        }
        let stopped = |signs: &[Sign]| signs.iter().any(|it| it.kind == Kind::TrafficStopped);
        let found = (1..=5).find(|_| stopped(&world.second(0.0)));
        assert!(found.is_some(), "{rate}");
        // However long it lasts, it is not what is usual.
        for _ in 0..600 {
            assert!(stopped(&world.second(0.0)), "{rate}");
        }
        let over = (1..=5).find(|_| !stopped(&world.second(*rate)));
        assert!(over.is_some(), "{rate}");
    }
}

/// Half a minute's window would speak of a table that is long right again.
#[test]
fn table_that_was_put_right_is_not_blamed_for_what_came_before() {
    let mut world = World::new(&[1.0; 4], 12);
    for _ in 0..60 {
        world.second(100.0);
    }
    world.real = vec![0.1, 0.1, 0.7, 0.1];
    assert!(!world.second(100.0).is_empty(), "70 % on one is a skew");
    world.real = world.told.clone();
    // Some of this second's flows came before the table was right.
    world.flows[2] += 50;
    world.watch.forget_shares();
    for second in 0..60 {
        assert_calm(&world.second(100.0), "put right", second);
    }
}

#[test]
fn drain_and_undrain_within_a_second_are_no_skew() {
    let mut world = World::new(&[1.0; 4], 13);
    for second in 0..120 {
        if second % 3 == 0 {
            world.real = vec![0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0];
            world.come(70.0);
            world.real = world.told.clone();
            world.moves += 2;
        }
        assert_calm(&world.second(100.0), "there and back", second);
    }
}
