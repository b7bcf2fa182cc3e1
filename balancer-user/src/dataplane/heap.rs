//! The allocator of a daemon that for moments needs several times the memory
//! that it holds.

/// Heaps that threads share: each keeps for itself what is free in it.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// Larger pieces, in bytes, come from the kernel one by one and go back at
/// once: the text of a large file, for example, but not the slots of a table,
/// of which a plan asks for thousands. Left alone, the allocator raises this
/// with each that is freed, and its heaps grow holes.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;
/// So much may be free at the end of a heap.
#[cfg(target_env = "gnu")]
const SPARE: libc::c_int = 4 << 20;

/// Has the allocator keep little of what is free; before there is a second
/// thread. With 100,000 backends that saves 75 of 195 MB.
pub fn set_up() {
    // SAFETY: a call with two integers, which changes nothing but the
    // allocator's settings (mallopt(3)); one that is refused changes none.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE);
    }
}

/// Returns what is free in the middle of the heap: a plan or a rehearsal of a
/// large configuration leaves hundreds of megabytes there, and the allocator
/// keeps what is not at the end. Takes milliseconds.
pub fn trim() {
    // SAFETY: it may be called at any time, by any thread (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
