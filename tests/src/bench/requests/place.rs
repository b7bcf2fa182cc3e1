//! A client, somebody in the middle, two backends.
//!
//! ```text
//!            in ------ out0 --------- s0  backend0
//!   client c    middle out1 --------- s1  backend1
//!          d0 ----------------------- r0  backend0
//!          d1 ----------------------- r1  backend1
//! ```
//!
//! The lower wires are the way straight to the client that direct server
//! return is named for; where replies have to come back through the middle,
//! backends are told so. All offloads are off: every packet is one that could
//! go over a wire.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use crate::lab::cleanup::unique_name;
use crate::lab::link::{self, End, Mac, Route};
use crate::lab::server::{Nginx, NginxConfig};
use crate::lab::{Namespace, offload};

/// Backends.
pub(super) const BACKENDS: u8 = 2;
/// Where clients go.
pub(super) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Where backends listen.
pub(super) const PORT: u16 = 80;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const MIDDLE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// Number of the middle's Ethernet address towards the client.
const INSIDE: u8 = 2;
const DOWNLOAD_LEN: usize = 1 << 20;

/// Which way replies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replies {
    Direct,
    ThroughTheMiddle,
}

/// The network with its web servers.
pub(super) struct Place {
    pub(super) client: Namespace,
    pub(super) middle: Namespace,
    pub(super) backends: Vec<Namespace>,
    pub(super) servers: Vec<Nginx>,
}

/// A backend's address on the wire to the middle.
pub(super) fn backend(index: u8) -> SocketAddr {
    SocketAddr::new([10, 2, index, 2].into(), PORT)
}

impl Place {
    /// `is_wire`: what comes to the middle for anybody is also for backends.
    pub(super) fn build(replies: Replies, is_wire: bool) -> Result<Self> {
        let name = unique_name();
        let create = |part: &str| Namespace::create(&format!("{name}-{part}"));
        let (client, middle) = (create("client")?, create("middle")?);
        for namespace in [&client, &middle] {
            settle(namespace)?;
        }
        middle.set_sysctl("net.ipv4.ip_forward", "1")?;
        join((&client, "c", 1), (&middle, "in", INSIDE))?;
        link::add_address(&client, "c", CLIENT.into(), 24)?;
        link::add_address(&middle, "in", MIDDLE.into(), 24)?;
        route(&client, VIP.into(), 32, MIDDLE)?;
        link::add_neighbour(&client, "c", MIDDLE.into(), mac(INSIDE))?;
        let mut backends = Vec::new();
        let mut servers = Vec::new();
        for index in 0..BACKENDS {
            let namespace = create(&format!("backend{index}"))?;
            settle(&namespace)?;
            let number = if is_wire { INSIDE } else { 5 + index };
            join(
                (&middle, &format!("out{index}"), 3 + index),
                (&namespace, &format!("s{index}"), number),
            )?;
            attach(&client, &middle, &namespace, index, replies)?;
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            servers.push(Nginx::start(
                &namespace,
                &NginxConfig {
                    download_len: DOWNLOAD_LEN,
                    access_log: false,
                    ..NginxConfig::new(&format!("web-{index}"), &[any], PORT)
                },
            )?);
            backends.push(namespace);
        }
        Ok(Self {
            client,
            middle,
            backends,
            servers,
        })
    }

    /// The middle answers for the service's address itself, as a proxy does.
    pub(super) fn give_vip_to_middle(&self) -> Result<()> {
        link::add_address(&self.middle, link::LOOPBACK, VIP.into(), 32)
    }

    /// The backends take packets for the service's address.
    pub(super) fn give_vip_to_backends(&self) -> Result<()> {
        for namespace in &self.backends {
            link::add_address(namespace, link::LOOPBACK, VIP.into(), 32)?;
        }
        Ok(())
    }
}

/// Both wires of a backend.
fn attach(
    client: &Namespace,
    middle: &Namespace,
    backend: &Namespace,
    index: u8,
    replies: Replies,
) -> Result<()> {
    let (out, inside) = (format!("out{index}"), format!("s{index}"));
    let gateway = Ipv4Addr::new(10, 2, index, 1);
    link::add_address(middle, &out, gateway.into(), 24)?;
    link::add_address(backend, &inside, [10, 2, index, 2].into(), 24)?;
    let (direct, reply) = (format!("d{index}"), format!("r{index}"));
    join((client, &direct, 7 + index), (backend, &reply, 9 + index))?;
    link::add_address(client, &direct, [10, 3, index, 1].into(), 24)?;
    link::add_address(backend, &reply, [10, 3, index, 2].into(), 24)?;
    let via = match replies {
        Replies::Direct => {
            route(
                client,
                [10, 2, index, 2].into(),
                32,
                [10, 3, index, 2].into(),
            )?;
            Ipv4Addr::new(10, 3, index, 1)
        }
        Replies::ThroughTheMiddle => gateway,
    };
    route(backend, [10, 1, 0, 0].into(), 24, via)
}

fn settle(namespace: &Namespace) -> Result<()> {
    link::up(namespace, link::LOOPBACK)?;
    namespace.set_sysctls(&[
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        // A new connection a request takes a port each time.
        ("net.ipv4.ip_local_port_range", "1024 65535"),
    ])
}

fn mac(number: u8) -> Mac {
    Mac([2, 0xbe, 0, 0, 1, number])
}

fn join(a: (&Namespace, &str, u8), b: (&Namespace, &str, u8)) -> Result<()> {
    let [a_end, b_end] = [a, b].map(|(namespace, name, number)| End {
        namespace,
        name,
        mac: mac(number),
        mtu: 1500,
    });
    link::veth(&a_end, &b_end)?;
    for (namespace, name, _) in [a, b] {
        link::up(namespace, name)?;
    }
    for (namespace, name, _) in [a, b] {
        offload::disable(namespace, name)?;
    }
    Ok(())
}

fn route(namespace: &Namespace, to: IpAddr, prefix_len: u8, via: Ipv4Addr) -> Result<()> {
    link::add_route(
        namespace,
        &Route {
            to,
            prefix_len,
            via: Some(via.into()),
            interface: None,
            mtu: None,
        },
    )
}
