//! What aya does not do with pins: takes a pinned link off its interface at
//! once, and pins what is pinned once more, whatever it is.
//!
//! Removing the pin does that as well, but some milliseconds later, behind a
//! grace period and a work queue of the kernel's. A balancer that is started
//! meanwhile would find a program that seems to be somebody else's.

use std::ffi::{CString, c_long};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: c_long = 6;
const BPF_OBJ_GET: c_long = 7;
const BPF_LINK_DETACH: c_long = 34;

/// The part of `union bpf_attr` that pinning, and opening a pin, use.
#[repr(C)]
struct PinAttributes {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that detaching a link uses.
#[repr(C)]
struct DetachAttributes {
    link: u32,
}

/// Detaches the link that is pinned at `pin`; the pin stays. Fine too where
/// the interface is gone.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let mut attributes = DetachAttributes {
        link: link.as_raw_fd() as u32,
    };
    bpf(BPF_LINK_DETACH, &mut attributes).map(drop)
}

/// Pins what is pinned at `from`, a link, a map or a program, at `to` as well.
pub(super) fn pin_again(from: &Path, to: &Path) -> io::Result<()> {
    let object = open(from)?;
    let path = CString::new(to.as_os_str().as_bytes())?;
    let mut attributes = PinAttributes {
        path: path.as_ptr() as u64,
        descriptor: object.as_raw_fd() as u32,
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attributes).map(drop)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = PinAttributes {
        path: path.as_ptr() as u64,
        descriptor: 0,
        flags: 0,
    };
    let descriptor = bpf(BPF_OBJ_GET, &mut attributes)?;
    // SAFETY: a descriptor the kernel has just given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

fn bpf<T>(command: c_long, attributes: &mut T) -> io::Result<c_long> {
    // SAFETY: the kernel reads and writes as many bytes as it is told the
    // structure has, and takes the rest of its union as zero; what the
    // structure points to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
