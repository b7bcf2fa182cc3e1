//! A host of a lab: a namespace, its interfaces and what was set up in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::plan::Subnet;
use crate::lab::link::{self, End, LinkCounters, Mac, Route};
use crate::lab::namespace::Namespace;
use crate::lab::offload;
use crate::lab::pass::{self, Action, Attached};

/// Settings of every host, made before its first interface, which inherits the
/// `default` ones.
const EVERY_HOST: [(&str, &str); 15] = [
    // Under direct return, requests and replies take different ways.
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    // A redirect would teach the clients a way around the balancer.
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.default.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.default.accept_redirects", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
    ("net.ipv6.conf.default.accept_redirects", "0"),
    // Addresses, also link-local ones, are usable at once.
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.dad_transmits", "0"),
    ("net.ipv6.conf.default.router_solicitations", "0"),
    // Tests count ICMP messages; none may be held back.
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
    ("net.ipv4.ip_local_port_range", "1024 65535"),
    ("net.ipv4.ip_forward", "0"),
];

const ROUTER: [(&str, &str); 3] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.forwarding", "1"),
];

/// A host that holds a service address must not claim it on the segment: the
/// clients' requests would go to it directly. IPv6 never answers for addresses
/// of another interface.
const HOLDER_OF_VIP: [(&str, &str); 2] = [
    ("net.ipv4.conf.all.arp_ignore", "1"),
    ("net.ipv4.conf.all.arp_announce", "2"),
];

/// An interface of a host.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name inside the host's namespace.
    pub name: String,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU.
    pub mtu: u32,
    /// Its IPv4 addresses, the main one first.
    pub v4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses, the main one first.
    pub v6: Vec<Ipv6Addr>,
}

/// A host of a lab.
#[derive(Debug)]
pub struct Node {
    name: String,
    /// Before the namespace: detached while there is something to detach from.
    programs: Vec<Attached>,
    interfaces: Vec<Interface>,
    namespace: Namespace,
}

/// What [`connect`] makes of one end of a cable.
#[derive(Clone, Debug)]
pub(super) struct Plug {
    pub(super) name: String,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    /// Whether frames may come in that an XDP program has sent.
    pub(super) takes_xdp: bool,
}

impl Node {
    /// Creates a host without interfaces; `lab` begins its namespace's name.
    pub(super) fn create(lab: &str, name: &str, router: bool) -> Result<Self> {
        let namespace = Namespace::create(&format!("{lab}-{name}"))?;
        namespace.set_sysctls(&EVERY_HOST)?;
        if router {
            namespace.set_sysctls(&ROUTER)?;
        }
        link::up(&namespace, link::LOOPBACK)?;
        let name = name.to_owned();
        Ok(Self {
            name,
            programs: Vec::new(),
            interfaces: Vec::new(),
            namespace,
        })
    }

    /// What it is called in the lab: `backend0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// All interfaces but lo.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The main interface, `eth0`; towards the clients on a balancer or router.
    pub fn interface(&self) -> &Interface {
        self.interfaces
            .first()
            .expect("every host of a built lab is connected")
    }

    /// The main interface's Ethernet address.
    pub fn mac(&self) -> Mac {
        self.interface().mac
    }

    /// The main interface's first IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        *self
            .interface()
            .v4
            .first()
            .expect("every host but the switch has an address")
    }

    /// The main interface's first IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        *self
            .interface()
            .v6
            .first()
            .expect("every host but the switch has an address")
    }

    /// The main interface's first address of either family: IPv4, then IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }

    /// What has crossed the main interface so far.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn counters(&self) -> Result<LinkCounters> {
        link::counters(&self.namespace, &self.interface().name)
    }

    /// Routes a subnet through a gateway.
    pub(super) fn route(&self, to: Subnet, via: IpAddr, mtu: Option<u32>) -> Result<()> {
        let Subnet {
            network,
            prefix_len,
        } = to;
        let route = Route {
            to: network,
            prefix_len,
            via: Some(via),
            interface: None,
            mtu,
        };
        link::add_route(&self.namespace, &route)
    }

    /// Routes a subnet straight out of the main interface.
    pub(super) fn route_on_link(&self, to: Subnet, mtu: Option<u32>) -> Result<()> {
        let Subnet {
            network,
            prefix_len,
        } = to;
        let interface = Some(self.interface().name.as_str());
        link::add_route(
            &self.namespace,
            &Route {
                to: network,
                prefix_len,
                via: None,
                interface,
                mtu,
            },
        )
    }

    /// Makes the host accept packets for service addresses, without telling
    /// anybody.
    pub(super) fn hold(&self, vips: &[IpAddr]) -> Result<()> {
        self.namespace.set_sysctls(&HOLDER_OF_VIP)?;
        for vip in vips {
            let prefix_len = if vip.is_ipv4() { 32 } else { 128 };
            link::add_address(&self.namespace, link::LOOPBACK, *vip, prefix_len)?;
        }
        Ok(())
    }
}

/// Joins two hosts with a cable and makes both ends ready for use.
pub(super) fn connect(a: &mut Node, a_plug: Plug, b: &mut Node, b_plug: Plug) -> Result<()> {
    let [a_end, b_end] = [(&*a, &a_plug), (&*b, &b_plug)].map(|(node, plug)| End {
        namespace: &node.namespace,
        name: &plug.name,
        mac: plug.mac,
        mtu: plug.mtu,
    });
    link::veth(&a_end, &b_end)?;
    // Both ends first: an address on a link without carrier stays unusable.
    for (node, plug) in [(&mut *a, &a_plug), (&mut *b, &b_plug)] {
        if plug.takes_xdp {
            let program = pass::attach(&node.namespace, &plug.name, Action::Pass)?;
            node.programs.push(program);
        }
        link::up(&node.namespace, &plug.name)?;
    }
    for (node, plug) in [(a, a_plug), (b, b_plug)] {
        // Last, because the kernel revises a veth's offloads when its peer
        // changes.
        offload::disable(&node.namespace, &plug.name)?;
        node.finish(plug)?;
    }
    Ok(())
}

impl Node {
    fn finish(&mut self, plug: Plug) -> Result<()> {
        let Plug {
            name,
            mac,
            mtu,
            addresses,
            ..
        } = plug;
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (address, prefix_len) in addresses {
            link::add_address(&self.namespace, &name, address, prefix_len)?;
            match address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        self.interfaces.push(Interface {
            name,
            mac,
            mtu,
            v4,
            v6,
        });
        Ok(())
    }
}
