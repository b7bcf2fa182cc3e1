//! Sends the packets, each portion at its moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::pace::{Bucket, Pace};
use super::report::Second;

/// Longest pause, so that who stops it does not wait.
const MOST_PAUSE: Duration = Duration::from_millis(50);

/// What there is to see meanwhile, and how it is ended early.
#[derive(Debug, Default)]
pub struct Shared {
    seconds: Mutex<Vec<Second>>,
    stop: AtomicBool,
}

impl Shared {
    /// Second by second, so far.
    pub fn seconds(&self) -> Vec<Second> {
        let seconds = self.seconds.lock();
        seconds.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has it end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn count(&self, passed: Duration, sent: u64, missed: u64) {
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let at = passed.as_secs() as usize;
        if seconds.len() <= at {
            seconds.resize(at + 1, Second::default());
        }
        seconds[at].sent += sent;
        seconds[at].missed += missed;
    }
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How long packets were sent.
    pub taken: Duration,
    /// Whether somebody ended it early.
    pub interrupted: bool,
}

/// Sends the packets by `send`, which is handed how many; blocks the thread
/// until they are over.
///
/// # Errors
/// What `send` says.
pub fn run<E>(
    pace: Pace,
    shared: &Shared,
    mut send: impl FnMut(u32) -> Result<(), E>,
) -> Result<Ended, E> {
    let mut bucket = Bucket::new(pace);
    let began = Instant::now();
    loop {
        let passed = began.elapsed();
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(Ended {
                taken: passed,
                interrupted: true,
            });
        }
        let portion = bucket.take(passed);
        if portion.send > 0 {
            send(portion.send)?;
        }
        // All that is late comes from a moment before the end.
        let last = pace.duration.saturating_sub(Duration::from_nanos(1));
        shared.count(passed.min(last), portion.send.into(), portion.missed);
        let Some(next) = bucket.next(passed) else {
            return Ok(Ended {
                taken: pace.duration,
                interrupted: false,
            });
        };
        thread::sleep(next.saturating_sub(began.elapsed()).min(MOST_PAUSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        rate: 20_000.0,
        duration: Duration::from_millis(100),
    };

    #[test]
    fn every_packet_is_sent_or_missed() {
        let (shared, mut handed) = (Shared::default(), 0);
        let ended = run(PACE, &shared, |count| {
            handed += u64::from(count);
            Ok::<_, ()>(())
        });
        assert!(!ended.unwrap().interrupted);
        let seconds = shared.seconds();
        let [sent, missed] = [
            seconds.iter().map(|it| it.sent).sum::<u64>(),
            seconds.iter().map(|it| it.missed).sum(),
        ];
        assert_eq!((seconds.len(), sent, sent + missed), (1, handed, 2000));
    }

    #[test]
    fn it_ends_when_told_to_and_when_nothing_can_be_sent() {
        let shared = Shared::default();
        let ended = run(PACE, &shared, |_| {
            shared.stop();
            Ok::<_, ()>(())
        });
        assert!(ended.unwrap().interrupted);
        let failed = run(PACE, &Shared::default(), |_| Err("gone"));
        assert_eq!(failed, Err("gone"));
    }
}
