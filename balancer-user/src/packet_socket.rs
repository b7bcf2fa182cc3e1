//! Frames out by an interface, past the host's own stack: a packet socket. It
//! needs root, or CAP_NET_RAW.

use std::io;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Socket, Type};

/// The packet-level address of an interface, which binds a socket to it.
pub(crate) fn address_of(interface: &str) -> io::Result<LinkAddr> {
    let mut found = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    found
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Sends frames by an interface.
#[derive(Debug)]
pub(crate) struct Sender(Socket);

impl Sender {
    /// Opens one on the interface of that name.
    ///
    /// # Errors
    /// There is none, or the kernel refuses, as it does without CAP_NET_RAW.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        bind(socket.as_raw_fd(), &address_of(interface)?)?;
        Ok(Self(socket))
    }

    /// Sends an Ethernet frame.
    ///
    /// # Errors
    /// It is too long, or the interface is down or gone.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }
}
