//! Links, addresses, routes and neighbours, over rtnetlink.
//!
//! Each function opens a netlink socket inside the namespace it is handed, does
//! one thing and waits for the kernel's answer. Interfaces are named within
//! their namespace, so the same `eth0` may exist in all of them; a veth pair is
//! created with each end in its place, so no name ever clashes outside.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::namespace::Namespace;
use super::process;

/// The loopback interface, which every namespace has.
pub const LOOPBACK: &str = "lo";

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One end of a veth pair.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// Where the end lives.
    pub namespace: &'a Namespace,
    /// Its name there; up to 15 bytes.
    pub name: &'a str,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU. A frame longer than the receiving end's MTU is dropped.
    pub mtu: u32,
}

/// A route to add.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// Destination address.
    pub to: IpAddr,
    /// Destination prefix length; 0 is the default route.
    pub prefix_len: u8,
    /// Gateway; without one the destination is on the link.
    pub via: Option<IpAddr>,
    /// Interface to leave by; a gateway can stand for it.
    pub interface: Option<&'a str>,
    /// Path MTU, where the link's own is too large for the destination.
    pub mtu: Option<u32>,
}

/// What has crossed an interface, as `ip -s link` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames dropped on receipt.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames dropped on sending.
    pub tx_dropped: u64,
}

/// Runs netlink requests inside a namespace.
///
/// The way to anything this module has no function for.
///
/// # Errors
/// When there is no netlink socket to be had; `work`'s own error is inside.
pub fn netlink<T: Send>(
    namespace: &Namespace,
    work: impl AsyncFnOnce(Handle) -> Result<T> + Send,
) -> Result<T> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            work(handle).await
        })
    })?
}

/// Joins two namespaces with a veth pair; both ends are down and bare.
///
/// # Errors
/// When the kernel refuses, as it does for a name that is taken.
pub fn veth(a: &End<'_>, b: &End<'_>) -> Result<()> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(b.name)
        .address(b.mac.0.to_vec())
        .mtu(b.mtu)
        .setns_by_fd(b.namespace.descriptor().as_raw_fd())
        .build();
    let pair = LinkVeth::new(a.name, b.name)
        .address(a.mac.0.to_vec())
        .mtu(a.mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink(a.namespace, async |handle| {
        Ok(handle.link().add(pair).execute().await?)
    })
    .with_context(|| {
        let (from, to) = (a.namespace.name(), b.namespace.name());
        format!("cannot join {} in {from} with {} in {to}", a.name, b.name)
    })
}

/// Creates a bridge, down and without ports.
///
/// # Errors
/// When the kernel refuses.
pub fn bridge(namespace: &Namespace, name: &str, mac: Mac, mtu: u32) -> Result<()> {
    // Snooping would hold back IPv6 neighbour solicitations, which are
    // multicast, until reports had come in.
    let bridge = LinkBridge::new(name)
        .address(mac.0.to_vec())
        .mtu(mtu)
        .mcast_snooping(false)
        .build();
    netlink(namespace, async |handle| {
        Ok(handle.link().add(bridge).execute().await?)
    })
    .with_context(|| format!("cannot create bridge {name} in {}", namespace.name()))
}

/// Makes an interface a port of a bridge in the same namespace.
///
/// # Errors
/// When either does not exist.
pub fn enslave(namespace: &Namespace, port: &str, bridge: &str) -> Result<()> {
    let controller = index(namespace, bridge)?;
    set(namespace, port, |link| link.controller(controller))
}

/// Brings an interface up.
///
/// # Errors
/// When it does not exist.
pub fn up(namespace: &Namespace, name: &str) -> Result<()> {
    set(namespace, name, LinkMessageBuilder::up)
}

/// Takes an interface down: its peer loses the carrier, its routes are gone.
///
/// # Errors
/// When it does not exist.
pub fn down(namespace: &Namespace, name: &str) -> Result<()> {
    set(namespace, name, LinkMessageBuilder::down)
}

/// Deletes an interface, and the other end with it.
///
/// # Errors
/// When it does not exist.
pub fn delete(namespace: &Namespace, name: &str) -> Result<()> {
    let index = index(namespace, name)?;
    netlink(namespace, async |handle| {
        Ok(handle.link().del(index).execute().await?)
    })
    .with_context(|| format!("cannot delete {name} in {}", namespace.name()))
}

/// Changes an interface's MTU.
///
/// # Errors
/// When it does not exist or cannot have that MTU.
pub fn set_mtu(namespace: &Namespace, name: &str, mtu: u32) -> Result<()> {
    set(namespace, name, |link| link.mtu(mtu))
}

/// Gives an interface another Ethernet address.
///
/// # Errors
/// When it does not exist.
pub fn set_mac(namespace: &Namespace, name: &str, mac: Mac) -> Result<()> {
    set(namespace, name, |link| link.address(mac.0.to_vec()))
}

