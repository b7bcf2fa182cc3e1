//! The tables a trace runs on: those of a daemon that has just started and
//! found every backend up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use balancer_common::layout::Member;

use super::super::output;
use crate::config::model::{Backend, Config, Seed, Service};
use crate::daemon::hops;
use crate::dataplane::{ServiceId, State};
use crate::desired::{Builder, Seat, World};
use crate::health;
use crate::member::Hop;
use crate::probe::scheduler::TargetId;
use crate::rehearsal::{NamedState, Names};

/// Outer source where none can be known: the IPv4 dummy address (RFC 7600).
const DUMMY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// The same for IPv6, of the discard prefix (RFC 6666).
const DUMMY_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// A state with the names that belong to its numbers.
pub(in crate::cli) struct Tables {
    named: NamedState,
    seats: BTreeMap<String, Vec<Option<Seat>>>,
}

impl Tables {
    /// Builds them, with notes on stderr about what had to be made up.
    pub(in crate::cli) async fn build(config: &Config) -> Self {
        let mut hops = hops::resolve(config).await;
        arrive(config, &mut hops);
        for (address, source) in make_up_sources(config, &mut hops) {
            output::note(format_args!(
                "note: no source address for the tunnel to {address} can be found; {source} \
                 stands for it"
            ));
        }
        let tables = Self::with_hops(config, &seed(config), hops);
        for line in tables.unresolved(config) {
            output::note(format_args!("note: {line}"));
        }
        tables
    }

    fn with_hops(config: &Config, seed: &Seed, hops: BTreeMap<IpAddr, Hop>) -> Self {
        let world = World {
            health: all_up(config),
            hops,
            ..World::default()
        };
        let mut builder = Builder::default();
        let state = builder.build(config, seed, &world, Instant::now()).state;
        let names = Names::of(&builder, &state);
        let seats = config
            .services
            .iter()
            .map(|service| (service.name.clone(), builder.seats(&service.name)))
            .collect();
        Self {
            named: NamedState { state, names },
            seats,
        }
    }

    /// What the program is to run on.
    pub(super) fn state(&self) -> &State {
        &self.named.state
    }

    /// The same with its names.
    pub(in crate::cli) fn named(&self) -> &NamedState {
        &self.named
    }

    /// The seat of a service's backend.
    pub(in crate::cli) fn seat(&self, service: &str, backend: &str) -> Option<&Seat> {
        let mut seats = self.seats.get(service)?.iter().flatten();
        seats.find(|seat| *seat.backend == *backend)
    }

    /// Its member, as the program sees it.
    pub(in crate::cli) fn member(&self, service: &str, backend: &str) -> Option<&Member> {
        let at = self
            .seats
            .get(service)?
            .iter()
            .position(|seat| seat.as_ref().is_some_and(|seat| *seat.backend == *backend))?;
        let id = self.named.names.id(service)?;
        self.named.state.services.get(&id)?.members.get(at)
    }

    /// The name of a service.
    pub(super) fn service(&self, id: ServiceId) -> Option<&str> {
        self.named.names.service(id)
    }

    /// The name of a service's backend.
    pub(super) fn backend(&self, id: ServiceId, member: u16) -> Option<&str> {
        self.named.names.backend(id, member)
    }

    /// A sentence for each backend that would get packets and cannot.
    fn unresolved(&self, config: &Config) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, seats) in &self.seats {
            let id = self.named.names.id(name);
            let state = id.and_then(|id| self.named.state.services.get(&id));
            let members = state.map(|it| &it.members);
            for (member, seat) in members.into_iter().flatten().zip(seats) {
                let Some(seat) = seat.as_ref().filter(|seat| seat.slot_count > 0) else {
                    continue;
                };
                if member.flags & Member::RESOLVED != 0 {
                    continue;
                }
                let backend = config
                    .service(name)
                    .and_then(|service| service.backend(&seat.backend));
                let address = backend.map(|it| format!(" ({})", it.address));
                lines.push(format!(
                    "service {name}: no way to backend {}{} is known, so its packets show drop \
                     no_next_hop; give it a `mac`, or a route and a neighbour",
                    seat.backend,
                    address.unwrap_or_default()
                ));
            }
        }
        lines
    }
}

/// Every backend with a probe is up.
fn all_up(config: &Config) -> BTreeMap<TargetId, health::State> {
    let probed = config.services.iter().filter(|it| it.health.is_some());
    probed
        .flat_map(|service| {
            service.backends.iter().map(|backend| TargetId {
                service: service.name.clone(),
                backend: backend.name.clone(),
            })
        })
        .map(|id| (id, health::State::Up))
        .collect()
}

