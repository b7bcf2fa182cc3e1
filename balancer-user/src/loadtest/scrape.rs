//! What the balancer says of a service's backends while it is tested: from its
//! control socket on the same host, or from its metrics on another.

use std::net::SocketAddr;

use super::shares::Seen;
use crate::api::types::{ServiceStatus, Status};

/// What is counted of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Flows of TCP, each of which has one first packet.
    Flows,
    /// Packets of UDP.
    Packets,
}

/// The service that an address and port are of, by what is counted of it.
pub fn service_at(
    status: &Status,
    address: SocketAddr,
    counted: Counted,
) -> Option<&ServiceStatus> {
    let protocol = match counted {
        Counted::Flows => "tcp",
        Counted::Packets => "udp",
    };
    status.services.iter().find(|it| {
        it.address == address.ip() && it.protocol == protocol && has_port(&it.ports, address.port())
    })
}

fn has_port(ports: &str, port: u16) -> bool {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let mut ranges = ports.split(',').filter_map(range);
    ports == "any" || ranges.any(|it: std::ops::RangeInclusive<u16>| it.contains(&port))
}

/// The backends of a service in a status.
pub fn of_status(service: &ServiceStatus, counted: Counted) -> Vec<Seen> {
    let backends = service.backends.iter();
    backends
        .map(|it| Seen {
            name: it.name.clone(),
            flows: match counted {
                Counted::Flows => it.flows,
                Counted::Packets => it.packets,
            },
            share: it.share_expected,
        })
        .collect()
}

/// The backends of a service in metrics, as Prometheus reads them.
///
/// # Errors
/// When this is no text of metrics.
pub fn of_metrics(text: &str, service: &str, counted: Counted) -> Result<Vec<Seen>, String> {
    let total = match counted {
        Counted::Flows => "balancer_backend_flows_total",
        Counted::Packets => "balancer_backend_packets_total",
    };
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let scrape = prometheus_parse::Scrape::parse(lines).map_err(|error| error.to_string())?;
    let mut backends: Vec<Seen> = Vec::new();
    for sample in &scrape.samples {
        let (Some(of), Some(backend)) =
            (sample.labels.get("service"), sample.labels.get("backend"))
        else {
            continue;
        };
        if of != service {
            continue;
        }
        let value = match &sample.value {
            prometheus_parse::Value::Counter(value)
            | prometheus_parse::Value::Gauge(value)
            | prometheus_parse::Value::Untyped(value) => *value,
            _ => continue,
        };
        let (flows, share) = match sample.metric.as_str() {
            name if name == total => (Some(value as u64), None),
            "balancer_backend_expected_share_ratio" => (None, Some(value)),
            _ => continue,
        };
        let at = backends.iter().position(|it| it.name == backend);
        let at = at.unwrap_or_else(|| {
            backends.push(Seen {
                name: backend.to_owned(),
                flows: 0,
                share: 0.0,
            });
            backends.len() - 1
        });
        let seen = &mut backends[at];
        seen.flows = flows.unwrap_or(seen.flows);
        seen.share = share.unwrap_or(seen.share);
    }
    Ok(backends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_from_metrics() {
        let text = "# TYPE balancer_backend_flows counter\n\
            balancer_backend_flows_total{service=\"web\",backend=\"web-1\"} 12\n\
            balancer_backend_flows_total{service=\"api\",backend=\"api-1\"} 99\n\
            # TYPE balancer_backend_packets counter\n\
            balancer_backend_packets_total{service=\"web\",backend=\"web-1\"} 77\n\
            # TYPE balancer_backend_expected_share_ratio gauge\n\
            balancer_backend_expected_share_ratio{service=\"web\",backend=\"web-1\"} 0.25\n\
            balancer_backend_expected_share_ratio{service=\"web\",backend=\"web-2\"} 0.75\n\
            # EOF\n";
        let seen = of_metrics(text, "web", Counted::Flows).unwrap();
        let got: Vec<_> = seen
            .iter()
            .map(|it| (it.name.as_str(), it.flows, it.share))
            .collect();
        assert_eq!(got, [("web-1", 12, 0.25), ("web-2", 0, 0.75)]);
        let packets = of_metrics(text, "web", Counted::Packets).unwrap();
        assert_eq!((packets[0].flows, packets[1].flows), (77, 0));
        assert_eq!(of_metrics(text, "mail", Counted::Flows).unwrap(), []);
    }

    #[test]
    fn ports_are_found_in_their_ranges() {
        for (ports, port, is) in [
            ("443", 443, true),
            ("443", 80, false),
            ("80,8000-8010", 8005, true),
            ("80,8000-8010", 8011, false),
            ("any", 9, true),
        ] {
            assert_eq!(has_port(ports, port), is, "{ports} {port}");
        }
    }
}
