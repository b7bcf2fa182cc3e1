//! Frames made by hand, put on a wire as they are.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::unistd::write;

use super::link;
use super::namespace::Namespace;

/// A packet socket that sends by one interface.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
    what: String,
}

impl RawSocket {
    /// Opens one.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let index = link::index(namespace, interface)?;
        let what = format!("{interface} in {}", namespace.name());
        let socket = namespace
            .run(|| open(index))?
            .with_context(|| format!("cannot send by {what}"))?;
        Ok(Self { socket, what })
    }

    /// Sends a frame from the Ethernet header on. A tag that is in it stays in
    /// it, up to the first interface that takes tags out; see
    /// [`super::offload::keep_tags`].
    ///
    /// # Errors
    /// When the frame is too long for the interface, or that is down.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = write(&self.socket, frame);
        sent.with_context(|| format!("cannot send {} bytes by {}", frame.len(), self.what))?;
        Ok(())
    }
}

fn open(index: u32) -> io::Result<OwnedFd> {
    // Protocol 0: it receives nothing.
    // SAFETY: socket takes three numbers and no pointer.
    let descriptor =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: all fields of `sockaddr_ll` are integers or arrays of them, for
    // which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a `sockaddr_ll` of `len` bytes that lives until
    // the call returns.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    match bound {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}
