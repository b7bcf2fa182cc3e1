//! What every kernel object has in common: access to the packet, the licence
//! and the panic that cannot happen.
//!
//! Each object is a binary of this crate with maps of its own, because a
//! loader creates every map of an object, used or not.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod packet;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program in which this could be reached.
    loop {}
}

/// Completes the root of an object: the licence section, and a `main` for
/// builds for this machine, which only check the code.
#[macro_export]
macro_rules! object {
    () => {
        /// Licence the kernel reads; its GPL-only helpers ask for a compatible one.
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[cfg(not(target_arch = "bpf"))]
        fn main() {}
    };
}
