//! Packet sockets that hear packets before the host's own stack looks at
//! them. They need root.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::bind;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::packet_socket::address_of;

const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// Longer than any answer that matters.
const MAX_LEN: usize = 2048;
/// Of a burst of answers; the kernel's default holds a few hundred.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What a listener is to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// ARP packets.
    Arp,
    /// IPv4 packets that may answer a probe.
    V4,
    /// IPv6 packets that may answer a probe, and neighbour advertisements.
    V6,
}

impl Wanted {
    /// Packets of the family of an address.
    pub(super) fn answers_for(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    fn protocol(self) -> Protocol {
        let number = match self {
            Self::Arp => ETH_P_ARP,
            Self::V4 => ETH_P_IP,
            Self::V6 => ETH_P_IPV6,
        };
        Protocol::from(i32::from(number.to_be()))
    }

    /// Keeps the host's other traffic away: of TCP only SYN and RST, of ICMP
    /// only what is named here. Offsets are from the IP header on.
    fn filter(self) -> Option<Vec<SockFilter>> {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
        const LOAD_BEHIND: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
        const HEADER_LEN: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
        const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const HAS_ANY: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        const SYN_OR_RST: u32 = 0x06;
        const TAKE: u32 = MAX_LEN as u32;
        // Jumps count from the next line.
        let lines: &[(u16, u8, u8, u32)] = match self {
            Self::Arp => return None,
            Self::V4 => &[
                (LOAD, 0, 0, 9),
                (EQUALS, 0, 3, 6),
                (HEADER_LEN, 0, 0, 0),
                (LOAD_BEHIND, 0, 0, 13),
                (HAS_ANY, 4, 5, SYN_OR_RST),
                (EQUALS, 0, 4, 1),
                (HEADER_LEN, 0, 0, 0),
                (LOAD_BEHIND, 0, 0, 0),
                (EQUALS, 0, 1, 0),
                (RETURN, 0, 0, TAKE),
                (RETURN, 0, 0, 0),
            ],
            Self::V6 => &[
                (LOAD, 0, 0, 6),
                (EQUALS, 0, 2, 6),
                (LOAD, 0, 0, 53),
                (HAS_ANY, 4, 5, SYN_OR_RST),
                (EQUALS, 0, 4, 58),
                (LOAD, 0, 0, 40),
                (EQUALS, 1, 0, 129),
                (EQUALS, 0, 1, 136),
                (RETURN, 0, 0, TAKE),
                (RETURN, 0, 0, 0),
            ],
        };
        let line = |&(code, yes, no, k): &(u16, u8, u8, u32)| SockFilter::new(code, yes, no, k);
        Some(lines.iter().map(line).collect())
    }
}

/// Hears packets, from the network header on.
///
/// The runtime waits for the socket as for one of UDP, which reads by recv(2)
/// as well: it has no safe way to wait for a socket of another kind.
pub(super) struct Listener(UdpSocket);

impl Listener {
    /// Of one interface, or of all.
    pub(super) fn open(wanted: Wanted, interface: Option<&str>) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(wanted.protocol()))?;
        if let Some(filter) = wanted.filter() {
            socket.attach_filter(&filter)?;
        }
        if let Some(interface) = interface {
            // It keeps the protocol, as the address names none.
            bind(socket.as_raw_fd(), &address_of(interface)?)?;
        }
        // A host may allow less; the default does for most.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        socket.set_nonblocking(true)?;
        Ok(Self(UdpSocket::from_std(socket.into())?))
    }

    /// Hands over all packets that come until the deadline, or until `hear`
    /// has heard enough and says so by `true`.
    pub(super) async fn hear_until(
        &self,
        deadline: Instant,
        mut hear: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<()> {
        let mut buffer = [0; MAX_LEN];
        loop {
            let Ok(heard) = timeout_at(deadline, self.0.recv(&mut buffer)).await else {
                return Ok(());
            };
            match heard {
                Ok(len) if hear(&buffer[..len]) => return Ok(()),
                Ok(_) => {}
                // An interface went down; the others are heard on.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(error) => return Err(error),
            }
            // A flood of packets must not keep it past its time.
            if Instant::now() >= deadline {
                return Ok(());
            }
        }
    }
}
