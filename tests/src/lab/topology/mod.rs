//! Whole networks: clients, a balancer and backends.
//!
//! [`Lab::l2`] has everybody on one segment, [`Lab::routed`] has the backends
//! behind a router; drawings stand with each. In both, clients send what is for
//! a service address to the balancer, and replies go past it (direct server
//! return) unless [`Replies::ViaBalancer`] asks otherwise.
//!
//! The balancer's stack owns no service address: without a balancer running,
//! nobody answers for a service. The lab never attaches an XDP program to the
//! balancer's interfaces; it does attach one that passes everything wherever the
//! balancer's (or a backend's) may send frames to.

mod l2;
mod node;
mod plan;
mod routed;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Once;

use anyhow::{Result, ensure};

use super::cleanup;
use super::pass::Attached;
pub use node::{Interface, Node};
pub use plan::Subnet;

/// Whether backends have an XDP program on their interface from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendXdp {
    /// None: the interface is free for a program that undoes encapsulation.
    #[default]
    None,
    /// One that passes everything, for backends that run no program of their
    /// own but shall take frames the way a host with one does.
    Pass,
}

/// Which way replies go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replies {
    /// Past the balancer, straight to the client.
    #[default]
    Direct,
    /// Back through the balancer, as address translation needs it.
    ViaBalancer,
}

/// How large a lab is and how it behaves.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// Clients, each in a namespace of its own; 1 to 100.
    pub clients: u8,
    /// Addresses of each client and family; 1 to 250. Many make one client look
    /// like a crowd.
    pub addresses_per_client: u8,
    /// Backends; 1 to 250.
    pub backends: u8,
    /// Service addresses of each family; 1 to 200.
    pub vips: u8,
    /// MTU of the clients' links.
    pub client_mtu: u32,
    /// MTU of the links between balancer and backends, with room for the outer
    /// headers of a full-sized packet of a client.
    pub backend_mtu: u32,
    /// Routed: MTU of the link between balancer and router, where it is another
    /// than `backend_mtu`.
    pub back_mtu: Option<u32>,
    /// Routed: there is a second router before the backends, and this is the
    /// MTU of the link between the two. The router knows the way to the service
    /// addresses then, for errors about replies that do not fit.
    pub narrow_mtu: Option<u32>,
    /// XDP on the backends' interfaces.
    pub backend_xdp: BackendXdp,
    /// Which way replies go.
    pub replies: Replies,
    /// Whether backends accept packets for the service addresses, as all forward
    /// modes but address translation need it.
    pub vips_on_backends: bool,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            clients: 1,
            addresses_per_client: 1,
            backends: 2,
            vips: 1,
            client_mtu: 1500,
            backend_mtu: 1600,
            back_mtu: None,
            narrow_mtu: None,
            backend_xdp: BackendXdp::default(),
            replies: Replies::default(),
            vips_on_backends: true,
        }
    }
}

impl LabConfig {
    /// One client and so many backends.
    pub fn backends(backends: u8) -> Self {
        Self {
            backends,
            ..Self::default()
        }
    }

    fn check(&self) -> Result<()> {
        for (what, value, most) in [
            ("clients", self.clients, plan::MAX_CLIENTS),
            (
                "addresses_per_client",
                self.addresses_per_client,
                plan::MAX_CLIENT_ADDRESSES,
            ),
            ("backends", self.backends, plan::MAX_BACKENDS),
            ("vips", self.vips, plan::MAX_VIPS),
        ] {
            ensure!(
                (1..=most).contains(&value),
                "lab: {what} is {value}, not within 1 to {most}"
            );
        }
        Ok(())
    }
}

/// A running network; dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    config: LabConfig,
    clients: Vec<Node>,
    balancer: Node,
    backends: Vec<Node>,
    router: Option<Node>,
    far: Option<Node>,
    switch: Node,
    client_subnets: [Subnet; 2],
    backend_subnets: [Subnet; 2],
}

impl Lab {
    /// Everybody on one segment.
    ///
    /// # Errors
    /// When the configuration is out of bounds or the kernel refuses something,
    /// as it does without root; what was built until then is removed.
    pub fn l2(config: LabConfig) -> Result<Self> {
        l2::build(begin(config)?)
    }

