//! Switches a link's offloads off, and says which are on.
//!
//! A veth leaves checksums unfinished and passes 64 KiB super-packets, trusting
//! that the receiver is the same machine. An XDP program that sends such a
//! packet on sends one that no server accepts, where a real network card would
//! have finished it. So the lab's links do without.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::namespace::Namespace;
use super::process;

/// Attaching an XDP program or changing another feature may bring generic
/// receive offload back, so it is switched off last.
const FEATURES: [Feature; 4] = [
    Feature {
        name: "tx-checksumming",
        get: 0x16,
        set: 0x17,
    },
    Feature {
        name: "tcp-segmentation-offload",
        get: 0x1e,
        set: 0x1f,
    },
    Feature {
        name: "generic-segmentation-offload",
        get: 0x23,
        set: 0x24,
    },
    Feature {
        name: "generic-receive-offload",
        get: 0x2b,
        set: 0x2c,
    },
];

/// An offload with the ETHTOOL_G… and ETHTOOL_S… commands of linux/ethtool.h.
struct Feature {
    name: &'static str,
    get: u32,
    set: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Switches off checksumming, segmentation and receive offload of an interface.
///
/// # Errors
/// When the interface does not exist or one of them stays on.
pub fn disable(namespace: &Namespace, interface: &str) -> Result<()> {
    namespace
        .run(|| {
            let socket = control_socket()?;
            for feature in &FEATURES {
                match ethtool(&socket, interface, feature.set, 0) {
                    // A feature nobody can change: a veth whose peer runs XDP has
                    // lost its segmentation offload. What counts is read below.
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                    done => {
                        done.with_context(|| format!("cannot switch off {}", feature.name))?;
                    }
                }
            }
            let still_on = read_enabled(&socket, interface)?;
            ensure!(
                still_on.is_empty(),
                "{} cannot be switched off",
                still_on.join(", ")
            );
            Ok(())
        })?
        .with_context(|| format!("offloads of {interface} in {}", namespace.name()))
}

/// Makes an interface send a frame's VLAN tag within the frame, and not beside
/// it as to hardware that would put it in: an XDP program at the other end sees
/// the frame alone. To be done to every port that such frames leave by.
///
/// # Errors
/// When ethtool is not there or refuses.
pub fn keep_tags(namespace: &Namespace, interface: &str) -> Result<()> {
    let mut command = namespace.command("ethtool");
    command.args(["-K", interface, "txvlan", "off"]);
    // What the first one is to 802.1Q, this is to 802.1ad.
    command.args(["tx-vlan-stag-hw-insert", "off"]);
    let output = process::run(command, Duration::from_secs(20))?;
    ensure!(
        output.status.success(),
        "ethtool on {interface} in {}: {}",
        namespace.name(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The names of those offloads that are on, as `ethtool -k` prints them.
///
/// # Errors
/// When the interface does not exist.
pub fn enabled(namespace: &Namespace, interface: &str) -> Result<Vec<&'static str>> {
    namespace
        .run(|| read_enabled(&control_socket()?, interface))?
        .with_context(|| format!("offloads of {interface} in {}", namespace.name()))
}

fn read_enabled(socket: &UdpSocket, interface: &str) -> Result<Vec<&'static str>> {
    let mut enabled = Vec::new();
    for feature in &FEATURES {
        let value = ethtool(socket, interface, feature.get, 0)
            .with_context(|| format!("cannot read {}", feature.name))?;
        if value != 0 {
            enabled.push(feature.name);
        }
    }
    Ok(enabled)
}

/// Any socket of the namespace will do to name its interfaces by.
fn control_socket() -> Result<UdpSocket> {
    UdpSocket::bind(("127.0.0.1", 0)).context("cannot open a socket; is lo up?")
}

fn ethtool(socket: &UdpSocket, interface: &str, command: u32, data: u32) -> io::Result<u32> {
    let mut value = EthtoolValue { command, data };
    // SAFETY: all fields of `ifreq` are integers, arrays or pointers, for which
    // zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel wants a terminated name.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL takes an `ifreq` whose data pointer leads to the
    // structure the command asks for; these commands read and write an
    // `ethtool_value`, and both live until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value.data)
    }
}
