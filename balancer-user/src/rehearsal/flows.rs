//! Clients of a service that do not exist: whose packets are rehearsed.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancer_common::verdict::Reason;
use ipnet::IpNet;

use super::random::Random;
use crate::config::model::{Ports, Protocol, Service};

/// A port no client sends from is below this.
const FIRST_CLIENT_PORT: u16 = 1024;
/// Of so many clients of a service with lists of sources one is drawn without
/// regard to them.
const STRANGERS: usize = 16;
/// Draws before a service is taken to have no other flows: one client's
/// address and one port have 64,512.
const DRAWS: usize = 64;

/// A five-tuple, from the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
    pub(crate) protocol: Protocol,
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (client, service) = (self.client, self.service);
        write!(f, "{} {client} -> {service}", self.protocol)
    }
}

/// The flows of a service, one after the other and none twice.
pub(super) struct Flows<'a> {
    service: &'a Service,
    ports: Vec<u16>,
    random: Random,
    drawn: HashSet<Flow>,
}

impl<'a> Flows<'a> {
    pub(super) fn of(service: &'a Service) -> Self {
        let ports = match &service.ports {
            Ports::Any => (1..=u16::MAX).collect(),
            ports => ports.iter().collect(),
        };
        Self {
            service,
            ports,
            random: Random::of(&service.name),
            drawn: HashSet::new(),
        }
    }

    /// What a packet is made of beside its flow.
    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn draw(&mut self) -> Flow {
        let port = self.ports[self.random.below(self.ports.len())];
        let client_ports = usize::from(u16::MAX - FIRST_CLIENT_PORT) + 1;
        let client_port = FIRST_CLIENT_PORT + self.random.below(client_ports) as u16;
        Flow {
            client: SocketAddr::new(self.source(), client_port),
            service: SocketAddr::new(self.service.address, port),
            protocol: self.service.protocol,
        }
    }

    /// Mostly a client that the service lets in.
    fn source(&mut self) -> IpAddr {
        let (allowed, denied) = (&self.service.allow_sources, &self.service.deny_sources);
        let of_list = |random: &mut Random, list: &[IpNet]| {
            let prefix = list[random.below(list.len())];
            within(prefix, random)
        };
        let is_strange = self.random.below(STRANGERS) == 0;
        if is_strange && !denied.is_empty() {
            return of_list(&mut self.random, denied);
        }
        if !is_strange && !allowed.is_empty() {
            return of_list(&mut self.random, allowed);
        }
        anywhere(self.service.address.is_ipv4(), &mut self.random)
    }
}

impl Iterator for Flows<'_> {
    type Item = Flow;

    fn next(&mut self) -> Option<Flow> {
        (0..DRAWS).find_map(|_| {
            let flow = self.draw();
            self.drawn.insert(flow).then_some(flow)
        })
    }
}

fn anywhere(is_v4: bool, random: &mut Random) -> IpAddr {
    let all = if is_v4 {
        // Unicast addresses that are neither "this network" nor loopback.
        loop {
            let address = Ipv4Addr::from(random.bytes::<4>());
            if (1..224).contains(&address.octets()[0]) && !address.is_loopback() {
                return address.into();
            }
        }
    } else {
        random.bytes::<16>()
    };
    let mut address = all;
    // 2000::/3, what is unicast and global.
    address[0] = 0x20 | address[0] & 0x1f;
    Ipv6Addr::from(address).into()
}

fn within(prefix: IpNet, random: &mut Random) -> IpAddr {
    match prefix {
        IpNet::V4(prefix) => {
            let hosts = u32::from_be_bytes(random.bytes()) & u32::from(prefix.hostmask());
            Ipv4Addr::from(u32::from(prefix.network()) | hosts).into()
        }
        IpNet::V6(prefix) => {
            let hosts = u128::from_be_bytes(random.bytes()) & u128::from(prefix.hostmask());
            Ipv6Addr::from(u128::from(prefix.network()) | hosts).into()
        }
    }
}

/// Why a service does not let a source in, if it does not: of all prefixes
/// that hold it the longest decides.
pub(crate) fn refusal(service: &Service, source: IpAddr) -> Option<Reason> {
    let longest = |list: &[IpNet]| {
        let held = list.iter().filter(|prefix| prefix.contains(&source));
        held.map(IpNet::prefix_len).max()
    };
    let (allowed, denied) = (
        longest(&service.allow_sources),
        longest(&service.deny_sources),
    );
    match (allowed, denied) {
        (None, None) if service.allow_sources.is_empty() => None,
        (None, None) => Some(Reason::SourceNotAllowed),
        (allowed, denied) if allowed > denied => None,
        _ => Some(Reason::SourceDenied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn service(more: &str) -> Service {
        let text = format!(
            r#"
[node]
interfaces = ["eth0"]
[[service]]
name = "web"
address = "192.0.2.10"
port = "80-81"
protocol = "tcp"
forward = "l2"
{more}
[[service.backend]]
name = "web-1"
address = "10.0.0.1"
"#
        );
        let examined = config::examine("test", text, None);
        examined.config.unwrap().services.remove(0)
    }

    #[test]
    fn flows_are_distinct_and_of_the_service() {
        let service = service("");
        let flows: Vec<Flow> = Flows::of(&service).take(5000).collect();
        let distinct: HashSet<Flow> = flows.iter().copied().collect();
        assert_eq!(distinct.len(), 5000);
        for flow in &flows {
            assert!((80..=81).contains(&flow.service.port()), "{flow}");
            assert!(flow.client.port() >= FIRST_CLIENT_PORT, "{flow}");
            assert!(flow.client.is_ipv4() && !flow.client.ip().is_multicast());
        }
        let again: Vec<Flow> = Flows::of(&service).take(5000).collect();
        assert_eq!(flows, again, "a rehearsal can be repeated");
    }

    #[test]
    fn lists_are_drawn_from_and_the_longest_prefix_decides() {
        let service = service(
            "allow_sources = [\"198.51.100.0/24\"]\ndeny_sources = [\"198.51.100.128/25\"]",
        );
        let refused = |source: &str| refusal(&service, source.parse().unwrap());
        assert_eq!(refused("198.51.100.1"), None);
        assert_eq!(refused("198.51.100.129"), Some(Reason::SourceDenied));
        assert_eq!(refused("203.0.113.1"), Some(Reason::SourceNotAllowed));
        let flows: Vec<Flow> = Flows::of(&service).take(4000).collect();
        let count = |wanted: Option<Reason>| {
            let of_kind = |flow: &&Flow| refusal(&service, flow.client.ip()) == wanted;
            flows.iter().filter(of_kind).count()
        };
        assert!(count(None) > 1000 && count(Some(Reason::SourceDenied)) > 1000);
    }

    #[test]
    fn service_with_few_flows_runs_out_of_them() {
        let service = service("allow_sources = [\"198.51.100.7/32\"]\nmss_clamp = 1400");
        let allowed = |flow: &Flow| refusal(&service, flow.client.ip()).is_none();
        let count = Flows::of(&service).filter(allowed).take(200_000).count();
        assert!((100_000..=2 * 64_512).contains(&count), "{count}");
    }
}
