//! Many entries of a per-CPU array with one system call.
//!
//! The counters of a hundred thousand backends are read once a second: one
//! call for each of them would keep a tenth of a core busy. aya has no call
//! for that.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::Pod;

/// `struct bpf_attr` of the batch commands.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Attributes>() == 56);

/// Reads as many entries as there are `keys`, from `first` on, into `values`,
/// which has room for the values of all `cpus` of each. Gives how many there
/// were before the array ended.
///
/// # Errors
/// What the kernel said; those before 5.13 cannot do it.
pub(super) fn lookup<V: Pod>(
    map: impl AsFd,
    first: u32,
    keys: &mut [u32],
    values: &mut [V],
    cpus: usize,
) -> io::Result<usize> {
    const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    if values.len() < keys.len() * cpus {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Entries come after the one of this key; none begins at the first.
    let before = first.wrapping_sub(1);
    let mut last = 0u32;
    let mut attributes = Attributes {
        in_batch: match first {
            0 => 0,
            _ => &raw const before as u64,
        },
        out_batch: &raw mut last as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: all pointers outlive the call. At most `count` keys of four bytes
    // are written and `cpus` values for each, for which there is room, as was
    // checked above. Any bits are a `V`, as it is `Pod`, and its size is a
    // multiple of eight, as that of the kernel's values.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    let error = io::Error::last_os_error();
    // At the end of the array it says so, and what it has is there.
    if result < 0 && error.raw_os_error() != Some(libc::ENOENT) {
        return Err(error);
    }
    Ok(attributes.count as usize)
}
