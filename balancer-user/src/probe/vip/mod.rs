//! Probes by the VIP: to the service's address, through the packet path, to
//! one backend.
//!
//! ```text
//! socket, marked --> ip rule --> TUN device --> Tickets: whose packet?
//!                                                  |
//!   the interface to the backend <-- packet socket <-- Forge: the kernel's
//!                                                      program makes the frame
//! ```
//!
//! Answers come as a client's would, from the VIP straight to this host's
//! address, and the kernel's stack takes them: the probe is an ordinary socket.
//! A [`Lane`] is one balancer's: a device, a reader, a private copy of the
//! program, for all probes together.
//!
//! Invariants: where a packet cannot be sent on, the probe says why; what this
//! host lacks is never counted against a backend; only packets with a ticket
//! leave.

mod device;
mod forge;
mod known;
mod road;
mod tickets;
mod visit;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub use device::{Names, missing, unlead};
pub use road::{NoRoad, Passage, Road, Surroundings, road};
pub(super) use visit::Ticket;
pub use visit::{Visit, Way};

use self::device::Device;
use self::forge::{Forge, Ways};
use self::known::Known;
use self::road::{Roads, passages, roads};
use self::tickets::{Ends, Tickets};
use crate::config::model::Config;
use crate::daemon::hops::{self, Addresses, Found, Solicit};
use crate::netlink::{Family, Netlink};

/// For how long the ways of a candidate are kept: a change may wait for the
/// proof of its backends.
const CANDIDATE_KEPT: Duration = Duration::from_secs(15 * 60);
/// The kernel asks a neighbour three times, a second apart.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(3500);
/// Between two looks at what neighbours have answered.
const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(100);

/// The way of all probes by the VIP; clones share it.
#[derive(Debug, Clone)]
pub struct Lane(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    host: Option<(Netlink, Names)>,
    known: Mutex<Known>,
    outlet: Mutex<Outlet>,
    /// Held by who changes it.
    device: tokio::sync::Mutex<Option<Device>>,
}

/// What the reader works with.
#[derive(Default)]
struct Outlet {
    tickets: Tickets,
    forge: Option<Forge>,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves what it guards whole: it is changed by calls
    // that cannot panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lane {
    /// The lane of the balancer with these names, closed until somebody needs it.
    pub fn new(netlink: Netlink, names: Names) -> Self {
        Self::with(Some((netlink, names)))
    }

    /// A lane that is never opened.
    pub fn none() -> Self {
        Self::with(None)
    }

    fn with(host: Option<(Netlink, Names)>) -> Self {
        Self(Arc::new(Shared {
            host,
            known: Mutex::default(),
            outlet: Mutex::default(),
            device: tokio::sync::Mutex::default(),
        }))
    }

    /// Takes away what a daemon left that was killed.
    pub async fn clear(&self) {
        let Some((netlink, names)) = &self.0.host else {
            return;
        };
        match unlead(netlink, names).await {
            Ok(true) => tracing::info!(mark = names.number, "removed the rules of an earlier one"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "rules of an earlier balancer may be left"),
        }
    }

    /// Has ways for the probes of the configuration in force, of which `found`
    /// says where its backends are; for no other but what is a candidate.
    ///
    /// To be called again when routes or neighbours have changed. May take as
    /// long as the kernel takes to verify a program.
    pub async fn lead(&self, config: &Config, found: &Found) {
        self.know(config, found, None).await;
    }

    /// Has ways for the probes of a candidate as well, for a while.
    pub async fn lead_candidate(&self, config: &Config) {
        let Some((netlink, _)) = &self.0.host else {
            return;
        };
        let mut addresses = Addresses::new();
        for (_, backend, _) in passages(config) {
            *addresses.entry(backend.address).or_default() |= backend.mac.is_none();
        }
        if addresses.is_empty() {
            return;
        }
        let deadline = Instant::now() + NEIGHBOUR_PATIENCE;
        let mut found = hops::ask(netlink, addresses.clone(), Solicit::Missing).await;
        while hops::is_missing(config, &found) && Instant::now() < deadline {
            sleep_until(Instant::now() + NEIGHBOUR_PAUSE).await;
            found = hops::ask(netlink, addresses.clone(), Solicit::Missing).await;
        }
        let kept_until = Instant::now() + CANDIDATE_KEPT;
        self.know(config, &found, Some(kept_until)).await;
    }

    /// Whether probes by the VIP are wanted and none can be sent.
    pub fn is_blocked(&self) -> bool {
        lock(&self.0.known).blocked.is_some()
    }

