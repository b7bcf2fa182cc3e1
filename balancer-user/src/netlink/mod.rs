//! Next hops, learned from the kernel's routes and neighbours.
//!
//! The XDP program looks nothing up: a member carries the interface and the
//! Ethernet addresses its packets leave with. Here the controller learns them,
//! as `ip route get` and `ip neighbour` would show them, so that an operator's
//! routing rules, gateways and path MTUs hold for balanced traffic, too.
//! [`Changes`] says when to look again.
//!
//! This file and `changes` talk to the kernel; `link`, `neighbour` and
//! `next_hop` only turn messages into types.

mod changes;
mod error;
mod link;
mod neighbour;
mod next_hop;
mod policy;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::LinkExtentMask;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, LinkGetRequest};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::config::model::Mac;

pub use changes::Changes;
pub use error::Error;
pub use link::{AttachedMode, AttachedXdp, Link};
pub use next_hop::{NextHop, Unresolved};
pub use policy::{Family, PRIORITY as MARKED_PRIORITY};

use neighbour::Neighbours;
use next_hop::Route;

/// The kernel answers at once; it only stays silent when an answer could not be
/// decoded and was dropped. [`Error::Late`] names this figure.
const PATIENCE: Duration = Duration::from_secs(10);

/// Route lookups under way at a time. The library sends the next when the one
/// before is answered, so more would only wait in its queue.
const LOOKUPS: usize = 32;

/// Bytes of the longest interface name.
const MAX_NAME_LEN: usize = 15;

const READ_LINK: &str = "read an interface";
const LIST_LINKS: &str = "list the interfaces";
const LIST_ADDRESSES: &str = "list the addresses";
const READ_NEIGHBOUR: &str = "read a neighbour";
const LIST_NEIGHBOURS: &str = "list the neighbours";
const LOOK_UP_ROUTE: &str = "look up a route";
const SOLICIT: &str = "solicit a neighbour";
const VERIFY: &str = "verify a neighbour";

/// A connection to the kernel's network configuration. Clones share it.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    /// The kernel refuses a second dump while one is under way on the socket.
    dump: Arc<Mutex<()>>,
}

