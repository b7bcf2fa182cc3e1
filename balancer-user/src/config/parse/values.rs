//! Readers of single values: each checks the type, then the limits.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::super::model::Mac;
use super::super::wording::{nearest, quoted};
use super::fields::{Field, Value};

/// Longest name of a service, backend or zone.
const MAX_NAME_LEN: usize = 64;

/// A string.
pub(super) fn text<'t>(field: &mut Field<'_>, value: &'t Value<'t>) -> Option<&'t str> {
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

/// `true` or `false`.
pub(super) fn boolean(field: &mut Field<'_>, value: &Value<'_>) -> Option<bool> {
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
    mut entry: impl FnMut(&mut Field<'_>, &'t Value<'t>) -> Option<T>,
) -> impl FnOnce(&mut Field<'_>, &'t Value<'t>) -> Option<Vec<T>> {
    move |field, value| {
        let DeValue::Array(array) = value.get_ref() else {
            let help = format!("write a list: `{} = […]`", field.key);
            field.wrong_type(value, "an array", help);
            return None;
        };
        if array.is_empty() {
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

/// An IP address of either family.
pub(super) fn address(field: &mut Field<'_>, value: &Value<'_>) -> Option<IpAddr> {
    parsed(field, value, "an IP address")
}

/// An IPv4 address that a host can have.
pub(super) fn host_address_v4(field: &mut Field<'_>, value: &Value<'_>) -> Option<Ipv4Addr> {
    let found: Ipv4Addr = parsed(field, value, "an IPv4 address")?;
    host_address(field, value, found.into())?;
    Some(found)
}

/// An IPv6 address that a host can have.
pub(super) fn host_address_v6(field: &mut Field<'_>, value: &Value<'_>) -> Option<Ipv6Addr> {
    let found: Ipv6Addr = parsed(field, value, "an IPv6 address")?;
    host_address(field, value, found.into())?;
    Some(found)
}

fn host_address(field: &mut Field<'_>, value: &Value<'_>, address: IpAddr) -> Option<()> {
    let Some(kind) = unusable(address) else {
        return Some(());
    };
    let text = format!("is {address}, {kind}");
    field.bad(value, text, "name an address of this host");
    None
}

/// Why no other host can be reached at an address, if so.
pub(in super::super) fn unusable(address: IpAddr) -> Option<&'static str> {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if mapped {
        Some("an IPv4 address in IPv6 clothes")
    } else if address.is_unspecified() {
        Some("an unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("the broadcast address")
    } else if link_local {
        Some("a link-local address")
    } else {
        None
    }
}

fn parsed<T: FromStr>(field: &mut Field<'_>, value: &Value<'_>, wanted: &str) -> Option<T> {
    let help = "write the bare address: no name, port or prefix length";
    let Some(written) = value.get_ref().as_str() else {
        field.wrong_type(value, "a string", help);
        return None;
    };
    let found = written.parse().ok();
    if found.is_none() {
        field.bad(value, format!("is {}, not {wanted}", quoted(written)), help);
    }
    found
}

/// A network such as `"10.0.0.0/24"`, without host bits.
pub(super) fn network(field: &mut Field<'_>, value: &Value<'_>) -> Option<IpNet> {
    let help = "write networks as \"10.0.0.0/24\"";
    let Some(written) = value.get_ref().as_str() else {
        field.wrong_type(value, "a string", help);
        return None;
    };
    if let Ok(network) = written.parse::<IpNet>() {
        if network.trunc() == network {
            return Some(network);
        }
        let text = format!("has {}, which has host bits set", quoted(written));
        field.bad(
            value,
            text,
            format!("the network is \"{}\"", network.trunc()),
        );
    } else {
        let help = match written.parse::<IpAddr>() {
            Ok(address) => format!("for that one host write \"{}\"", IpNet::from(address)),
            Err(_) => help.to_owned(),
        };
        field.bad(
            value,
            format!("has {}, not a network", quoted(written)),
            help,
        );
    }
    None
}

/// The Ethernet address of a single station.
pub(super) fn mac(field: &mut Field<'_>, value: &Value<'_>) -> Option<Mac> {
    let help = "write it as \"02:00:5e:10:00:01\"";
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_other_host_can_have_are_known() {
        for (address, kind) in [
            ("0.0.0.0", "an unspecified address"),
            ("127.1.2.3", "a loopback address"),
            ("239.0.0.1", "a multicast address"),
            ("255.255.255.255", "the broadcast address"),
            ("169.254.1.1", "a link-local address"),
            ("::", "an unspecified address"),
            ("::1", "a loopback address"),
            ("ff02::1", "a multicast address"),
            ("fe80::1", "a link-local address"),
            ("::ffff:10.0.0.1", "an IPv4 address in IPv6 clothes"),
        ] {
            assert_eq!(unusable(address.parse().unwrap()), Some(kind), "{address}");
        }
        for address in ["10.0.0.1", "255.255.255.254", "2001:db8::1", "fd00::1"] {
            assert_eq!(unusable(address.parse().unwrap()), None, "{address}");
        }
    }
}