    /// Flat: deletes the balancer's interface, as whoever made it may.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn unplug_balancer(&self) -> Result<()> {
        l2::unplug(self)
    }

    /// Flat: makes an interface of the same name, address and MAC, which to the
    /// kernel is another one. What is returned has to be kept for as long as
    /// it is used.
    ///
    /// # Errors
    /// When there is one.
    pub fn plug_balancer_again(&self) -> Result<Attached> {
        l2::plug_again(self)
    }

    /// Backends in subnets of their own, behind a router.
    ///
    /// # Errors
    /// As for [`Lab::l2`].
    pub fn routed(config: LabConfig) -> Result<Self> {
        routed::build(begin(config)?)
    }

    /// What the names of its namespaces begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was built from.
    pub fn config(&self) -> &LabConfig {
        &self.config
    }

    /// A client.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn client(&self, index: usize) -> &Node {
        &self.clients[index]
    }

    /// All clients.
    pub fn clients(&self) -> &[Node] {
        &self.clients
    }

    /// The balancer: `eth0` towards the clients; in a routed lab also `eth1`
    /// towards the backends.
    pub fn balancer(&self) -> &Node {
        &self.balancer
    }

    /// A backend.
    ///
    /// # Panics
    /// When there are not that many.
    pub fn backend(&self, index: usize) -> &Node {
        &self.backends[index]
    }

    /// All backends.
    pub fn backends(&self) -> &[Node] {
        &self.backends
    }

    /// The router of a routed lab.
    pub fn router(&self) -> Option<&Node> {
        self.router.as_ref()
    }

    /// The second router of a routed lab with a narrow link.
    pub fn far(&self) -> Option<&Node> {
        self.far.as_ref()
    }

    /// The switch, a bridge with a port for each host on it, named like the host.
    pub fn switch(&self) -> &Node {
        &self.switch
    }

    /// Every host, the switch included.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let one = [&self.balancer, &self.switch].into_iter();
        one.chain(&self.clients)
            .chain(&self.backends)
            .chain(&self.router)
            .chain(&self.far)
    }

    /// The first IPv4 service address.
    pub fn vip_v4(&self) -> Ipv4Addr {
        plan::vip(0).v4
    }

    /// The first IPv6 service address.
    pub fn vip_v6(&self) -> Ipv6Addr {
        plan::vip(0).v6
    }

    /// All service addresses, IPv4 and IPv6 in turn.
    pub fn vips(&self) -> Vec<IpAddr> {
        vips(&self.config)
    }

    /// Where the clients' addresses are from, IPv4 and IPv6.
    pub fn client_subnets(&self) -> [Subnet; 2] {
        self.client_subnets
    }

    /// Where the backends' addresses are from, IPv4 and IPv6.
    pub fn backend_subnets(&self) -> [Subnet; 2] {
        self.backend_subnets
    }

    /// Where the service addresses are from, IPv4 and IPv6: clients send all of
    /// it to the balancer, also addresses that are of no service.
    pub fn vip_subnets(&self) -> [Subnet; 2] {
        plan::VIPS
    }

    /// Leaves the network behind when the lab is dropped, and gives the names
    /// for `ip netns exec`. Links and addresses stay; servers end with the
    /// process, and so do the XDP programs.
    ///
    /// # Errors
    /// When a namespace cannot be kept.
    pub fn keep(&self) -> Result<Vec<String>> {
        self.nodes().map(|node| node.namespace().keep()).collect()
    }
}

fn vips(config: &LabConfig) -> Vec<IpAddr> {
    (0..config.vips)
        .flat_map(|index| plan::vip(index).both())
        .map(|(vip, _)| vip)
        .collect()
}

/// What both topologies begin with.
struct Start {
    name: String,
    config: LabConfig,
}

fn begin(config: LabConfig) -> Result<Start> {
    static SWEPT: Once = Once::new();
    config.check()?;
    cleanup::on_signals()?;
    SWEPT.call_once(|| {
        // A leftover that resists harms nobody: names are never used twice.
        if let Err(error) = cleanup::sweep_stale() {
            eprintln!("lab: {error:#}");
        }
    });
    Ok(Start {
        name: cleanup::unique_name(),
        config,
    })
}
