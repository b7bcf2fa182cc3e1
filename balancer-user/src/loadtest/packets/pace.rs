//! How many packets are due at a moment. Pure: it is handed the time.

use std::time::Duration;

/// The shortest pause between two portions; at higher rates a portion has
/// several packets. Each portion costs the kernel a pool of pages.
const TICK: Duration = Duration::from_millis(2);
/// How late a packet may leave. Later ones are not sent at all: together they
/// would be a burst of another rate than the one that was asked for.
const PATIENCE: Duration = Duration::from_millis(50);

/// How many packets a second, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Packets a second, above 0.
    pub rate: f64,
    /// For how long they are sent.
    pub duration: Duration,
}

/// What is to be done at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// Packets to send now.
    pub send: u32,
    /// Packets that are too late to be sent.
    pub missed: u64,
}

/// A bucket that fills at the rate: packet `n` is due `n / rate` seconds after
/// the beginning, and it holds those of 50 ms, one at least.
#[derive(Debug)]
pub struct Bucket {
    pace: Pace,
    taken: u64,
}

impl Bucket {
    /// Full of nothing.
    pub fn new(pace: Pace) -> Self {
        Self { pace, taken: 0 }
    }

    /// Packets of the whole test.
    pub fn total(&self) -> u64 {
        (self.pace.rate * self.pace.duration.as_secs_f64()).ceil() as u64
    }

    /// Takes out what is due so long after the beginning.
    pub fn take(&mut self, passed: Duration) -> Portion {
        let due = (self.pace.rate * passed.as_secs_f64()) as u64 + 1;
        let waiting = due.min(self.total()).saturating_sub(self.taken);
        let most = (self.pace.rate * PATIENCE.as_secs_f64()).ceil().max(1.0);
        let send = waiting.min(most as u64);
        self.taken += waiting;
        Portion {
            send: send as u32,
            missed: waiting - send,
        }
    }

    /// When to come again, since the beginning; none when all is over.
    pub fn next(&self, passed: Duration) -> Option<Duration> {
        if self.taken >= self.total() {
            return None;
        }
        let due = Duration::from_secs_f64(self.taken as f64 / self.pace.rate);
        // Rounded down it would not be due yet.
        Some((due + Duration::from_nanos(1)).max(passed + TICK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(rate: f64) -> Bucket {
        Bucket::new(Pace {
            rate,
            duration: 3 * SECOND,
        })
    }

    /// Comes whenever it is told to, that much later; gives what was sent in
    /// each second, and all that was missed.
    fn play(rate: f64, late: Duration) -> ([u64; 3], u64) {
        let (mut bucket, mut now) = (bucket(rate), Duration::ZERO);
        let (mut sent, mut missed) = ([0; 3], 0);
        loop {
            let portion = bucket.take(now);
            sent[(now.as_secs() as usize).min(2)] += u64::from(portion.send);
            missed += portion.missed;
            let Some(next) = bucket.next(now) else {
                break (sent, missed);
            };
            assert!(next > now);
            now = next + late;
        }
    }

    #[test]
    fn each_second_has_its_rate_within_a_percent() {
        for rate in [100.0, 999.5, 2000.0, 50_000.0, 1e6] {
            for late in [Duration::ZERO, Duration::from_micros(900)] {
                let (sent, missed) = play(rate, late);
                assert_eq!(missed, 0, "{rate}");
                let off = |sent: u64| (sent as f64 / rate - 1.0).abs();
                assert!(sent.iter().all(|it| off(*it) <= 0.0101), "{rate}: {sent:?}");
                assert_eq!(sent.iter().sum::<u64>(), bucket(rate).total(), "{rate}");
            }
        }
    }

    #[test]
    fn slow_rates_send_one_packet_at_its_moment() {
        let mut bucket = bucket(0.5);
        assert_eq!(bucket.take(Duration::ZERO), Portion { send: 1, missed: 0 });
        let next = bucket.next(Duration::ZERO).unwrap();
        assert_eq!(next, 2 * SECOND + Duration::from_nanos(1));
        assert_eq!(bucket.take(SECOND), Portion { send: 0, missed: 0 });
        assert_eq!(bucket.take(2 * SECOND), Portion { send: 1, missed: 0 });
        assert_eq!(bucket.next(2 * SECOND), None);
    }

    #[test]
    fn what_is_late_is_missed_and_not_made_up_for() {
        let mut bucket = bucket(2000.0);
        bucket.take(Duration::ZERO);
        // 2,000 were due, of which those of 50 ms still go.
        let portion = bucket.take(SECOND);
        assert_eq!(
            portion,
            Portion {
                send: 100,
                missed: 1900
            }
        );
        let portion = bucket.take(SECOND + Duration::from_micros(1200));
        assert_eq!(portion, Portion { send: 2, missed: 0 });
        // Whoever comes too late for all of it.
        let portion = bucket.take(9 * SECOND);
        assert_eq!(u64::from(portion.send) + portion.missed, 6000 - 2003);
        assert_eq!(bucket.next(9 * SECOND), None);
    }
}