fn set(
    namespace: &Namespace,
    name: &str,
    change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> + Send,
) -> Result<()> {
    let index = index(namespace, name)?;
    let message = change(LinkUnspec::new_with_index(index)).build();
    netlink(namespace, async |handle| {
        Ok(handle.link().set(message).execute().await?)
    })
    .with_context(|| format!("cannot change {name} in {}", namespace.name()))
}

/// The number the kernel knows an interface by.
///
/// # Errors
/// When it does not exist.
pub fn index(namespace: &Namespace, name: &str) -> Result<u32> {
    Ok(link(namespace, name)?.header.index)
}

/// What has crossed an interface so far.
///
/// # Errors
/// When it does not exist.
pub fn counters(namespace: &Namespace, name: &str) -> Result<LinkCounters> {
    let link = link(namespace, name)?;
    let stats = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats),
            _ => None,
        });
    let stats = stats.with_context(|| format!("{name} has no counters"))?;
    Ok(LinkCounters {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        rx_dropped: stats.rx_dropped,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        tx_dropped: stats.tx_dropped,
    })
}

fn link(namespace: &Namespace, name: &str) -> Result<LinkMessage> {
    netlink(namespace, async |handle| {
        let mut links = handle.link().get().match_name(name).execute();
        links.try_next().await?.context("the kernel gave no answer")
    })
    .with_context(|| format!("no interface {name} in {}", namespace.name()))
}

/// Gives an interface an address, usable at once: an IPv6 address skips
/// duplicate address detection.
///
/// # Errors
/// When the interface does not exist or has the address.
pub fn add_address(
    namespace: &Namespace,
    name: &str,
    address: IpAddr,
    prefix_len: u8,
) -> Result<()> {
    let index = index(namespace, name)?;
    netlink(namespace, async |handle| {
        let mut request = handle.address().add(index, address, prefix_len);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        Ok(request.execute().await?)
    })
    .with_context(|| format!("cannot add {address} to {name} in {}", namespace.name()))
}

/// Takes an address from an interface.
///
/// # Errors
/// When the interface does not have it.
pub fn remove_address(namespace: &Namespace, name: &str, address: IpAddr) -> Result<()> {
    let index = index(namespace, name)?;
    netlink(namespace, async |handle| {
        let request = handle.address().get().set_link_index_filter(index);
        let mut found = request.set_address_filter(address).execute();
        let message = found
            .try_next()
            .await?
            .context("it does not have the address")?;
        Ok(handle.address().del(message).execute().await?)
    })
    .with_context(|| {
        format!(
            "cannot remove {address} from {name} in {}",
            namespace.name()
        )
    })
}

/// Adds a route, or replaces the one to the same destination.
///
/// # Errors
/// When the gateway or the interface is not reachable.
pub fn add_route(namespace: &Namespace, route: &Route<'_>) -> Result<()> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.to, route.prefix_len)
        .with_context(|| format!("{}/{} is no prefix", route.to, route.prefix_len))?;
    if let Some(gateway) = route.via {
        builder = builder
            .gateway(gateway)
            .context("gateway of another family")?;
    }
    if let Some(interface) = route.interface {
        builder = builder.output_interface(index(namespace, interface)?);
    }
    let mut message = builder.build();
    if let Some(mtu) = route.mtu {
        message
            .attributes
            .push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    netlink(namespace, async |handle| {
        Ok(handle.route().add(message).replace().execute().await?)
    })
    .with_context(|| format!("cannot add {route:?} in {}", namespace.name()))
}

/// The MTU that a host has learnt for the path to an address, as `ip route get`
/// shows it; `None` if it goes by the link's.
///
/// # Errors
/// When `ip` is not there, or there is no route.
pub fn learnt_mtu(namespace: &Namespace, to: IpAddr) -> Result<Option<u32>> {
    let mut command = namespace.command("ip");
    command.args(["-oneline", "route", "get", &to.to_string()]);
    let output = process::run(command, Duration::from_secs(20))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "no route to {to} in {}: {}",
        namespace.name(),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu");
    let mtu = words.nth(1).map(str::parse).transpose();
    mtu.with_context(|| format!("no number for the mtu: {text}"))
}

/// Adds a fixed neighbour entry, or replaces the one that is there.
///
/// # Errors
/// When the interface does not exist.
pub fn add_neighbour(namespace: &Namespace, name: &str, address: IpAddr, mac: Mac) -> Result<()> {
    let index = index(namespace, name)?;
    netlink(namespace, async |handle| {
        let request = handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac.0);
        Ok(request.replace().execute().await?)
    })
    .with_context(|| format!("cannot add neighbour {address} in {}", namespace.name()))
}
