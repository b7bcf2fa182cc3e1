//! What this loaded copy of the program can do.

use balancer_common::features::Features;

/// Set by the loader before the program is verified; see
/// [`balancer_common::features`].
#[unsafe(no_mangle)]
static FEATURES: u32 = Features::ALL.0;

/// Whether some service or setting asks for any of `wanted`. What stands
/// behind a `false` is not in the program that the kernel runs.
#[inline(always)]
pub(crate) fn any(wanted: Features) -> bool {
    // SAFETY: a read of our own static; volatile, as the loader changes it
    // behind the compiler's back.
    let features = unsafe { core::ptr::read_volatile(&raw const FEATURES) };
    features & wanted.0 != 0
}
