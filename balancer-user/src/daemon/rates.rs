//! Counters over time: rates of the last second, and what was counted since
//! a service's table last changed. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use balancer_common::layout::MemberCounters;

/// What a counter gains in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rate {
    /// New flows.
    pub flows: f64,
    /// Packets.
    pub packets: f64,
    /// Bits.
    pub bits: f64,
}

/// The last samples.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// By index, and when that was.
    last: Option<(Instant, Vec<MemberCounters>)>,
    /// The sample before it, and how long before.
    earlier: Option<(Duration, Vec<MemberCounters>)>,
    baseline: BTreeMap<u32, MemberCounters>,
    /// New flows and packets of about the last half minute, by index.
    recent: Vec<Recent>,
}

/// New flows and packets that fade: of those that came [`FADING`] ago a third
/// counts, so that a share of them says where traffic goes now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Recent {
    /// New flows.
    pub flows: f64,
    /// Packets.
    pub packets: f64,
}

/// See [`Recent`].
const FADING: f64 = 20.0;

impl Rates {
    /// Takes a sample of all counters, about once a second.
    pub(super) fn sample(&mut self, now: Instant, counters: Vec<MemberCounters>) {
        self.fade(now, &counters);
        let before = self.last.replace((now, counters));
        self.earlier = before.map(|(then, counters)| (now.duration_since(then), counters));
    }

    fn fade(&mut self, now: Instant, counters: &[MemberCounters]) {
        let Some((then, last)) = &self.last else {
            return;
        };
        let kept = (-now.duration_since(*then).as_secs_f64() / FADING).exp();
        self.recent.resize(counters.len(), Recent::default());
        for ((recent, last), now) in self.recent.iter_mut().zip(last).zip(counters) {
            let gained = gained(last, now);
            recent.flows = (recent.flows * kept + gained.flows as f64).max(0.0);
            recent.packets = (recent.packets * kept + gained.packets as f64).max(0.0);
        }
    }

    /// What a counter gained lately, and since its service's table changed.
    pub(super) fn recent(&self, index: u32) -> Recent {
        let found = self.recent.get(index as usize);
        found.copied().unwrap_or_default()
    }

    /// What a counter stood at, at the last sample.
    pub(super) fn counted(&self, index: u32) -> MemberCounters {
        let last = self
            .last
            .as_ref()
            .and_then(|(_, it)| it.get(index as usize));
        last.copied().unwrap_or_default()
    }

    /// The rate of a counter.
    pub(super) fn of(&self, index: u32) -> Rate {
        let at = index as usize;
        let rate = || {
            let (took, earlier) = self.earlier.as_ref()?;
            let (_, last) = self.last.as_ref()?;
            let seconds = took.as_secs_f64();
            (seconds > 0.0).then_some(rate(earlier.get(at)?, last.get(at)?, seconds))
        };
        rate().unwrap_or_default()
    }

    /// Counts from here on: the service of these counters has a new table.
    pub(super) fn set_baseline(&mut self, counters: BTreeMap<u32, MemberCounters>) {
        for (index, now) in &counters {
            let before = gained(&self.counted(*index), now);
            if let Some(recent) = self.recent.get_mut(*index as usize) {
                // The next sample has these as well.
                recent.flows = -(before.flows as f64);
                recent.packets = -(before.packets as f64);
            }
        }
        self.baseline.extend(counters);
    }

    /// Forgets a counter that was given to somebody else.
    pub(super) fn forget(&mut self, index: u32) {
        self.baseline.remove(&index);
        if let Some(recent) = self.recent.get_mut(index as usize) {
            *recent = Recent::default();
        }
        // It begins at zero.
        let last = self.last.as_mut().map(|(_, counters)| counters);
        let earlier = self.earlier.as_mut().map(|(_, counters)| counters);
        for counters in last.into_iter().chain(earlier) {
            if let Some(counter) = counters.get_mut(index as usize) {
                *counter = MemberCounters::default();
            }
        }
    }

    /// What was counted since the baseline.
    pub(super) fn since_baseline(&self, index: u32, now: &MemberCounters) -> MemberCounters {
        gained(&self.baseline.get(&index).copied().unwrap_or_default(), now)
    }
}

fn gained(before: &MemberCounters, now: &MemberCounters) -> MemberCounters {
    MemberCounters {
        packets: now.packets.saturating_sub(before.packets),
        bytes: now.bytes.saturating_sub(before.bytes),
        flows: now.flows.saturating_sub(before.flows),
        resets: now.resets.saturating_sub(before.resets),
    }
}

fn rate(before: &MemberCounters, now: &MemberCounters, seconds: f64) -> Rate {
    let gained = gained(before, now);
    Rate {
        flows: gained.flows as f64 / seconds,
        packets: gained.packets as f64 / seconds,
        bits: gained.bytes as f64 * 8.0 / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(packets: u64) -> Vec<MemberCounters> {
        vec![MemberCounters {
            packets,
            bytes: packets * 100,
            flows: packets / 10,
            ..MemberCounters::default()
        }]
    }

    #[test]
    fn rate_is_what_was_gained_by_the_time_it_took() {
        let start = Instant::now();
        let mut rates = Rates::default();
        rates.sample(start, counters(100));
        assert_eq!(rates.of(0), Rate::default());
        rates.sample(start + Duration::from_secs(2), counters(300));
        assert_eq!(rates.of(0).packets, 100.0);
        assert_eq!(rates.of(0).bits, 80_000.0);
    }

    #[test]
    fn counter_of_somebody_else_begins_anew() {
        let start = Instant::now();
        let mut rates = Rates::default();
        rates.sample(start, counters(100));
        rates.sample(start + Duration::from_secs(1), counters(300));
        rates.forget(0);
        assert_eq!(rates.of(0), Rate::default());
        rates.sample(start + Duration::from_secs(2), counters(50));
        assert_eq!(rates.of(0).packets, 50.0);
        // One that was not there before has no rate yet.
        assert_eq!(rates.of(1), Rate::default());
    }

    #[test]
    fn what_came_before_a_table_s_change_is_not_recent() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut rates = Rates::default();
        rates.sample(start, counters(1000));
        rates.sample(start + second, counters(2000));
        assert_eq!(rates.recent(0).packets, 1000.0);
        rates.sample(start + second * 21, counters(2000));
        let third = rates.recent(0).packets;
        assert!((360.0..375.0).contains(&third), "{third}");
        // 500 came in the second of the change before it, 300 after it.
        rates.set_baseline(BTreeMap::from([(0, counters(2500)[0])]));
        rates.sample(start + second * 22, counters(2800));
        let since = rates.recent(0).packets;
        assert!((300.0..330.0).contains(&since), "{since}");
        rates.forget(0);
        assert_eq!(rates.recent(0), Recent::default());
    }

    #[test]
    fn baseline_is_taken_off() {
        let mut rates = Rates::default();
        rates.set_baseline(BTreeMap::from([(0, counters(100)[0])]));
        let now = counters(150)[0];
        assert_eq!(rates.since_baseline(0, &now).packets, 50);
        rates.forget(0);
        assert_eq!(rates.since_baseline(0, &now).packets, 150);
    }
}
