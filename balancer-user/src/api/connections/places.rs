//! Places of one address: who has them, and who gives way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Whose a connection is, as far as places are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A user of this host, by number.
    User(u32),
    /// An address; of IPv6 the network of 64 bits that a host has to itself.
    Address(IpAddr),
}

impl Who {
    /// Whoever has this address.
    pub fn at(address: IpAddr) -> Self {
        const NETWORK: u128 = !0 << 64;
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
            address => address,
        })
    }

    /// How many of the places it may have, and how many all like it may.
    fn shares(self, places: usize) -> (usize, usize) {
        match self {
            Self::User(0) => (places, places),
            Self::User(_) => (places / 2, places - places / RESERVED),
            Self::Address(_) => (places / 2, places),
        }
    }
}

const ROOT: Who = Who::User(0);
/// One of so many places of the socket is root's, whoever else comes.
const RESERVED: usize = 8;

/// Why a connection was ended that its client had not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// There was no place, and nobody to give way.
    Refused,
    /// It asked nothing while another one wanted its place.
    Displaced,
    /// The head of its request did not come in time.
    SlowHead,
    /// The body of its request did not come in time.
    SlowBody,
    /// It did not take its answer.
    Untaken,
}

impl Cut {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::Displaced,
        Self::SlowHead,
        Self::SlowBody,
        Self::Untaken,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Displaced => "displaced",
            Self::SlowHead => "slow-head",
            Self::SlowBody => "slow-body",
            Self::Untaken => "untaken",
        }
    }
}

/// What was counted of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// `socket` or `http`.
    pub name: &'static str,
    /// Connections that are open.
    pub open: usize,
    /// Connections that may be.
    pub places: usize,
    /// Connections that got a place.
    pub admitted: u64,
    /// Connections that were ended, in the order of [`Cut::ALL`].
    pub cut: [u64; Cut::ALL.len()],
}

impl Seen {
    /// Those that found no place or had to give theirs up.
    pub fn crowded_out(&self) -> u64 {
        self.cut[Cut::Refused as usize] + self.cut[Cut::Displaced as usize]
    }
}

/// A way in.
#[derive(Debug)]
pub struct Entrance {
    name: &'static str,
    places: usize,
    open: Mutex<Open>,
    admitted: AtomicU64,
    cut: [AtomicU64; Cut::ALL.len()],
}

#[derive(Debug, Default)]
struct Open {
    /// Grows with everything that happens, so that it tells what was first.
    turn: u64,
    /// By the turn in which each came.
    connections: BTreeMap<u64, Connection>,
}

impl Open {
    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

#[derive(Debug)]
struct Connection {
    who: Who,
    /// The turn since which nothing is asked there; none while something is.
    idle_since: Option<u64>,
    leave: Arc<Notify>,
}

impl Entrance {
    /// With so many places.
    pub fn new(name: &'static str, places: usize) -> Self {
        Self {
            name,
            places,
            open: Mutex::default(),
            admitted: AtomicU64::default(),
            cut: Default::default(),
        }
    }

    /// A place for one who comes; none if all who have one ask something.
    pub(super) fn admit(self: &Arc<Self>, who: Who) -> Option<Place> {
        let mut open = self.lock();
        let connections = &open.connections;
        let (most, most_like) = who.shares(self.places);
        let is_like = |it: &Connection| who == ROOT || it.who != ROOT;
        let like = connections.values().filter(|it| is_like(it)).count();
        let own = connections.values().filter(|it| it.who == who).count();
        let is_over_share = own >= most;
        if is_over_share || like >= most_like || connections.len() >= self.places {
            let idle = connections.iter().filter_map(|(came, it)| {
                let may_give_way = match is_over_share {
                    true => it.who == who,
                    false => is_like(it),
                };
                let since = it.idle_since.filter(|_| may_give_way)?;
                Some((since, *came))
            });
            let Some((_, came)) = idle.min() else {
                drop(open);
                self.count(Cut::Refused);
                return None;
            };
            if let Some(gone) = open.connections.remove(&came) {
                gone.leave.notify_one();
            }
            self.count(Cut::Displaced);
        }
        let came = open.next_turn();
        let leave = Arc::new(Notify::new());
        let connection = Connection {
            who,
            idle_since: Some(came),
            leave: Arc::clone(&leave),
        };
        open.connections.insert(came, connection);
        drop(open);
        self.admitted.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            entrance: Arc::clone(self),
            came,
            leave,
        })
    }

    /// What was counted up to now.
    pub fn seen(&self) -> Seen {
        Seen {
            name: self.name,
            open: self.lock().connections.len(),
            places: self.places,
            admitted: self.admitted.load(Ordering::Relaxed),
            cut: self.cut.each_ref().map(|it| it.load(Ordering::Relaxed)),
        }
    }

    fn count(&self, cut: Cut) {
        self.cut[cut as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, free again when dropped.
#[derive(Debug)]
pub(in crate::api) struct Place {
    entrance: Arc<Entrance>,
    came: u64,
    leave: Arc<Notify>,
}

impl Place {
    /// Something is asked, until the guard is dropped: it does not give way.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.note(|_| None);
        Busy(Arc::clone(self))
    }

    /// Nothing can be worked on until the guard is dropped, as its body has yet
    /// to come: it gives way, as one that asks nothing.
    pub(super) fn reading(self: &Arc<Self>) -> Reading {
        self.note(|open| Some(open.next_turn()));
        Reading(Arc::clone(self))
    }

    /// Waits until it has to give way.
    pub(super) async fn is_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Counts its end.
    pub(super) fn count(&self, cut: Cut) {
        self.entrance.count(cut);
    }

    fn note(&self, idle_since: impl Fn(&mut Open) -> Option<u64>) {
        let mut open = self.entrance.lock();
        let since = idle_since(&mut open);
        if let Some(connection) = open.connections.get_mut(&self.came) {
            connection.idle_since = since;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // One that gave way has none.
        self.entrance.lock().connections.remove(&self.came);
    }
}

/// Keeps a place while something is asked there.
#[derive(Debug)]
pub(super) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note(|open| Some(open.next_turn()));
    }
}

