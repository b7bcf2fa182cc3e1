//! Memory that was given back to the allocator, given back to the kernel.

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
