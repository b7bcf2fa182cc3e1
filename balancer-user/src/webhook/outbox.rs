//! What one receiver is still to be told.
//!
//! The oldest goes first, and a message stays until it is delivered. An update
//! takes the place of one that waits. After a failure the next try waits, each
//! time twice as long up to [`MAX_WAIT`]. What a receiver refuses is not tried
//! again, as it would refuse it for ever.

use std::collections::VecDeque;
use std::time::Duration;

use crate::watch::incident::Incident;

/// Messages that wait.
pub const MAX_WAITING: usize = 1000;
/// Messages that go together, where the receiver takes several.
pub const MAX_TOGETHER: usize = 64;
/// After the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// After many.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// What became of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It began.
    Opened,
    /// It lasts, with these figures.
    Updated,
    /// It is over.
    Closed,
}

impl What {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Closed => "closed",
        }
    }
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What happened.
    pub what: What,
    /// To which incident.
    pub incident: Incident,
}

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The receiver has it.
    Taken,
    /// It may take it later.
    Failed(String),
    /// It never will.
    Refused(String),
}

/// How many messages went which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Delivered.
    pub sent: u64,
    /// Given up: too many waited, or they were refused.
    pub lost: u64,
    /// Tries that failed.
    pub failed_tries: u64,
}

/// What waits for one receiver.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: VecDeque<Message>,
    /// Of those, how many the present try is of.
    trying: usize,
    failures: u32,
    not_before: Duration,
    counts: Counts,
}

impl Outbox {
    /// Takes a message; gives the one that has to go for it.
    pub fn push(&mut self, message: Message) -> Option<Message> {
        if message.what == What::Updated {
            let number = message.incident.number;
            let mut waiting = self.waiting.iter_mut().skip(self.trying);
            let same = |it: &&mut Message| it.what == What::Updated && it.incident.number == number;
            if let Some(earlier) = waiting.find(same) {
                *earlier = message;
                return None;
            }
        }
        let mut lost = None;
        if self.waiting.len() == MAX_WAITING {
            // Those of the present try are perhaps delivered already.
            lost = self.waiting.remove(self.trying);
            self.counts.lost += u64::from(lost.is_some());
        }
        self.waiting.push_back(message);
        lost
    }

    /// When the next try is due; none if nothing waits.
    pub fn due(&self) -> Option<Duration> {
        (!self.waiting.is_empty()).then_some(self.not_before)
    }

    /// Begins a try with the oldest ones, `most` at most.
    pub fn begin(&mut self, most: usize) -> Vec<Message> {
        self.trying = self.waiting.len().min(most);
        self.waiting.iter().take(self.trying).cloned().collect()
    }

    /// Notes what became of the try; `random` from 0 to 1 keeps several
    /// balancers from coming all at once. Gives how many messages are lost by it.
    pub fn end(&mut self, now: Duration, delivery: &Delivery, random: f64) -> usize {
        let tried = std::mem::take(&mut self.trying);
        match delivery {
            Delivery::Failed(_) => {
                self.counts.failed_tries += 1;
                let wait = FIRST_WAIT
                    .saturating_mul(1 << self.failures.min(10))
                    .min(MAX_WAIT);
                self.failures = self.failures.saturating_add(1);
                self.not_before = now + wait.mul_f64(1.0 - random.clamp(0.0, 1.0) / 4.0);
                return 0;
            }
            Delivery::Taken => self.counts.sent += tried as u64,
            Delivery::Refused(_) => {
                self.counts.failed_tries += 1;
                self.counts.lost += tried as u64;
            }
        }
        self.waiting.drain(..tried);
        self.failures = 0;
        match delivery {
            Delivery::Refused(_) => tried,
            _ => 0,
        }
    }

    /// Tries that failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many messages went which way.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::testing::incident;
    use super::*;

    fn message(what: What, number: u64) -> Message {
        let incident = incident(number);
        Message { what, incident }
    }

    fn failed() -> Delivery {
        Delivery::Failed("refused".to_owned())
    }

    #[test]
    fn failure_waits_twice_as_long_each_time_and_loses_nothing() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.due(), None);
        outbox.push(message(What::Opened, 1));
        assert_eq!(outbox.due(), Some(Duration::ZERO));
        let mut now = Duration::from_secs(100);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(outbox.begin(MAX_TOGETHER).len(), 1);
            assert_eq!(outbox.end(now, &failed(), 0.0), 0);
            assert_eq!(outbox.due(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        outbox.begin(MAX_TOGETHER);
        outbox.end(now, &Delivery::Taken, 0.0);
        assert_eq!((outbox.due(), outbox.failures()), (None, 0));
        let counts = Counts {
            sent: 1,
            lost: 0,
            failed_tries: 8,
        };
        assert_eq!(outbox.counts(), counts);
    }

    #[test]
    fn oldest_goes_when_too_many_wait_but_not_one_under_way() {
        let mut outbox = Outbox::default();
        for number in 1..=MAX_WAITING as u64 {
            assert_eq!(outbox.push(message(What::Opened, number)), None);
        }
        assert_eq!(outbox.begin(1)[0].incident.number, 1);
        let lost = outbox.push(message(What::Opened, 5000)).unwrap();
        assert_eq!(lost.incident.number, 2);
        outbox.end(Duration::ZERO, &Delivery::Taken, 0.0);
        assert_eq!(outbox.begin(1)[0].incident.number, 3);
        assert_eq!((outbox.len(), outbox.counts().lost), (MAX_WAITING - 1, 1));
    }

    #[test]
    fn what_is_refused_is_not_tried_again_and_counts_as_lost() {
        let mut outbox = Outbox::default();
        outbox.push(message(What::Opened, 1));
        outbox.push(message(What::Closed, 1));
        outbox.begin(MAX_TOGETHER);
        let refused = Delivery::Refused("status 400".to_owned());
        assert_eq!(outbox.end(Duration::ZERO, &refused, 0.5), 2);
        assert!(outbox.is_empty());
        assert_eq!(outbox.counts().lost, 2);
    }

    #[test]
    fn update_takes_the_place_of_one_that_waits_unless_that_is_under_way() {
        let mut outbox = Outbox::default();
        outbox.push(message(What::Updated, 1));
        outbox.push(message(What::Updated, 1));
        outbox.push(message(What::Updated, 2));
        assert_eq!(outbox.begin(MAX_TOGETHER).len(), 2);
        outbox.push(message(What::Updated, 1));
        assert_eq!(outbox.len(), 3);
    }
}
