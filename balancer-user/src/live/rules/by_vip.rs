//! Rules about probes by the VIP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Context;
use crate::config::check::rules;
use crate::config::model::{Service, Via};
use crate::config::spans::Place;
use crate::netlink::Unresolved;

pub(super) fn check(context: &mut Context<'_>) {
    for (index, service) in context.services() {
        let health = service.health.as_ref();
        if health.is_some_and(|health| health.via == Via::Vip) {
            possible(context, index, service);
            reverse_paths(context, index, service);
        }
    }
}

/// What this host lacks.
fn possible(context: &mut Context<'_>, index: usize, service: &Service) {
    let object = format!("service {}: probes go by the VIP", service.name);
    let place = Place::Health(index, "via");
    let way = context.host.vip_ways.get(&service.address);
    if let Some(Err(Unresolved::Local { .. })) = way {
        let message = format!(
            "{object}, and {} is an address of this host: what it sends there never leaves it",
            service.address
        );
        context.report(&rules::VIP_PROBE, place, message, |finding| {
            finding.help("route the VIP to this host instead of holding it, or leave `via` out")
        });
    }
    if let Some(why) = &context.host.no_tun {
        let (what, help) = match why.split_once("; ") {
            Some((what, help)) => (what, help),
            None => (why.as_str(), "leave `via` out where it cannot be had"),
        };
        let message = format!("{object}, and {what}");
        context.report(&rules::VIP_PROBE, place, message, |finding| {
            finding.help(help)
        });
    }
}

/// Answers come from the VIP, on the interface towards the backend; a strict
/// filter there drops them where this host would not send to the VIP by it.
fn reverse_paths(context: &mut Context<'_>, index: usize, service: &Service) {
    let host = context.host;
    let expected = match host.vip_ways.get(&service.address) {
        Some(Ok(way)) => Some(way.interface.as_str()),
        Some(Err(Unresolved::Local { .. })) | None => return,
        Some(Err(_)) => None,
    };
    let ways = service.backends.iter().filter_map(|backend| {
        let hop = host.hops.get(&backend.address)?.as_ref().ok()?;
        Some(hop.interface.as_str())
    });
    let strict = |name: &&str| host.strict_reverse_path.iter().any(|it| it == name);
    let filtered: BTreeSet<&str> = ways
        .filter(strict)
        .filter(|name| Some(*name) != expected)
        .collect();
    let is_filtered = matches!(service.address, IpAddr::V4(_)) && !filtered.is_empty();
    for name in filtered.iter().filter(|_| is_filtered) {
        let instead = match expected {
            Some(other) => format!("expects it on {other}"),
            None => "has no route to it".to_owned(),
        };
        let message = format!(
            "service {}: probes go by the VIP, whose answers come in on {name}, where strict \
             rp_filter drops them: this host {instead}",
            service.name
        );
        let value = match expected {
            Some(_) => 2,
            None => 0,
        };
        context.report(
            &rules::RP_FILTER,
            Place::Health(index, "via"),
            message,
            |it| it.help(format!("`sysctl net.ipv4.conf.{name}.rp_filter={value}`")),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::config::diagnostic::Level;
    use crate::config::examine;
    use crate::config::model::Mac;
    use crate::live::Host;
    use crate::netlink::{NextHop, Unresolved};

    const FILE: &str = r#"[node]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "ipip"

[service.health]
kind = "tcp"
via = "vip"

[[service.backend]]
address = "10.0.0.1"
"#;

    fn hop(interface: &str) -> NextHop {
        NextHop {
            egress: 2,
            interface: interface.to_owned(),
            neighbour: "10.0.0.1".parse().unwrap(),
            on_link: true,
            mac: Some(Mac([2; 6])),
            source_mac: Mac([4; 6]),
            source: Some("10.0.0.9".parse().unwrap()),
            mtu: 1500,
        }
    }

    /// What is found with that way to the VIP, the backend being on `eth1`
    /// with a strict filter: rules and messages at `via`.
    fn found(
        text: &str,
        vip_way: Result<NextHop, Unresolved>,
        no_tun: Option<&str>,
    ) -> Vec<(&'static str, String)> {
        let examined = examine("test", text, None);
        let host = Host {
            hops: [("10.0.0.1".parse().unwrap(), Ok(hop("eth1")))].into(),
            vip_ways: [("192.0.2.10".parse().unwrap(), vip_way)].into(),
            strict_reverse_path: vec!["eth1".to_owned()],
            no_tun: no_tun.map(str::to_owned),
            ..Host::default()
        };
        let mut found = check(&examined.config.unwrap(), &examined.spans, &host);
        found.retain(|it| ["vip-probe", "rp-filter"].contains(&it.rule));
        for finding in &found {
            assert_eq!(finding.level, Level::Error);
            assert_eq!(&text[finding.span.clone().unwrap()], "\"vip\"");
            assert!(finding.help.is_some(), "{finding:?}");
        }
        found.into_iter().map(|it| (it.rule, it.message)).collect()
    }

    #[test]
    fn address_of_this_host_and_a_missing_device_are_errors() {
        let destination = "192.0.2.10".parse().unwrap();
        let local = || Err(Unresolved::Local { destination });
        let [(rule, message)] = &found(FILE, local(), None)[..] else {
            panic!("not one finding");
        };
        assert_eq!(*rule, "vip-probe");
        assert!(
            message.contains("192.0.2.10 is an address of this host"),
            "{message}"
        );
        let both = found(
            FILE,
            local(),
            Some("/dev/net/tun is not there; `modprobe tun`"),
        );
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(
            both[1].1.ends_with("and /dev/net/tun is not there"),
            "{both:?}"
        );
    }

    #[test]
    fn strict_filter_is_an_error_where_the_vip_is_elsewhere() {
        for (way, part) in [
            (Ok(hop("eth0")), "expects it on eth0"),
            (
                Err(Unresolved::NoRoute {
                    destination: "192.0.2.10".parse().unwrap(),
                }),
                "has no route to it",
            ),
        ] {
            let [(rule, message)] = &found(FILE, way, None)[..] else {
                panic!("not one finding");
            };
            assert_eq!(*rule, "rp-filter");
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(found(FILE, Ok(hop("eth1")), None), []);
        let plain = FILE.replace("via = \"vip\"\n", "");
        assert_eq!(found(&plain, Ok(hop("eth0")), None), []);
    }
}
