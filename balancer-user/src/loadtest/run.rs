//! The flows of a load test, each at its moment.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::CreationError;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::client::Client;
use super::tally::Tally;

/// How often whoever watches is told.
const TELL: Duration = Duration::from_millis(250);

/// How many flows, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Requests a second, above 0.
    pub rate: f64,
    /// For how long flows begin.
    pub duration: Duration,
    /// Flows under way at a time; one more is not begun.
    pub most_under_way: usize,
    /// How long the last may take.
    pub patience: Duration,
}

/// What came of the flows.
#[derive(Debug)]
pub struct Made {
    /// The tally.
    pub tally: Tally,
    /// How long flows were begun.
    pub taken: Duration,
    /// Whether somebody ended it early.
    pub interrupted: bool,
}

/// What there is to see meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Glance<'a> {
    /// Since the beginning.
    pub passed: Duration,
    /// The tally so far.
    pub tally: &'a Tally,
    /// Flows under way.
    pub under_way: usize,
}

/// When a flow is due, since the beginning.
pub fn due(number: u64, flows_a_second: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / flows_a_second)
}

/// Makes the flows until they are over or `stop` is; must be called within a
/// tokio runtime of some threads.
///
/// # Errors
/// When there can be no tally.
pub async fn run(
    client: Arc<Client>,
    pace: Pace,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(Glance<'_>),
) -> Result<Made, CreationError> {
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let permits = Arc::new(Semaphore::new(pace.most_under_way));
    let flows_a_second = pace.rate / f64::from(client.requests());
    let began = Instant::now();
    let mut telling = interval(TELL);
    telling.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stop = std::pin::pin!(stop);
    let mut number = 0;
    let mut interrupted = false;
    let under_way = || pace.most_under_way - permits.available_permits();
    loop {
        let next = due(number, flows_a_second);
        if next >= pace.duration {
            break;
        }
        tokio::select! {
            biased;
            () = &mut stop => {
                interrupted = true;
                break;
            }
            _ = telling.tick() => {
                let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tell(Glance { passed: began.elapsed(), tally: &tally, under_way: under_way() });
            }
            () = sleep_until(began + next) => {
                number += 1;
                begin(&client, &tally, &permits, (began, next));
            }
        }
    }
    let taken = match interrupted {
        true => began.elapsed(),
        false => pace.duration,
    };
    // The last flows.
    let all = u32::try_from(pace.most_under_way).unwrap_or(u32::MAX);
    let mut rest = std::pin::pin!(timeout(pace.patience, permits.acquire_many(all)));
    loop {
        tokio::select! {
            _ = &mut rest => break,
            _ = telling.tick() => {
                let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tell(Glance { passed: began.elapsed(), tally: &tally, under_way: under_way() });
            }
        }
    }
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Made {
        tally: std::mem::replace(&mut tally, Tally::new()?),
        taken,
        interrupted,
    })
}

/// Begins a flow that is due, unless too many are under way.
fn begin(
    client: &Arc<Client>,
    tally: &Arc<Mutex<Tally>>,
    permits: &Arc<Semaphore>,
    (began, due): (Instant, Duration),
) {
    let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.skip(due, u64::from(client.requests()));
        return;
    };
    let (client, tally) = (Arc::clone(client), Arc::clone(tally));
    tokio::spawn(async move {
        let samples = client.flow(began, due).await;
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        for sample in samples {
            tally.take(sample);
        }
        drop(tally);
        drop(permit);
    });
}
