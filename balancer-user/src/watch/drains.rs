//! Drains made by command that are so old that somebody may have forgotten
//! them.

use std::time::Duration;

use super::{Kind, Sign};

/// A drain that is older may be forgotten.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// What is said of a drain of that age, if it is old.
pub fn overdue(age: Duration) -> Option<String> {
    let hours = |time: Duration| time.as_secs() / 3600;
    (age > OLD).then(|| format!("is drained for {} hours, limit {}", hours(age), hours(OLD)))
}

/// A sign, if a backend has been drained for too long.
pub fn sign((service, backend): (&str, &str), age: Duration) -> Option<Sign> {
    overdue(age).map(|what| Sign {
        kind: Kind::OldDrain,
        service: service.to_owned(),
        backend: Some(backend.to_owned()),
        what,
        cause: "it was drained by command, and may be forgotten: its share is with the others"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_of_more_than_a_day_is_old() {
        let of = |hours: u64| sign(("web", "web-1"), Duration::from_secs(hours * 3600));
        assert_eq!(of(24), None);
        let sign = of(26).unwrap();
        assert_eq!(sign.what, "is drained for 26 hours, limit 24");
        assert_eq!(
            (sign.kind, sign.backend.as_deref()),
            (Kind::OldDrain, Some("web-1"))
        );
    }
}
