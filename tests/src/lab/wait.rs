//! The one place in the lab that sleeps.
//!
//! Nothing else waits for a fixed time: whoever needs the world to change
//! names the condition and a deadline, and learns at once when it holds.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Pauses between two looks start short, so that a quick condition costs
/// nothing, and grow, so that a slow one does not burn a CPU others need.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it gives a value.
///
/// `what` completes the sentence "gave up waiting for …". The condition is
/// asked at least once, and once more when the deadline has passed, so that a
/// stalled machine does not turn a condition that holds into a failure.
///
/// # Errors
/// When the deadline passes without a value.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let overdue = start.elapsed() >= deadline;
        if let Some(value) = condition() {
            return Ok(value);
        }
        if overdue {
            bail!("gave up waiting for {what} after {:.1?}", start.elapsed());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_ends_the_wait() {
        let mut looks = 0;
        let value = wait_for("three looks", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_missed_deadline_names_the_condition() {
        let missed = wait_for("a miracle", Duration::ZERO, || None::<()>);
        let message = missed.unwrap_err().to_string();
        assert!(message.contains("a miracle"), "{message}");
    }
}
