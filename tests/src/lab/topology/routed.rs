//! Backends in subnets of their own, behind a router.
//!
//! ```text
//!   client0 … clientN      balancer eth1 ------- back  router  bK ----- eth0 backendK
//!      eth0                  eth0                      eth0              (one subnet each,
//!       |                     |                          |                services on lo)
//!   ----+---------------------+--------------------------+---  switch: bridge br0
//! ```
//!
//! Requests go client, balancer, router, backend; they cross the router inside an
//! outer header, for it knows no route to the service addresses. Replies go
//! backend, router, client. With a narrow link, that lies between the router and
//! a far router, to which the backends are connected instead:
//!
//! ```text
//!   ---- back  router  far0 -------- near  far  bK ----- eth0 backendK
//! ```

use anyhow::Result;

use super::l2::{MAIN, Switch, clients};
use super::node::{Node, Plug, connect};
use super::plan::{self, Front, Owner, Pair, mac};
use super::{BackendXdp, Lab, LabConfig, Replies, Start, vips};

const FRONT: Front = Front(2);
/// Host numbers in the segments behind the balancer.
const ROUTER: u8 = 1;
const OTHER: u8 = 2;

pub(super) fn build(start: Start) -> Result<Lab> {
    let Start { name, config } = start;
    let mut switch = Switch::create(&name, config.client_mtu)?;
    let mut balancer = Node::create(&name, "balancer", true)?;
    let mut router = Node::create(&name, "router", true)?;
    switch.plug(
        &mut balancer,
        Owner::Balancer,
        config.client_mtu,
        &[FRONT.balancer()],
    )?;
    switch.plug(
        &mut router,
        Owner::Router,
        config.client_mtu,
        &[FRONT.router()],
    )?;
    join_back(&config, &mut balancer, &mut router)?;
    let clients = clients(&name, &config, FRONT, &mut switch)?;
    for client in &clients {
        route_all(client, plan::BEHIND_ROUTER, FRONT.router())?;
    }
    let mut far = match config.narrow_mtu {
        Some(mtu) => Some(join_far(&name, &config, mtu, &mut router)?),
        None => None,
    };
    let gateway = far.as_mut().unwrap_or(&mut router);
    let backends = (0..config.backends)
        .map(|index| backend(&name, &config, index, gateway))
        .collect::<Result<_>>()?;
    Ok(Lab {
        name,
        config,
        clients,
        balancer,
        backends,
        router: Some(router),
        far,
        switch: switch.node,
        client_subnets: FRONT.clients(),
        backend_subnets: plan::BEHIND_ROUTER,
    })
}

/// The cable between balancer and router, and the routes over it.
fn join_back(config: &LabConfig, balancer: &mut Node, router: &mut Node) -> Result<()> {
    let mtu = config.back_mtu.unwrap_or(config.backend_mtu);
    let near = plug("eth1", Owner::Balancer, 1, mtu, plan::back(OTHER));
    let far = plug("back", Owner::Router, 1, mtu, plan::back(ROUTER));
    connect(
        balancer,
        near,
        router,
        Plug {
            takes_xdp: true,
            ..far
        },
    )?;
    route_all(balancer, plan::BEHIND_ROUTER, plan::back(ROUTER))?;
    if config.replies == Replies::ViaBalancer {
        route_all(router, FRONT.clients(), plan::back(OTHER))?;
    }
    Ok(())
}

/// The far router with the narrow link to it, and the routes over that.
fn join_far(lab: &str, config: &LabConfig, mtu: u32, router: &mut Node) -> Result<Node> {
    let mut far = Node::create(lab, "far", true)?;
    let near_end = plug("far0", Owner::Router, 2, mtu, plan::narrow(ROUTER));
    let far_end = plug("near", Owner::Far, 0, mtu, plan::narrow(OTHER));
    connect(router, near_end, &mut far, far_end)?;
    route_all(router, plan::BEHIND_ROUTER, plan::narrow(OTHER))?;
    route_all(&far, plan::EVERYWHERE, plan::narrow(ROUTER))?;
    // An error about a reply goes to the address that the reply came from.
    if config.replies == Replies::Direct {
        route_all(router, plan::VIPS, FRONT.balancer())?;
    }
    Ok(far)
}

fn backend(lab: &str, config: &LabConfig, index: u8, router: &mut Node) -> Result<Node> {
    let mut node = Node::create(lab, &format!("backend{index}"), false)?;
    let number = usize::from(index);
    let mtu = config.backend_mtu;
    let gateway = plan::behind_router(index, ROUTER);
    let host_end = plug(
        MAIN,
        Owner::Backend,
        number,
        mtu,
        plan::behind_router(index, OTHER),
    );
    // Router interfaces 0, 1 and 2 are the front, the back and the narrow one.
    let gateway_end = plug(
        &format!("b{index}"),
        Owner::Router,
        number + 3,
        mtu,
        gateway,
    );
    let takes_xdp = config.backend_xdp == BackendXdp::Pass;
    connect(
        &mut node,
        Plug {
            takes_xdp,
            ..host_end
        },
        router,
        Plug {
            takes_xdp: true,
            ..gateway_end
        },
    )?;
    route_all(&node, plan::EVERYWHERE, gateway)?;
    // The router says that a reply is too long, to an address that leads it
    // nowhere, so the backends have to know. With a narrow link that is what
    // they have to learn.
    if config.narrow_mtu.is_none() {
        for (clients, (via, _)) in FRONT.clients().into_iter().zip(gateway.both()) {
            node.route(clients, via, Some(config.client_mtu))?;
        }
    }
    if config.vips_on_backends {
        node.hold(&vips(config))?;
    }
    Ok(node)
}

fn plug(name: &str, owner: Owner, number: usize, mtu: u32, addresses: Pair) -> Plug {
    let (name, mac) = (name.to_owned(), mac(owner, number));
    Plug {
        name,
        mac,
        mtu,
        addresses: addresses.both().to_vec(),
        takes_xdp: false,
    }
}

/// Routes a subnet of each family through the gateway's address of that family.
fn route_all(node: &Node, subnets: [plan::Subnet; 2], gateway: Pair) -> Result<()> {
    for (subnet, (via, _)) in subnets.into_iter().zip(gateway.both()) {
        node.route(subnet, via, None)?;
    }
    Ok(())
}
