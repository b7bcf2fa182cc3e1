//! Which passages there are to go through, and what each one's number is. Pure:
//! time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::forge::Ways;
use super::road::{NoRoad, Passage, Road, Roads};
use crate::netlink::Family;

/// What probes ask for.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) entries: BTreeMap<Passage, Entry>,
    last_number: u16,
    /// Why no packet can be sent at all.
    pub(super) blocked: Option<String>,
    /// What was said of it in the log.
    told: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: u16,
    pub(super) road: Result<Arc<Road>, NoRoad>,
    /// Until when it is kept without being in force.
    kept_until: Option<Instant>,
}

impl Known {
    /// Takes other roads over; gives what packets can be sent through, and the
    /// families of all VIPs.
    pub(super) fn update(
        &mut self,
        roads: Roads,
        kept_until: Option<Instant>,
        now: Instant,
    ) -> (Ways, BTreeSet<Family>) {
        let in_force = kept_until.is_none();
        self.entries
            .retain(|passage, entry| match entry.kept_until {
                Some(until) => until > now,
                // What is no longer in force may be proven once more by an undoing.
                None => !in_force || roads.contains_key(passage),
            });
        for (passage, road) in roads {
            let road = road.map(Arc::new);
            match self.entries.get_mut(&passage) {
                Some(entry) => {
                    entry.road = road;
                    entry.kept_until = entry.kept_until.and(kept_until);
                }
                None => {
                    let Some(number) = self.next_number() else {
                        tracing::error!(%passage, "more than 65535 backends are probed by VIPs");
                        continue;
                    };
                    let entry = Entry {
                        number,
                        road,
                        kept_until,
                    };
                    self.entries.insert(passage, entry);
                }
            }
        }
        let families = self.entries.keys().map(|passage| match passage.vip {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        });
        let families = families.collect();
        let ways = self.entries.iter().filter_map(|(passage, entry)| {
            let road = entry.road.as_ref().ok()?;
            Some((entry.number, (passage.clone(), Arc::clone(road))))
        });
        (ways.collect(), families)
    }

    /// A number that nobody has, none of those given last.
    fn next_number(&mut self) -> Option<u16> {
        let taken: BTreeSet<u16> = self.entries.values().map(|entry| entry.number).collect();
        for _ in 0..=u16::MAX {
            self.last_number = self.last_number.wrapping_add(1);
            if self.last_number != 0 && !taken.contains(&self.last_number) {
                return Some(self.last_number);
            }
        }
        None
    }

    /// Notes why no packet can be sent at all, if none can, and tells of what
    /// is news.
    pub(super) fn note(&mut self, blocked: Option<String>) {
        self.blocked = blocked;
        let problems = self.problems();
        for problem in problems.difference(&self.told) {
            tracing::error!("{problem}");
        }
        if problems.is_empty() && !self.told.is_empty() {
            tracing::info!("probes by the VIP can be made again");
        }
        self.told = problems;
    }

    /// What of this host's keeps probes from being made, a sentence each.
    pub(super) fn problems(&self) -> BTreeSet<String> {
        let told = |why: &str| format!("probes by the VIP cannot be made: {why}");
        if let Some(why) = &self.blocked {
            return [told(why)].into();
        }
        let roads = self.entries.values().map(|entry| &entry.road);
        let ours = roads.filter_map(|road| match road {
            Err(NoRoad::Ours(why)) => Some(told(why)),
            Err(NoRoad::Theirs(_)) | Ok(_) => None,
        });
        ours.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytemuck::Zeroable;

    use super::*;
    use crate::config::model::{Forward, Protocol};

    fn passage(backend: u8) -> Passage {
        Passage {
            vip: "192.0.2.1".parse().unwrap(),
            protocol: Protocol::Tcp,
            forward: Forward::L2,
            backend: [10, 0, 0, backend].into(),
            mac: None,
        }
    }

    fn roads(backends: &[u8]) -> Roads {
        let road = Road {
            member: Zeroable::zeroed(),
            interface: "eth0".to_owned(),
            source: [10, 0, 0, 200].into(),
        };
        let all = backends.iter().map(|it| (passage(*it), Ok(road.clone())));
        all.collect()
    }

    fn backends(ways: &Ways) -> Vec<(u16, IpAddr)> {
        let all = ways.iter().map(|(number, (it, _))| (*number, it.backend));
        all.collect()
    }

    #[test]
    fn numbers_stay_and_are_not_given_again_at_once() {
        let (mut known, now) = (Known::default(), Instant::now());
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let (ways, families) = known.update(roads(&[1, 2]), None, now);
        assert_eq!(backends(&ways), [(1, address(1)), (2, address(2))]);
        assert_eq!(families, [Family::V4].into());
        let (ways, _) = known.update(roads(&[2, 3]), None, now);
        assert_eq!(backends(&ways), [(2, address(2)), (3, address(3))]);
        known.last_number = u16::MAX - 1;
        let (ways, _) = known.update(roads(&[2, 3, 4, 5]), None, now);
        let last = [(1, address(5)), (2, address(2)), (3, address(3))];
        assert_eq!(backends(&ways)[..3], last);
        assert_eq!(backends(&ways)[3], (u16::MAX, address(4)));
        let (ways, families) = known.update(Roads::new(), None, now);
        assert!(ways.is_empty() && families.is_empty());
    }

    #[test]
    fn candidate_is_kept_until_its_time_is_over_or_it_is_in_force() {
        let (mut known, now) = (Known::default(), Instant::now());
        let (first, later) = (Duration::from_secs(60), Duration::from_secs(61));
        known.update(roads(&[1]), None, now);
        let (ways, _) = known.update(roads(&[2, 3]), Some(now + first), now);
        assert_eq!(ways.len(), 3);
        let (ways, _) = known.update(roads(&[1, 2]), None, now);
        assert_eq!(ways.len(), 3, "the third one may still be proven");
        let (ways, _) = known.update(roads(&[1, 2]), None, now + later);
        assert_eq!(ways.len(), 2);
        let (ways, _) = known.update(roads(&[1]), None, now + later);
        assert_eq!(ways.len(), 1, "in force it was no candidate any more");
    }

    #[test]
    fn what_this_host_lacks_is_told_once_for_all_backends() {
        let (mut known, now) = (Known::default(), Instant::now());
        let missing = |it| (passage(it), Err(NoRoad::Ours("no address".to_owned())));
        let gone = (passage(3), Err(NoRoad::Theirs("no route".to_owned())));
        known.update([missing(1), missing(2), gone].into(), None, now);
        let expected = "probes by the VIP cannot be made: no address".to_owned();
        assert_eq!(known.problems(), [expected].into());
        known.note(Some("no device".to_owned()));
        let expected = "probes by the VIP cannot be made: no device".to_owned();
        assert_eq!(known.problems(), [expected].into());
        known.note(None);
        known.update(roads(&[1, 2]), None, now);
        assert!(known.problems().is_empty());
    }
}
