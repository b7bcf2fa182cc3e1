//! Reads ports: `443`, `"8000-8010"`, `"any"`, or a list of the first two.

use std::ops::Range;

use serde_json::json;
use toml::de::DeValue;

use super::super::check::rules;
use super::super::model::Ports;
use super::super::wording::quoted;
use super::fields::{Field, Value};
use super::values::{list, whole};

/// Most entries of a list.
const MAX_ENTRIES: usize = 1024;
/// Fewest ports to send from: every CPU has some of its own.
const MIN_SOURCE_PORTS: usize = 1024;
/// A range, as a pattern.
const RANGE: &str = "^[0-9]+-[0-9]+$";
const HELP: &str = "write a port, a range \"8000-8010\", a list of these, or \"any\"";

/// A single port from 1 to 65535.
pub(super) fn port(field: &mut Field<'_>, value: &Value<'_>) -> Option<u16> {
    field.takes(|| whole(1, 65_535));
    let DeValue::Integer(digits) = value.get_ref() else {
        field.wrong_type(
            value,
            "a port",
            "write a number from 1 to 65535, without quotes",
        );
        return None;
    };
    match u16::from_str_radix(digits.as_str(), digits.radix()) {
        Ok(0) => {
            zero(field, value);
            None
        }
        Ok(port) => Some(port),
        Err(_) => {
            field.bad(value, format!("is {digits}, limit 1 to 65535"), HELP);
            None
        }
    }
}

/// The ports of a service.
pub(super) fn ports(field: &mut Field<'_>, value: &Value<'_>) -> Option<Ports> {
    field.takes(|| {
        let range = json!({ "type": "string", "pattern": RANGE });
        let entries = json!([whole(1, 65_535), range]);
        let list = json!({ "type": "array", "minItems": 1, "maxItems": MAX_ENTRIES,
            "items": { "anyOf": entries.clone() } });
        json!({ "anyOf": [whole(1, 65_535), range, { "const": "any" }, list] })
    });
    match value.get_ref() {
        DeValue::String(written) if written == "any" => Some(Ports::Any),
        DeValue::Array(_) => {
            let mut entries = Vec::new();
            let all_good = list(MAX_ENTRIES, |field, value| {
                entries.push((range(field, value)?, value.span()));
                Some(())
            })(field, value);
            let ports = merged(field, entries)?;
            all_good.map(|_| ports)
        }
        _ => Some(Ports::Ranges(vec![range(field, value)?])),
    }
}

/// A range that `fullnat` sends from, such as `"32768-60999"`.
pub(super) fn source_range(field: &mut Field<'_>, value: &Value<'_>) -> Option<(u16, u16)> {
    let help = "write a range such as \"32768-60999\"";
    field.takes(|| json!({ "type": "string", "pattern": RANGE }));
    if value.get_ref().as_str().is_none() {
        field.wrong_type(value, "a range of ports", help);
        return None;
    }
    let (first, last) = range(field, value)?;
    let count = usize::from(last - first) + 1;
    if count < MIN_SOURCE_PORTS {
        let text = format!("has {count} ports, wanted {MIN_SOURCE_PORTS} or more");
        let help = format!("each CPU gets a part of them: {help}");
        field.bad(value, text, help);
        return None;
    }
    Some((first, last))
}

fn range(field: &mut Field<'_>, value: &Value<'_>) -> Option<(u16, u16)> {
    let written = match value.get_ref() {
        DeValue::Integer(_) => return port(field, value).map(|port| (port, port)),
        DeValue::String(written) => written,
        _ => {
            field.wrong_type(value, "a port or a range", HELP);
            return None;
        }
    };
    if written == "any" {
        let help = "write `port = \"any\"` alone, or name the ports";
        field.bad(value, "has \"any\" in a list", help);
        return None;
    }
    if is_digits(written) {
        let help = "write it without quotes";
        field.bad(
            value,
            format!("has {}, a number in quotes", quoted(written)),
            help,
        );
        return None;
    }
    let bounds = written.split_once('-').and_then(|(first, last)| {
        let bound = |digits: &str| is_digits(digits).then(|| digits.parse::<u16>().ok())?;
        Some((bound(first)?, bound(last)?))
    });
    match bounds {
        Some((0, _)) => {
            zero(field, value);
            None
        }
        Some((first, last)) if first <= last => Some((first, last)),
        Some((first, last)) => {
            let text = format!("has {}, which runs backwards", quoted(written));
            field.bad(value, text, format!("write \"{last}-{first}\""));
            None
        }
        None => {
            field.bad(
                value,
                format!("has {}, not a range of ports", quoted(written)),
                HELP,
            );
            None
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn zero(field: &mut Field<'_>, value: &Value<'_>) {
    let text = format!("`{}` has port 0, limit 1 to 65535", field.key);
    let help = "nothing can be sent to port 0; for every port write \"any\"";
    field.report(&rules::PORT_MISMATCH, value.span(), text, help);
}

/// Sorts the ranges and joins those that touch; an overlap is a fault, as it
/// is more likely a slip than a wish.
fn merged(field: &mut Field<'_>, mut entries: Vec<((u16, u16), Range<usize>)>) -> Option<Ports> {
    entries.sort_by_key(|(range, _)| *range);
    let mut ranges: Vec<(u16, u16)> = Vec::with_capacity(entries.len());
    let mut overlaps = false;
    for ((first, last), span) in entries {
        match ranges.last_mut() {
            Some(before) if first <= before.1 => {
                let text = format!("`{}` names port {first} twice", field.key);
                let help = "name each port once";
                field.report(&rules::BAD_VALUE, span, text, help);
                overlaps = true;
                before.1 = before.1.max(last);
            }
            Some(before) if u32::from(first) == u32::from(before.1) + 1 => before.1 = last,
            _ => ranges.push((first, last)),
        }
    }
    (!overlaps).then_some(Ports::Ranges(ranges))
}
