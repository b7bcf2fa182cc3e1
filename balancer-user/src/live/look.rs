//! Takes the snapshot: netlink, drivers, sysctls, pins.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{SysconfVar, geteuid, sysconf};
use tokio::time::{Instant, sleep_until};

use super::drivers::Drivers;
use super::host::{Host, Interface, Program};
use super::{peers, probe};
use crate::config::model::{Config, Service, Via};
use crate::daemon::hops::{self, Found, Solicit};
use crate::dataplane::attach;
use crate::dataplane::aya::Adopted;
use crate::netlink::{Error, Link, Netlink};
use crate::probe::vip;

/// The kernel asks a neighbour three times, a second apart.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(3500);
/// Between two looks at what neighbours have answered.
const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(100);
/// A page where the system does not say.
const USUAL_PAGE_LEN: u32 = 4096;
/// `net.ipv4.conf.*.rp_filter`: strict, as RFC 3704 calls it.
const STRICT: u8 = 1;

/// How far a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The host, and whether its neighbours answer.
    Host,
    /// Also what the segments and the backends answer; needs root.
    Network,
}

/// Looks at the host as far as the configuration asks for it.
///
/// Takes up to 3.5 seconds where neighbours do not answer, and 2 more to ask
/// the network. Without root, neighbours are not solicited and pins are not
/// read.
///
/// # Errors
/// When the kernel's network configuration cannot be read at all.
pub async fn look(config: &Config, reach: Reach) -> Result<Host, Error> {
    look_beyond(config, reach, Arc::default()).await
}

/// As [`look`], where what the kernel says of the ways to backends is `known`
/// already: of many thousands it takes long to say.
///
/// # Errors
/// When the kernel's network configuration cannot be read at all.
pub async fn look_beyond(config: &Config, reach: Reach, known: Arc<Found>) -> Result<Host, Error> {
    let (netlink, _changes) = Netlink::connect()?;
    let mut host = Host {
        page_len: page_len(),
        ..Host::default()
    };
    let links = netlink.links().await?;
    let names: BTreeMap<u32, &str> = links
        .iter()
        .map(|link| (link.index, link.name.as_str()))
        .collect();
    let own = netlink.addresses().await?;
    let named =
        |(address, index): &(IpAddr, u32)| Some((*address, (*names.get(index)?).to_owned()));
    host.addresses = own.iter().filter_map(named).collect();
    look_at_interfaces(config, &links, &mut host).await;
    look_at_reverse_paths(&mut host);
    look_for_ways(config, &netlink, known, &mut host).await;
    look_at_vips(config, &netlink, &mut host).await;
    if reach == Reach::Network {
        host.peers = peers::ask(&config.node.peers).await;
        for (peer, answer) in &host.peers {
            if let Err(why) = answer {
                host.unseen.push(format!("what peer {peer} holds: {why}"));
            }
        }
    }
    match reach {
        Reach::Host => {}
        Reach::Network if !geteuid().is_root() => {
            let why = "what the network and the backends answer: asking them needs root";
            host.unseen.push(why.to_owned());
        }
        Reach::Network => ask_network(config, &links, &own, &mut host).await,
    }
    Ok(host)
}

fn page_len() -> u32 {
    let len = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    len.and_then(|len| u32::try_from(len).ok())
        .unwrap_or(USUAL_PAGE_LEN)
}

async fn ask_network(config: &Config, links: &[Link], own: &[(IpAddr, u32)], host: &mut Host) {
    let claims = probe::ask_for_claims(config, links, own);
    let vips = probe::ask_backends(config, links, own, &host.hops);
    let (claims, vips) = tokio::join!(claims, vips);
    match claims {
        Ok(claims) => host.claims = claims,
        Err(error) => {
            let what = "whether others answer for the services' addresses";
            host.unseen.push(format!("{what}: {error}"));
        }
    }
    match vips {
        Ok((vips, unseen)) => {
            host.vips = vips;
            host.unseen.extend(unseen);
        }
        Err(error) => {
            let what = "whether backends take the services' addresses";
            host.unseen.push(format!("{what}: {error}"));
        }
    }
}

