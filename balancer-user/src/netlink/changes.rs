//! Wake-ups when the kernel's links, addresses, neighbours or routes change.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, TokioSocket};
use tokio::time::{Instant, sleep_until};

use super::error::Error;

/// Changes come in groups (a link that goes down takes its routes and
/// neighbours along); what follows within this time is one wake-up.
const SETTLE: Duration = Duration::from_millis(20);

/// Events taken from the socket at a time, so that a storm of them does not
/// hold up the other tasks; the rest makes the next wake-up.
const MAX_EVENTS: usize = 4096;

/// Everything a next hop depends on. Rules and next-hop objects change what a
/// route lookup finds without a word in the route groups.
const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// Tells that something changed, not what: the reader reads state afresh, so
/// events that the kernel had to drop cost nothing.
///
/// What has not been asked for waits in the socket's buffer, bounded by the
/// kernel: nothing piles up here.
pub struct Changes {
    socket: TokioSocket,
    /// When the group of events that has begun counts as complete. Kept here so
    /// that a dropped [`Changes::changed`] loses nothing.
    due: Option<Instant>,
}

impl Changes {
    /// Subscribes in the network namespace of the calling thread.
    pub(super) fn subscribe() -> Result<Self, Error> {
        let socket = open().map_err(|error| Error::Open(errno(&error)))?;
        Ok(Self { socket, due: None })
    }

    /// Waits until something has changed since the last call returned, and 20 ms
    /// more for what comes along with it. State read after this is at least as
    /// new as the change.
    ///
    /// May be dropped at any time without losing a change, so it can stand in a
    /// `select!`. May also return without one.
    pub async fn changed(&mut self) {
        let due = match self.due {
            Some(due) => due,
            None => {
                self.event().await;
                *self.due.insert(Instant::now() + SETTLE)
            }
        };
        sleep_until(due).await;
        self.due = None;
        self.drain();
    }

    /// Waits for one event, whatever it says: the kernel cuts off what of it
    /// does not fit here.
    async fn event(&self) {
        let mut byte = [0_u8; 1];
        if let Err(error) = poll_fn(|cx| self.socket.poll_recv(cx, &mut &mut byte[..])).await
            // The buffer was full and events were lost: a change as well.
            && errno(&error) != Errno::ENOBUFS
        {
            tracing::warn!(%error, "cannot read netlink events; state is read anyway");
        }
    }

    /// Throws away what else has come in.
    fn drain(&self) {
        for _ in 0..MAX_EVENTS {
            let mut byte = [0_u8; 1];
            match self.socket.socket_ref().recv(&mut &mut byte[..], 0) {
                Ok(_) => {}
                Err(error) if errno(&error) == Errno::ENOBUFS => {}
                // Nothing left; anything else, the next wait meets again.
                Err(_) => return,
            }
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    // A socket without an address of its own gets no multicast.
    socket.socket_mut().bind_auto()?;
    for group in GROUPS {
        socket.socket_mut().add_membership(group as u32)?;
    }
    Ok(socket)
}

fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}
