//! Whether more connect to the API than there are places for: said while it is
//! so, once in the log and in the status, and not for each connection.

use std::time::{Duration, Instant};

use crate::api::connections::{Entrances, Seen};

/// Nobody was kept out for that long: it is over.
const QUIET: Duration = Duration::from_secs(10);

/// What is known of the ways in.
#[derive(Debug, Default)]
pub(super) struct Crowds {
    pub(super) entrances: Entrances,
    crowds: [Crowd; 2],
}

#[derive(Debug, Default)]
struct Crowd {
    /// Connections that had been kept out when it was last looked.
    before: u64,
    /// Since when, what had been counted then, and when one was kept out last.
    since: Option<(Instant, u64, Instant)>,
}

impl Crowds {
    /// Looks once a second.
    pub(super) fn look(&mut self, now: Instant) {
        for (crowd, seen) in self.crowds.iter_mut().zip(self.entrances.seen()) {
            crowd.look(&seen, now);
        }
    }

    /// A sentence for each way in that has too few places.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        let both = self.crowds.iter().zip(self.entrances.seen());
        both.filter_map(|(crowd, seen)| crowd.problem(&seen))
    }
}

impl Crowd {
    fn look(&mut self, seen: &Seen, now: Instant) {
        let count = seen.crowded_out();
        let is_more = count > self.before;
        match &mut self.since {
            Some((.., last)) if is_more => *last = now,
            None if is_more => {
                self.since = Some((now, self.before, now));
                let problem = self.problem(seen).unwrap_or_default();
                tracing::warn!(entrance = seen.name, "{problem}");
            }
            Some((since, before, last)) if now.saturating_duration_since(*last) >= QUIET => {
                let (kept_out, secs) = (count - *before, (*last - *since).as_secs());
                tracing::info!(
                    entrance = seen.name,
                    kept_out,
                    secs,
                    "there are places for connections again"
                );
                self.since = None;
            }
            Some(_) | None => {}
        }
        self.before = count;
    }

    fn problem(&self, seen: &Seen) -> Option<String> {
        let (_, before, _) = self.since?;
        let (what, command) = match seen.name {
            "socket" => ("the control socket", "ss -xp"),
            _ => ("node.listen", "ss -tnp"),
        };
        Some(format!(
            "{what}: more connect than the {} connections that there are places for, or one \
             client has more than its share of them: {} were refused, or gave way as they asked \
             nothing; forwarding and probes are not touched; `{command}` shows whose they are",
            seen.places,
            seen.crowded_out() - before
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::connections::Cut;

    #[test]
    fn crowd_is_a_problem_while_it_lasts_and_no_longer() {
        let mut crowd = Crowd::default();
        let began = Instant::now();
        let at = |secs| began + Duration::from_secs(secs);
        let mut cut = [0; Cut::ALL.len()];
        let seen = |cut| Seen {
            name: "http",
            open: 4,
            places: 4,
            admitted: 10,
            cut,
        };
        cut[Cut::SlowHead as usize] = 5;
        crowd.look(&seen(cut), at(1));
        assert_eq!(crowd.problem(&seen(cut)), None);
        cut[Cut::Refused as usize] = 2;
        cut[Cut::Displaced as usize] = 1;
        crowd.look(&seen(cut), at(2));
        let problem = crowd.problem(&seen(cut)).unwrap();
        assert!(problem.starts_with("node.listen: more connect than the 4"));
        assert!(problem.contains(": 3 were refused"), "{problem}");
        crowd.look(&seen(cut), at(11));
        assert!(crowd.problem(&seen(cut)).is_some());
        crowd.look(&seen(cut), at(12));
        assert_eq!(crowd.problem(&seen(cut)), None);
    }
}
