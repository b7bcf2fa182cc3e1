//! Asks the segments of the interfaces who has the services' addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::host::Claim;
use super::frames;
use super::sockets::{Listener, Wanted};
use super::{BURST, BURST_PAUSE, PAUSE, pause};
use crate::config::model::{Config, Mac};
use crate::netlink::Link;
use crate::packet_socket::Sender;

/// How often each address is asked for: one frame may be lost.
const TRIES: u32 = 2;
/// For the last answer; it comes from the same segment.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who answers, on the interfaces of the file, for the services' addresses;
/// this host itself does not count. `own` has its addresses.
pub(in super::super) async fn ask(
    config: &Config,
    links: &[Link],
    own: &[(IpAddr, u32)],
) -> io::Result<Vec<Claim>> {
    let wanted: BTreeSet<IpAddr> = config.services.iter().map(|it| it.address).collect();
    let own_macs: BTreeSet<[u8; 6]> = links
        .iter()
        .filter_map(|it| it.mac)
        .map(|it| it.0)
        .collect();
    let mut tasks = JoinSet::new();
    let named = |link: &&Link| link.up && config.node.interfaces.contains(&link.name);
    for link in links.iter().filter(named) {
        let Some(mac) = link.mac else { continue };
        let segment = Segment {
            interface: link.name.clone(),
            mac,
            source: link_local(own, link.index),
            wanted: wanted.clone(),
        };
        tasks.spawn(segment.ask());
    }
    let mut claims = BTreeSet::new();
    while let Some(answers) = tasks.join_next().await {
        claims.extend(answers.map_err(io::Error::other)??);
    }
    claims.retain(|claim| !own_macs.contains(&claim.mac.0));
    Ok(claims.into_iter().collect())
}

/// The address that neighbours are solicited from. Without one, what is asked
/// looks like duplicate address detection, and is answered as well.
fn link_local(own: &[(IpAddr, u32)], index: u32) -> Ipv6Addr {
    let of_link = own.iter().filter(|(_, at)| *at == index);
    let found = of_link.into_iter().find_map(|(address, _)| match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(*address),
        _ => None,
    });
    found.unwrap_or(Ipv6Addr::UNSPECIFIED)
}

struct Segment {
    interface: String,
    mac: Mac,
    source: Ipv6Addr,
    wanted: BTreeSet<IpAddr>,
}

impl Segment {
    async fn ask(self) -> io::Result<Vec<Claim>> {
        // Before anything is asked, so that no answer is missed.
        let arp = Listener::open(Wanted::Arp, Some(&self.interface))?;
        let v6 = Listener::open(Wanted::V6, Some(&self.interface))?;
        let sender = Sender::open(&self.interface)?;
        // What is asked later than that is not waited for.
        let bursts = u32::try_from(self.wanted.len() / BURST + 1).unwrap_or(u32::MAX);
        let sending = (BURST_PAUSE * bursts + PAUSE) * TRIES;
        let deadline = Instant::now() + sending + PATIENCE;
        let (mut by_arp, mut by_v6) = (Vec::new(), Vec::new());
        let (sent, heard_arp, heard_v6) = tokio::join!(
            self.send(&sender),
            arp.hear_until(deadline, |packet| {
                by_arp.extend(frames::arp_claim(packet));
                false
            }),
            v6.hear_until(deadline, |packet| {
                by_v6.extend(frames::advertised(packet));
                false
            }),
        );
        sent?;
        heard_arp?;
        heard_v6?;
        let of_service = |(address, mac): (IpAddr, Mac)| {
            self.wanted.contains(&address).then(|| Claim {
                address,
                interface: self.interface.clone(),
                mac,
            })
        };
        Ok(by_arp
            .into_iter()
            .chain(by_v6)
            .filter_map(of_service)
            .collect())
    }

    async fn send(&self, sender: &Sender) -> io::Result<()> {
        for _ in 0..TRIES {
            for (index, address) in self.wanted.iter().enumerate() {
                sender.send(&match address {
                    IpAddr::V4(address) => frames::arp_probe(self.mac, *address),
                    IpAddr::V6(address) => frames::solicitation(self.mac, self.source, *address),
                })?;
                if index % BURST == BURST - 1 {
                    pause(BURST_PAUSE).await;
                }
            }
            pause(PAUSE).await;
        }
        Ok(())
    }
}
