//! Arrays of the kernel as memory of ours.
//!
//! A `BPF_F_MMAPABLE` array can be mapped, so that filling a table is a copy
//! and not a system call for every element. The kernel reads while we write;
//! what keeps that sound is in [`super::tables`]: only what no packet can
//! reach is written, and [`Mapped::store`] is one atomic store.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use bytemuck::Pod;
use memmap2::{MmapMut, MmapOptions};

use super::Error;

/// A mapped array of `T`.
pub(super) struct Mapped<T> {
    map: MmapMut,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Mapped<T> {
    /// Maps an array map of `len` elements. `T` must be a multiple of eight
    /// bytes long, as the kernel pads elements to that.
    pub(super) fn new(name: &str, fd: BorrowedFd<'_>, len: usize) -> Result<Self, Error> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let bytes = len * size_of::<T>();
        // SAFETY: the descriptor is a BPF array, which cannot be truncated;
        // writers and readers share it as the module's text says.
        let map = unsafe { MmapOptions::new().len(bytes).map_mut(fd.as_raw_fd()) }
            .map_err(|error| Error::kernel(format!("mapping {name}, {bytes} bytes"), error))?;
        Ok(Self {
            map,
            len,
            element: PhantomData,
        })
    }

    /// The elements.
    pub(super) fn elements(&mut self) -> &mut [T] {
        let bytes = self.len * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[..bytes])
    }

    /// The bytes, for an array that the kernel's side writes as well.
    pub(super) fn atomics(&mut self) -> &[AtomicU8] {
        let bytes = &mut self.map[..self.len * size_of::<T>()];
        // SAFETY: an `AtomicU8` has the layout of a `u8`, and the bytes are
        // borrowed from us for as long as the result is.
        unsafe { std::slice::from_raw_parts(bytes.as_mut_ptr().cast::<AtomicU8>(), bytes.len()) }
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A copy of an element that the kernel's side may write at any time: of
    /// its words, some may be older than others.
    pub(super) fn copy_of(&self, at: usize) -> T {
        assert!(at < self.len, "element {at} of {}", self.len);
        // SAFETY: in range, and aligned, as a map begins on a page and an
        // element's size is a multiple of eight. Volatile, as it may change
        // under way; every pattern of bits is a `T`.
        unsafe { self.map.as_ptr().cast::<T>().add(at).read_volatile() }
    }

    /// As [`Mapped::copy_of`], of a part of an element from a byte offset on.
    pub(super) fn part_of<U: Pod>(&self, at: usize, offset: usize) -> U {
        const { assert!(align_of::<U>() <= 8) };
        let is_inside = at < self.len && offset + size_of::<U>() <= size_of::<T>();
        assert!(
            is_inside && offset.is_multiple_of(8),
            "part of element {at}"
        );
        // SAFETY: in range, and aligned, as in `copy_of`.
        unsafe {
            let element = self.map.as_ptr().cast::<T>().add(at);
            element.cast::<u8>().add(offset).cast::<U>().read_volatile()
        }
    }

    /// Stores a 64-bit word at a byte offset.
    pub(super) fn store_long(&mut self, offset: usize, value: u64) {
        let word: &mut u64 = bytemuck::from_bytes_mut(&mut self.map[offset..offset + 8]);
        // SAFETY: as in `store`.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.store(value, Ordering::SeqCst);
    }

    /// Stores a 32-bit word at a byte offset, after everything written
    /// before it.
    pub(super) fn store(&mut self, offset: usize, value: u32) {
        let word: &mut u32 = bytemuck::from_bytes_mut(&mut self.map[offset..offset + 4]);
        // SAFETY: `word` is aligned, alive and reached through `&mut self`;
        // the kernel's side loads and stores it as one word, too.
        let word = unsafe { AtomicU32::from_ptr(word) };
        word.store(value, Ordering::SeqCst);
    }
}

/// Reads words of an array from a byte offset on, through a mapping of these
/// alone: beside the one by which they may be written meanwhile, as another
/// process would. `false` where there are not so many, or none can be mapped.
pub(super) fn read_words(array: &OwnedFd, offset: u64, into: &mut [u32]) -> bool {
    let bytes = size_of_val(into);
    let mut options = MmapOptions::new();
    options.offset(offset).len(bytes);
    // The kernel maps nothing beyond the array's end.
    let Ok(map) = options.map_raw_read_only(array.as_raw_fd()) else {
        return false;
    };
    let first = map.as_ptr().cast::<u32>();
    if !first.is_aligned() {
        return false;
    }
    for (at, word) in into.iter_mut().enumerate() {
        // SAFETY: within the `bytes` that are mapped, of a BPF array, which
        // cannot be truncated; and aligned, as was looked at. Volatile, as it
        // may change under way.
        *word = unsafe { first.add(at).read_volatile() };
    }
    true
}

/// Returns when every packet that was under way at the call is done: XDP
/// programs run inside RCU read-side sections, and this command of
/// membarrier(2) waits for all of those.
pub(super) fn wait_for_readers() -> Result<(), Error> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call with three integers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    let cause = std::io::Error::last_os_error();
    // With nohz_full CPUs the command is refused (EINVAL); in seccomp
    // sandboxes too (EPERM, ENOSYS). A grace period takes some tens of
    // milliseconds; a packet's run takes microseconds.
    tracing::debug!(%cause, "membarrier refused, waiting instead");
    std::thread::sleep(std::time::Duration::from_millis(200));
    Ok(())
}
