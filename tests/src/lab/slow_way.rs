//! A way on which packets take longer: what a host sends comes late.
//!
//! In place of the kernel's netem, which not every kernel has: what the host
//! sends over IPv4 is routed to a TUN device, kept for a while, and sent as it
//! was by a raw socket whose mark keeps it from the device.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;

/// The device's name.
const DEVICE: &str = "slow0";
/// Number of the routing table that leads there, and of the rule that asks it.
const TABLE: &str = "77";
/// Of packets that waited already.
const MARK: u32 = 0x77;
/// Until the end of a slow way is noticed.
const TICK: Duration = Duration::from_millis(50);
/// Larger than any packet.
const MAX_PACKET: usize = 1 << 16;

/// What the host sends is late as long as this lives.
#[derive(Debug)]
pub struct SlowWay {
    namespace: Namespace,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl SlowWay {
    /// Delays all that a host sends over IPv4 from now on.
    ///
    /// # Errors
    /// When there is one already, or the kernel has no TUN devices.
    pub fn start(namespace: &Namespace, delay: Duration) -> Result<Self> {
        let (device, socket) = namespace
            .run(|| anyhow::Ok((device()?, socket()?)))?
            .with_context(|| format!("no slow way in {}", namespace.name()))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let thread = thread::spawn(move || delay_all(device, &socket, delay, &seen));
        // From here on its end puts things right.
        let way = Self {
            namespace: namespace.clone(),
            is_over,
            thread: Some(thread),
        };
        way.ip(&["link", "set", DEVICE, "up"])?;
        way.ip(&["route", "add", "default", "dev", DEVICE, "table", TABLE])?;
        way.ip(&[
            "rule",
            "add",
            "not",
            "fwmark",
            &MARK.to_string(),
            "lookup",
            TABLE,
            "pref",
            TABLE,
        ])?;
        Ok(way)
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let output = self
            .namespace
            .command("ip")
            .arg("-4")
            .args(arguments)
            .output()?;
        ensure!(output.status.success(), "ip {arguments:?}: {output:?}");
        Ok(())
    }

    /// Ends it; what waits is lost.
    ///
    /// # Errors
    /// When a packet could not be sent, or the rule cannot be taken away.
    pub fn end(mut self) -> Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let removed = self.ip(&["rule", "del", "pref", TABLE]);
        self.is_over.store(true, Ordering::Relaxed);
        let ended = thread.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
        removed.and(ended)
    }
}

impl Drop for SlowWay {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

fn device() -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("/dev/net/tun")?;
    // SAFETY: all fields are integers or arrays of them, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is an `ifreq` that lives until the call returns.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw const request) };
    Errno::result(set).context("TUNSETIFF")?;
    Ok(file)
}

fn socket() -> Result<Socket> {
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw)).context("raw socket")?;
    socket.set_mark(MARK).context("mark")?;
    Ok(socket)
}

/// Reads packets and sends each when it is due.
fn delay_all(
    mut device: File,
    socket: &Socket,
    delay: Duration,
    is_over: &AtomicBool,
) -> Result<()> {
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; MAX_PACKET];
    while !is_over.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some((_, packet)) = waiting.pop_front_if(|(due, _)| *due <= now) {
            send(socket, &packet)?;
        }
        let first = waiting.front().map_or(TICK, |(due, _)| *due - now);
        // Rounded up, so that nothing is looked at before it is due.
        let limit = first.min(TICK) + Duration::from_millis(1);
        let mut wanted = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::try_from(limit)?) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error).context("poll"),
        }
        // Nothing there, or the device is down still.
        let Ok(len) = device.read(&mut buffer) else {
            continue;
        };
        let packet = &buffer[..len];
        // What is not IPv4 has no destination here: neighbour discovery.
        if packet.first().is_some_and(|first| first >> 4 == 4) {
            waiting.push_back((Instant::now() + delay, packet.to_vec()));
        }
    }
    Ok(())
}

fn send(socket: &Socket, packet: &[u8]) -> Result<()> {
    let Some(to) = packet
        .get(16..20)
        .and_then(|to| <[u8; 4]>::try_from(to).ok())
    else {
        return Ok(());
    };
    let to = SocketAddrV4::new(Ipv4Addr::from(to), 0);
    match socket.send_to(packet, &to.into()) {
        Ok(_) => Ok(()),
        // As a wire would: full, or nobody is there.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOBUFS | libc::EHOSTUNREACH)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("sending to {to}")),
    }
}