/// A request's body is awaited.
#[derive(Debug)]
pub(super) struct Reading(Arc<Place>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.note(|_| None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(entrance: &Entrance) -> (usize, u64, u64) {
        let seen = entrance.seen();
        let of = |cut: Cut| seen.cut[cut as usize];
        (seen.open, of(Cut::Refused), of(Cut::Displaced))
    }

    #[test]
    fn who_asks_nothing_for_longest_gives_way_and_who_asks_does_not() {
        let entrance = Arc::new(Entrance::new("socket", 2));
        let first = Arc::new(entrance.admit(ROOT).unwrap());
        let second = Arc::new(entrance.admit(ROOT).unwrap());
        // The first asked last.
        drop(first.busy());
        let third = Arc::new(entrance.admit(ROOT).unwrap());
        assert!(second.leave.notified().now_or_never().is_some());
        assert!(first.leave.notified().now_or_never().is_none());
        let asking = (first.busy(), third.busy());
        assert!(entrance.admit(ROOT).is_none());
        assert_eq!(seen(&entrance), (2, 1, 1));
        drop(asking.1);
        assert!(entrance.admit(ROOT).is_some());
        drop((first, second, third, asking.0));
        assert_eq!(seen(&entrance), (0, 1, 2));
    }

    #[test]
    fn one_address_or_user_has_half_of_the_places_and_takes_none_from_others() {
        let entrance = Arc::new(Entrance::new("http", 4));
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|it| Who::at(it.parse().unwrap()));
        let places: Vec<_> = [one, other, one]
            .map(|who| Arc::new(entrance.admit(who).unwrap()))
            .into();
        let asking = places[0].busy();
        let third = entrance.admit(one).unwrap();
        assert!(places[2].leave.notified().now_or_never().is_some());
        assert!(places[1].leave.notified().now_or_never().is_none());
        let third = Arc::new(third);
        let both = third.busy();
        assert!(entrance.admit(one).is_none());
        assert!(entrance.admit(other).is_some());
        drop((asking, both));
        let uids = [1000, 1000, 0].map(|uid| entrance.admit(Who::User(uid)).is_some());
        assert_eq!(uids, [true; 3]);
    }

    #[test]
    fn users_other_than_root_leave_places_to_root() {
        let entrance = Arc::new(Entrance::new("socket", 8));
        let busy = |uid| Some(Arc::new(entrance.admit(Who::User(uid))?).busy());
        let theirs: Vec<_> = [1, 2, 3, 1, 2, 3, 1].map(busy).into();
        assert!(theirs.iter().all(Option::is_some));
        assert!(entrance.admit(Who::User(4)).is_none());
        let roots = busy(0);
        assert!(roots.is_some() && busy(0).is_none());
        assert_eq!(seen(&entrance), (8, 2, 0));
    }

    #[test]
    fn request_whose_body_has_yet_to_come_gives_way() {
        let entrance = Arc::new(Entrance::new("socket", 2));
        let [one, two] = [(); 2].map(|()| Arc::new(entrance.admit(ROOT).unwrap()));
        let _asking = (one.busy(), two.busy());
        let reading = two.reading();
        let third = entrance.admit(ROOT);
        assert!(third.is_some() && two.leave.notified().now_or_never().is_some());
        drop(reading);
        assert_eq!(seen(&entrance), (2, 0, 1));
    }

    #[test]
    fn addresses_of_one_host_are_one() {
        let who = |address: &str| Who::at(address.parse().unwrap());
        assert_eq!(who("2001:db8::1"), who("2001:db8::ffff:1"));
        assert_ne!(who("2001:db8::1"), who("2001:db8:0:1::1"));
        assert_eq!(who("::ffff:192.0.2.1"), who("192.0.2.1"));
        assert_ne!(who("192.0.2.1"), who("192.0.2.2"));
    }

    use futures_util::FutureExt;
}
