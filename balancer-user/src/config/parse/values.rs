//! Readers of single values: each checks the type, then the limits.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use toml::de::DeValue;

use super::super::model::Mac;
use super::super::wording::{nearest, quoted};
use super::fields::{Field, Value};

/// Longest name of a service, backend or zone.
const MAX_NAME_LEN: usize = 64;

/// A string.
pub(super) fn text<'t>(field: &mut Field<'_>, value: &'t Value<'t>) -> Option<&'t str> {
    field.takes(|| json!({ "type": "string" }));
    let found = value.get_ref().as_str();
    if found.is_none() {
        let help = format!("write `{} = \"…\"`", field.key);
        field.wrong_type(value, "a string", help);
    }
    found
}

/// A string of 1 to `max_len` bytes that `fits`; `rule` says what fits.
pub(super) fn text_where<'t>(
    max_len: usize,
    rule: &'static str,
    fits: impl Fn(&str) -> bool,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<&'t str> {
    move |field, value| {
        // The schema counts characters, of which a byte may be a part.
        field.takes(|| json!({ "type": "string", "minLength": 1, "maxLength": max_len }));
        let found = text(field, value)?;
        if found.is_empty() {
            field.bad(value, "is empty", format!("it is {rule}"));
        } else if found.len() > max_len {
            let text = format!("has {} bytes, limit {max_len}", found.len());
            field.bad(value, text, "shorten it");
        } else if !fits(found) {
            field.bad(
                value,
                format!("is {}", quoted(found)),
                format!("it is {rule}"),
            );
        } else {
            return Some(found);
        }
        None
    }
}

/// Whether a text can name a service, a backend or a zone. Names stand in
/// commands, paths and metrics, so nothing in them may need quoting there.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte))
}

/// The name of a service, a backend or a zone.
pub(super) fn name<'t>(field: &mut Field<'_>, value: &'t Value<'t>) -> Option<&'t str> {
    let rule = "letters, digits and any of - _ . : @";
    text_where(MAX_NAME_LEN, rule, is_name)(field, value)
}

/// A whole number within limits.
pub(super) fn integer<'t, T: TryFrom<i128> + Copy + Display + Into<i128>>(
    limits: RangeInclusive<T>,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<T> {
    move |field, value| {
        let (low, high) = (*limits.start(), *limits.end());
        field.takes(|| whole(low.into(), high.into()));
        let DeValue::Integer(digits) = value.get_ref() else {
            let help = format!("write a whole number from {low} to {high}, without quotes");
            field.wrong_type(value, "an integer", help);
            return None;
        };
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        let fitting = number
            .filter(|number| (low.into()..=high.into()).contains(number))
            .and_then(|number| T::try_from(number).ok());
        if fitting.is_none() {
            let text = format!("is {digits}, limit {low} to {high}");
            let help = match number {
                Some(number) if number < low.into() => format!("the least is {low}"),
                _ => format!("the most is {high}"),
            };
            field.bad(value, text, help);
        }
        fitting
    }
}

/// The schema of a whole number. A limit beyond what JSON's readers count
/// exactly is left out.
pub(super) fn whole(low: i128, high: i128) -> serde_json::Value {
    const EXACT: i128 = 1 << 53;
    match high < EXACT {
        true => json!({ "type": "integer", "minimum": low as i64, "maximum": high as i64 }),
        false => json!({ "type": "integer", "minimum": low as i64 }),
    }
}

/// `true` or `false`.
pub(super) fn boolean(field: &mut Field<'_>, value: &Value<'_>) -> Option<bool> {
    field.takes(|| json!({ "type": "boolean" }));
    let found = value.get_ref().as_bool();
    if found.is_none() {
        field.wrong_type(
            value,
            "a boolean",
            "write `true` or `false`, without quotes",
        );
    }
    found
}

/// A number from 0 to `most`, whole or not.
pub(super) fn share<'t>(most: f64) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<f64> {
    move |field, value| {
        field.takes(|| json!({ "type": "number", "minimum": 0, "maximum": most }));
        let written = match value.get_ref() {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            _ => {
                let help = format!("write a number from 0 to {most}, such as 0.3");
                field.wrong_type(value, "a number", help);
                return None;
            }
        };
        let number: Option<f64> = written.parse().ok();
        let fitting = number.filter(|number| (0.0..=most).contains(number));
        if fitting.is_none() {
            let text = format!("is {written}, limit 0 to {most}");
            field.bad(value, text, "it is a share, not a percentage: 0.3 is 30 %");
        }
        fitting
    }
}