/// Lets packets arrive on the file's first interface: who leaves by it leaves
/// the way it came, from the address it was sent to. So does a backend whose
/// `mac` is in the file, as its trace must not depend on this host's routes.
fn arrive(config: &Config, hops: &mut BTreeMap<IpAddr, Hop>) {
    let first = config.node.interfaces.first();
    let arrival = first.and_then(|name| nix::net::if_::if_nametoindex(name.as_str()).ok());
    let backends = config.services.iter().flat_map(|service| &service.backends);
    for backend in backends {
        let Some(hop) = hops.get_mut(&backend.address) else {
            continue;
        };
        if backend.mac.is_some() || Some(hop.egress) == arrival {
            hop.egress = 0;
            hop.source = None;
        }
    }
}

/// Gives tunnels that would have no outer source a dummy one; says which.
fn make_up_sources(config: &Config, hops: &mut BTreeMap<IpAddr, Hop>) -> BTreeMap<IpAddr, IpAddr> {
    let mut made_up = BTreeMap::new();
    for (backend, hop) in tunnels(config)
        .into_iter()
        .filter_map(|address| Some((address, hops.remove(&address)?)))
        .collect::<Vec<_>>()
    {
        let (dummy, set) = match backend {
            IpAddr::V4(_) => (DUMMY_V4.into(), config.node.tunnel_source_v4.is_some()),
            IpAddr::V6(_) => (DUMMY_V6.into(), config.node.tunnel_source_v6.is_some()),
        };
        let known = hop
            .address
            .is_some_and(|address| address.is_ipv4() == backend.is_ipv4());
        let address = if set || known {
            hop.address
        } else {
            made_up.insert(backend, dummy);
            Some(dummy)
        };
        hops.insert(backend, Hop { address, ..hop });
    }
    made_up
}

/// Addresses of the backends that are reached through a tunnel.
fn tunnels(config: &Config) -> BTreeSet<IpAddr> {
    let tunnelled = |service: &&Service| service.forward.is_tunnel();
    let address = |backend: &Backend| backend.address;
    let services = config.services.iter().filter(tunnelled);
    services
        .flat_map(|service| service.backends.iter().map(address))
        .collect()
}

/// The seed of the file, or of the daemon that ran on this host, or zeros.
/// None is made: a trace leaves nothing behind.
fn seed(config: &Config) -> Seed {
    if let Some(seed) = config.node.seed {
        return seed;
    }
    let path = config.node.state_dir.join("seed");
    let kept = fs::read(&path).ok();
    if let Some(seed) = kept.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) {
        return Seed(seed);
    }
    output::note(format_args!(
        "note: the file has no `seed` and {} holds none, so flows are hashed with zeros; the \
         daemon will hash them otherwise",
        path.display()
    ));
    Seed([0; 16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const FILE: &str = r#"
[node]
interfaces = ["eth0"]
seed = "000102030405060708090a0b0c0d0e0f"
tunnel_source_v6 = "2001:db8::1"

[[service]]
name = "tunnels"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "ipip"
health = { kind = "tcp" }
[[service.backend]]
name = "known"
address = "10.0.0.1"
[[service.backend]]
name = "unknown"
address = "10.0.0.2"
[[service.backend]]
name = "six"
address = "2001:db8::2"
[[service.backend]]
name = "lost"
address = "10.0.0.3"
[[service.backend]]
name = "drained"
address = "10.0.0.4"
drain = true
"#;

    fn hop(address: Option<&str>) -> Hop {
        Hop {
            egress: 0,
            mtu: 1500,
            destination: Some(config::model::Mac([2, 0, 0, 0, 0, 1])),
            source: None,
            address: address.map(|address| address.parse().unwrap()),
            on_link: true,
        }
    }

    fn hops() -> BTreeMap<IpAddr, Hop> {
        [
            ("10.0.0.1", hop(Some("10.0.0.9"))),
            ("10.0.0.2", hop(None)),
            ("2001:db8::2", hop(None)),
        ]
        .into_iter()
        .map(|(address, hop)| (address.parse().unwrap(), hop))
        .collect()
    }

    #[test]
    fn source_is_made_up_only_where_none_can_be_known() {
        let config = config::examine("test", FILE, None).config.unwrap();
        let mut hops = hops();
        let made_up = make_up_sources(&config, &mut hops);
        let unknown: IpAddr = "10.0.0.2".parse().unwrap();
        assert_eq!(made_up, BTreeMap::from([(unknown, DUMMY_V4.into())]));
        assert_eq!(hops[&unknown].address, Some(DUMMY_V4.into()));
        assert_eq!(hops.len(), 3);
        assert_eq!(DUMMY_V6.to_string(), "100::");
    }

    #[test]
    fn backend_without_a_way_is_named_once_unless_it_gets_no_packets_anyway() {
        let config = config::examine("test", FILE, None).config.unwrap();
        let mut hops = hops();
        make_up_sources(&config, &mut hops);
        let tables = Tables::with_hops(&config, &config.node.seed.unwrap(), hops);
        let lines = tables.unresolved(&config);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("backend lost (10.0.0.3)"), "{lines:?}");
    }
}