impl Netlink {
    /// Connects in the network namespace of the calling thread, and subscribes
    /// to changes there.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect() -> Result<(Self, Changes), Error> {
        // Before anything is read, so that no change falls in between.
        let changes = Changes::subscribe()?;
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| {
            Error::Open(
                error
                    .raw_os_error()
                    .map_or(Errno::UnknownErrno, Errno::from_raw),
            )
        })?;
        // Ends by itself when the last clone of the handle is gone.
        tokio::spawn(connection);
        let dump = Arc::default();
        Ok((Self { handle, dump }, changes))
    }

    /// The interface of that name; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return Ok(None);
        }
        self.read_link(self.handle.link().get().match_name(name))
            .await
    }

    /// The interface of that index; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, Error> {
        if index == 0 {
            return Ok(None);
        }
        self.read_link(self.handle.link().get().match_index(index))
            .await
    }

    /// All interfaces.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let _alone = self.dump.lock().await;
        let links = without_statistics(self.handle.link().get()).execute();
        let links = collect(LIST_LINKS, links).await?;
        Ok(links.iter().filter_map(link::decode).collect())
    }

    /// This host's addresses, each with the index of its interface.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn addresses(&self) -> Result<Vec<(IpAddr, u32)>, Error> {
        let _alone = self.dump.lock().await;
        let messages = self.handle.address().get().execute();
        let messages = collect(LIST_ADDRESSES, messages).await?;
        let of = |message: &AddressMessage| {
            // On a point-to-point link the other attribute is the peer's.
            let (mut local, mut address) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(found) => local = Some(*found),
                    AddressAttribute::Address(found) => address = Some(*found),
                    _ => {}
                }
            }
            Some((local.or(address)?, message.header.index))
        };
        Ok(messages.iter().filter_map(of).collect())
    }

    /// Where a packet for `destination` leaves this host.
    ///
    /// The neighbour's MAC may be missing; see [`Netlink::solicit`].
    ///
    /// # Errors
    /// When there is no route, one that no frame can take, or no answer.
    pub async fn next_hop(&self, destination: IpAddr) -> Result<NextHop, Unresolved> {
        let failed = |error| Unresolved::Netlink { destination, error };
        let route = self.route(destination).await?;
        let link = self.link_by_index(route.egress).await.map_err(failed)?;
        // Says what is wrong with the route or interface before the neighbour
        // is asked for.
        let hop = route.next_hop(link.as_ref(), None)?;
        let mac = self
            .neighbour(hop.egress, hop.neighbour)
            .await
            .map_err(failed)?;
        Ok(NextHop { mac, ..hop })
    }

    /// [`Netlink::next_hop`] of many destinations, in their order.
    ///
    /// Interfaces and neighbours are read once for all, and each destination is
    /// looked up once, however often it is named.
    pub async fn next_hops(&self, destinations: &[IpAddr]) -> Vec<Result<NextHop, Unresolved>> {
        let tables = match self.tables().await {
            Ok(tables) => tables,
            Err(error) => {
                let failed = |destination: &IpAddr| {
                    let (destination, error) = (*destination, error.clone());
                    Err(Unresolved::Netlink { destination, error })
                };
                return destinations.iter().map(failed).collect();
            }
        };
        let mut distinct = destinations.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let hops: HashMap<IpAddr, Result<NextHop, Unresolved>> = stream::iter(distinct)
            .map(|destination| async move { (destination, self.route(destination).await) })
            .buffer_unordered(LOOKUPS)
            .map(|(destination, route)| (destination, route.and_then(|route| tables.hop(&route))))
            .collect()
            .await;
        destinations
            .iter()
            .map(|destination| hops[destination].clone())
            .collect()
    }

    /// Asks the kernel to resolve the next hop's neighbour, or, where it is
    /// resolved, to find out whether it still answers.
    ///
    /// Packets that XDP forwards do not tell the kernel that it needs the
    /// neighbour. So a hop in use is to be solicited now and then: on a timer,
    /// not at each wake-up of [`Changes`], as the answer makes one. The answer
    /// is not waited for.
    ///
    /// # Errors
    /// When the kernel does not take the request, as it does from root only.
    pub async fn solicit(&self, hop: &NextHop) -> Result<(), Error> {
        let request = self
            .handle
            .neighbours()
            .add(hop.egress, hop.neighbour)
            // No state of ours: a permanent entry would never be resolved.
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        match timeout(PATIENCE, request.execute()).await {
            Ok(result) => result.map_err(|error| Error::of(SOLICIT, &error)),
            Err(_) => Err(Error::Late { asked: SOLICIT }),
        }
    }

    /// Has the kernel find out at once whether a resolved neighbour still
    /// answers under its MAC.
    ///
    /// [`Netlink::solicit`] leaves that to the kernel, which trusts an entry
    /// for up to 45 seconds and doubts it for some more. After this it asks
    /// three times, a second apart, and then has no MAC for it: that wakes
    /// [`Changes`], and a solicitation finds the new one. In the meantime the
    /// old one stands. Entries that an operator made are not touched.
    ///
    /// # Errors
    /// When the kernel does not answer or does not take the request.
    pub async fn verify(&self, hop: &NextHop) -> Result<(), Error> {
        let entry = self.neighbour_entry(hop.egress, hop.neighbour).await?;
        if !entry.is_some_and(|entry| neighbour::is_trusted(&entry)) {
            return Ok(());
        }
        let request = self
            .handle
            .neighbours()
            .add(hop.egress, hop.neighbour)
            .state(NeighbourState::Probe)
            .replace();
        match timeout(PATIENCE, request.execute()).await {
            Ok(result) => result.map_err(|error| Error::of(VERIFY, &error)),
            Err(_) => Err(Error::Late { asked: VERIFY }),
        }
    }

    async fn read_link(&self, request: LinkGetRequest) -> Result<Option<Link>, Error> {
        let answers = collect(READ_LINK, without_statistics(request).execute()).await;
        match answers {
            Ok(messages) => match messages.first() {
                Some(message) => Ok(link::decode(message)),
                None => Err(Error::Closed { asked: READ_LINK }),
            },
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn route(&self, destination: IpAddr) -> Result<Route, Unresolved> {
        let request = self.handle.route().get(next_hop::request(destination)?);
        let messages = collect(LOOK_UP_ROUTE, request.execute())
            .await
            .map_err(|error| Unresolved::of(destination, error))?;
        match messages.first() {
            Some(message) => next_hop::decode(destination, message),
            None => {
                let error = Error::Closed {
                    asked: LOOK_UP_ROUTE,
                };
                Err(Unresolved::Netlink { destination, error })
            }
        }
    }

    async fn neighbour(&self, interface: u32, address: IpAddr) -> Result<Option<Mac>, Error> {
        let entry = self.neighbour_entry(interface, address).await?;
        Ok(entry.and_then(|entry| neighbour::usable_mac(&entry)))
    }

    /// One neighbour, without reading them all; the library only knows how to
    /// list.
    async fn neighbour_entry(
        &self,
        interface: u32,
        address: IpAddr,
    ) -> Result<Option<NeighbourMessage>, Error> {
        const ASKED: &str = READ_NEIGHBOUR;
        let request = neighbour::request(interface, address);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(request));
        message.header.flags = NLM_F_REQUEST;
        let mut answers = self
            .handle
            .clone()
            .request(message)
            .map_err(|error| Error::of(ASKED, &error))?;
        let answer = timeout(PATIENCE, answers.next()).await;
        let answer = answer.map_err(|_| Error::Late { asked: ASKED })?;
        match answer.map(|message| message.payload) {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry))) => {
                Ok(Some(entry))
            }
            Some(NetlinkPayload::Error(error)) => match Error::refused(ASKED, error.raw_code()) {
                error if error.errno() == Some(Errno::ENOENT) => Ok(None),
                error => Err(error),
            },
            Some(_) => Err(Error::Unexpected { asked: ASKED }),
            None => Err(Error::Closed { asked: ASKED }),
        }
    }

    async fn tables(&self) -> Result<Tables, Error> {
        let links = self.links().await?;
        let _alone = self.dump.lock().await;
        let neighbours = self.handle.neighbours().get().execute();
        let neighbours = collect(LIST_NEIGHBOURS, neighbours).await?;
        Ok(Tables {
            links: links.into_iter().map(|link| (link.index, link)).collect(),
            neighbours: neighbours.iter().collect(),
        })
    }
}

/// What next hops are put together from, read once.
struct Tables {
    links: HashMap<u32, Link>,
    neighbours: Neighbours,
}

impl Tables {
    fn hop(&self, route: &Route) -> Result<NextHop, Unresolved> {
        let mac = self.neighbours.mac(route.egress, route.neighbour());
        route.next_hop(self.links.get(&route.egress), mac)
    }
}

/// The counters are the larger part of what the kernel tells of an interface.
fn without_statistics(request: LinkGetRequest) -> LinkGetRequest {
    request.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
}

async fn collect<T>(
    asked: &'static str,
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, Error> {
    match timeout(PATIENCE, answers.try_collect()).await {
        Ok(answers) => answers.map_err(|error| Error::of(asked, &error)),
        Err(_) => Err(Error::Late { asked }),
    }
}
