//! Everybody on one segment.
//!
//! ```text
//!   client0 … clientN      balancer      backend0 … backendN
//!      eth0                  eth0           eth0   (service addresses on lo)
//!       |                     |              |
//!   ----+---------------------+--------------+----  switch: bridge br0
//! ```
//!
//! To clients the service addresses lie behind the balancer's address. Backends
//! reply over the same segment, without passing the balancer.

use anyhow::Result;

use super::node::{Node, Plug, connect};
use super::plan::{self, Front, Owner, Pair, mac};
use super::{BackendXdp, Lab, LabConfig, Replies, Start, vips};
use crate::lab::pass::{self, Action, Attached};
use crate::lab::{link, offload};

pub(super) const MAIN: &str = "eth0";
const BRIDGE: &str = "br0";
const FRONT: Front = Front(1);

pub(super) fn build(start: Start) -> Result<Lab> {
    let Start { name, config } = start;
    let mut switch = Switch::create(&name, config.backend_mtu)?;
    let mut balancer = Node::create(&name, "balancer", false)?;
    switch.plug(
        &mut balancer,
        Owner::Balancer,
        config.backend_mtu,
        &[FRONT.balancer()],
    )?;
    let clients = clients(&name, &config, FRONT, &mut switch)?;
    let backends = (0..config.backends)
        .map(|index| backend(&name, &config, index, &mut switch))
        .collect::<Result<_>>()?;
    Ok(Lab {
        name,
        config,
        clients,
        balancer,
        backends,
        router: None,
        far: None,
        switch: switch.node,
        client_subnets: FRONT.clients(),
        backend_subnets: FRONT.backends(),
    })
}

fn backend(lab: &str, config: &LabConfig, index: u8, switch: &mut Switch) -> Result<Node> {
    let mut node = Node::create(lab, &format!("backend{index}"), false)?;
    let plug = Plug {
        takes_xdp: config.backend_xdp == BackendXdp::Pass,
        ..plug(
            mac(Owner::Backend, index.into()),
            config.backend_mtu,
            &[FRONT.backend(index)],
        )
    };
    switch.plug_in(&mut node, plug)?;
    // A bridge says nothing when a frame is too long for the client's link, so
    // the backends have to know.
    let mtu = Some(config.client_mtu);
    for (clients, (balancer, _)) in FRONT.clients().into_iter().zip(FRONT.balancer().both()) {
        match config.replies {
            Replies::Direct => node.route_on_link(clients, mtu)?,
            Replies::ViaBalancer => node.route(clients, balancer, mtu)?,
        }
    }
    if config.vips_on_backends {
        node.hold(&vips(config))?;
    }
    Ok(node)
}

/// Deletes the balancer's interface, and with it the switch's port.
pub(super) fn unplug(lab: &Lab) -> Result<()> {
    link::delete(lab.balancer.namespace(), MAIN)
}

/// Makes an interface as the balancer had it, and a port: to the kernel both
/// are others than before. What is returned keeps the port taking frames that
/// XDP sends.
pub(super) fn plug_again(lab: &Lab) -> Result<Attached> {
    let (host, port) = (lab.balancer.namespace(), lab.switch.namespace());
    let name = lab.balancer.name();
    let mtu = lab.config.backend_mtu;
    let ends = [
        (host, MAIN, mac(Owner::Balancer, 0)),
        (
            port,
            name,
            mac(Owner::Switch, lab.switch.interfaces().len()),
        ),
    ];
    let [a, b] = ends.map(|(namespace, name, mac)| link::End {
        namespace,
        name,
        mac,
        mtu,
    });
    link::veth(&a, &b)?;
    let takes_xdp = pass::attach(port, name, Action::Pass)?;
    for (namespace, name, _) in ends {
        link::up(namespace, name)?;
        offload::disable(namespace, name)?;
    }
    link::enslave(port, name, BRIDGE)?;
    for (address, prefix_len) in FRONT.balancer().both() {
        link::add_address(host, MAIN, address, prefix_len)?;
    }
    Ok(takes_xdp)
}

/// Clients on a front segment, with their routes to the service addresses.
pub(super) fn clients(
    lab: &str,
    config: &LabConfig,
    front: Front,
    switch: &mut Switch,
) -> Result<Vec<Node>> {
    let client = |index| {
        let mut node = Node::create(lab, &format!("client{index}"), false)?;
        let addresses: Vec<_> = (0..config.addresses_per_client)
            .map(|address| front.client(index, address))
            .collect();
        let mac = mac(Owner::Client, index.into());
        switch.plug_in(&mut node, plug(mac, config.client_mtu, &addresses))?;
        for (vips, (balancer, _)) in plan::VIPS.into_iter().zip(front.balancer().both()) {
            node.route(vips, balancer, None)?;
        }
        Ok(node)
    };
    (0..config.clients).map(client).collect()
}

fn plug(mac: link::Mac, mtu: u32, addresses: &[Pair]) -> Plug {
    let addresses = addresses.iter().flat_map(|pair| pair.both()).collect();
    Plug {
        name: MAIN.to_owned(),
        mac,
        mtu,
        addresses,
        takes_xdp: false,
    }
}

/// A bridge in a namespace of its own.
pub(super) struct Switch {
    pub(super) node: Node,
    mtu: u32,
}

impl Switch {
    pub(super) fn create(lab: &str, mtu: u32) -> Result<Self> {
        let node = Node::create(lab, "switch", false)?;
        // Port numbers begin with 0; the bridge's own address is apart.
        link::bridge(node.namespace(), BRIDGE, mac(Owner::Switch, 0xffff), mtu)?;
        link::up(node.namespace(), BRIDGE)?;
        Ok(Self { node, mtu })
    }

    /// Connects a host's main interface.
    pub(super) fn plug(
        &mut self,
        host: &mut Node,
        owner: Owner,
        mtu: u32,
        addresses: &[Pair],
    ) -> Result<()> {
        self.plug_in(host, plug(mac(owner, 0), mtu, addresses))
    }

    fn plug_in(&mut self, host: &mut Node, host_end: Plug) -> Result<()> {
        let port = Plug {
            name: host.name().to_owned(),
            mac: mac(Owner::Switch, self.node.interfaces().len()),
            mtu: self.mtu,
            addresses: Vec::new(),
            takes_xdp: true,
        };
        connect(host, host_end, &mut self.node, port)?;
        link::enslave(self.node.namespace(), host.name(), BRIDGE)
    }
}
