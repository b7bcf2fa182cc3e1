//! Whose packet it is that the kernel wants to send: told by the address and
//! port that its socket is bound to. Pure: time is an argument.
//!
//! A socket's last packet, a reset, may be read after the socket is gone. So a
//! ticket that was given back is honoured for a moment, unless another socket
//! has the port by then.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use balancer_common::parse::{PROTOCOL_TCP, PROTOCOL_UDP};

use crate::config::model::Protocol;

/// For how long a ticket is honoured that was given back.
const GRACE: Duration = Duration::from_secs(2);

/// What tells one socket of this host from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    /// IP protocol number.
    pub(super) protocol: u8,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Ends {
    pub(super) fn new(protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            protocol: match protocol {
                Protocol::Tcp => PROTOCOL_TCP,
                Protocol::Udp => PROTOCOL_UDP,
            },
            local,
            remote,
        }
    }

    /// Those of an IP packet that this host's stack made, and where its
    /// transport header begins; none for what no probe sends.
    pub(super) fn read(packet: &[u8]) -> Option<(Self, usize)> {
        let (protocol, at, source, destination): (u8, usize, IpAddr, IpAddr) =
            match packet.first()? >> 4 {
                4 => {
                    let address = |at| Some(Ipv4Addr::from(bytes::<4>(packet, at)?));
                    let at = usize::from(packet[0] & 0xf) * 4;
                    (
                        *packet.get(9)?,
                        at,
                        address(12)?.into(),
                        address(16)?.into(),
                    )
                }
                6 => {
                    let address = |at| Some(Ipv6Addr::from(bytes::<16>(packet, at)?));
                    (*packet.get(6)?, 40, address(8)?.into(), address(24)?.into())
                }
                _ => return None,
            };
        if !matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP) {
            return None;
        }
        let port = |at| Some(u16::from_be_bytes(bytes::<2>(packet, at)?));
        let ends = Self {
            protocol,
            local: SocketAddr::new(source, port(at)?),
            remote: SocketAddr::new(destination, port(at + 2)?),
        };
        Some((ends, at))
    }
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..at + N)?.try_into().ok()
}

/// What became of a probe's packets.
#[derive(Debug, Default)]
pub(super) struct Fate {
    is_sent: AtomicBool,
    trouble: OnceLock<String>,
}

impl Fate {
    /// Notes that a packet was sent on, or why not: the first reason is as good
    /// as those that follow.
    pub(super) fn note(&self, sent: Result<(), String>) {
        match sent {
            Ok(()) => self.is_sent.store(true, Ordering::Relaxed),
            Err(why) => drop(self.trouble.set(why)),
        }
    }

    /// Why a packet could not be sent on.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.get().map(String::as_str)
    }

    /// Whether none was there to be sent on.
    pub(super) fn is_none_seen(&self) -> bool {
        !self.is_sent.load(Ordering::Relaxed) && self.trouble.get().is_none()
    }
}

/// What is known of a socket.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Number of its passage.
    pub(super) number: u16,
    /// Where it is noted what became of its packets.
    pub(super) fate: Arc<Fate>,
    /// Tells it from others that had its ends.
    serial: u64,
}

/// The sockets whose packets are sent on.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    held: HashMap<Ends, Held>,
    leaving: VecDeque<(Instant, Ends, u64)>,
    last_serial: u64,
}

impl Tickets {
    /// From now on packets of that socket are sent on; the serial gives the
    /// ticket back.
    pub(super) fn take(&mut self, ends: Ends, number: u16, fate: &Arc<Fate>, now: Instant) -> u64 {
        self.forget_old(now);
        self.last_serial += 1;
        let held = Held {
            number,
            fate: Arc::clone(fate),
            serial: self.last_serial,
        };
        self.held.insert(ends, held);
        self.last_serial
    }

    /// Gives a ticket back.
    pub(super) fn leave(&mut self, ends: Ends, serial: u64, now: Instant) {
        self.forget_old(now);
        self.leaving.push_back((now, ends, serial));
    }

    /// Whose packet it is.
    pub(super) fn find(&self, ends: &Ends) -> Option<&Held> {
        self.held.get(ends)
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((left, ends, serial)) = self.leaving.front().copied() {
            if now.saturating_duration_since(left) < GRACE {
                return;
            }
            self.leaving.pop_front();
            if self.held.get(&ends).is_some_and(|it| it.serial == serial) {
                self.held.remove(&ends);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(port: u16) -> Ends {
        let local = SocketAddr::from(([10, 0, 0, 1], port));
        Ends::new(Protocol::Tcp, local, "192.0.2.1:80".parse().unwrap())
    }

    #[test]
    fn ticket_is_honoured_until_a_moment_after_it_was_given_back() {
        let (mut tickets, began) = (Tickets::default(), Instant::now());
        let fate = Arc::default();
        let serial = tickets.take(ends(1), 7, &fate, began);
        assert_eq!(tickets.find(&ends(1)).unwrap().number, 7);
        assert!(tickets.find(&ends(2)).is_none());
        tickets.leave(ends(1), serial, began);
        tickets.take(ends(2), 8, &fate, began + GRACE - Duration::from_millis(1));
        assert!(tickets.find(&ends(1)).is_some());
        tickets.take(ends(3), 9, &fate, began + GRACE);
        assert!(tickets.find(&ends(1)).is_none());
        assert_eq!(tickets.held.len(), 2);
    }

    #[test]
    fn port_that_another_socket_took_is_not_given_back_by_the_first() {
        let (mut tickets, began) = (Tickets::default(), Instant::now());
        let fate = Arc::default();
        let first = tickets.take(ends(1), 7, &fate, began);
        tickets.leave(ends(1), first, began);
        tickets.take(ends(1), 8, &fate, began);
        tickets.take(ends(2), 9, &fate, began + 2 * GRACE);
        assert_eq!(tickets.find(&ends(1)).unwrap().number, 8);
        assert!(tickets.leaving.is_empty());
    }

    #[test]
    fn packets_are_read_in_both_families_and_others_are_nobodys() {
        let mut v4 = vec![0x46, 0, 0, 28, 0, 0, 0, 0, 64, 6, 0, 0];
        v4.extend([10, 0, 0, 1, 192, 0, 2, 1]);
        // An option, and the ports.
        v4.extend([1, 1, 1, 0, 0, 1, 0, 80]);
        assert_eq!(Ends::read(&v4), Some((ends(1), 24)));
        for len in 0..v4.len() {
            assert_eq!(Ends::read(&v4[..len]), None, "{len}");
        }
        v4[9] = 1;
        assert_eq!(Ends::read(&v4), None, "ICMP");
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6.extend([0x12, 0x34, 0, 53]);
        let (found, at) = Ends::read(&v6).unwrap();
        assert_eq!((found.protocol, at), (PROTOCOL_UDP, 40));
        assert_eq!(found.local, "[fd00::1]:4660".parse().unwrap());
        assert_eq!(found.remote, "[2001:db8::1]:53".parse().unwrap());
        assert_eq!(Ends::read(&[0; 64]), None);
    }
}
