//! The TUN device that the kernel hands the probes' packets to, and the rules
//! that lead them there.
//!
//! Device, mark and table are named after the balancer's `pin_dir`, of which
//! one balancer at a time can be the owner: another one beside it has others,
//! and the next one finds what a killed one left. The device goes with the
//! process, however it ends, and the routes by it go with the device; rules that
//! are left have a mark that no packet has.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

use crate::netlink::{Error, Family, Netlink};

/// What makes TUN devices.
const TUN: &str = "/dev/net/tun";
/// Every IPv6 link carries as much (RFC 8200, 5), so a probe fits into any
/// tunnel, and so do answers: whether more fits is asked by the rule `mtu`.
pub(super) const MTU: u16 = 1280;

/// What an instance's device, mark and table are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The device's.
    pub device: String,
    /// The mark of the probes' packets, and the number of their table.
    pub number: u32,
}

impl Names {
    /// Those of the balancer with that `pin_dir`.
    pub fn of(pin_dir: &Path) -> Self {
        let digest = Sha256::digest(pin_dir.as_os_str().as_encoded_bytes());
        // The low half is left to those who mark packets bit by bit.
        let high = u16::from_be_bytes([digest[0], digest[1]]).max(1);
        Self {
            device: format!("balancer-{high:04x}"),
            number: u32::from(high) << 16,
        }
    }
}

/// Why TUN devices cannot be made here, as far as that can be told without
/// making one.
pub fn missing() -> Option<String> {
    let error = OpenOptions::new().read(true).write(true).open(TUN).err()?;
    Some(match error.kind() {
        io::ErrorKind::NotFound => {
            format!("{TUN} is not there; `modprobe tun`, or pass it into the container")
        }
        io::ErrorKind::PermissionDenied => format!("{TUN} may not be opened; run as root"),
        _ => format!("{TUN} cannot be opened: {error}"),
    })
}

/// An open device; dropping it removes it, and leaves the rules.
pub(super) struct Device {
    index: u32,
    led: BTreeSet<Family>,
    device: Arc<AsyncDevice>,
    reader: Option<JoinHandle<()>>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Device").field(&self.index).finish()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Device {
    /// Makes the device; must be called within a tokio runtime.
    pub(super) fn open(names: &Names) -> Result<Self, String> {
        if let Some(why) = missing() {
            return Err(why);
        }
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM) => format!(
                "interface {} cannot be made: run as root or grant CAP_NET_ADMIN",
                names.device
            ),
            _ => format!("interface {} cannot be made: {error}", names.device),
        };
        let builder = DeviceBuilder::new().name(&names.device).mtu(MTU);
        let device = builder.layer(Layer::L3).build_async().map_err(failed)?;
        Ok(Self {
            index: device.if_index().map_err(failed)?,
            led: BTreeSet::new(),
            device: Arc::new(device),
            reader: None,
        })
    }

    /// Leads marked packets of these families here.
    pub(super) async fn lead(
        &mut self,
        netlink: &Netlink,
        names: &Names,
        families: &BTreeSet<Family>,
    ) -> Result<(), Error> {
        for family in families.difference(&self.led.clone()) {
            netlink
                .lead_marked(*family, names.number, self.index)
                .await?;
            self.led.insert(*family);
        }
        Ok(())
    }

    /// Hands every packet that comes to `take`, from now on.
    pub(super) fn read_by(&mut self, mut take: impl FnMut(&[u8]) + Send + 'static) {
        let device = Arc::clone(&self.device);
        let read = async move {
            let mut buffer = [0; MTU as usize];
            loop {
                match device.recv(&mut buffer).await {
                    Ok(len) => take(&buffer[..len]),
                    Err(error) => {
                        tracing::error!(%error, "the probes' packets cannot be read");
                        return;
                    }
                }
            }
        };
        self.reader = Some(tokio::spawn(read));
    }

    /// Whether packets still come and are read: not if somebody took the device
    /// away, or down, which takes its routes away.
    pub(super) fn is_usable(&self, up: &BTreeSet<u32>) -> bool {
        let is_read = self.reader.as_ref().is_some_and(|it| !it.is_finished());
        is_read && up.contains(&self.index)
    }
}

/// Takes the rules away that lead to the device; whether there were any.
///
/// # Errors
/// The kernel refuses, as it does without CAP_NET_ADMIN.
pub async fn unlead(netlink: &Netlink, names: &Names) -> Result<bool, Error> {
    let v4 = netlink.unlead_marked(Family::V4, names.number).await?;
    let v6 = netlink.unlead_marked(Family::V6, names.number).await?;
    Ok(v4 || v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_an_interface_and_leave_the_low_marks_alone() {
        let names = Names::of(Path::new("/sys/fs/bpf/balancer"));
        assert!(names.device.len() <= 15, "{}", names.device);
        assert!(names.number != 0 && names.number & 0xffff == 0);
        assert_eq!(names, Names::of(Path::new("/sys/fs/bpf/balancer")));
        assert_ne!(names, Names::of(Path::new("/sys/fs/bpf/other")));
    }
}