async fn look_at_interfaces(config: &Config, links: &[Link], host: &mut Host) {
    let mut drivers = match Drivers::connect() {
        Ok(drivers) => Some(drivers),
        Err(error) => {
            host.unseen.push(format!("offloads and drivers: {error}"));
            None
        }
    };
    let ours = match attach::programs(&config.node.pin_dir) {
        Ok(programs) => Some(programs),
        Err(error) => {
            let why = format!("whether an XDP program is this balancer's own: {error}");
            host.unseen.push(why);
            None
        }
    };
    // Pins that cannot be read have been told of.
    host.other_layout = Adopted::other_layout(&config.node.pin_dir).unwrap_or_default();
    for name in &config.node.interfaces {
        let Some(link) = links.iter().find(|link| link.name == *name) else {
            continue;
        };
        let above = |other: &&Link| other.vlan_of == Some(link.index);
        let mut interface = Interface {
            up: link.up,
            mtu: link.mtu,
            program: link.xdp.map(|xdp| Program {
                id: xdp.program_id,
                mode: xdp.mode,
                ours: ours.as_ref().map(|ours| ours.contains(&xdp.program_id)),
            }),
            native_xdp: None,
            lro: false,
            gro: false,
            vlan_stripping: false,
            vlans: links
                .iter()
                .filter(above)
                .map(|it| it.name.clone())
                .collect(),
            bond: link.bond.map(|index| {
                let bond = links.iter().find(|it| it.index == index);
                bond.map_or_else(|| format!("number {index}"), |it| it.name.clone())
            }),
        };
        if let Some(drivers) = &mut drivers {
            interface.native_xdp = drivers.has_native_xdp(link.index).await;
            match drivers.offloads(name).await {
                Ok(offloads) => {
                    interface.lro = offloads.lro;
                    interface.gro = offloads.gro;
                    interface.vlan_stripping = offloads.vlan_stripping;
                }
                Err(error) => host.unseen.push(format!("offloads of {name}: {error}")),
            }
        }
        host.interfaces.insert(name.clone(), interface);
    }
}

/// What probes by the VIP need of the host, where there are any.
async fn look_at_vips(config: &Config, netlink: &Netlink, host: &mut Host) {
    let by_vip = |it: &&Service| it.health.as_ref().is_some_and(|it| it.via == Via::Vip);
    let services = config.services.iter().filter(by_vip);
    let mut vips: Vec<IpAddr> = services.map(|service| service.address).collect();
    vips.sort_unstable();
    vips.dedup();
    if vips.is_empty() {
        return;
    }
    let ways = netlink.next_hops(&vips).await;
    host.vip_ways = vips.into_iter().zip(ways).collect();
    match geteuid().is_root() {
        true => host.no_tun = vip::missing(),
        false => {
            let why = "whether TUN devices can be made, for probes by the VIP: it needs root";
            host.unseen.push(why.to_owned());
        }
    }
}

/// The kernel takes the larger of an interface's value and that of `all`:
/// 0 is off, 1 strict, 2 loose.
fn look_at_reverse_paths(host: &mut Host) {
    let all = reverse_path("all");
    let mut names: Vec<&String> = host.addresses.values().collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        match (&all, &reverse_path(name)) {
            (Ok(all), Ok(own)) if (*own).max(*all) == STRICT => {
                host.strict_reverse_path.push(name.clone());
            }
            (Ok(_), Ok(_)) => {}
            (Err(error), _) | (_, Err(error)) => {
                host.unseen.push(format!("rp_filter of {name}: {error}"));
            }
        }
    }
}

fn reverse_path(interface: &str) -> Result<u8, String> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    let value = fs::read_to_string(path).map_err(|error: io::Error| error.to_string())?;
    let value = value.trim();
    value
        .parse()
        .map_err(|_| format!("{value:?} is not a number"))
}

/// Finds the ways to the backends that are not known, and waits for
/// neighbours to answer.
async fn look_for_ways(config: &Config, netlink: &Netlink, known: Arc<Found>, host: &mut Host) {
    host.solicited = geteuid().is_root();
    if !host.solicited {
        let why = "neighbours that the kernel does not know yet: asking for them needs root";
        host.unseen.push(why.to_owned());
    }
    let deadline = Instant::now() + NEIGHBOUR_PATIENCE;
    host.hops = Arc::unwrap_or_clone(known);
    loop {
        let mut open = hops::addresses(config);
        open.retain(|address, is_asked| match host.hops.get(address) {
            Some(Ok(hop)) => *is_asked && hop.mac.is_none(),
            Some(Err(_)) | None => true,
        });
        let found = hops::ask(netlink, open, Solicit::Missing).await;
        host.hops.extend(found);
        let goes_on = host.solicited && Instant::now() < deadline;
        if !goes_on || !hops::is_missing(config, &host.hops) {
            return;
        }
        sleep_until(Instant::now() + NEIGHBOUR_PAUSE).await;
    }
}