    /// What of this host's keeps probes by the VIP from being made, a sentence
    /// each.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.0.known).problems().into_iter().collect()
    }

    /// Closes it, and leaves nothing in the kernel.
    pub async fn close(&self) {
        let Some((netlink, names)) = &self.0.host else {
            return;
        };
        let mut device = self.0.device.lock().await;
        lock(&self.0.outlet).forge = None;
        if device.take().is_none() {
            return;
        }
        if let Err(error) = unlead(netlink, names).await {
            tracing::warn!(%error, "rules for probes are left");
        }
    }

    async fn know(&self, config: &Config, found: &Found, kept_until: Option<Instant>) {
        let Some((netlink, _)) = &self.0.host else {
            return;
        };
        let is_wanted = passages(config).next().is_some();
        if !is_wanted && lock(&self.0.known).entries.is_empty() {
            return;
        }
        let (roads, up) = match look_up(netlink, config, found).await {
            Ok(looked_up) => looked_up,
            Err(error) => {
                tracing::warn!(%error, "ways of probes by the VIP are not looked up");
                return;
            }
        };
        let (ways, families) = lock(&self.0.known).update(roads, kept_until, Instant::now());
        if families.is_empty() {
            self.close().await;
            lock(&self.0.known).note(None);
            return;
        }
        let opened = self.open(ways, &families, &up).await;
        lock(&self.0.known).note(opened.err());
    }

    /// Opens it, or goes on with what is open.
    /// Interfaces that are `up` are known by their index.
    async fn open(
        &self,
        ways: Ways,
        families: &BTreeSet<Family>,
        up: &BTreeSet<u32>,
    ) -> Result<(), String> {
        let Some((netlink, names)) = &self.0.host else {
            return Ok(());
        };
        let mut device = self.0.device.lock().await;
        let shared = Arc::clone(&self.0);
        // Verifying a program takes a while: nobody may wait for the thread,
        // nor for the lock. The device's lock keeps others from doing it, too.
        let forged = tokio::task::spawn_blocking(move || {
            if let Some(forge) = &mut lock(&shared.outlet).forge {
                return forge.change(ways);
            }
            let forge = Forge::load(ways)?;
            lock(&shared.outlet).forge = Some(forge);
            Ok(())
        });
        let forged = forged.await.map_err(|error| error.to_string())?;
        forged.map_err(|error| error.to_string())?;
        if device.as_ref().is_some_and(|it| !it.is_usable(up)) {
            tracing::warn!(interface = %names.device, "somebody took it away or down; made anew");
            *device = None;
        }
        let device = match &mut *device {
            Some(device) => device,
            empty => {
                let mut opened = Device::open(names)?;
                let weak = Arc::downgrade(&self.0);
                opened.read_by(move |packet| {
                    if let Some(shared) = weak.upgrade() {
                        shared.send(packet);
                    }
                });
                tracing::info!(interface = %names.device, mark = names.number,
                    "probes by the VIP leave by this interface");
                empty.insert(opened)
            }
        };
        let led = device.lead(netlink, names, families).await;
        led.map_err(|error| error.to_string())
    }

    /// The way of a probe: by the VIP where there is a passage, straight to
    /// `address` otherwise.
    pub fn way(&self, address: SocketAddr, via: Option<&Passage>) -> Way {
        match via {
            None => Way::Straight(address),
            Some(passage) => Way::Vip(Visit {
                lane: self.clone(),
                vip: SocketAddr::new(passage.vip, address.port()),
                passage: passage.clone(),
                fate: Arc::default(),
            }),
        }
    }
}

/// What the kernel says of the ways, and which interfaces are up.
async fn look_up(
    netlink: &Netlink,
    config: &Config,
    found: &Found,
) -> Result<(Roads, BTreeSet<u32>), crate::netlink::Error> {
    let links = netlink.links().await?;
    let up = links.iter().filter(|link| link.up).map(|link| link.index);
    let own = netlink.addresses().await?;
    let vips: BTreeSet<IpAddr> = passages(config).map(|(.., it)| it.vip).collect();
    let vips: Vec<IpAddr> = vips.into_iter().collect();
    let mut found = found.clone();
    let ways = netlink.next_hops(&vips).await;
    found.extend(vips.into_iter().zip(ways));
    let surroundings = Surroundings {
        links: &links,
        own: &own,
    };
    Ok((roads(config, &found, surroundings), up.collect()))
}

impl Shared {
    /// Sends a packet on that the kernel wants to send.
    fn send(&self, packet: &[u8]) {
        let Some((ends, transport_at)) = Ends::read(packet) else {
            return;
        };
        let mut outlet = lock(&self.outlet);
        let Some(held) = outlet.tickets.find(&ends).cloned() else {
            return;
        };
        let Some(forge) = &mut outlet.forge else {
            return;
        };
        let sent = forge.send(held.number, packet, transport_at);
        held.fate.note(sent);
    }
}
