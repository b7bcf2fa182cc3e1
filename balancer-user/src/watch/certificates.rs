//! Certificates that end soon, as probes saw them.

use std::time::{Duration, SystemTime};

use super::{Kind, Sign};

/// A sign, if the certificate that a backend shows ends less than `warning`
/// after `now`, or has ended.
pub fn sign(
    (service, backend): (&str, &str),
    ends: SystemTime,
    now: SystemTime,
    warning: Duration,
) -> Option<Sign> {
    let show = |left: Duration| {
        // Days are enough, and hours on the last.
        let unit = match left.as_secs() {
            86_400.. => 86_400,
            3_600.. => 3_600,
            _ => 1,
        };
        humantime::format_duration(Duration::from_secs(left.as_secs() / unit * unit))
    };
    let what = match ends.duration_since(now) {
        Ok(left) if left >= warning => return None,
        Ok(left) => format!(
            "shows a certificate that ends in {}, warned from {} on",
            show(left),
            show(warning)
        ),
        // Nobody wants to be warned.
        Err(_) if warning.is_zero() => return None,
        Err(past) => format!(
            "shows a certificate that ended {} ago",
            show(past.duration())
        ),
    };
    Some(Sign {
        kind: Kind::CertificateEnds,
        service: service.to_owned(),
        backend: Some(backend.to_owned()),
        what,
        cause: "it was not renewed on the server, or the server was not reloaded since".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn certificate_is_warned_of_from_its_day_on_and_after_its_end() {
        let now = SystemTime::UNIX_EPOCH + 20_000 * DAY;
        let what = |ends, warning| sign(("web", "web-1"), ends, now, warning).map(|sign| sign.what);
        assert_eq!(what(now + 14 * DAY, 14 * DAY), None);
        assert_eq!(
            what(now + 13 * DAY + DAY / 2, 14 * DAY).unwrap(),
            "shows a certificate that ends in 13days, warned from 14days on"
        );
        assert_eq!(
            what(now + DAY / 2, 14 * DAY).unwrap(),
            "shows a certificate that ends in 12h, warned from 14days on"
        );
        assert_eq!(
            what(now - 3 * DAY, DAY).unwrap(),
            "shows a certificate that ended 3days ago"
        );
        for ends in [now + DAY / 2, now - DAY] {
            assert_eq!(what(ends, Duration::ZERO), None);
        }
    }
}
