//! Numbers for people to read.
//!
//! Prefixes are decimal, as networks count: 1k is 1000. A number has at most
//! three digits before its prefix, so columns stay narrow and nothing reads
//! as more precise than it is; `--json` has the exact ones.

use std::time::Duration;

const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// A count: `999`, `1.2k`, `34M`.
pub(super) fn count(value: u64) -> String {
    let (number, prefix) = scaled(value as f64, 0);
    format!("{number}{prefix}")
}

/// Bytes: `999 B`, `3.4 MB`.
pub(super) fn bytes(value: u64) -> String {
    let (number, prefix) = scaled(value as f64, 0);
    format!("{number} {prefix}B")
}

/// Something a second, the unit said elsewhere: `0`, `0.5`, `1.2k`.
pub(super) fn rate(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        return "-".to_owned();
    }
    let (number, prefix) = scaled(value, usize::from(value < 99.95 && value.fract() != 0.0));
    format!("{number}{prefix}")
}

/// A share of a whole: `33.3 %`. What is there is never shown as nothing.
pub(super) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "-".to_owned();
    }
    if share > 0.0 && share < 0.0005 {
        return "<0.1 %".to_owned();
    }
    format!("{:.1} %", share * 100.0)
}

/// A time since something: `12s`, `3m20s`, `5h02m`, `3d04h`.
pub(super) fn ago(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds}s"),
        () if hours == 0 => format!("{minutes}m{:02}s", seconds % 60),
        () if days == 0 => format!("{hours}h{:02}m", minutes % 60),
        () => format!("{days}d{:02}h", hours % 24),
    }
}

/// How long something took: `850 us`, `1.2 ms`, `2.5 s`.
pub(super) fn took(micros: u64) -> String {
    let time = Duration::from_micros(micros);
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..999_950 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// `1 packet`, `1.2k packets`.
pub(super) fn counted(value: u64, noun: &str) -> String {
    let ending = if value == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(value))
}

/// The number as text, and the prefix that belongs to it. One that needs no
/// prefix has `decimals`.
fn scaled(value: f64, decimals: usize) -> (String, &'static str) {
    let mut value = value;
    let mut prefixes = PREFIXES.iter();
    let mut prefix = prefixes.next().copied().unwrap_or_default();
    // From here on rounding to three digits would give a fourth.
    while value >= 999.5 {
        let Some(next) = prefixes.next() else { break };
        prefix = next;
        value /= 1000.0;
    }
    let decimals = match prefix {
        "" => decimals,
        _ if value < 9.95 => 1,
        _ => 0,
    };
    (format!("{value:.decimals$}"), prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_at_most_three_digits_and_a_prefix() {
        for (value, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0k"),
            (1_234, "1.2k"),
            (9_949, "9.9k"),
            (9_950, "10k"),
            (12_345, "12k"),
            (999_499, "999k"),
            (999_500, "1.0M"),
            (3_400_000, "3.4M"),
            (7_000_000_000, "7.0G"),
            (u64::MAX, "18E"),
        ] {
            assert_eq!(count(value), expected, "{value}");
        }
        assert_eq!(counted(1, "packet"), "1 packet");
        assert_eq!(counted(1_200, "packet"), "1.2k packets");
    }

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_500), "1.5 kB");
        assert_eq!(bytes(3_400_000), "3.4 MB");
    }

    #[test]
    fn rates_show_less_than_one() {
        for (value, expected) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (7.0, "7"),
            (99.94, "99.9"),
            (150.4, "150"),
            (1_234.5, "1.2k"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(rate(value), expected, "{value}");
        }
    }

    #[test]
    fn shares_that_exist_are_not_shown_as_nothing() {
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(percent(0.000_1), "<0.1 %");
        assert_eq!(percent(1.0 / 3.0), "33.3 %");
        assert_eq!(percent(1.0), "100.0 %");
    }

    #[test]
    fn times_have_their_two_largest_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (200, "3m20s"),
            (18_120, "5h02m"),
            (273_600, "3d04h"),
        ] {
            assert_eq!(ago(seconds), expected);
        }
        assert_eq!(took(850), "850 us");
        assert_eq!(took(1_234), "1.2 ms");
        assert_eq!(took(999_999), "1.0 s");
        assert_eq!(took(2_500_000), "2.5 s");
    }
}
