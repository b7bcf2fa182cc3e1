//! What this loaded copy of the program can do.

use balancer_common::features::Features;
use balancer_common::layout::Target;

/// Set by the loader before the program is verified; see
/// [`balancer_common::features`].
#[unsafe(no_mangle)]
static FEATURES: u32 = Features::ALL.0;

/// How many CPUs there may be; set likewise.
#[unsafe(no_mangle)]
static CPUS: u32 = 1;

/// Places that each CPU has in `NAT_QUEUE`; set likewise.
#[unsafe(no_mangle)]
static NAT_ROOM: u32 = 0;

/// [`NAT_ROOM`].
#[inline(always)]
pub(crate) fn nat_room() -> u32 {
    // SAFETY: as in `any`.
    unsafe { core::ptr::read_volatile(&raw const NAT_ROOM) }
}

/// How many CPUs share what each has a part of.
#[inline(always)]
pub(crate) fn cpus() -> u32 {
    // SAFETY: as in `any`.
    unsafe { core::ptr::read_volatile(&raw const CPUS) }
}

/// Whether some service or setting asks for any of `wanted`. What stands
/// behind a `false` is not in the program that the kernel runs.
#[inline(always)]
pub(crate) fn any(wanted: Features) -> bool {
    // SAFETY: a read of our own static; volatile, as the loader changes it
    // behind the compiler's back.
    let features = unsafe { core::ptr::read_volatile(&raw const FEATURES) };
    features & wanted.0 != 0
}

/// Whether a service asks for what only some do. The flag is looked at first:
/// most have none, and go past with nothing but that.
#[inline(always)]
pub(crate) fn asked(target: &Target, flag: u16, wanted: Features) -> bool {
    target.flags & flag != 0 && any(wanted)
}
