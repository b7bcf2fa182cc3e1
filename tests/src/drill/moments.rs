//! When things happened, by the daemon's own log: how closely somebody else
//! looks makes no difference then.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) at: SystemTime,
    pub(super) text: String,
}

/// The lines that begin with a time; others are the rest of one.
pub(super) fn moments(log: &str) -> Vec<Moment> {
    let moment = |line: &str| {
        let (time, text) = line.split_once(' ')?;
        Some(Moment {
            at: humantime::parse_rfc3339(time).ok()?,
            text: text.trim_start().to_owned(),
        })
    };
    log.lines().filter_map(moment).collect()
}

/// The first moment that has all these words.
pub(super) fn first(moments: &[Moment], words: &[&str]) -> Result<SystemTime> {
    moments
        .iter()
        .find(|it| words.iter().all(|word| it.text.contains(word)))
        .map(|it| it.at)
        .with_context(|| format!("the log says nothing of {words:?}"))
}

/// The time between two moments; none where they come the other way round.
pub(super) fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-22T14:00:00.250000Z  INFO change begins revision=2\n\
a line that was broken\n\
2026-11-22T14:00:01.500000Z ERROR change undone revision=2 why=it gets 60 %\n";

    #[test]
    fn moments_are_found_by_their_words_and_measured_to_the_millisecond() {
        let moments = moments(LOG);
        assert_eq!(moments.len(), 2);
        assert_eq!(moments[0].text, "INFO change begins revision=2");
        let begun = first(&moments, &["change begins", "revision=2"]).unwrap();
        let undone = first(&moments, &["change undone"]).unwrap();
        assert_eq!(between(begun, undone), Duration::from_millis(1250));
        assert_eq!(between(undone, begun), Duration::ZERO);
        assert!(first(&moments, &["change undone", "revision=3"]).is_err());
    }
}
