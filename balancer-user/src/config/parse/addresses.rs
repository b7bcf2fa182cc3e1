//! Readers of addresses of hosts and of networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::json;

use super::super::wording::quoted;
use super::fields::{Field, Value};

/// An IP address of either family.
pub(super) fn address(field: &mut Field<'_>, value: &Value<'_>) -> Option<IpAddr> {
    field.takes(
        || json!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] }),
    );
    parsed(field, value, "an IP address")
}

/// An IPv4 address that a host can have.
pub(super) fn host_address_v4(field: &mut Field<'_>, value: &Value<'_>) -> Option<Ipv4Addr> {
    field.takes(|| json!({ "type": "string", "format": "ipv4" }));
    let found: Ipv4Addr = parsed(field, value, "an IPv4 address")?;
    host_address(field, value, found.into())?;
    Some(found)
}

/// An IPv6 address that a host can have.
pub(super) fn host_address_v6(field: &mut Field<'_>, value: &Value<'_>) -> Option<Ipv6Addr> {
    field.takes(|| json!({ "type": "string", "format": "ipv6" }));
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
    field.takes(|| json!({ "type": "string", "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$" }));
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
