//! Many entries of a map with one system call (`BPF_MAP_LOOKUP_BATCH`).
//!
//! The counters of a hundred thousand backends are read once a second, and
//! tables of millions of records are gone through: one call for each entry
//! would keep a tenth of a core busy. aya has no call for that.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use bytemuck::AnyBitPattern;

/// The `batch` part of `union bpf_attr` (linux/bpf.h).
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

/// What a call gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Entries, at the beginning of the keys and of the values.
    pub(super) count: usize,
    /// Whether there are no more behind them.
    pub(super) is_over: bool,
    /// After what the next call goes on: the last index of an array, and a
    /// word of the kernel's own with a hash.
    pub(super) last: u32,
}

/// Reads as many entries as there are `keys`, from those after `after` on,
/// into `values`, which has room for `each` of them a key: one for every CPU
/// in a per-CPU map. `K` and `V` have the sizes of the map's, the latter
/// rounded up to a multiple of eight.
///
/// # Errors
/// What the kernel said; those before 5.13 cannot do it.
pub(super) fn lookup<K: AnyBitPattern, V: AnyBitPattern>(
    map: impl AsFd,
    after: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
    each: usize,
) -> io::Result<Batch> {
    const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    if values.len() < keys.len() * each {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let from = after.unwrap_or_default();
    let mut last = 0u32;
    let mut attributes = Attributes {
        in_batch: after.map_or(0, |_| &raw const from as u64),
        out_batch: &raw mut last as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: all pointers outlive the call. At most `count` keys are written
    // and `each` values for each, for which there is room, as was checked
    // above; that the sizes are those of the map is the caller's word. Every
    // pattern of bits is a key and a value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut attributes,
            size_of::<Attributes>(),
        )
    };
    let error = io::Error::last_os_error();
    // At the end of the map it says so, and what it has is there.
    let is_over = result < 0 && error.raw_os_error() == Some(libc::ENOENT);
    if result < 0 && !is_over {
        return Err(error);
    }
    Ok(Batch {
        count: attributes.count as usize,
        is_over,
        last,
    })
}