/// A duration such as `"500ms"` within limits.
pub(super) fn duration<'t>(
    limits: RangeInclusive<Duration>,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<Duration> {
    move |field, value| {
        let help = "write a number with a unit, such as \"500ms\", \"5s\" or \"5m\"";
        field.takes(|| {
            let show = humantime::format_duration;
            let (low, high) = (show(*limits.start()), show(*limits.end()));
            let about = format!("a duration from {low} to {high}, such as \"500ms\" or \"5m\"");
            json!({ "type": "string", "pattern": "[0-9]", "description": about })
        });
        let Some(written) = value.get_ref().as_str() else {
            field.wrong_type(value, "a duration", help);
            return None;
        };
        let Ok(found) = humantime::parse_duration(written) else {
            field.bad(value, format!("is {}, no duration", quoted(written)), help);
            return None;
        };
        if !limits.contains(&found) {
            let show = humantime::format_duration;
            let (low, high) = (show(*limits.start()), show(*limits.end()));
            let text = format!("is {}, limit {low} to {high}", quoted(written));
            let help = if found < *limits.start() {
                format!("the least is \"{low}\"")
            } else {
                format!("the most is \"{high}\"")
            };
            field.bad(value, text, help);
            return None;
        }
        Some(found)
    }
}

/// One of several words; words in `later` are known but not supported yet.
pub(super) fn choice<'t, T: Copy>(
    words: &[(&'static str, T)],
    later: &'static [&'static str],
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<T> {
    move |field, value| {
        field.takes(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            json!({ "enum": words })
        });
        let found = text(field, value)?;
        if let Some((_, choice)) = words.iter().find(|(word, _)| *word == found) {
            return Some(*choice);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let supported = format!("supported: {}", names.join(", "));
        if later.contains(&found) {
            let text = format!("is {}, not supported by this version", quoted(found));
            field.bad(value, text, supported);
        } else {
            let help = match nearest(found, names) {
                Some(near) => format!("did you mean \"{near}\"? {supported}"),
                None => supported,
            };
            field.bad(value, format!("is {}", quoted(found)), help);
        }
        None
    }
}

/// A list of 1 to `max` entries; all faults in it are reported.
pub(super) fn list<'t, T>(
    max: usize,
    entry: impl FnMut(&mut Field<'_>, &'t Value<'t>) -> Option<T>,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<Vec<T>> {
    list_of(1..=max, entry)
}

/// A list of so many entries; all faults in it are reported.
pub(super) fn list_of<'t, T>(
    len: RangeInclusive<usize>,
    mut entry: impl FnMut(&mut Field<'_>, &'t Value<'t>) -> Option<T>,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<Vec<T>> {
    move |field, value| {
        let (min, max) = (*len.start(), *len.end());
        field.takes(|| json!({ "type": "array", "minItems": min, "maxItems": max }));
        let DeValue::Array(array) = value.get_ref() else {
            let help = format!("write a list: `{} = […]`", field.key);
            field.wrong_type(value, "an array", help);
            return None;
        };
        if array.len() < min {
            field.bad(
                value,
                "is an empty list",
                "name at least one entry, or leave it out",
            );
            return None;
        }
        if array.len() > max {
            let text = format!("has {} entries, limit {max}", array.len());
            field.bad(value, text, "shorten the list");
            return None;
        }
        let read: Vec<Option<T>> = array.iter().map(|value| entry(field, value)).collect();
        read.into_iter().collect()
    }
}

/// The Ethernet address of a single station.
pub(super) fn mac(field: &mut Field<'_>, value: &Value<'_>) -> Option<Mac> {
    let help = "write it as \"02:00:5e:10:00:01\"";
    let pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$";
    field.takes(|| json!({ "type": "string", "pattern": pattern }));
    let Some(written) = value.get_ref().as_str() else {
        field.wrong_type(value, "a string", help);
        return None;
    };
    let Some(bytes) = mac_bytes(written) else {
        let text = format!("is {}, not an Ethernet address", quoted(written));
        field.bad(value, text, help);
        return None;
    };
    // The lowest bit of the first byte marks a group (IEEE 802.3, 3.2.3).
    if bytes[0] & 1 == 1 || bytes == [0; 6] {
        let text = format!(
            "is {}, not the address of a single station",
            quoted(written)
        );
        field.bad(
            value,
            text,
            "leave it out to ask the kernel's neighbour table",
        );
        return None;
    }
    Some(Mac(bytes))
}

fn mac_bytes(written: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = written.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = hex_byte(part)?;
    }
    parts.next().is_none().then_some(bytes)
}

/// Two hex digits as a byte.
pub(super) fn hex_byte(digits: &str) -> Option<u8> {
    // `from_str_radix` takes a sign, too.
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| all_hex)
}

/// An absolute path.
pub(super) fn path<'t>(
    max_len: usize,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<PathBuf> {
    let rule = "an absolute path";
    move |field, value| {
        let fits = |path: &str| path.starts_with('/') && !path.contains('\0');
        text_where(max_len, rule, fits)(field, value).map(PathBuf::from)
    }
}

/// A DNS name.
pub(super) fn dns_name(field: &mut Field<'_>, value: &Value<'_>) -> Option<String> {
    let rule = "a DNS name, without wildcard or final dot";
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text_where(253, rule, |name| name.split('.').all(label))(field, value).map(str::to_owned)
}
